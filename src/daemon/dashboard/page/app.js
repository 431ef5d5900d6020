// What is known, what is heard, and which view is shown.

import { timeAt } from './charts.js';
import { h, patch } from './dom.js';
import { machine } from './machine.js';
import { foot, overview } from './overview.js';
import { badge, exactly, spaceLink, stateOf } from './parts.js';
import { space } from './space.js';
import { length } from './text.js';

/// The daemon says something every ten seconds. All in milliseconds.
const SILENT = 25000;
const REDRAW = 5000;
const HISTORY = 10000;
const DETAILS = 2000;
/// A daemon with many machines takes longer, and is then asked less often.
const SHARE = 20;
const HIDDEN = 60000;
const ANSWER = 8000;
const TYPING = 300;

const EVENTS = 200;
const PAGE = 50;

const state = {
  daemon: null, config: null, https: null, orphans: {}, spaces: {}, events: [], histories: {}, page: null, story: null,
  storyProblem: '', asked: nothingAsked(), unfolded: {}, cursor: null, chartWidth: 600, version: null, outdated: false, answers: null,
  connection: 'connecting', since: performance.now(), told: 0, toldAt: performance.now(), number: 0,
  now() { return this.told + Math.max(0, Math.floor((performance.now() - this.toldAt) / 1000)); },
  interval() { return this.daemon ? this.daemon.interval : 60; },
};

function nothingAsked() {
  return { machinetype: '', phase: '', find: '', offset: 0 };
}

const part = (id) => document.getElementById(id);

/// Where this page is, without a name and a password that may be in its address: a browser asks for
/// nothing at an address that has them.
const here = window.location.origin + window.location.pathname.replace(/[^/]*$/, '');

/// What a program asks for. A browser that is refused the token then asks nobody for a password: it
/// would do so again with every attempt, for as long as this page is open.
const asProgram = { cache: 'no-store', headers: { accept: 'application/json' } };

// ---- which view

function route() {
  const [, kind, name] = window.location.hash.match(/^#\/(space|machine)\/(.+)$/) || [];
  if (!kind) return { kind: 'overview', name: '' };
  try {
    return { kind, name: decodeURIComponent(name) };
  } catch {
    return { kind: 'overview', name: '' };
  }
}

let at = route();

function goThere() {
  const { hash } = window.location;
  if (hash && !hash.startsWith('#/')) return; // the link to the content
  at = route();
  Object.assign(state, { page: null, story: null, storyProblem: '', asked: nothingAsked(), cursor: null });
  patch(part('main'), []);
  drawNow();
  askHistory();
  askDetails();
  const heading = part('view');
  if (heading) heading.focus({ preventScroll: true });
  window.scrollTo(0, 0);
}

// ---- the drawing

let drawing = false;

function draw() {
  if (drawing) return;
  drawing = true;
  queueMicrotask(() => {
    drawing = false;
    drawNow();
  });
}

function drawNow() {
  const { kind, name } = at;
  const width = part('main').clientWidth;
  state.chartWidth = Math.max(260, Math.floor(width >= 900 ? (width - 24) / 2 - 26 : width - 26));
  drawAround(kind, name);
  if (state.told === 0) {
    patch(part('main'), h('p', { class: 'faint', key: 'first' }, 'Asking the daemon …'));
    return;
  }
  const views = { overview: () => overview(state), space: () => space(state, name), machine: () => machine(state, name) };
  const focused = document.activeElement;
  patch(part('main'), h('div', { key: `${kind} ${name}`, class: `view ${kind}` }, views[kind]()));
  // A row that has changed its place has lost it.
  if (focused !== document.activeElement && focused.isConnected) focused.focus({ preventScroll: true });
}

const LIVE = { live: ['good', 'live'], connecting: ['plain', 'connecting'], gone: ['bad', 'not connected'], paused: ['plain', 'paused'] };

function drawAround(kind, name) {
  patch(part('factory'), state.daemon ? `on ${state.daemon.factory}` : '');
  const [sign, word] = LIVE[state.connection];
  patch(part('live'), [badge(sign, word), state.told ? h('span', { class: 'faint clock' }, ` ${new Date(state.now() * 1000).toISOString().slice(0, 16).replace('T', ' ')} UTC`) : '']);
  const whose = kind === 'machine' && state.story
    ? state.story.facts.find((fact) => fact.what === 'space').text : kind === 'space' ? name : null;
  const crumb = (text, href, here) => h('li', { key: text }, here ? h('span', { 'aria-current': 'page' }, text) : h('a', { href }, text));
  patch(part('path'), kind === 'overview' ? [] : h('ol', {},
    crumb('Overview', '#/', false),
    whose && crumb(whose, spaceLink(whose), kind === 'space'),
    kind === 'machine' && crumb(name, '#/', true)));
  patch(part('foot'), foot(state));
  patch(part('alerts'), alerts());
  const wrong = Object.values(state.spaces).filter((one) => stateOf(one, state.now(), state.interval())[0] === 'bad').length;
  const lost = state.answers ? '(not connected) ' : '(no daemon) ';
  const mark = state.connection === 'gone' ? lost : wrong ? `(${wrong}) ` : '';
  const title = `${mark}${name || (state.daemon ? state.daemon.factory : '')} vcycled`.trim();
  if (document.title !== title) document.title = title;
}

const WHY = {
  401: 'The daemon asks for its token.',
  other: 'The daemon is there, but does not tell this page what happens. Too many pages may be open.',
};

function alerts() {
  const all = [];
  if (state.connection === 'gone') {
    const silence = Math.floor((performance.now() - state.since) / 1000);
    all.push(h('section', { class: 'banner bad', role: 'alert', key: 'gone' },
      h('strong', {}, WHY[state.answers] || (state.answers ? WHY.other : 'The daemon does not answer.')), ' ',
      state.told ? `What is below is what it said ${length(silence)} ago or before.` : '',
      state.answers ? '' : ' Machines that run go on without it.',
      state.answers === 401
        ? [' Load this page again to show it. ', h('button', { type: 'button', 'data-do': 'reload' }, 'Load again')]
        : [' This page tries again by itself. ', h('button', { type: 'button', 'data-do': 'connect' }, 'Try now')]));
  }
  const { config } = state;
  if (config && config.rejected !== null) {
    all.push(h('section', { class: 'banner bad', role: 'alert', key: 'config' },
      h('strong', {}, 'The configuration has errors and is not used.'), ' ',
      config.loaded === null ? 'None is in use.' : ['In use is that of ', exactly(state.now(), config.loaded), '.'],
      h('ul', {}, config.problems.map((problem, number) => h('li', { key: number }, h('code', {}, problem))))));
  }
  if (state.https && state.https.problem !== null) {
    all.push(h('section', { class: 'banner bad', role: 'alert', key: 'https' },
      h('strong', {}, state.https.is_down ? 'Machines cannot reach the HTTPS server.' : 'The HTTPS server goes on as it was.'), ' ',
      h('code', {}, state.https.problem)));
  }
  if (state.outdated) {
    all.push(h('section', { class: 'banner warn', role: 'status', key: 'outdated' },
      'The daemon is another version now, and has a page of its own. ',
      h('button', { type: 'button', 'data-do': 'reload' }, 'Load it')));
  }
  return all;
}

/// Says something to who cannot see it.
function say(text) {
  patch(part('say'), text);
}

// ---- what is heard

let source = null;
let heard = performance.now();
let retry = null;
let patience = 1000;

function connect() {
  disconnect();
  heard = performance.now();
  source = new EventSource(`${here}v1/stream`);
  source.onmessage = (event) => {
    heard = performance.now();
    patience = 1000;
    if (state.connection !== 'live') {
      if (state.connection === 'gone') say('The daemon answers again.');
      state.connection = 'live';
    }
    take(JSON.parse(event.data));
  };
  source.onerror = lost;
}

function disconnect() {
  clearTimeout(retry);
  if (source) {
    source.onerror = null;
    source.onmessage = null;
    source.close();
  }
  source = null;
}

/// Tries again later and later. Not the browser's own way: it gives up after some answers, and does
/// not notice a host that is gone without a word.
function lost() {
  disconnect();
  if (state.connection !== 'gone') {
    state.connection = 'gone';
    state.since = heard;
    state.answers = null; // until it is known why
    say('The daemon does not answer.');
  }
  lookWhy();
  patience = Math.min(2 * patience, 10000);
  retry = setTimeout(connect, patience);
  draw();
}

/// Asks something small: the stream does not say why it is refused.
async function lookWhy() {
  try {
    const signal = AbortSignal.timeout(ANSWER);
    state.answers = (await fetch(`${here}healthz`, { ...asProgram, signal })).status;
  } catch {
    state.answers = null;
  }
  draw();
}

function take(message) {
  state.told = message.now;
  state.toldAt = performance.now();
  if (message.page !== undefined) {
    // Another greeting: all is told anew.
    state.outdated = state.version !== null && state.version !== message.page;
    state.version = state.version || message.page;
    state.spaces = {};
    state.events = [];
    lastHistory = 0;
  }
  if (message.daemon) state.daemon = message.daemon;
  if (message.config) {
    if (message.config.rejected !== null && (!state.config || state.config.rejected === null)) say('The configuration has errors.');
    state.config = message.config;
  }
  if (message.https) state.https = message.https;
  if (message.orphans) state.orphans = message.orphans;
  for (const [name, one] of Object.entries(message.spaces || {})) {
    tellTrouble(name, state.spaces[name], one);
    state.spaces[name] = one;
  }
  for (const name of message.gone || []) delete state.spaces[name];
  for (const event of message.events || []) {
    state.number += 1;
    state.events.push({ ...event, number: state.number });
  }
  state.events = state.events.slice(-EVENTS);
  draw();
  if (message.spaces) {
    askHistory();
    if (at.kind === 'machine' || at.name in message.spaces) askDetails();
  }
}

function tellTrouble(name, before, now) {
  const fails = (one) => Boolean(one && one.trouble && one.trouble.over === null && !one.unmigrated);
  if (before && fails(before) !== fails(now)) {
    say(fails(now) ? `The cloud of ${name} fails.` : `The cloud of ${name} answers again.`);
  }
}

// ---- what is asked for

async function ask(path) {
  const answer = await fetch(here + path, asProgram);
  if (!answer.ok) {
    const told = await answer.json().catch(() => ({}));
    throw new Error(told.error || `The daemon answers with ${answer.status}.`);
  }
  return answer.json();
}

let lastHistory = 0;

async function askHistory() {
  const name = at.kind === 'space' ? at.name : '';
  const known = state.histories[name];
  const fresh = known && known.samples.length > 0 && performance.now() - lastHistory < HISTORY;
  if (at.kind === 'machine' || fresh) return;
  lastHistory = performance.now();
  try {
    const history = await ask(name ? `v1/history?space=${encodeURIComponent(name)}` : 'v1/history');
    state.histories = { [name]: history };
    draw();
  } catch {
    // The stream says that the daemon is gone.
  }
}

let asking = 0;
let later = null;
let lastDetails = 0;
let took = 0;

/// Asks for the machines or the story that is shown, not too often.
function askDetails() {
  clearTimeout(later);
  const wait = lastDetails + Math.max(DETAILS, SHARE * took) - performance.now();
  if (wait > 0 && (state.page || state.story)) {
    later = setTimeout(askDetailsNow, wait);
  } else {
    askDetailsNow();
  }
}

async function askDetailsNow() {
  clearTimeout(later);
  lastDetails = performance.now();
  asking += 1;
  const number = asking;
  const { kind, name } = at;
  try {
    if (kind === 'space') {
      const query = new URLSearchParams({ space: name, limit: PAGE, ...state.asked });
      const page = await ask(`v1/machines?${query}`);
      took = performance.now() - lastDetails;
      if (number !== asking) return; // the answer to what nobody asks any more
      state.page = page;
      state.asked.offset = page.offset;
    } else if (kind === 'machine') {
      const story = await ask(`v1/machines/${encodeURIComponent(name)}/story`);
      if (number !== asking) return;
      Object.assign(state, { story, storyProblem: '' });
    }
  } catch (problem) {
    if (number !== asking || state.connection === 'gone') return;
    if (kind === 'machine') state.storyProblem = problem.message;
  }
  draw();
}

// ---- what the person does

const DO = { connect, reload: () => window.location.reload() };

document.addEventListener('click', (event) => {
  const button = event.target.closest('button');
  if (!button || button.getAttribute('aria-disabled') === 'true') return;
  if (button.dataset.do) DO[button.dataset.do]();
  if (button.dataset.turn && state.page) {
    const step = button.dataset.turn === 'on' ? PAGE : -PAGE;
    state.asked.offset = Math.max(0, state.page.offset + step);
    askDetailsNow();
  }
});

let typing = null;

document.addEventListener('input', (event) => {
  const { ask: what } = event.target.dataset;
  if (!what) return;
  state.asked[what] = event.target.value;
  state.asked.offset = 0;
  clearTimeout(typing);
  typing = setTimeout(askDetailsNow, what === 'find' ? TYPING : 0);
});

const shownHistory = () => state.histories[at.kind === 'space' ? at.name : ''];

function pointAt(event) {
  const svg = event.target.closest && event.target.closest('svg.chart');
  if (svg) state.cursor = { id: svg.dataset.chart, at: timeAt(shownHistory(), svg, event.clientX) };
  else if (!state.cursor || document.activeElement.matches('svg.chart')) return;
  else state.cursor = null;
  draw();
}

document.addEventListener('pointermove', pointAt);
document.addEventListener('pointerdown', pointAt);

document.addEventListener('keydown', (event) => {
  const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  const svg = event.target.closest && event.target.closest('svg.chart');
  if (!step || !svg) return;
  event.preventDefault();
  const { samples } = shownHistory();
  const id = svg.dataset.chart;
  const from = state.cursor && state.cursor.id === id
    ? samples.findIndex((sample) => sample.at === state.cursor.at) : samples.length;
  const next = Math.max(0, Math.min(samples.length - 1, from + step));
  state.cursor = { id, at: samples[next].at };
  draw();
});

document.addEventListener('focusout', (event) => {
  if (event.target.matches && event.target.matches('svg.chart')) {
    state.cursor = null;
    draw();
  }
});

// A browser has few connections to one host: pages that nobody looks at give theirs back.
let hiding = null;

document.addEventListener('visibilitychange', () => {
  clearTimeout(hiding);
  if (document.hidden) {
    hiding = setTimeout(() => {
      disconnect();
      state.connection = 'paused';
    }, HIDDEN);
  } else if (!source) {
    connect();
  }
});

// What is folded up is not drawn. (This event does not bubble.)
document.addEventListener('toggle', ({ target }) => {
  const { space } = target.dataset;
  if (space === undefined || state.unfolded[space] === target.open) return;
  state.unfolded[space] = target.open;
  draw();
}, true);

window.addEventListener('hashchange', goThere);
new ResizeObserver(() => draw()).observe(part('main'));
setInterval(() => {
  if (source && performance.now() - heard > SILENT) lost();
  if (!document.hidden) draw();
}, REDRAW);

drawNow();
connect();
askDetails();
