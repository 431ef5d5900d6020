// The story of one machine, as `vcycled status MACHINE` tells it.

import { h } from './dom.js';
import { exactly, phaseBadge, spaceLink, table } from './parts.js';
import { ago, bytes, full, length } from './text.js';

function value(fact, now) {
  if ('ago' in fact) return ago(now, fact.ago);
  if ('moment' in fact) return exactly(now, fact.moment);
  return fact.what === 'space' ? h('a', { href: spaceLink(fact.text) }, fact.text) : fact.text;
}

const HAPPENED = {
  asked_for: () => 'asked for',
  began: ({ after }) => `began to run, after ${length(after)}`,
  heartbeat: () => 'last heartbeat',
  last_known: () => 'last known to run, before the cloud did not list it',
  ended: ({ ran }) => (ran === null ? 'ended; it was never seen running' : `ended, having run for ${length(ran)}`),
  deleted: (what) => `asked the cloud to delete it${what.for_heartbeat ? ', for its heartbeat' : ''}`,
  copied: () => 'what it wrote was copied',
  written_down: () => 'its end was written down, with the abort time and the accounting record if there are any',
};

/// The whole view.
export function machine(state, name) {
  const { story } = state;
  if (!story || story.name !== name) {
    return [h('h2', { tabindex: -1, id: 'view' }, name),
      h('p', {}, state.storyProblem || 'Asking for its story …')];
  }
  const now = state.now();
  return [
    h('h2', { tabindex: -1, id: 'view' }, name, ' ', phaseBadge(story.phase)),
    state.storyProblem && h('p', { class: 'banner warn' }, state.storyProblem),
    h('dl', { class: 'facts' }, story.facts.map((fact) =>
      h('div', { key: fact.what }, h('dt', {}, fact.what), h('dd', {}, value(fact, now))))),
    h('section', { 'aria-labelledby': 'story' }, h('h3', { id: 'story' }, 'Story'),
      table(`Story of ${name}`, [['Time', 'time'], ['Ago', 'number'], ['What', 'wide']],
        story.events.map((event, number) => ({
          key: `${number} ${event.at}`,
          cells: [full(event.at), ago(now, event.at), HAPPENED[event.what.event](event.what)],
        })), 'events')),
    h('section', { 'aria-labelledby': 'files' }, h('h3', { id: 'files' }, 'What it wrote'),
      story.files.length
        ? [h('p', { class: 'faint small' }, `in ${story.directory}`),
          table(`Files of ${name}`, [['File', ''], ['Size', 'number'], ['Written', 'number']],
            story.files.map((file) => ({
              key: file.name, cells: [file.name, bytes(file.bytes), ago(now, file.at)],
            })))]
        : h('p', { class: 'faint' }, 'Nothing so far.')),
  ];
}
