// The way to the kernels: a connection of our own to each, whether or not its notebook is open, and the requests of
// jupyter/bridge.py on it. The control channel is answered whatever a cell does.

import { Kernel, KernelMessage, ServiceManager, Session } from '@jupyterlab/services';

import { ITunnel, Model } from './model';

const REQUEST = 'xec_forward_request';
const COMM = 'xec_forward';
// A kernel without xec_forward says that it is done and sends no reply: for so long the reply may yet be on its way.
const REPLY_MAY_LAG = 5000;

/** A reply: see jupyter/bridge.py. */
interface IReply {
  status: 'ok' | 'error' | 'question';
  text?: string;
  question?: number;
  echo?: boolean;
  tunnels?: ITunnel[];
  now?: number;
}

/** Puts a question to the person; null is no answer. */
export type Ask = (text: string, echo: boolean) => Promise<string | null>;

/** What a button does. */
export type Action = 'close' | 'reconnect' | 'doctor';

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
    const reply = await this.request({ action: 'list' }, true);
    if (this.kernel.isDisposed) {
      return;
    }
    if (reply?.tunnels) {
      this.model.told(this.kernel.id, reply.tunnels, reply.now ?? 0);
    } else if (this.model.knowledge(this.kernel.id) === 'unknown') {
      // It may have been loaded while nobody answered.
      this.model.forget(this.kernel.id, 'absent');
    }
  }

  /** Do something with a tunnel; what there is to say about it. Rejects with the one line of an error. */
  async act(action: Action, tunnel: number, ask: Ask): Promise<string> {
    let reply = await this.request({ action, tunnel });
    while (reply?.status === 'question') {
      const value = await ask(reply.text ?? '', reply.echo ?? false);
      reply = await this.request({ action: 'answer', question: reply.question, value });
    }
    if (!reply) {
      throw new Error('the kernel has ended');
    }
    if (reply.tunnels) {
      this.model.told(this.kernel.id, reply.tunnels, reply.now ?? 0);
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

  /** Send a request; null where nobody answers it (`probe`: there may be nobody), or the kernel went. */
  private request(content: Record<string, unknown>, probe = false): Promise<IReply | null> {
    const message = KernelMessage.createMessage({
      // The types know the messages of Jupyter alone.
      msgType: REQUEST as 'debug_request',
      channel: 'control',
      session: this.kernel.clientId,
      username: this.kernel.username,
      content: content as unknown as KernelMessage.IDebugRequestMsg['content']
    });
    const future = this.kernel.sendControlMessage(message, true, true);
    return new Promise(resolve => {
      future.onReply = reply => {
        this.spoken(reply.header.session);
        resolve(reply.content as unknown as IReply);
      };
      future.onIOPub = ({ header, content }) => {
        const done = header.msg_type === 'status' && (content as { execution_state: string }).execution_state === 'idle';
        if (done && probe) {
          window.setTimeout(() => future.dispose(), REPLY_MAY_LAG);
        }
      };
      // It is disposed by us, by a restart, or with the connection.
      future.done.catch(() => resolve(null));
    });
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
    if (message.header.session === this.kernel.clientId) {
      // The server, in our name: the process has died.
      if (KernelMessage.isStatusMsg(message)) {
        this.model.forget(this.kernel.id, 'unknown');
      }
      return;
    }
    this.spoken(message.header.session);
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
    }
  }

  /**
   * Each process of a kernel speaks in a session of its own: another one tells of a restart. (The first words of a
   * process, `starting` among them, may be said before anybody hears them.)
   */
  private spoken(session: string): void {
    const restarted = this.session && session !== this.session;
    this.session = session;
    if (restarted) {
      this.model.forget(this.kernel.id, 'unknown');
      void this.list();
    }
  }

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

  /** Ask every kernel anew. */
  async refresh(): Promise<void> {
    await this.start();
    await Promise.all([this.services.kernels.refreshRunning(), this.services.sessions.refreshRunning()]);
    await Promise.all([...this._links.values()].map(link => link.list()));
  }

  /** See Link. */
  act(kernel: string, action: Action, tunnel: number, ask: Ask): Promise<string> {
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
