// The sidebar: a section for each kernel that has xec_forward, in it a row for each tunnel.

import type { Message } from '@lumino/messaging';
import { Widget } from '@lumino/widgets';

import { ask, tell } from './dialogs';
import { tunnelIcon } from './icon';
import { Action, Links } from './link';
import { IKernel, ITunnel, Model } from './model';
import { Row, element } from './row';

// How often ages are brought up to date while the panel is seen, in milliseconds.
const TICK = 1000;

// What to type stands in backquotes.
const NO_KERNEL = 'No kernel has tunnels yet. In a cell of a notebook, `%load_ext xec_forward` makes a start.';
const NO_TUNNEL = 'No tunnel is open. In a cell, `%forward --panel` shows a form that opens one.';

/** A text in which some is code. */
function prose(text: string): (string | Node)[] {
  return text.split('`').map((part, i) => (i % 2 ? element('code', 'xf-Code', part) : part));
}

class Section {
  readonly node = element('section', 'xf-Section');

  constructor(
    private model: Model,
    private links: Links
  ) {
    this.nothing.append(...prose(NO_TUNNEL));
    this.node.append(this.title, this.list, this.nothing);
  }

  update(kernel: IKernel): void {
    this.node.setAttribute('aria-label', `Tunnels of ${kernel.title}`);
    this.title.textContent = kernel.title;
    this.title.title = kernel.path || kernel.title;
    this.nothing.hidden = kernel.tunnels.length > 0;
    const gone = new Set(this.rows.keys());
    for (const tunnel of kernel.tunnels) {
      gone.delete(tunnel.tunnel);
      let row = this.rows.get(tunnel.tunnel);
      if (!row) {
        row = new Row(this.model, tunnel, (action, which) => this.act(kernel.id, action, which));
        this.rows.set(tunnel.tunnel, row);
        this.list.append(row.node);
      }
      row.update(kernel, tunnel);
    }
    gone.forEach(number => this.remove(number));
  }

  private async act(kernel: string, action: Action, { tunnel, name }: ITunnel): Promise<void> {
    const title = action === 'reconnect' ? `Reconnect ${name}` : name;
    const found = await this.links.act(kernel, action, tunnel, (text, echo) => ask(title, text, echo));
    if (found) {
      void tell(`What the doctor found about ${name}`, found);
    }
  }

  /** Who closed a tunnel by the keyboard goes on from the next one. */
  private remove(number: number): void {
    const row = this.rows.get(number)!;
    const { focused } = row;
    this.rows.delete(number);
    row.node.remove();
    if (focused) {
      const [next] = this.rows.values();
      if (next) {
        next.focus();
      } else {
        this.title.focus();
      }
    }
  }

  private rows = new Map<number, Row>();
  private title = Object.assign(element('h3', 'xf-Section-title'), { tabIndex: -1 });
  private list = element('ul', 'xf-Section-list');
  private nothing = element('p', 'xf-Note');
}

export class Panel extends Widget {
  constructor(
    private model: Model,
    private links: Links
  ) {
    super();
    this.id = 'xec_forward-tunnels';
    this.title.caption = 'Tunnels';
    this.title.icon = tunnelIcon;
    this.addClass('xf-Panel');
    this.node.setAttribute('role', 'region');
    this.node.setAttribute('aria-label', 'Tunnels');
    this.heard.setAttribute('aria-live', 'polite');
    this.node.append(element('h2', 'xf-Title', 'Tunnels'), this.body, this.note, this.heard);
    model.changed.connect(this.render, this);
    model.news.connect((_, text) => (this.heard.textContent = text));
    this.render();
  }

  protected onAfterShow(message: Message): void {
    super.onAfterShow(message);
    void this.links.start();
    this.render();
    window.clearInterval(this.timer);
    this.timer = window.setInterval(() => this.render(), TICK);
  }

  protected onAfterHide(message: Message): void {
    window.clearInterval(this.timer);
    super.onAfterHide(message);
  }

  protected onBeforeDetach(message: Message): void {
    window.clearInterval(this.timer);
    super.onBeforeDetach(message);
  }

  private render(): void {
    const loaded = this.model.kernels.filter(kernel => kernel.knowledge === 'loaded');
    const gone = new Set(this.sections.keys());
    for (const kernel of loaded) {
      gone.delete(kernel.id);
      let section = this.sections.get(kernel.id);
      if (!section) {
        section = new Section(this.model, this.links);
        this.sections.set(kernel.id, section);
        this.body.append(section.node);
      }
      section.update(kernel);
    }
    for (const id of gone) {
      this.sections.get(id)!.node.remove();
      this.sections.delete(id);
    }
    this.renderNote(loaded.length);
  }

  private renderNote(loaded: number): void {
    const others = this.model.kernels.filter(kernel => kernel.knowledge === 'absent').length;
    let text = '';
    if (!loaded) {
      text = NO_KERNEL;
    } else if (others) {
      text = others === 1 ? 'One more kernel has not loaded xec_forward.' : `${others} more kernels have not loaded it.`;
    }
    if (this.noted !== text) {
      this.noted = text;
      this.note.replaceChildren(...prose(text));
    }
    this.note.hidden = !text;
  }

  private sections = new Map<string, Section>();
  private body = element('div', 'xf-Body');
  private note = element('p', 'xf-Note');
  private noted = '';
  private heard = element('div', 'xf-Heard');
  private timer = 0;
}
