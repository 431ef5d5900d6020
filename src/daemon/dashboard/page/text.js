// Times, lengths and numbers as they are written for people, the same as on the command line.

/// 12 s, 9 min, 2 h 3 min, 4 d 5 h.
export function length(seconds) {
  const s = Math.max(0, Math.floor(seconds));
  const minutes = Math.floor(s / 60);
  const hours = Math.floor(s / 3600);
  if (s < 120) return `${s} s`;
  if (minutes < 120) return `${minutes} min`;
  if (hours < 48) return `${hours} h ${minutes % 60} min`;
  return `${Math.floor(hours / 24)} d ${hours % 24} h`;
}

export const ago = (now, at) => `${length(now - at)} ago`;

/// In 5 min, or 5 min ago.
export const away = (now, at) => (at > now ? `in ${length(at - now)}` : ago(now, at));

const parts = (at) => {
  const date = new Date(at * 1000);
  return Number.isNaN(date.getTime()) ? [String(at), ''] : date.toISOString().slice(0, 19).split('T');
};

/// The time of day in UTC, with the day where that is another one.
export function moment(now, at) {
  const [day, time] = parts(at);
  return day === parts(now)[0] ? `${time}` : `${day} ${time}`;
}

/// Day and time in UTC.
export const full = (at) => `${parts(at).join(' ')} UTC`;

/// A text of the daemon with the moments in it as they are written here.
export const spoken = (now, text) =>
  text.replace(/\b\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ/g, (iso) => `${moment(now, Date.parse(iso) / 1000)}`);

export const hourMinute = (at) => parts(at)[1].slice(0, 5);

export const percent = (part) =>
  part === null || part === undefined ? '–' : `${Math.round(100 * part)} %`;

export const of = (have, limit) =>
  limit === null || limit === undefined ? `${have}, no limit known` : `${have} of ${limit}`;

/// 1 machine, 2 machines.
export const count = (number, one, many = `${one}s`) => `${number} ${number === 1 ? one : many}`;

export const bytes = (number) => {
  if (number < 10240) return `${number} bytes`;
  const kib = number / 1024;
  return kib < 10240 ? `${Math.round(kib)} KiB` : `${Math.round(kib / 1024)} MiB`;
};

/// The states of machines in the order of a life.
export const PHASES = [
  'starting', 'running', 'shutdown', 'deleting', 'failed', 'unknown', 'unlisted', 'ended',
];
