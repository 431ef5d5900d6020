// Pieces that several views are made of.

import { h } from './dom.js';
import { away, full, moment, percent, spoken } from './text.js';

export const spaceLink = (space) => `#/space/${encodeURIComponent(space)}`;
export const machineLink = (machine) => `#/machine/${encodeURIComponent(machine)}`;

// A shape for each kind, so that nothing is said by colour alone.
const SIGNS = { good: '●', warn: '▲', bad: '✖', plain: '○' };

/// A state in a word, with a shape and a colour.
export const badge = (kind, text) =>
  h('span', { class: `badge ${kind}` },
    h('span', { 'aria-hidden': 'true', class: 'sign' }, SIGNS[kind]), ' ', text);

/// A moment and how long it is until then or was.
export const when = (now, at) =>
  h('time', { datetime: new Date(at * 1000).toISOString(), title: full(at) }, away(now, at));

/// The same with the moment itself before it.
export const exactly = (now, at) => [moment(now, at), ' UTC (', when(now, at), ')'];

/// A bar of `part` with a mark at `target`, both 0 to 1. The numbers are in the text beside it.
export function bar(part, target, kind = '') {
  const at = (value) => Math.max(0, Math.min(100, 100 * value));
  const marked = target !== null && target !== undefined;
  return h('svg', {
    class: `bar ${kind}`, viewBox: '0 0 100 10', preserveAspectRatio: 'none', 'aria-hidden': 'true',
    focusable: 'false',
  },
  h('rect', { class: 'all', x: 0, y: 1, width: 100, height: 8 }),
  h('rect', { class: 'part', x: 0, y: 1, width: at(part || 0), height: 8 }),
  marked && h('rect', { class: 'mark', x: Math.min(99, at(target)), y: 0, width: 1, height: 10 }));
}

export const limitBar = (have, limit) =>
  limit ? bar(have / limit, null, have >= limit ? 'full' : '') : null;

export const share = (kind) => [
  bar(kind.share, kind.target),
  h('span', { class: 'figure' }, `${percent(kind.share)} `,
    h('span', { class: 'faint' }, `of ${percent(kind.target)}`)),
];

/// A table that becomes a list of cards where there is no room; its roles are said so that it stays
/// a table for a screen reader. `heads`: [text, class]; a row: {key, cells: [content...]}, the
/// first cell of which is its header.
export function table(caption, heads, rows, more = '') {
  const cell = (content, column) => {
    const [head, kind] = heads[column];
    return column === 0
      ? h('th', { role: 'rowheader', scope: 'row', class: kind }, content)
      : h('td', { role: 'cell', class: content === '' ? 'empty' : kind, 'data-head': head }, h('div', {}, content));
  };
  return h('table', { role: 'table', class: `cards ${more}` },
    h('caption', { class: 'unseen' }, caption),
    h('thead', { role: 'rowgroup' }, h('tr', { role: 'row' },
      heads.map(([head, kind]) => h('th', { role: 'columnheader', scope: 'col', class: kind }, head)))),
    h('tbody', { role: 'rowgroup' },
      rows.map((row) => h('tr', { role: 'row', key: row.key, class: row.class }, row.cells.map(cell)))));
}

/// What ends the cycles of a space.
export const troubleOf = (space) => (space.unmigrated ? 'not migrated' : 'cloud error');

/// What is the matter with a space: [kind, word].
export function stateOf(space, now, interval) {
  if (space.trouble && space.trouble.over === null) return ['bad', troubleOf(space)];
  if (space.disk_full) return ['bad', 'disk full'];
  if (space.decided === null) return ['plain', 'no complete look yet'];
  if (isLate(space, now, interval)) return ['warn', 'no recent look'];
  const concerns = Object.values(space.machinetypes).map((kind) => kind.why && kind.why.concern);
  if (concerns.includes('wrong')) return ['bad', 'needs attention'];
  if (space.shutdown_time !== null) return ['warn', 'shutting down'];
  if (space.exhausted.length) return ['warn', 'no room'];
  if (concerns.includes('waits')) return ['warn', 'waiting'];
  return ['good', 'ok'];
}

/// Whether the last complete listing is older than it should be.
export const isLate = (space, now, interval) =>
  space.last_scan !== null && now - space.last_scan > Math.max(60, 3 * interval);

const PHASE_KINDS = { running: 'good', failed: 'bad', unlisted: 'warn', starting: 'plain' };
export const phaseBadge = (phase) => badge(PHASE_KINDS[phase] || 'plain', phase);

/// Machines of a machinetype, or a space, in states beside running, starting and ended.
export const otherPhases = (phases) =>
  ['shutdown', 'deleting', 'failed', 'unknown', 'unlisted']
    .filter((phase) => phases[phase])
    .map((phase) => `${phases[phase]} ${phase}`)
    .join(', ');

export const alive = (phases) =>
  Object.entries(phases).reduce((sum, [phase, n]) => (phase === 'ended' ? sum : sum + n), 0);

const CONCERNS = { wrong: 'bad', waits: 'warn', none: 'plain' };

/// Why there are no more of a machinetype, with how long that holds.
export function why(kind, now) {
  if (!kind.why) return h('span', { class: 'faint' }, 'not in the configuration');
  const { until, concern } = kind.why;
  const text = spoken(now, kind.why.text);
  const left = until !== null && h('span', { class: 'left' }, ' ', when(now, until));
  return concern === 'none'
    ? [text, left]
    : [badge(CONCERNS[concern], concern === 'wrong' ? 'stuck' : 'waits'), ' ', text, left];
}

/// The machinetypes of a space.
export const machinetypes = (name, space, now) =>
  table(`Machinetypes of ${name}`, [
    ['Machinetype', 'kind'], ['Share', 'share'], ['Running', 'number'], ['Starting', 'number'],
    ['Other states', 'other'], ['Processors', 'number'], ['Why not more', 'wide'],
  ], Object.entries(space.machinetypes).map(([machinetype, kind]) => ({
    key: machinetype,
    cells: [
      machinetype, share(kind), kind.phases.running || 0, kind.phases.starting || 0,
      otherPhases(kind.phases) || h('span', { class: 'faint' }, 'none'), kind.processors, why(kind, now),
    ],
  })), 'kinds');

/// A text in which the name of a machine leads to its story.
function linked(text, machine) {
  const at = machine ? text.indexOf(machine) : -1;
  if (at < 0) return text;
  const link = h('a', { href: machineLink(machine) }, machine);
  return [text.slice(0, at), link, text.slice(at + machine.length)];
}

/// What has happened, the latest first; in a space or, with `everywhere`, in which.
export function events(state, list, caption, everywhere) {
  if (!list.length) return h('p', { class: 'faint' }, 'Nothing yet.');
  const where = (event) => (event.space ? h('a', { href: spaceLink(event.space) }, event.space) : '');
  return table(caption, [['Time, UTC', 'time'], ...(everywhere ? [['Space', 'where']] : []), ['What', 'wide']],
    [...list].reverse().map((event) => ({
      key: event.number,
      cells: [
        moment(state.now(), event.time),
        ...(everywhere ? [where(event)] : []),
        linked(spoken(state.now(), event.text), event.machine),
      ],
    })), 'events');
}
