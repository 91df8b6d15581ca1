'use strict';
// Shows the snapshots that the server sends about twice a second. Names come from peers: they are only ever set as text.

const KEEP_POINTS = 1200;
const TIME_STEPS = [1, 2, 5, 10, 15, 30, 60, 120, 180, 300];
const history = [];
const byId = (id) => document.getElementById(id);
const setText = (id, text) => { byId(id).textContent = text; };

const UNITS = [[1e9, 'Gbit/s'], [1e6, 'Mbit/s'], [1e3, 'kbit/s']];
const unitOf = (most) => UNITS.find(([scale]) => most >= scale) || UNITS[UNITS.length - 1];
const digits = (value) => (value < 9.95 ? 1 : 0);

function rate(bits) {
  if (bits < 1000) return bits + ' bit/s';
  const [scale, unit] = unitOf(bits);
  const value = bits / scale;
  return value.toFixed(digits(value)) + ' ' + unit;
}

function bytes(count) {
  const names = ['bytes', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'];
  let power = 0;
  while (count >= 1024 && power + 1 < names.length) { count /= 1024; power += 1; }
  return (power ? count.toFixed(1) : count) + ' ' + (count === 1 && !power ? 'byte' : names[power]);
}

function duration(seconds) {
  const s = Math.floor(seconds);
  if (s < 60) return s + ' s';
  if (s < 3600) return Math.floor(s / 60) + ' min ' + (s % 60) + ' s';
  if (s < 86400) return Math.floor(s / 3600) + ' h ' + Math.floor(s / 60) % 60 + ' min';
  return Math.floor(s / 86400) + ' d ' + Math.floor(s / 3600) % 24 + ' h';
}

const percent = (value) => (value > 0 && value < 0.1 ? '<0.1' : value.toFixed(1)) + ' %';
const ms = (value) => (value === null ? '\u2013' : value.toFixed(value < 9.95 ? 1 : 0) + ' ms');
const count = (value) => value.toLocaleString('en');

// A cell: its text, its column's name for narrow screens, its class, and a second, softer line.
function cell(row, name, text, kind, more) {
  const td = row.insertCell();
  td.dataset.name = name;
  if (kind) td.className = kind;
  td.append(text);
  if (more) {
    const small = document.createElement('small');
    small.textContent = more;
    td.append(small);
  }
  return td;
}

function showSessions(snapshot) {
  const body = document.createElement('tbody');
  for (const s of snapshot.sessions) {
    const row = body.insertRow();
    cell(row, '#', String(s.session));
    cell(row, 'peer', s.remote, 'wrap', s.client_id);
    cell(row, 'request', (s.request + ' ' + s.path).trim(), 'wrap wide', s.file);
    const done = cell(row, 'done', bytes(s.file_bytes_done) + ' of ' + bytes(s.file_bytes_total), 'wide');
    const bar = document.createElement('progress');
    bar.max = Math.max(s.file_bytes_total, 1);
    bar.value = Math.min(s.file_bytes_done, bar.max);
    done.append(bar);
    cell(row, 'rate', rate(Math.max(s.in_bits_per_sec, s.out_bits_per_sec)));
    cell(row, 'loss', percent(Math.max(s.loss_in_pct, s.loss_out_pct)));
    cell(row, 'RTT', ms(s.rtt_ms));
    cell(row, 'queue', ms(s.queue_ms));
    cell(row, 'age', duration(s.age_s));
  }
  const hidden = snapshot.sessions_now - snapshot.sessions.length;
  if (hidden > 0) {
    const row = body.insertRow();
    cell(row, '', 'and ' + count(hidden) + ' more', 'wide').colSpan = 9;
  }
  byId('sessions').tBodies[0].replaceWith(body);
  byId('sessions').hidden = snapshot.sessions.length === 0;
  byId('no-sessions').hidden = snapshot.sessions.length > 0;
}

function showFiles(snapshot) {
  const body = document.createElement('tbody');
  for (const f of snapshot.files) {
    const row = body.insertRow();
    cell(row, '', duration(snapshot.uptime_s - f.at_s) + ' ago');
    cell(row, 'session', String(f.session));
    cell(row, '', f.path, 'wrap wide');
    cell(row, '', bytes(f.bytes));
    cell(row, '', f.is_failed ? 'failed' : f.is_sent ? 'sent' : 'stored', f.is_failed ? 'bad' : '');
  }
  byId('files').tBodies[0].replaceWith(body);
  byId('files').hidden = snapshot.files.length === 0;
  byId('no-files').hidden = snapshot.files.length > 0;
}

function show(snapshot) {
  const { counters: c, rates: r } = snapshot;
  setText('about', snapshot.version + ', ' + snapshot.listen + ', up ' + duration(snapshot.uptime_s));
  setText('sessions-now', count(snapshot.sessions_now));
  setText('sessions-all', count(c.sessions) + ' in all, ' + count(c.sessions_failed) + ' broken off');
  setText('rate-in', rate(r.in_bits_per_sec));
  setText('bytes-in', bytes(c.wire_bytes_received) + ' in all');
  setText('rate-out', rate(r.out_bits_per_sec));
  setText('bytes-out', bytes(c.wire_bytes_sent) + ' in all');
  setText('loss', percent(r.loss_in_pct) + ' / ' + percent(r.loss_out_pct));
  setText('repaired', count(c.packets_repaired) + ' repairs sent');
  setText('files-done', count(c.files_received.done + c.files_sent.done));
  setText('files-failed', count(c.files_received.failed + c.files_sent.failed) + ' failed');
  const refusals = snapshot.refusals.filter(([, n]) => n > 0).sort((a, b) => b[1] - a[1]);
  setText('refused', count(refusals.reduce((sum, [, n]) => sum + n, 0)));
  setText('reasons', refusals.slice(0, 3).map(([why, n]) => why.replaceAll('_', ' ') + ' ' + count(n)).join(', '));
  showSessions(snapshot);
  showFiles(snapshot);
}

// Plots.

const SVG = 'http://www.w3.org/2000/svg';

function element(parent, name, attributes, text) {
  const e = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) e.setAttribute(key, value);
  if (text !== undefined) e.textContent = text;
  parent.append(e);
}

// The next of 1, 2, 5, 10, 20, ... from a value up.
function round(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].find((n) => n * power >= value * 0.999999) * power;
}

function plot(svg, lines, scale, least) {
  const { clientWidth: width, clientHeight: height } = svg;
  if (!width || history.length < 2) return;
  const [left, right, top, bottom] = [46, 6, 8, 20];
  const end = history[history.length - 1][0];
  const span = Math.max(end - history[0][0], 10);
  const most = Math.max(...lines.map(([of]) => history.reduce((m, p) => Math.max(m, of(p)), 0)));
  const step = round(Math.max(most / scale, least) / 4);
  const high = Math.max(step, Math.ceil(Math.max(most / scale, least) / step) * step);
  const x = (time) => left + (width - left - right) * (1 - (end - time) / span);
  const y = (value) => top + (height - top - bottom) * (1 - value / high);
  svg.replaceChildren();
  svg.setAttribute('viewBox', `0 0 ${width} ${height}`);
  for (let value = 0; value <= high + step / 2; value += step) {
    element(svg, 'line', { class: 'grid', x1: left, x2: width - right, y1: y(value), y2: y(value) });
    const label = value.toFixed(Math.max(0, -Math.floor(Math.log10(step))));
    element(svg, 'text', { x: left - 6, y: y(value) + 4, 'text-anchor': 'end' }, label);
  }
  const wanted = span / (width > 600 ? 6 : 3);
  const ago = TIME_STEPS.find((step) => step >= wanted * 0.999) || TIME_STEPS[TIME_STEPS.length - 1];
  for (let back = 0; back <= span; back += ago) {
    const anchor = back === 0 ? 'end' : x(end - back) < left + 20 ? 'start' : 'middle';
    const label = back === 0 ? 'now' : '\u2212' + (ago >= 30 && back >= 60 ? back / 60 + ' min' : back + ' s');
    element(svg, 'text', { x: x(end - back), y: height - 4, 'text-anchor': anchor }, label);
  }
  for (const [of, kind] of lines) {
    const d = history.map((p, i) => (i ? 'L' : 'M') + x(p[0]).toFixed(1) + ' ' + y(of(p) / scale).toFixed(1)).join('');
    element(svg, 'path', { class: kind, d });
  }
}

function draw() {
  const most = history.reduce((m, p) => Math.max(m, p[1], p[2]), 0);
  const [scale, unit] = unitOf(most);
  setText('rate-unit', unit);
  plot(byId('rate-plot'), [[(p) => p[1], 'in'], [(p) => p[2], 'out']], scale, 1);
  plot(byId('loss-plot'), [[(p) => p[3], 'in'], [(p) => p[4], 'out']], 1, 1);
}

// Live.

function state(text, kind) {
  setText('state', text);
  byId('state').className = kind;
}

const events = new EventSource('events');
events.addEventListener('open', () => state('live', 'live'));
events.addEventListener('error', () => state('no connection, trying again', 'lost'));
events.addEventListener('history', (event) => {
  history.splice(0, history.length, ...JSON.parse(event.data));
  draw();
});
events.addEventListener('snapshot', (event) => {
  const snapshot = JSON.parse(event.data);
  const { rates: r } = snapshot;
  const last = history[history.length - 1];
  if (!last || snapshot.uptime_s > last[0] + 0.05) {
    history.push([snapshot.uptime_s, r.in_bits_per_sec, r.out_bits_per_sec, r.loss_in_pct, r.loss_out_pct, snapshot.sessions_now]);
    if (history.length > KEEP_POINTS) history.shift();
  }
  show(snapshot);
  draw();
});
addEventListener('resize', draw);
