// What there was over time, drawn; the same is below each drawing as a table.

import { h } from './dom.js';
import { table } from './parts.js';
import { count, hourMinute, length, moment } from './text.js';

const HEIGHT = 190;
const EDGE = { left: 44, right: 10, top: 10, bottom: 28 };

/// A round number that is at least `most`, and steps up to it.
function scale(most) {
  const top = Math.max(1, most);
  const rough = top / 4;
  const power = 10 ** Math.floor(Math.log10(rough));
  const steps = [1, 2, 5, 10].map((each) => each * power);
  const step = Math.max(1, steps.find((each) => each >= rough));
  const end = step * Math.ceil(top / step);
  const ticks = [];
  for (let at = 0; at <= end; at += step) ticks.push(at);
  return { end, ticks };
}

const STEPS = [60, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400];

function timeTicks(from, to, width) {
  const wanted = Math.max(2, Math.floor(width / 90));
  const step = STEPS.find((each) => (to - from) / each <= wanted) || 172800;
  const ticks = [];
  for (let at = Math.ceil(from / step) * step; at <= to; at += step) ticks.push(at);
  return ticks;
}

/// The usual time from one sample to the next: that of cycles, which may take longer than they should.
function usual(samples, width) {
  const steps = samples.slice(1).map((sample, i) => sample.at - samples[i].at).sort((a, b) => a - b);
  return Math.max(width, steps[Math.floor(steps.length / 2)] || 0);
}

/// Runs of samples without a gap: a host that slept has none.
function runs(samples, width) {
  const all = [];
  const gap = 3 * usual(samples, width);
  for (const sample of samples) {
    const last = all[all.length - 1];
    if (last && sample.at - last[last.length - 1].at <= gap) last.push(sample);
    else all.push([sample]);
  }
  return all;
}

/// A drawing. `lines` and `bars`: {name, value: sample => number or null, kind}; the bars of a
/// sample stand on each other.
function drawing(state, id, history, lines, bars, label) {
  const { samples, width: slot } = history;
  const width = state.chartWidth;
  const inner = { w: width - EDGE.left - EDGE.right, h: HEIGHT - EDGE.top - EDGE.bottom };
  const from = samples[0].at;
  const to = Math.max(samples[samples.length - 1].at + slot, from + 10 * slot);
  const heights = samples.map((sample) => Math.max(
    bars.reduce((sum, each) => sum + each.value(sample), 0),
    ...lines.map((each) => each.value(sample) || 0),
  ));
  const { end, ticks } = scale(Math.max(...heights));
  const x = (at) => EDGE.left + (inner.w * (at - from)) / (to - from);
  const y = (value) => EDGE.top + inner.h * (1 - value / end);
  const round = (number) => Math.round(10 * number) / 10;

  const grid = ticks.map((tick) => [
    h('line', { class: 'grid', x1: EDGE.left, x2: width - EDGE.right, y1: round(y(tick)), y2: round(y(tick)) }),
    h('text', { class: 'tick', x: EDGE.left - 6, y: round(y(tick) + 4), 'text-anchor': 'end' }, tick),
  ]);
  const times = timeTicks(from, to, inner.w).map((at) =>
    h('text', {
      class: 'tick', x: Math.min(round(x(at)), width - 2), y: HEIGHT - 6,
      'text-anchor': x(at) > width - 20 ? 'end' : 'middle',
    }, hourMinute(at)));
  const troubles = samples.filter((sample) => sample.troubled > 0).map((sample) =>
    h('rect', {
      class: 'trouble', x: round(x(sample.at)), y: EDGE.top + inner.h + 1, height: 5,
      width: round(Math.max(1, x(sample.at + slot) - x(sample.at)) + 0.5),
    }));
  const columns = samples.flatMap((sample) => {
    let below = 0;
    return bars.map(({ value, kind }) => {
      const height = value(sample);
      if (!height) return null;
      below += height;
      return h('rect', {
        class: kind, x: round(x(sample.at)), y: round(y(below)),
        width: round(Math.max(2, (inner.w * slot) / (to - from) - 1)),
        height: round((inner.h * height) / end),
      });
    });
  });
  const curves = lines.map(({ value, kind }) => {
    const known = samples.filter((sample) => value(sample) !== null);
    const path = runs(known, slot).map((run) => run.map((sample, i) => {
      const begin = `${i ? 'L' : 'M'}${round(x(sample.at))} ${round(y(value(sample)))}`;
      return `${begin}L${round(x(sample.at + slot))} ${round(y(value(sample)))}`;
    }).join('')).join('');
    return h('path', { class: `line ${kind}`, d: path });
  });
  const chosen = state.cursor && state.cursor.id === id
    ? samples.find((sample) => sample.at === state.cursor.at) : null;
  const cursor = chosen && h('line', {
    class: 'cursor', x1: round(x(chosen.at + slot / 2)), x2: round(x(chosen.at + slot / 2)),
    y1: EDGE.top, y2: EDGE.top + inner.h,
  });
  const shown = chosen || samples[samples.length - 1];
  const figures = [...lines, ...bars].map(({ name, value }) => {
    const figure = value(shown);
    return `${name} ${figure === null ? 'not known' : figure}`;
  }).join(', ');
  const time = chosen ? `${moment(state.now(), shown.at)} UTC` : 'latest';
  return [
    h('svg', {
      class: 'chart', role: 'img', tabindex: 0, width, height: HEIGHT, viewBox: `0 0 ${width} ${HEIGHT}`,
      'aria-label': `${label}, ${length(to - from)} until now. ${time}: ${figures}. Left and right arrow keys go through the times.`,
      'data-chart': id, 'data-from': from, 'data-to': to, 'data-left': EDGE.left, 'data-inner': inner.w,
    }, grid, troubles, times, columns, curves, cursor),
    h('p', { class: 'readout', 'aria-live': chosen ? 'polite' : 'off' },
      h('b', {}, `${time}: `), figures, shown.troubled ? `, ${count(shown.troubled, 'space')} with cloud errors` : ''),
  ];
}

const legend = (each) => h('ul', { class: 'legend' }, each.map(({ name, kind, shape }) => h('li', {},
  h('svg', { viewBox: '0 0 24 10', width: 24, height: 10, 'aria-hidden': 'true', focusable: 'false' },
    shape === 'bar' ? h('rect', { class: kind, x: 6, y: 1, width: 10, height: 8 })
      : h('path', { class: `line ${kind}`, d: 'M0 5L24 5' })),
  ' ', name)));

const LINES = [
  { name: 'running', kind: 'running', value: (sample) => sample.running },
  { name: 'starting', kind: 'starting', value: (sample) => sample.starting },
  { name: 'limit', kind: 'limit', value: (sample) => sample.limit },
];
const BARS = [
  { name: 'aborts', kind: 'aborts', shape: 'bar', value: (sample) => sample.aborts },
  { name: 'never ran', kind: 'failed', shape: 'bar', value: (sample) => sample.failed },
];
const BACKOFFS = [
  { name: 'machinetypes backing off', kind: 'backoffs', value: (sample) => sample.backoffs },
];

/// At most so many rows of figures.
const ROWS = 24;

/// The later figures in at most [`ROWS`] rows: events are added up, of levels the last is taken.
function rows(samples) {
  const size = Math.max(1, Math.ceil(samples.length / ROWS));
  const all = [];
  for (let end = samples.length; end > 0; end -= size) {
    const part = samples.slice(Math.max(0, end - size), end);
    const last = part[part.length - 1];
    const sum = (name) => part.reduce((total, sample) => total + sample[name], 0);
    const most = (name) => Math.max(...part.map((sample) => sample[name]));
    all.push({
      at: part[0].at, running: last.running, starting: last.starting, limit: last.limit,
      aborts: sum('aborts'), failed: sum('failed'), backoffs: most('backoffs'), troubled: most('troubled'),
    });
  }
  return all;
}

/// Both drawings of a history and the table, for `about`.
export function charts(state, history, about) {
  if (!history) return h('p', { class: 'faint' }, 'Asking for the figures …');
  if (!history.samples.length) {
    return h('p', { class: 'faint' }, 'No figures yet: the first come with the first complete cycle.');
  }
  return [
    h('div', { class: 'charts' },
      h('figure', { key: 'machines' }, h('figcaption', {}, `Machines of ${about}`),
        drawing(state, 'machines', history, LINES, [], `Machines of ${about}`), legend(LINES)),
      h('figure', { key: 'aborts' }, h('figcaption', {}, `Aborts and backoffs of ${about}`),
        drawing(state, 'aborts', history, BACKOFFS, BARS, `Aborts and backoffs of ${about}`),
        legend([...BARS, ...BACKOFFS]))),
    h('p', { class: 'faint small' }, `One step is ${length(history.width)}; times are UTC. Red below the line: a cloud did not answer as it should. The memory of this begins with the daemon.`),
    h('details', { key: 'figures' }, h('summary', {}, 'The same as a table'),
      h('div', { class: 'scroll', tabindex: 0, role: 'region', 'aria-label': 'Figures over time' },
        table(`Figures of ${about} over time`, [
          ['From, UTC', 'time'], ['Running', 'number'], ['Starting', 'number'], ['Limit', 'number'],
          ['Aborts', 'number'], ['Never ran', 'number'], ['Backing off', 'number'], ['Cloud errors', 'number'],
        ], rows(history.samples).map((row) => ({
          key: row.at,
          cells: [moment(state.now(), row.at), row.running, row.starting, row.limit === null ? '–' : row.limit,
            row.aborts, row.failed, row.backoffs, row.troubled],
        }))))),
  ];
}

/// The time at a place of a drawing, of those that there are samples of.
export function timeAt(history, svg, clientX) {
  const { left, inner, from, to } = svg.dataset;
  const px = clientX - svg.getBoundingClientRect().left - Number(left);
  const at = Number(from) + (px / Number(inner)) * (to - from);
  let best = null;
  for (const sample of history.samples) {
    const middle = sample.at + history.width / 2;
    if (best === null || Math.abs(middle - at) < Math.abs(best + history.width / 2 - at)) best = sample.at;
  }
  return best;
}
