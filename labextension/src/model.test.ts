import { describe, expect, it } from 'vitest';

// What render/words.py is held to as well.
import durations from '../../tests/data/durations.json';

import { ITunnel, Model, aged, changes, counted, duration, farewell, polyline } from './model';

const KERNEL = { id: 'k', title: 'orders.ipynb', path: 'work/orders.ipynb' };

function tunnel(more: Partial<ITunnel> = {}): ITunnel {
  return {
    tunnel: 1,
    name: 'pg',
    state: 'ready',
    sign: '●',
    open: true,
    way: ['127.0.0.1:5432', 'bastion', 'pg.vpc:5432'],
    address: '127.0.0.1:5432',
    how: [],
    times: [],
    rate: '',
    line: [],
    error: '',
    hint: '',
    notes: [],
    ...more
  };
}

function model(clock = () => 1000): Model {
  const made = new Model(clock);
  made.running([KERNEL]);
  return made;
}

describe('Model', () => {
  it('counts nothing before a kernel has told', () => {
    const made = model();
    expect(made.open).toBeNull();
    made.told('k', [], 1000);
    expect(made.open).toBe(0);
  });

  it('counts open tunnels of every kernel, not failed ones', () => {
    const made = model();
    made.running([KERNEL, { ...KERNEL, id: 'l' }]);
    made.told('k', [tunnel(), tunnel({ tunnel: 2, state: 'failed', open: false })], 1000);
    made.told('l', [tunnel({ state: 'waiting' })], 1000);
    expect(made.open).toBe(2);
  });

  it('keeps what it knows of a kernel whose notebook was renamed', () => {
    const made = model();
    made.told('k', [tunnel()], 1000);
    made.running([{ ...KERNEL, title: 'sales.ipynb' }]);
    expect(made.kernels).toMatchObject([{ title: 'sales.ipynb', knowledge: 'loaded', tunnels: [{ name: 'pg' }] }]);
  });

  it('forgets the tunnels of a kernel that was started again, and a kernel that is gone', () => {
    const made = model();
    made.told('k', [tunnel()], 1000);
    made.forget('k', 'unknown');
    expect(made.kernels).toMatchObject([{ knowledge: 'unknown', tunnels: [] }]);
    made.running([]);
    expect(made.kernels).toEqual([]);
    made.told('k', [tunnel()], 1000);
    expect(made.kernels).toEqual([]);
  });

  it('reckons ages by the clock of the kernel', () => {
    let now = 1000;
    const made = model(() => now);
    const times: [string, number][] = [
      ['up', 5000],
      ['closes in', 5130]
    ];
    made.told('k', [tunnel({ times })], 5010);
    now += 5;
    const [kernel] = made.kernels;
    expect(made.ages(kernel, kernel.tunnels[0])).toBe('up 15 s, closes in 1 min');
  });

  it('lets a line move on while nothing is told', () => {
    let now = 1000;
    const made = model(() => now);
    made.told('k', [tunnel({ line: [1, 2, 3] })], 1000);
    now += 2.5;
    expect(made.line(made.kernels[0], made.kernels[0].tunnels[0])).toEqual([3, 0, 0]);
  });

  it('has news of changes, not of what was there when it was opened', () => {
    const made = model();
    const heard: string[] = [];
    made.news.connect((_, text) => heard.push(text));
    made.told('k', [tunnel()], 1000);
    expect(heard).toEqual([]);
    made.told('k', [tunnel({ state: 'reconnecting' })], 1000);
    made.told('k', [], 1000);
    expect(heard).toEqual(['pg is reconnecting', 'pg is closed']);
  });

  it('says in one what changed at once', () => {
    const made = model();
    const heard: string[] = [];
    made.news.connect((_, text) => heard.push(text));
    made.told('k', [tunnel(), tunnel({ tunnel: 2, name: 'cache' })], 1000);
    made.told('k', [tunnel({ state: 'waiting' })], 1000);
    expect(heard).toEqual(['pg is waiting, cache is closed']);
  });

  it('is settled when no kernel is left that has not answered', async () => {
    const made = model();
    made.running([KERNEL, { ...KERNEL, id: 'l' }]);
    let settled = false;
    const done = made.settled().then(() => (settled = true));
    made.told('k', [], 1000);
    await Promise.resolve();
    expect(settled).toBe(false);
    made.forget('l', 'absent');
    await done;
    expect(settled).toBe(true);
    await made.settled();
  });
});

describe('words', () => {
  it('tells new, changed and closed tunnels', () => {
    const before = [tunnel(), tunnel({ tunnel: 2, name: 'cache' })];
    const after = [tunnel({ state: 'waiting' }), tunnel({ tunnel: 3, name: 'web', state: 'opening' })];
    expect(changes(before, after)).toEqual(['pg is waiting', 'web is opening', 'cache is closed']);
  });

  it.each(durations as [number, string][])('says %d seconds as %s', (seconds, text) => {
    expect(duration(seconds)).toBe(text);
  });

  it('says what there is to close, and who has not answered', () => {
    const made = model();
    made.told('k', [tunnel(), tunnel({ tunnel: 2, name: 'cache' })], 1000);
    expect(farewell(made.kernels)).toBe('2 tunnels will be closed: pg, cache.');
    made.told('k', [], 1000);
    expect(farewell(made.kernels)).toBe('No tunnel is open.');
    made.running([KERNEL, { ...KERNEL, id: 'l', title: 'busy.ipynb' }]);
    expect(farewell(made.kernels)).toBe(
      'No tunnel is open. Without an answer, and left as they are: busy.ipynb.'
    );
  });

  it('counts', () => expect([0, 1, 2].map(counted)).toEqual(['no tunnels', '1 tunnel', '2 tunnels']));
});

describe('line', () => {
  it('ages by whole seconds, and never grows', () => {
    expect(aged([1, 2, 3], 0.9)).toEqual([1, 2, 3]);
    expect(aged([1, 2, 3], 1)).toEqual([2, 3, 0]);
    expect(aged([1, 2, 3], 99)).toEqual([0, 0, 0]);
    expect(aged([1, 2, 3], -1)).toEqual([1, 2, 3]);
  });

  it('touches the top where it is highest', () => {
    expect(polyline([0, 10, 5], 20, 10)).toBe('0.0,10.0 10.0,0.0 20.0,5.0');
    expect(polyline([0, 0], 20, 10)).toBe('0.0,10.0 20.0,10.0');
  });
});
