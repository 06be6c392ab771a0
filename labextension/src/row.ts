// One tunnel in the sidebar. Its elements stay and only their text changes, so that the keyboard's focus stays too.

import { Clipboard } from '@jupyterlab/apputils';

import { Action } from './link';
import { IKernel, ITunnel, Model, polyline } from './model';

const SVG = 'http://www.w3.org/2000/svg';
const WIDTH = 90;
const HEIGHT = 16;

/** Does what a button says; rejects with the one line of an error. */
export type Act = (action: Action, tunnel: ITunnel) => Promise<void>;

/** An element with a class, and perhaps a text. */
export function element<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  name: string,
  text = ''
): HTMLElementTagNameMap[K] {
  const node = document.createElement(tag);
  node.className = name;
  node.textContent = text;
  return node;
}

/** Set a text only where it is another one: a screen reader reads what is set. */
function say(node: Element, text: string): void {
  if (node.textContent !== text) {
    node.textContent = text;
  }
  (node as HTMLElement).hidden = !text;
}

export class Row {
  readonly node = element('li', 'xf-Row');

  constructor(
    private model: Model,
    private tunnel: ITunnel,
    private act: Act
  ) {
    const head = element('div', 'xf-Row-head');
    head.append(this.name, this.state, this.age);
    this.state.append(this.sign, ' ', this.word);
    this.sign.setAttribute('aria-hidden', 'true');
    this.chart.setAttribute('class', 'xf-Row-chart');
    this.chart.setAttribute('viewBox', `0 -1 ${WIDTH} ${HEIGHT + 2}`);
    this.chart.setAttribute('role', 'img');
    this.chart.append(this.curve);
    const moves = element('div', 'xf-Row-moves');
    moves.append(this.chart, this.rate);
    this.message.setAttribute('role', 'alert');
    const buttons = element('div', 'xf-Row-buttons');
    buttons.append(...this.buttons.values());
    this.node.append(head, this.way, this.how, moves, this.error, this.hint, this.notes);
    this.node.append(buttons, this.message);
    this.node.dataset.tunnel = tunnel.name;
    for (const [action, button] of this.buttons) {
      button.onclick = () => void this.press(action);
    }
  }

  /** Show how it is. */
  update(kernel: IKernel, tunnel: ITunnel): void {
    this.tunnel = tunnel;
    const { state, name } = tunnel;
    this.node.dataset.state = state;
    say(this.name, name);
    say(this.sign, tunnel.sign);
    say(this.word, state);
    say(this.age, this.model.ages(kernel, tunnel));
    this.showWay();
    say(this.how, tunnel.how.join('\n'));
    this.showMoves(kernel);
    say(this.error, tunnel.error);
    say(this.hint, tunnel.hint);
    say(this.notes, tunnel.notes.join('\n'));
    for (const [action, button] of this.buttons) {
      // What stands on a button is in its name: who speaks to the page says what they see.
      const words = { close: 'Close', reconnect: 'Reconnect', copy: 'Copy address of', doctor: 'Doctor:' };
      button.setAttribute('aria-label', `${words[action]} ${name}`);
      button.title = `${words[action]} ${name}`;
    }
    this.button('copy').disabled = !tunnel.address;
    this.button('reconnect').classList.toggle('jp-mod-accept', state === 'waiting');
  }

  /** Whether the keyboard is in it. */
  get focused(): boolean {
    return this.node.contains(document.activeElement);
  }

  focus(): void {
    this.button('close').focus();
  }

  private showWay(): void {
    const text = this.tunnel.way.join(' → ');
    if (this.way.title !== text) {
      this.way.title = text;
      this.way.replaceChildren(
        ...this.tunnel.way.flatMap((hop, i) => {
          const arrow = element('span', 'xf-Row-arrow', ' → ');
          return i ? [arrow, element('span', 'xf-Row-hop', hop)] : [element('span', 'xf-Row-hop', hop)];
        })
      );
    }
  }

  private showMoves(kernel: IKernel): void {
    const line = this.model.line(kernel, this.tunnel);
    const moved = line.some(value => value > 0);
    this.chart.toggleAttribute('hidden', !moved);
    this.curve.setAttribute('points', polyline(line, WIDTH, HEIGHT));
    const rate = this.tunnel.rate;
    this.chart.setAttribute('aria-label', `traffic of the last 30 seconds, now ${rate || 'none'}`);
    say(this.rate, rate);
  }

  private async press(action: Action | 'copy'): Promise<void> {
    if (action === 'copy') {
      Clipboard.copyToSystem(this.tunnel.address);
      this.tell(`${this.tunnel.address} copied`, false);
      return;
    }
    const button = this.button(action);
    this.tell('', false);
    // Disabled it would lose the keyboard's focus.
    if (button.getAttribute('aria-disabled') === 'true') {
      return;
    }
    button.setAttribute('aria-disabled', 'true');
    try {
      await this.act(action, this.tunnel);
    } catch (reason) {
      this.tell((reason as Error).message, true);
    } finally {
      button.removeAttribute('aria-disabled');
    }
  }

  private tell(text: string, failed: boolean): void {
    this.message.classList.toggle('xf-mod-failed', failed);
    say(this.message, text);
  }

  private button(action: Action | 'copy'): HTMLButtonElement {
    return this.buttons.get(action)!;
  }

  private name = element('span', 'xf-Row-name');
  private state = element('span', 'xf-Row-state');
  private sign = element('span', 'xf-Row-sign');
  private word = element('span', 'xf-Row-word');
  private age = element('span', 'xf-Row-age');
  private way = element('div', 'xf-Row-way');
  private how = element('div', 'xf-Row-how');
  private chart = document.createElementNS(SVG, 'svg');
  private curve = document.createElementNS(SVG, 'polyline');
  private rate = element('span', 'xf-Row-rate');
  private error = element('div', 'xf-Row-error');
  private hint = element('div', 'xf-Row-hint');
  private notes = element('div', 'xf-Row-notes');
  private message = element('div', 'xf-Row-message');
  private buttons = new Map<Action | 'copy', HTMLButtonElement>([
    ['close', element('button', 'xf-Button jp-mod-styled', 'Close')],
    ['reconnect', element('button', 'xf-Button jp-mod-styled', 'Reconnect')],
    ['copy', element('button', 'xf-Button jp-mod-styled', 'Copy address')],
    ['doctor', element('button', 'xf-Button jp-mod-styled', 'Doctor')]
  ]);
}
