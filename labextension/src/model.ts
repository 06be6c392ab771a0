// What is known of every running kernel and its tunnels. Pure: no DOM, no kernel, no clock but the one it is given.

import { ISignal, Signal } from '@lumino/signaling';

/** A tunnel as the kernel sends it: render/facts.py says what each field is. */
export interface ITunnel {
  tunnel: number;
  name: string;
  state: string;
  sign: string;
  open: boolean;
  way: string[];
  address: string;
  how: string[];
  times: [string, number][];
  rate: string;
  line: number[];
  error: string;
  hint: string;
  notes: string[];
}

/** A running kernel: its id, and what a person calls it. */
export interface IRunning {
  id: string;
  title: string;
  path: string;
}

/**
 * - `unknown`: not asked, or it has not answered yet.
 * - `absent`: it has no xec_forward.
 * - `loaded`: its tunnels are known.
 */
export type Knowledge = 'unknown' | 'absent' | 'loaded';

export interface IKernel extends IRunning {
  knowledge: Knowledge;
  tunnels: ITunnel[];
  /** When its tunnels were told: seconds of this machine's clock. */
  told: number;
  /** How far its clock is ahead of ours, in seconds. */
  ahead: number;
}

export class Model {
  /** @param clock seconds since the epoch. */
  constructor(private clock: () => number = () => Date.now() / 1000) {}

  /** Something is to be shown anew. */
  get changed(): ISignal<this, void> {
    return this._changed;
  }

  /** Something a person may want to hear of, in a few words. */
  get news(): ISignal<this, string> {
    return this._news;
  }

  get kernels(): IKernel[] {
    return [...this._kernels.values()];
  }

  knowledge(id: string): Knowledge {
    return this._kernels.get(id)?.knowledge ?? 'unknown';
  }

  /** How many tunnels are open; null as long as no kernel has told any. */
  get open(): number | null {
    const loaded = this.kernels.filter(kernel => kernel.knowledge === 'loaded');
    return loaded.length
      ? loaded.reduce((sum, kernel) => sum + kernel.tunnels.filter(tunnel => tunnel.open).length, 0)
      : null;
  }

  /** These kernels run, and no others. */
  running(kernels: IRunning[]): void {
    const before = this._kernels;
    this._kernels = new Map(
      kernels.map(kernel => {
        const known = before.get(kernel.id) ?? { knowledge: 'unknown', tunnels: [], told: 0, ahead: 0 };
        return [kernel.id, { ...known, ...kernel }];
      })
    );
    this._changed.emit();
  }

  /** A kernel has told its tunnels; `now` is its clock, in seconds since the epoch. */
  told(id: string, tunnels: ITunnel[], now: number): void {
    const kernel = this._kernels.get(id);
    if (!kernel) {
      return;
    }
    const first = kernel.knowledge !== 'loaded';
    const before = kernel.tunnels;
    const told = this.clock();
    Object.assign(kernel, { knowledge: 'loaded', tunnels, told, ahead: now - told });
    this._changed.emit();
    const said = first ? [] : changes(before, tunnels);
    if (said.length) {
      // In one: what is said next is said in its place.
      this._news.emit(said.join(', '));
    }
  }

  /** A kernel has no xec_forward, or it is not known whether it has: it was started again, say. */
  forget(id: string, knowledge: 'unknown' | 'absent'): void {
    const kernel = this._kernels.get(id);
    if (kernel) {
      Object.assign(kernel, { knowledge, tunnels: [] });
      this._changed.emit();
    }
  }

  /** Resolves once every kernel has answered. */
  settled(): Promise<void> {
    return new Promise(resolve => {
      const look = () => {
        if (this.kernels.every(kernel => kernel.knowledge !== 'unknown')) {
          this._changed.disconnect(look);
          resolve();
        }
      };
      this._changed.connect(look);
      look();
    });
  }

  /** The times of a tunnel as they stand now, in words; the moments are those of the kernel's clock. */
  ages(kernel: IKernel, tunnel: ITunnel): string {
    const now = this.clock() + kernel.ahead;
    return tunnel.times.map(([word, moment]) => `${word} ${duration(Math.abs(now - moment))}`).join(', ');
  }

  /** The points of a tunnel's line as it stands now: nothing has moved since it was told. */
  line(kernel: IKernel, tunnel: ITunnel): number[] {
    return aged(tunnel.line, this.clock() - kernel.told);
  }

  private _kernels = new Map<string, IKernel>();
  private _changed = new Signal<this, void>(this);
  private _news = new Signal<this, string>(this);
}

/** What became of the tunnels, in words. */
export function changes(before: ITunnel[], after: ITunnel[]): string[] {
  const was = new Map(before.map(tunnel => [tunnel.tunnel, tunnel]));
  const said = after
    .filter(tunnel => was.get(tunnel.tunnel)?.state !== tunnel.state)
    .map(tunnel => `${tunnel.name} is ${tunnel.state}`);
  const still = new Set(after.map(tunnel => tunnel.tunnel));
  return [...said, ...before.filter(each => !still.has(each.tunnel)).map(each => `${each.name} is closed`)];
}

/** A line of so many points, a second each, so many seconds later. */
export function aged(line: number[], seconds: number): number[] {
  const gone = Math.min(line.length, Math.max(0, Math.floor(seconds)));
  return [...line.slice(gone), ...new Array<number>(gone).fill(0)];
}

/** The `points` of an SVG polyline: the highest value touches the top. */
export function polyline(line: number[], width: number, height: number): string {
  const most = Math.max(...line, 1);
  const step = width / Math.max(1, line.length - 1);
  return line.map((value, i) => `${(i * step).toFixed(1)},${(height - (value / most) * height).toFixed(1)}`).join(' ');
}

/** How long something lasts, in the two largest units at most: `duration` of render/words.py. */
export function duration(seconds: number): string {
  const whole = Math.max(0, Math.floor(seconds));
  if (whole < 60) {
    return `${whole} s`;
  }
  const minutes = Math.floor(whole / 60);
  if (minutes < 60) {
    return `${minutes} min`;
  }
  const hours = Math.floor(minutes / 60);
  if (hours < 24) {
    return minutes % 60 ? `${hours} h ${minutes % 60} min` : `${hours} h`;
  }
  const days = Math.floor(hours / 24);
  return hours % 24 ? `${days} d ${hours % 24} h` : `${days} d`;
}

/** A number of tunnels in words. */
export function counted(tunnels: number): string {
  return `${tunnels || 'no'} ${tunnels === 1 ? 'tunnel' : 'tunnels'}`;
}

/** What there is to close, and of whom that is not known. */
export function farewell(kernels: IKernel[]): string {
  const names = kernels.flatMap(kernel => kernel.tunnels.map(tunnel => tunnel.name));
  const silent = kernels.filter(kernel => kernel.knowledge === 'unknown').map(kernel => kernel.title);
  const closing = names.length ? `${counted(names.length)} will be closed: ${names.join(', ')}.` : 'No tunnel is open.';
  return silent.length ? `${closing} Without an answer, and left as they are: ${silent.join(', ')}.` : closing;
}
