// What JupyterLab and Notebook load: wires model, links, panel, status and commands together.

import { ILayoutRestorer, JupyterFrontEnd, JupyterFrontEndPlugin } from '@jupyterlab/application';
import { Dialog, ICommandPalette, showDialog, showErrorMessage } from '@jupyterlab/apputils';
import { IStatusBar } from '@jupyterlab/statusbar';

import { ask } from './dialogs';
import { Links } from './link';
import { Model, counted } from './model';
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

/** Close the tunnels of every kernel, once the person has seen how many that are. */
async function closeAll(model: Model, links: Links): Promise<void> {
  await links.refresh();
  const open = model.kernels.flatMap(({ id, tunnels }) => tunnels.map(tunnel => ({ id, tunnel })));
  const names = open.map(({ tunnel }) => tunnel.name).join(', ');
  const { button } = await showDialog({
    title: 'Close all tunnels',
    body: open.length ? `${counted(open.length)} will be closed: ${names}` : 'No tunnel is open.',
    buttons: open.length ? [Dialog.cancelButton(), Dialog.warnButton({ label: 'Close all' })] : [Dialog.okButton()]
  });
  if (!button.accept || !open.length) {
    return;
  }
  const ended = await Promise.allSettled(
    open.map(({ id, tunnel }) => links.act(id, 'close', tunnel.tunnel, (text, echo) => ask(tunnel.name, text, echo)))
  );
  const failed = ended.flatMap(each => (each.status === 'rejected' ? [(each.reason as Error).message] : []));
  if (failed.length) {
    await showErrorMessage('Not every tunnel was closed', failed.join('\n'));
  }
}

export default plugin;
