// The page of the admin port: asks /stats every two seconds and shows it. No library.
"use strict";

const EVERY_MS = 2000;
const SVG = "http://www.w3.org/2000/svg";
const at = (id) => document.getElementById(id);

let before = null; // the answer before, for the rates of each worker and opcode
let paused = false;

// ---- numbers as text

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const short = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 });

function bytes(value) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${short.format(value)} ${units[unit]}`;
}

function time(us) {
  if (us === null || us === undefined) return "–";
  if (us < 1000) return `${short.format(us)} µs`;
  return us < 1e6 ? `${short.format(us / 1000)} ms` : `${short.format(us / 1e6)} s`;
}

const rate = (value) => (value === null ? "–" : `${value < 10 ? short.format(value) : whole.format(value)}/s`);

// ---- elements

function element(name, text, attributes = {}) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

// A table: the first column of each row is its heading. Whoever reads it with a screen reader keeps the
// place: cells are changed and not made anew where the table has the same shape.
function fill(table, heads, rows, empty) {
  if (!table.tHead) {
    const row = table.createTHead().insertRow();
    for (const head of heads) row.append(element("th", head, { scope: "col" }));
    table.createTBody();
  }
  const body = table.tBodies[0];
  if (!rows.length) rows = [[empty, ...heads.slice(1).map(() => "")]];
  while (body.rows.length > rows.length) body.deleteRow(-1);
  rows.forEach((cells, number) => {
    let row = body.rows[number];
    if (!row) {
      row = body.insertRow();
      row.append(element("th", "", { scope: "row" }));
      for (let n = 1; n < heads.length; n += 1) row.insertCell();
    }
    cells.forEach((cell, n) => {
      if (row.cells[n].textContent !== String(cell)) row.cells[n].textContent = cell;
      for (const each of [row.cells[n], table.tHead.rows[0].cells[n]]) each.classList.toggle("text", heads[n] === "State");
    });
  });
}

// ---- charts

const CHARTS = [
  { title: "Requests", lines: [["requests_per_s", "requests"], ["refusals_per_s", "refused"]], text: rate },
  { title: "Deliveries", lines: [["deliveries_per_s", "deliveries"]], text: rate },
  { title: "Latency", lines: [["p99_us", "99 %"], ["p50_us", "median"]], text: time },
  { title: "Loop lag", lines: [["lag_us", "latest worker"]], text: time },
];
const WIDTH = 300;
const HEIGHT = 90;

function chart(which, samples) {
  let figure = at("charts").children[CHARTS.indexOf(which)];
  if (!figure) {
    figure = element("figure");
    const drawing = document.createElementNS(SVG, "svg");
    drawing.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
    drawing.setAttribute("preserveAspectRatio", "none");
    drawing.setAttribute("role", "img");
    const base = document.createElementNS(SVG, "line");
    for (const [key, value] of [["x1", 0], ["x2", WIDTH], ["y1", HEIGHT - 1], ["y2", HEIGHT - 1]]) base.setAttribute(key, value);
    drawing.append(base);
    which.lines.forEach((_, n) => {
      const line = document.createElementNS(SVG, "polyline");
      if (n) line.setAttribute("class", "second");
      drawing.append(line);
    });
    figure.append(element("figcaption"), drawing);
    at("charts").append(figure);
  }
  const values = which.lines.map(([name]) => samples.map((sample) => sample[name]));
  const top = Math.max(1e-9, ...values.flat().filter((value) => value !== null));
  const step = WIDTH / Math.max(1, samples.length - 1);
  values.forEach((line, n) => {
    const points = line.map((value, x) => (value === null ? null : `${(x * step).toFixed(1)},${(HEIGHT - 2 - (value / top) * (HEIGHT - 6)).toFixed(1)}`));
    figure.querySelectorAll("polyline")[n].setAttribute("points", points.filter((point) => point).join(" "));
  });
  const latest = which.lines.map(([, label], n) => `${label} ${which.text(values[n].length ? values[n].at(-1) : null)}`);
  const caption = figure.querySelector("figcaption");
  caption.replaceChildren(`${which.title}: `, element("b", latest.join(", ")), `; at most ${which.text(samples.length ? top : null)}`);
  figure.querySelector("svg").setAttribute("aria-label", caption.textContent);
}

// ---- the page

function perSecond(now, path) {
  if (!before || before.region !== now.region || before.started !== now.started) return null;
  const [value, earlier] = [path(now), path(before)];
  return earlier === undefined ? null : Math.max(0, value - earlier) / ((now.asked - before.asked) / 1000);
}

function show(now) {
  const { health } = now;
  at("region").textContent = now.region;
  document.title = `${health.ready ? "" : "NOT READY: "}tradechat ${now.region}`;
  const said = health.ready ? "Ready" : health.live ? "Not ready" : "Not alive";
  if (at("state").textContent !== said) at("state").textContent = said;
  at("state").className = health.ready ? "good" : "bad";
  const problems = [...health.reasons, ...health.warnings];
  if (before === null || JSON.stringify(problems) !== JSON.stringify([...before.health.reasons, ...before.health.warnings])) {
    at("problems").replaceChildren(...problems.map((text) => element("li", text)));
  }

  const latest = now.history.at(-1);
  const figures = [
    ["Connections", whole.format(now.counters.connections)],
    ["Sessions", whole.format(now.counters.sessions)],
    ["Users", whole.format(now.registry.users)],
    ["Requests", latest ? rate(latest.requests_per_s) : "–"],
    ["Latency, 99 %", time(latest?.p99_us)],
    ["Repairs", whole.format(now.repairs.repairs)],
    ["Longest pause", time(now.repairs.paused_us_max)],
    ["Money missing", now.imbalance === null ? "unknown" : String(now.imbalance)],
  ];
  const list = at("now");
  figures.forEach(([name, value], n) => {
    if (!list.children[n]) {
      const box = element("div");
      box.append(element("dt", name), element("dd"));
      list.append(box);
    }
    list.children[n].lastChild.textContent = value;
  });
  for (const which of CHARTS) chart(which, now.history);

  fill(at("workers"), ["Worker", "State", "Connections", "Requests", "Waiting", "Lag", "Memory", "Last update"],
    now.workers.map((worker, n) => [
      worker.worker, worker.state.toLowerCase(), whole.format(worker.connections),
      rate(perSecond(now, (each) => each.workers[n]?.requests)), whole.format(worker.waiting),
      time(worker.lag_us), bytes(worker.memory), worker.age_ms === null ? "never" : `${short.format(worker.age_ms / 1000)} s ago`,
    ]), "none");
  fill(at("requests"), ["Request", "Rate", "In all", "Refused", "Median", "99 %", "Sent"],
    Object.entries(now.served).filter(([, each]) => each.requests).map(([name, each]) => [
      name, rate(perSecond(now, (answer) => answer.served[name]?.requests)), whole.format(each.requests),
      whole.format(Object.entries(each.sent).reduce((sum, [status, count]) => sum + (status === "OK" ? 0 : count), 0)),
      time(each.p50_us), time(each.p99_us), bytes(each.sent_bytes),
    ]), "none yet");
  fill(at("rings"), ["Ring", "Newest", "Not durable", "Holds"],
    ["txn_ring", "event_ring"].map((ring) => [
      ring === "txn_ring" ? "Transactions" : "Events", whole.format(now[ring].head),
      whole.format(now.lag[ring]), whole.format(now.capacities[ring]),
    ]), "none");
  const { journal, archive } = now;
  fill(at("disk"), ["What", "Value"], journal === null ? [] : [
    ["Files take", bytes(archive.disk_used)], ["Free", bytes(archive.disk_free)],
    ["Mean sync", time(journal.mean_sync_us)], ["Longest sync", time(journal.sync_us_max)],
    ["Archive behind by", bytes(archive.lag)],
  ], "nothing is kept on disk");
  fill(at("rooms"), ["Room", "Members", "Events"],
    now.rooms.map((room) => [room.room, whole.format(room.members), `${short.format(room.events_per_minute)}/min`]), "none");
  at("version").textContent = `version ${now.version}, ${now.form}`;
  before = now;
}

async function ask() {
  try {
    const answer = await fetch("stats", { cache: "no-store" });
    if (!answer.ok) throw new Error(`status ${answer.status}`);
    show({ ...(await answer.json()), asked: performance.now() });
  } catch (error) {
    at("state").textContent = `No answer from the server (${error.message})`;
    at("state").className = "bad";
  }
}

async function turn() {
  if (!paused && !document.hidden) await ask();
  setTimeout(turn, EVERY_MS);
}

at("pause").addEventListener("click", () => {
  paused = !paused;
  at("pause").setAttribute("aria-pressed", String(paused));
  if (!paused) ask();
});
turn();
