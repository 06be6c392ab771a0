// The way to the kernels: a connection of our own to each, whether or not its notebook is open, and the requests of
// jupyter/bridge.py on it. The control channel is answered whatever a cell does.

import { Kernel, KernelMessage, ServiceManager, Session } from '@jupyterlab/services';

import { ITunnel, Model } from './model';

const REQUEST = 'xec_forward_request';
const COMM = 'xec_forward';
// Native code that holds Python's global lock keeps a kernel from answering anybody. Who asks them all how things are
// waits so long, and who has pressed a button is told after so long; in milliseconds.
const ANSWERED_WITHIN = 2000;
const TAKEN_WITHIN = 5000;
// A kernel without xec_forward says that it is done and sends no reply: for so long the reply may yet be on its way.
const REPLY_MAY_LAG = 500;

/** A reply: see jupyter/bridge.py. */
interface IReply {
  status: 'ok' | 'error' | 'question';
  text?: string;
  question?: number;
  echo?: boolean;
  tunnels?: ITunnel[];
  now?: number;
}

/** A request on its way. */
interface IRequest {
  /** The kernel has taken it; where it has no xec_forward, that is all that comes of it. */
  taken: Promise<'taken'>;
  /** null: the kernel went. */
  reply: Promise<IReply | null>;
}

/** Puts a question to the person; null is no answer. */
export type Ask = (text: string, echo: boolean) => Promise<string | null>;

/** What a button does. */
export type Action = 'close' | 'reconnect' | 'doctor';

function pause(milliseconds: number): Promise<'paused'> {
  return new Promise(resolve => window.setTimeout(() => resolve('paused'), milliseconds));
}

/** Whether the server says that a kernel's process has died: the other states are the kernel's own. */
function died(message: KernelMessage.IIOPubMessage): boolean {
  return KernelMessage.isStatusMsg(message) && !['starting', 'busy', 'idle'].includes(message.content.execution_state);
}

/** One running kernel. */
class Link {
  constructor(
    private kernel: Kernel.IKernelConnection,
    private model: Model
  ) {
    kernel.iopubMessage.connect(this.heard, this);
    kernel.connectionStatusChanged.connect(this.met, this);
    this.met();
  }

  /** Ask for its tunnels; from then on it tells what changes. */
  async list(): Promise<void> {
    const { taken, reply } = this.request({ action: 'list' });
    const told = reply.then(each => this.take(each));
    const first = await Promise.race([told, taken.then(() => pause(REPLY_MAY_LAG))]);
    if (first === 'paused' && this.model.knowledge(this.kernel.id) === 'unknown') {
      this.model.forget(this.kernel.id, 'absent');
    }
  }

  /**
   * Do something with a tunnel, or close several; what there is to say about it. Rejects with the one line of an error.
   */
  async act(action: Action, tunnel: number | number[], ask: Ask): Promise<string> {
    const request = this.request({ action, tunnel });
    if ((await Promise.race([request.taken, request.reply, pause(TAKEN_WITHIN)])) === 'paused') {
      throw new Error('native code keeps the kernel from answering: this takes effect when that returns');
    }
    let reply = await request.reply;
    while (reply?.status === 'question') {
      const value = await ask(reply.text ?? '', reply.echo ?? false);
      reply = await this.request({ action: 'answer', question: reply.question, value }).reply;
    }
    this.take(reply);
    if (!reply) {
      throw new Error('the kernel has ended');
    }
    if (reply.status === 'error') {
      throw new Error(reply.text);
    }
    return reply.text ?? '';
  }

  dispose(): void {
    this.kernel.iopubMessage.disconnect(this.heard, this);
    this.kernel.connectionStatusChanged.disconnect(this.met, this);
    this.kernel.dispose();
  }

  /** Note what a reply says of the tunnels. */
  private take(reply: IReply | null): void {
    if (reply?.tunnels) {
      this.model.told(this.kernel.id, reply.tunnels, reply.now ?? 0);
    }
  }

  /** Send a request. */
  private request(content: Record<string, unknown>): IRequest {
    const message = KernelMessage.createMessage({
      // The types know the messages of Jupyter alone.
      msgType: REQUEST as 'debug_request',
      channel: 'control',
      session: this.kernel.clientId,
      username: this.kernel.username,
      content: content as unknown as KernelMessage.IDebugRequestMsg['content']
    });
    const future = this.kernel.sendControlMessage(message, true, true);
    const taken = new Promise<'taken'>(resolve => {
      future.onIOPub = message => {
        if (KernelMessage.isStatusMsg(message) && message.content.execution_state === 'idle') {
          resolve('taken');
        }
      };
    });
    const reply = new Promise<IReply | null>(resolve => {
      future.onReply = ({ content }) => resolve(content as unknown as IReply);
      // It is disposed by a restart, or with the connection.
      future.done.catch(() => resolve(null));
    });
    return { taken, reply };
  }

  /**
   * The connection is there, for the first time or again: what was told meanwhile was missed.
   *
   * Sent before, a request would wait until the kernel has described itself, which one with a busy shell does not.
   */
  private met(): void {
    if (this.kernel.connectionStatus === 'connected' && this.model.knowledge(this.kernel.id) !== 'absent') {
      void this.list();
    }
  }

  /** A message that every front-end gets. */
  private heard(_: unknown, message: KernelMessage.IIOPubMessage): void {
    if (KernelMessage.isCommMsgMsg(message) && message.content.comm_id === COMM) {
      const data = message.content.data as { loaded?: boolean; tunnels?: ITunnel[]; now?: number; last?: boolean };
      if (data.loaded === false) {
        this.model.forget(this.kernel.id, 'absent');
      } else if (data.tunnels) {
        this.model.told(this.kernel.id, data.tunnels, data.now ?? 0);
      }
      if (data.loaded || data.last) {
        void this.list();
      }
    } else if (died(message)) {
      this.model.forget(this.kernel.id, 'absent');
    } else if (KernelMessage.isStatusMsg(message)) {
      const { session } = message.header;
      if (this.session && this.session !== session) {
        // Another process. It was started by somebody else, and its `starting` may have been missed.
        this.model.forget(this.kernel.id, 'unknown');
        void this.list();
      }
      this.session = session;
    }
  }

  /** The kernel's process, as its messages name it. */
  private session = '';
}

/** The links to every running Python kernel, from the moment somebody wants to see them. */
export class Links {
  constructor(
    private services: ServiceManager.IManager,
    private model: Model
  ) {}

  /** Connect to what runs, and to what will. Idempotent. */
  async start(): Promise<void> {
    if (this._started) {
      return;
    }
    this._started = true;
    await Promise.all([this.services.ready, this.services.kernelspecs.ready]);
    this.services.kernels.runningChanged.connect(this.follow, this);
    this.services.sessions.runningChanged.connect(this.follow, this);
    this.follow();
  }

  /** Ask every kernel that has xec_forward anew. Who does not answer is not waited for. */
  async refresh(): Promise<void> {
    await this.start();
    await Promise.all([this.services.kernels.refreshRunning(), this.services.sessions.refreshRunning()]);
    const loaded = [...this._links].filter(([id]) => this.model.knowledge(id) === 'loaded');
    const answers = [this.model.settled(), ...loaded.map(([, link]) => link.list())];
    await Promise.race([Promise.all(answers), pause(ANSWERED_WITHIN)]);
  }

  /** See Link. */
  act(kernel: string, action: Action, tunnel: number | number[], ask: Ask): Promise<string> {
    const link = this._links.get(kernel);
    return link ? link.act(action, tunnel, ask) : Promise.reject(new Error('the kernel has ended'));
  }

  private follow(): void {
    const kernels = [...this.services.kernels.running()].filter(kernel => this.speaksPython(kernel.name));
    const sessions = new Map<string, Session.IModel>();
    for (const session of this.services.sessions.running()) {
      if (session.kernel) {
        sessions.set(session.kernel.id, session);
      }
    }
    this.model.running(
      kernels.map(({ id, name }) => {
        const path = sessions.get(id)?.path ?? '';
        const title = sessions.get(id)?.name || path.split('/').pop() || `${name} ${id.slice(0, 8)}`;
        return { id, title, path };
      })
    );
    const ids = new Set(kernels.map(kernel => kernel.id));
    for (const [id, link] of this._links) {
      if (!ids.has(id)) {
        this._links.delete(id);
        link.dispose();
      }
    }
    for (const model of kernels) {
      if (!this._links.has(model.id)) {
        // Another connection that handles comms would close those of the notebook's widgets.
        const kernel = this.services.kernels.connectTo({ model: { id: model.id, name: model.name }, handleComms: false });
        this._links.set(model.id, new Link(kernel, this.model));
      }
    }
  }

  private speaksPython(name: string): boolean {
    const spec = this.services.kernelspecs.specs?.kernelspecs[name];
    return !spec || spec.language === 'python';
  }

  private _started = false;
  private _links = new Map<string, Link>();
}
