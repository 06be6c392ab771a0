// The number of open tunnels in the status bar; nothing where no kernel is known to have any.

import { ISignal, Signal } from '@lumino/signaling';
import { Widget } from '@lumino/widgets';

import { Model, counted } from './model';
import { element } from './row';

export class Status extends Widget {
  constructor(
    private model: Model,
    show: () => void
  ) {
    super();
    this.addClass('xf-Status');
    this.button.onclick = show;
    this.button.title = 'Show the tunnels of every kernel';
    this.node.append(this.button);
    model.changed.connect(this.render, this);
    this.render();
  }

  /** Whether there is a number to show. */
  get active(): boolean {
    return this.model.open !== null;
  }

  get activeChanged(): ISignal<this, void> {
    return this._activeChanged;
  }

  private render(): void {
    const text = this.active ? `⇄ ${counted(this.model.open ?? 0)}` : '';
    if (this.button.textContent !== text) {
      this.button.textContent = text;
      this._activeChanged.emit();
    }
  }

  private button = element('button', 'xf-Status-button');
  private _activeChanged = new Signal<this, void>(this);
}
