// What needs more room than the sidebar has: a question of the kernel's, and what the doctor found.

import { Dialog, showDialog } from '@jupyterlab/apputils';
import { Widget } from '@lumino/widgets';

class Question extends Widget {
  constructor(text: string, echo: boolean) {
    super();
    this.addClass('xf-Question');
    const label = document.createElement('label');
    label.textContent = text.replace(/:\s*$/, '');
    this.input = document.createElement('input');
    this.input.type = echo ? 'text' : 'password';
    this.input.autocomplete = 'off';
    this.input.className = 'jp-mod-styled';
    label.append(this.input);
    this.node.append(label);
  }

  getValue(): string {
    return this.input.value;
  }

  private input: HTMLInputElement;
}

/** Ask; null where the dialog was cancelled. */
export async function ask(title: string, text: string, echo: boolean): Promise<string | null> {
  const result = await showDialog({
    title,
    body: new Question(text, echo),
    focusNodeSelector: 'input',
    buttons: [Dialog.cancelButton(), Dialog.okButton({ label: 'Answer' })]
  });
  return result.button.accept ? result.value : null;
}

/** Show a text as it is, until it is dismissed. */
export async function tell(title: string, text: string): Promise<void> {
  const body = new Widget({ node: document.createElement('pre') });
  body.addClass('xf-Findings');
  body.node.textContent = text;
  body.node.tabIndex = 0;
  body.node.setAttribute('aria-label', title);
  await showDialog({ title, body, buttons: [Dialog.okButton({ label: 'Dismiss' })] });
}
