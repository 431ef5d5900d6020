// One space: its cloud, its machinetypes, its history and its machines.

import { charts } from './charts.js';
import { h } from './dom.js';
import {
  badge, events, exactly, limitBar, machineLink, machinetypes, phaseBadge, stateOf, table, when,
} from './parts.js';
import { ago, count, length, of, PHASES } from './text.js';

const fact = (name, ...value) => h('div', { key: name }, h('dt', {}, name), h('dd', {}, value));

function health(state, space) {
  const now = state.now();
  const { trouble, totals } = space;
  const left = Object.entries(space.left_over);
  return h('dl', { class: 'facts' },
    fact('machines', of(space.machines, space.machines_limit),
      space.foreign ? ` (${space.foreign} not ours)` : '', ' ', limitBar(space.machines, space.machines_limit)),
    fact('processors', of(space.processors, space.processors_limit), ' ', limitBar(space.processors, space.processors_limit)),
    fact('last complete listing', space.last_scan === null ? 'none yet' : exactly(now, space.last_scan)),
    fact('latest cycle', space.passes === 0 ? 'none yet'
      : ['began ', when(now, space.began), `, took ${length(space.took)}; ${count(space.passes, 'cycle')} since the start`]),
    !trouble ? fact('last error of the cloud', 'none since the start')
      : trouble.over === null
        ? fact('cloud fails', badge('bad', `${count(trouble.passes, 'cycle')} failed`), ' since ', exactly(now, trouble.since), ', the last ', when(now, trouble.last), ': ', trouble.text)
        : fact('last error of the cloud', ago(now, trouble.last), `, over ${ago(now, trouble.over)}: `, trouble.text),
    fact('since the start', `${totals.created} created, ${totals.ended} ended, ${count(totals.aborts, 'abort')}, ${totals.failed} never ran, ${count(totals.records, 'accounting record')}`),
    space.disk_full && fact('disk', badge('bad', 'full'), ' nothing is created'),
    space.shutdown_time !== null && fact('has to be down', exactly(now, space.shutdown_time), space.shutdown_ordered ? ', by vcycled shutdown' : ''),
    space.exhausted.map((room) => fact(`no room for ${room.flavor}${room.zone ? ` in ${room.zone}` : ''}`, 'next try ', when(now, room.until))),
    left.length > 0 && fact('left over, used by nothing', left.map(([kind, n]) => `${n} ${kind.replace(/_/g, ' ')}`).join(', ')),
    Object.entries(space.images).map(([kind, text]) => fact(`image of ${kind}`, text)));
}

function filters(state, page) {
  const { asked } = state;
  const choice = (name, value, text, n) =>
    h('option', { value, selected: asked[name] === value, key: value }, n === undefined ? text : `${text} (${n})`);
  return h('div', { class: 'filters', role: 'search', 'aria-label': 'Which machines' },
    h('label', {}, 'Machinetype ',
      h('select', { 'data-ask': 'machinetype' },
        choice('machinetype', '', 'all'), page.machinetypes.map((kind) => choice('machinetype', kind, kind)))),
    h('label', {}, 'State ',
      h('select', { 'data-ask': 'phase' },
        choice('phase', '', 'all'), PHASES.map((phase) => choice('phase', phase, phase, page.phases[phase] || 0)))),
    h('label', {}, 'Find ',
      h('input', { type: 'search', 'data-ask': 'find', $value: asked.find, autocomplete: 'off', spellcheck: 'false', placeholder: 'name, address, message' })));
}

const age = (machine, now) => (machine.phase === 'ended' && machine.stopped
  ? `ended ${ago(now, machine.stopped)}` : length(now - machine.created));

function beat(machine, now) {
  if (machine.heartbeat) return ago(now, machine.heartbeat);
  return machine.heartbeat_expected && machine.phase === 'running' ? badge('warn', 'none') : '';
}

const says = (machine) => machine.message || machine.fault
  || (machine.phase === 'ended' && !machine.started ? 'never ran' : '');

function machines(state, name) {
  const page = state.page;
  if (!page || page.space !== name) return h('p', { class: 'faint' }, 'Asking for its machines …');
  const now = state.now();
  const last = page.offset + page.machines.length;
  const before = page.offset > 0;
  const after = last < page.found;
  return [
    filters(state, page),
    h('p', { role: 'status', class: 'found' },
      page.found ? `${page.offset + 1} to ${last} of ${count(page.found, 'machine')}` : 'No machine is like that.'),
    page.found > 0 && table(`Machines of ${name}`, [
      ['Machine', 'name'], ['State', ''], ['Age', 'number'], ['Heartbeat', 'number'], ['Address', ''], ['Message', 'wide'],
    ], page.machines.map((machine) => ({
      key: machine.name,
      cells: [h('a', { href: machineLink(machine.name) }, machine.name), phaseBadge(machine.phase),
        age(machine, now), beat(machine, now), machine.address || '', says(machine)],
    })), 'machines'),
    (before || after) && h('p', { class: 'turn' },
      h('button', { type: 'button', 'data-turn': 'back', 'aria-disabled': before ? null : 'true' }, 'Earlier page'),
      h('button', { type: 'button', 'data-turn': 'on', 'aria-disabled': after ? null : 'true' }, 'Next page')),
  ];
}

/// The whole view.
export function space(state, name) {
  const one = state.spaces[name];
  if (!one) {
    return [h('h2', { tabindex: -1, id: 'view' }, name),
      h('p', {}, state.daemon ? 'There is no such space in the configuration.' : 'Nothing is known yet.')];
  }
  const [kind, word] = stateOf(one, state.now(), state.interval());
  const happened = state.events.filter((event) => event.space === name).slice(-20);
  return [
    h('h2', { tabindex: -1, id: 'view' }, name, ' ', badge(kind, word)),
    health(state, one),
    h('section', { 'aria-labelledby': 'kinds' }, h('h3', { id: 'kinds' }, 'Machinetypes'),
      machinetypes(name, one, state.now())),
    h('section', { 'aria-labelledby': 'over-time' }, h('h3', { id: 'over-time' }, 'Over time'),
      charts(state, state.histories[name], name)),
    h('section', { 'aria-labelledby': 'machines' }, h('h3', { id: 'machines' }, 'Machines'), machines(state, name)),
    h('section', { 'aria-labelledby': 'events' }, h('h3', { id: 'events' }, 'Recent events'),
      events(state, happened, `Recent events of ${name}`, false)),
  ];
}
