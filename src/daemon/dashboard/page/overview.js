// The first view: the whole factory.

import { charts } from './charts.js';
import { h } from './dom.js';
import {
  alive, badge, events, isLate, limitBar, machinetypes, spaceLink, stateOf, table, troubleOf, when,
} from './parts.js';
import { ago, count, length, of, spoken } from './text.js';

/// With more spaces than this each is folded up.
const UNFOLDED = 8;

/// So many characters of an error are shown here; the view of the space has more.
const ERROR = 200;

/// So many of the events are shown here.
const EVENTS = 20;

/// So many of the concerns are shown here, the worst. The views of their spaces show the others.
const CONCERNS = 25;

const tile = (name, figure, note, kind = '') =>
  h('div', { class: `tile ${kind}`, key: name }, h('dt', {}, name),
    h('dd', {}, h('span', { class: 'big' }, figure), ' ', h('span', { class: 'note' }, note)));

function tiles(state, spaces) {
  const sum = (what) => spaces.reduce((total, [, space]) => total + what(space), 0);
  const phase = (name) => sum((space) => space.phases[name] || 0);
  const limits = spaces.filter(([, space]) => space.decided !== null).map(([, space]) => space.machines_limit);
  const limit = limits.length && limits.every((each) => each !== null)
    ? limits.reduce((total, each) => total + each, 0) : null;
  const kinds = spaces.flatMap(([, space]) => Object.values(space.machinetypes));
  const backing = kinds.filter((kind) => kind.backs_off_until !== null).length;
  const bad = spaces.filter(([, space]) => stateOf(space, state.now(), state.interval())[0] === 'bad').length;
  const recent = ((state.histories['']) || { samples: [] }).samples
    .filter((sample) => sample.at > state.now() - 3600);
  const aborts = recent.reduce((total, sample) => total + sample.aborts, 0);
  // Of a cloud that was never seen completely it is what is on disk.
  const machines = sum((space) => Math.max(space.machines, alive(space.phases)));
  return h('dl', { class: 'tiles' },
    tile('Running', phase('running'), `of ${count(machines, 'machine')}`),
    tile('Starting', phase('starting'), ''),
    tile('Limit', limit === null ? '–' : limit,
      limit === null ? 'not known of all spaces' : `machines, ${Math.max(0, limit - machines)} free`),
    tile('Spaces', spaces.length, bad ? `${bad} with an error` : 'none with an error', bad ? 'bad' : ''),
    tile('Backing off', backing, `of ${count(kinds.length, 'machinetype')}`, backing ? 'warn' : ''),
    tile('Aborts', aborts, 'in the last hour', ''));
}

/// What a person should know, the worst first: [kind, word, space, machinetype, text, until].
function concerns(state, spaces) {
  const [now, all] = [state.now(), []];
  const add = (kind, word, space, machinetype, text, until = null) =>
    all.push({ kind, word, space, machinetype, text, until });
  for (const [name, space] of spaces) {
    const { trouble } = space;
    if (trouble && trouble.over === null) {
      add('bad', troubleOf(space), name, '',
        `${count(trouble.passes, 'cycle')} failed, the first ${ago(now, trouble.since)}, the last ${ago(now, trouble.last)}: ${trouble.text}`);
    } else if (isLate(space, now, state.interval())) {
      add('warn', 'no recent look', name, '', `The last complete listing was ${ago(now, space.last_scan)}.`);
    }
    if (space.disk_full) add('bad', 'disk full', name, '', 'The disk of the state directory is full: nothing is created.');
    if (space.shutdown_time !== null) {
      add('warn', 'shutting down', name, '',
        `Everything has to be down${space.shutdown_ordered ? ' (by vcycled shutdown)' : ''}`, space.shutdown_time);
    }
    for (const room of space.exhausted) {
      add('warn', 'no room', name, '', `The cloud has no room for ${room.flavor}${room.zone ? ` in ${room.zone}` : ''}; next try`, room.until);
    }
    for (const [machinetype, kind] of Object.entries(space.machinetypes)) {
      const because = kind.why;
      if (!because || because.concern === 'none') continue;
      const wrong = because.concern === 'wrong';
      const word = wrong ? 'stuck' : kind.backs_off_until !== null ? 'backoff' : 'waits';
      add(wrong ? 'bad' : 'warn', word, name, machinetype, spoken(now, because.text), because.until);
    }
  }
  for (const [name, machines] of Object.entries(state.orphans)) {
    add('warn', 'orphans', name, '', `Not in the configuration: its ${count(machines, 'machine')} are left alone, here and on the cloud.`);
  }
  return all.sort((one, other) => (one.kind > other.kind) - (one.kind < other.kind));
}

function attention(state, spaces) {
  const list = concerns(state, spaces);
  const known = state.spaces;
  return h('section', { 'aria-labelledby': 'attention' },
    h('h2', { id: 'attention' }, 'Needs a look', h('span', { class: 'faint' }, ` ${list.length || ''}`)),
    list.length
      ? table('What needs a look', [['What', ''], ['Where', ''], ['Why', 'wide'], ['Until', '']],
        list.slice(0, CONCERNS).map((each) => ({
          key: `${each.word} ${each.space} ${each.machinetype} ${each.until}`,
          cells: [badge(each.kind, each.word),
            [each.space in known ? h('a', { href: spaceLink(each.space) }, each.space) : each.space,
              each.machinetype && ` / ${each.machinetype}`],
            each.text, each.until === null ? '' : when(state.now(), each.until)],
        })), 'attention')
      : h('p', {}, badge('good', 'nothing'), ' No cloud fails, and nothing waits.'),
    list.length > CONCERNS && h('p', { class: 'faint' }, `and ${list.length - CONCERNS} more, of `,
      count(new Set(list.slice(CONCERNS).map((each) => each.space)).size, 'space'), ', no worse than these'));
}

function machinetypesOf(state, name, one) {
  const link = h('a', { href: spaceLink(name) }, 'machines', h('span', { class: 'unseen' }, ` of ${name}`));
  return [
    Object.keys(one.machinetypes).length ? machinetypes(name, one, state.now())
      : h('p', { class: 'faint' }, 'Nothing is known of its machinetypes yet.'),
    h('p', {}, link, ` (${alive(one.phases)} alive, ${one.phases.ended || 0} ended)`,
      one.foreign ? `; ${one.foreign} on the cloud are not ours` : ''),
  ];
}

function space(state, name, one, byItself) {
  const [kind, word] = stateOf(one, state.now(), state.interval());
  const unfolded = name in state.unfolded ? state.unfolded[name] : byItself;
  return h('details', { class: 'space', key: name, $open: unfolded, id: `space-${name}`, 'data-space': name },
    h('summary', {},
      h('h3', {}, name), ' ', badge(kind, word), ' ',
      one.decided !== null && h('span', { class: 'summary' },
        h('span', {}, `machines ${of(one.machines, one.machines_limit)}`), limitBar(one.machines, one.machines_limit),
        h('span', { class: 'faint' }, `processors ${of(one.processors, one.processors_limit)}`),
        h('span', { class: 'faint' }, one.last_scan === null ? 'never seen completely' : `seen ${ago(state.now(), one.last_scan)}`))),
    unfolded && machinetypesOf(state, name, one));
}

function lastError(trouble, now) {
  if (!trouble) return h('span', { class: 'faint' }, 'none since the start');
  const text = trouble.text.length > ERROR ? `${trouble.text.slice(0, ERROR)} …` : trouble.text;
  return [ago(now, trouble.last), trouble.over === null ? '' : `, over ${ago(now, trouble.over)}`, ': ', text];
}

/// How the API of each cloud does.
function clouds(state, spaces) {
  const now = state.now();
  return h('section', { 'aria-labelledby': 'clouds' }, h('h2', { id: 'clouds' }, 'Clouds'),
    table('Clouds', [
      ['Space', ''], ['State', ''], ['Last complete look', 'time'], ['Latest cycle', 'time'], ['Last error', 'wide'],
    ], spaces.map(([name, one]) => ({
      key: name,
      cells: [h('a', { href: spaceLink(name) }, name), badge(...stateOf(one, now, state.interval())),
        one.last_scan === null ? 'none yet' : when(now, one.last_scan),
        one.passes === 0 ? 'none yet' : [when(now, one.began), `, took ${length(one.took)}`],
        lastError(one.trouble, now)],
    })), 'clouds'));
}

/// The whole view.
export function overview(state) {
  const spaces = Object.entries(state.spaces).sort(([one], [other]) => (one < other ? -1 : 1));
  const unfolded = spaces.length <= UNFOLDED;
  return [
    h('h2', { class: 'unseen', tabindex: -1, id: 'view' }, 'Overview'),
    tiles(state, spaces),
    attention(state, spaces),
    h('section', { 'aria-labelledby': 'over-time' }, h('h2', { id: 'over-time' }, 'Over time'),
      charts(state, state.histories[''], 'all spaces')),
    h('section', { 'aria-labelledby': 'spaces' }, h('h2', { id: 'spaces' }, 'Spaces'),
      h('p', { class: 'faint small' }, 'Share: what machines of a machinetype have of the space by power; the mark and “of” are its target.'),
      spaces.map(([name, one]) => space(state, name, one, unfolded))),
    clouds(state, spaces),
    h('section', { 'aria-labelledby': 'events' }, h('h2', { id: 'events' }, 'Recent events'),
      events(state, state.events.slice(-EVENTS), 'Recent events', true)),
  ];
}

/// What is at the foot of each view.
export function foot(state) {
  const { daemon } = state;
  if (!daemon) return [];
  return h('p', { class: 'faint small' },
    `vcycled ${daemon.version}, process ${daemon.process}, up ${length(state.now() - daemon.started)}, a cycle every ${daemon.interval} s; configuration `,
    state.config && state.config.loaded !== null ? ['read ', when(state.now(), state.config.loaded)] : 'not read yet', '.');
}
