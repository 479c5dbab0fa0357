// How values are written. Times are milliseconds of the service's clock, of which the page keeps the offset.

let ahead = 0;

/** The service's time has been told. */
export function hearTime(atMs) {
  ahead = atMs - Date.now();
}

/** The service's time now. */
export function now() {
  return Date.now() + ahead;
}

const WHOLE = new Intl.NumberFormat("en");

export function count(number) {
  return number === undefined || number === null ? "–" : WHOLE.format(number);
}

export function rate(perSecond) {
  if (!perSecond) return "0";
  if (perSecond < 0.095) return perSecond.toFixed(2);
  return perSecond < 10 ? perSecond.toFixed(1) : WHOLE.format(Math.round(perSecond));
}

/** A duration in two units at most: 320 ms, 4.2 s, 3 min 12 s, 2 h 5 min, 3 d 4 h. */
export function duration(ms) {
  if (ms === undefined || ms === null) return "–";
  const seconds = Math.max(0, ms) / 1000;
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  if (seconds < 60) return `${Math.floor(seconds)} s`;
  return two(seconds, [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]]);
}

function two(seconds, units) {
  const at = units.findIndex(([size]) => seconds >= size);
  const [size, name] = units[at];
  const text = `${Math.floor(seconds / size)} ${name}`;
  const [smaller, rest] = units[at + 1] ?? [1, ""];
  const more = Math.floor((seconds % size) / smaller);
  return more && rest ? `${text} ${more} ${rest}` : text;
}

/** A duration in one unit, for what changes all the time: 4 s, 3 min, 2 h. */
export function coarse(ms) {
  const seconds = Math.max(0, Math.floor(ms / 1000));
  for (const [size, name] of [[86400, "d"], [3600, "h"], [60, "min"]]) {
    if (seconds >= size) return `${Math.floor(seconds / size)} ${name}`;
  }
  return `${seconds} s`;
}

export function ago(atMs) {
  if (!atMs) return "–";
  return now() - atMs < 1500 ? "just now" : `${coarse(now() - atMs)} ago`;
}

const CLOCK = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const DAY = new Intl.DateTimeFormat("en-GB", { year: "numeric", month: "short", day: "2-digit" });

/** The time of day, with the date unless it is today. */
export function time(atMs) {
  if (!atMs) return "–";
  const day = DAY.format(atMs);
  return day === DAY.format(now()) ? CLOCK.format(atMs) : `${day} ${CLOCK.format(atMs)}`;
}

export function bytes(size) {
  if (size < 1024) return `${size} B`;
  return size < 1024 ** 2 ? `${(size / 1024).toFixed(1)} KiB` : `${(size / 1024 ** 2).toFixed(1)} MiB`;
}

export function percent(part, whole) {
  if (!whole) return "–";
  const share = (100 * part) / whole;
  return share && share < 9.95 ? `${share.toFixed(1)} %` : `${Math.round(share)} %`;
}

/** A request type in words. */
export function typeName(name) {
  return name.replaceAll("_", " ").replace("ocr", "OCR");
}
