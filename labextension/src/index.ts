// What JupyterLab and Notebook load: wires model, links, panel, status and commands together.

import { ILayoutRestorer, JupyterFrontEnd, JupyterFrontEndPlugin } from '@jupyterlab/application';
import { Dialog, ICommandPalette, showDialog, showErrorMessage } from '@jupyterlab/apputils';
import { IStatusBar } from '@jupyterlab/statusbar';

import { Links } from './link';
import { IKernel, Model, farewell } from './model';
import { Panel } from './panel';
import { Status } from './status';

const CATEGORY = 'Tunnels';
const SHOW = 'xec_forward:show';
const REFRESH = 'xec_forward:refresh';
const CLOSE_ALL = 'xec_forward:close-all';

const plugin: JupyterFrontEndPlugin<void> = {
  id: 'xec_forward:tunnels',
  description: 'The tunnels of every running kernel.',
  autoStart: true,
  optional: [ICommandPalette, ILayoutRestorer, IStatusBar],
  activate: (
    app: JupyterFrontEnd,
    palette: ICommandPalette | null,
    restorer: ILayoutRestorer | null,
    statusBar: IStatusBar | null
  ) => {
    const model = new Model();
    const links = new Links(app.serviceManager, model);
    const panel = new Panel(model, links);
    app.shell.add(panel, 'right', { rank: 700, type: CATEGORY });
    restorer?.add(panel, panel.id);

    const { commands } = app;
    const show = () => app.shell.activateById(panel.id);
    commands.addCommand(SHOW, { label: 'Show Tunnels', caption: 'Show the tunnels of every kernel', execute: show });
    commands.addCommand(REFRESH, { label: 'Refresh Tunnels', execute: () => links.refresh() });
    commands.addCommand(CLOSE_ALL, { label: 'Close All Tunnels…', execute: () => closeAll(model, links) });
    for (const command of [SHOW, REFRESH, CLOSE_ALL]) {
      palette?.addItem({ command, category: CATEGORY });
    }

    if (statusBar) {
      const item = new Status(model, show);
      statusBar.registerStatusItem(plugin.id, {
        item,
        align: 'left',
        rank: 100,
        isActive: () => item.active,
        activeStateChanged: item.activeChanged
      });
    }
  }
};

/** Close the tunnels of every kernel, once the person has seen which ones that are. */
async function closeAll(model: Model, links: Links): Promise<void> {
  await links.refresh();
  const open = model.kernels.filter(kernel => kernel.tunnels.length);
  const { button } = await showDialog({
    title: 'Close all tunnels',
    body: farewell(model.kernels),
    buttons: open.length ? [Dialog.cancelButton(), Dialog.warnButton({ label: 'Close all' })] : [Dialog.okButton()]
  });
  if (!button.accept) {
    return;
  }
  const failed: string[] = [];
  const close = ({ id, title, tunnels }: IKernel) => {
    const numbers = tunnels.map(({ tunnel }) => tunnel);
    return links.act(id, 'close', numbers, nobody).catch((reason: Error) => failed.push(`${title}: ${reason.message}`));
  };
  await Promise.all(open.map(close));
  if (failed.length) {
    await showErrorMessage('Not every tunnel was closed', failed.join('\n'));
  }
}

/** To close needs no answer. */
const nobody = () => Promise.resolve(null);

export default plugin;
