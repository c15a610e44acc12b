"use strict";
// The page of `retort view`. What it shows is in the address after #, so every trace and every choice of traces has a
// link. Whole traces come one at a time; lists come a page at a time.
const FACETS = ["outcome", "reason", "source", "teacher", "finish_reason", "split", "mark"];
const CONTROLS = ["run", "stage", "q", ...FACETS, "sort", "down", "rule", "verdict", "min_tokens", "max_tokens", "where"];
const DEFAULTS = { run: "0", stage: "filter", verdict: "failed" };
const POLL = 5000; // milliseconds
let about, state; // the runs; the address after #
let rows = [], at = -1; // the page of the list, and the line that is open
let asked = 0; // number of the newest list that was asked for: answers to older ones are dropped
let seen = null; // numbers of traces by outcome, as the header has them
let folded = true; // the reasoning

const words = () => words_of(state.get("q") ?? "");
const here = () => ({ run: state.get("run") ?? "0", stage: state.get("stage") ?? "filter" });
const chosen = () => [...state].filter(([name]) => CONTROLS.includes(name));

async function get(what, values) {
  const answer = await fetch(`${what}?${new URLSearchParams(values)}`);
  const found = await answer.json();
  if (!answer.ok) throw new Error(found.error);
  return found;
}

// Runs what asks the server; shows its error in the page.
async function attempt(action) {
  try {
    const result = await action();
    $("error").hidden = true;
    return result;
  } catch (error) {
    $("error").textContent = error instanceof TypeError ? "The server does not answer: is `retort view` still running?" : error.message;
    $("error").hidden = false;
    return undefined;
  }
}

function change(values) {
  for (const [name, value] of Object.entries(values)) {
    if (value === "" || value === null || value === (DEFAULTS[name] ?? "")) state.delete(name);
    else state.set(name, value);
  }
  history.replaceState(null, "", state.size ? `#${state}` : location.pathname);
}

// Reads the address, and shows what it names.
async function follow() {
  state = new URLSearchParams(location.hash.slice(1));
  fill($("stage"), (about.runs[here().run] ?? about.runs[0]).stages.map((name) => [name]));
  for (const name of CONTROLS) {
    if ($(name).type === "checkbox") $(name).checked = state.has(name);
    else set($(name), state.get(name) ?? DEFAULTS[name] ?? "");
  }
  $("more").open ||= ["rule", "finish_reason", "split", "mark", "min_tokens", "max_tokens", "where"].some((name) => state.has(name));
  await load();
}

function set(control, value) {
  if (control.tagName === "SELECT" && ![...control.options].some((option) => option.value === value)) {
    control.append(make("option", { value }, value || "all"));
  }
  control.value = value;
}

function fill(select, values, first = []) {
  const before = select.value;
  const named = values.map(([value, n]) => make("option", { value }, n === undefined ? value : `${value} (${n.toLocaleString("en")})`));
  select.replaceChildren(...first.map((text) => make("option", { value: "" }, text)), ...named);
  if (before) set(select, before);
}

async function load() {
  const mine = ++asked;
  await Promise.all([refresh(mine, true), facets()]);
}

// Reads the page of the list again, and the number of traces; stays at the trace that is open.
async function refresh(mine, moved) {
  $("range").textContent = "searching ...";
  const values = chosen(), first = Number(state.get("at") ?? 0);
  const page = await attempt(() => get("traces", [...values, ["at", first], ["limit", about.page]]));
  if (mine !== asked || !page) return;
  rows = page;
  $("list").replaceChildren(...rows.map((row, i) => line_of(row, i, facts_of(row), open)));
  range(first, null);
  const id = state.get("trace");
  at = rows.findIndex((row) => row.id === id);
  select_line(at, true);
  if (moved) {
    if (state.has("problem")) await samples(state.get("problem"));
    else if (id) await show(id, rows[at]?.shard);
    else if (rows.length) await open(0, false);
    else show_in_place(make("p", { className: "missing" }, "No trace matches. All words must occur; fewer words or another filter find more."));
  }
  const counted = await attempt(() => get("count", values));
  if (mine === asked && counted !== undefined) range(first, counted);
}

function facts_of(row) {
  const tokens = row.completion_tokens === null ? "" : `${row.completion_tokens.toLocaleString("en")} tokens`;
  const sorted = state.get("sort"), value = row.sorted_by;
  const shown = ["", "completion_tokens", "id", "question"].includes(sorted ?? "") || value === null ? "" : `${sorted} ${String(value).slice(0, 40)}`;
  return [row.source, row.teacher, tokens, row.split, row.mark && `marked ${row.mark}`, shown];
}

function range(first, counted) {
  const to = first + rows.length, of = counted === null ? "..." : counted.toLocaleString("en");
  $("range").textContent = rows.length ? `${(first + 1).toLocaleString("en")}-${to.toLocaleString("en")} of ${of}` : `${of === "..." ? 0 : of} traces`;
  $("before").disabled = first === 0;
  $("after").disabled = counted === null ? rows.length < about.page : to >= counted;
}

async function facets() {
  const { run, stage } = here();
  const now = await attempt(() => get("facets", { run, stage }));
  if (!now) return;
  for (const name of FACETS) fill($(name), now.values[name], ["all"]);
  fill($("rule"), now.rules.map((name) => [name]), ["any"]);
  const outcomes = now.values.outcome.map(([name, n]) => `${n.toLocaleString("en")} ${name}`).join(", ");
  const working = now.running.length ? ` - ${now.running.join(" and ")} running` : "";
  $("counts").textContent = `${now.total.toLocaleString("en")} traces${outcomes ? `: ${outcomes}` : ""}${working}`;
  $("counts").title = $("counts").textContent;
  if (seen !== null && seen !== outcomes) refresh(asked, false);
  seen = outcomes;
}

// Opens a line of the list. `moved`: by the user, so the address names it.
async function open(i, moved = true) {
  if (!rows.length) return undefined;
  if (i < 0 && Number(state.get("at") ?? 0)) return turn(-1);
  if (i >= rows.length && !$("after").disabled) return turn(1);
  const row = rows[Math.max(0, Math.min(rows.length - 1, i))];
  at = rows.indexOf(row);
  select_line(at, moved);
  if (moved) change({ trace: row.id, problem: null });
  return show(row.id, row.shard);
}

async function turn(by) {
  change({ at: String(Math.max(0, Number(state.get("at") ?? 0) + by * about.page)), trace: null, problem: null });
  await refresh(++asked, true);
  if (by < 0) await open(rows.length - 1);
}

async function show(id, shard) {
  const { run, stage } = here();
  $("trace").setAttribute("aria-busy", "true");
  const trace = await attempt(() => get("trace", { run, stage, id, ...(shard ? { shard } : {}) }));
  if (!trace || (state.get("trace") ?? rows[at]?.id) !== id) return;
  $("trace").removeAttribute("aria-busy");
  show_in_place(
    head_of(trace, make("a", { href: link_to({ trace: id, problem: null }), className: "link" }, "link"),
      button("All samples", () => all_samples(trace.problem_id), { className: "all", title: "All samples of this problem, side by side" })),
    ...said_of(trace, run), ...question_of(trace, words()), ...body_of(trace, words()), facts_table(trace));
  unfold();
}

function link_to(values) {
  const linked = new URLSearchParams(state);
  for (const [name, value] of Object.entries(values)) if (value === null) linked.delete(name); else linked.set(name, value);
  return `#${linked}`;
}

function facts_table(trace) {
  const facts = Object.entries(trace.facts).map(([name, value]) => make("div", {}, make("dt", {}, name.replaceAll("_", " ")),
    make("dd", {}, typeof value === "number" && !Number.isInteger(value) ? value.toPrecision(4) : String(value))));
  return make("dl", { className: "facts" }, ...facts);
}

// The reasoning stays open or folded from trace to trace.
function unfold() {
  for (const fold of $("trace").querySelectorAll(".fold")) {
    fold.open ||= !folded;
    fold.addEventListener("toggle", () => { folded = !fold.open; });
  }
}

// Marks and notes, of the traces of a run alone: select reads the marks.
function said_of(trace, run) {
  if (trace.stage !== "filter") return [];
  const send = (line) => attempt(async () => {
    const answer = await fetch("said", { method: "POST", body: JSON.stringify({ run: Number(run), line: { trace: trace.id, ...line } }) });
    if (!answer.ok) throw new Error((await answer.json()).error);
    return true;
  });
  const marks = ["keep", "drop"].map((mark) => button(mark, async () => {
    const next = trace.mark === mark ? null : mark;
    if (!await send({ mark: next })) return;
    trace.mark = next;
    show_mark();
    refresh(++asked, false);
  }, { className: `mark-${mark}`, title: `Mark "${mark}" for select.marks; again takes the mark away` }));
  const show_mark = () => marks.forEach((each) => each.setAttribute("aria-pressed", String(each.textContent === trace.mark)));
  show_mark();
  const note = make("textarea", { value: trace.note ?? "", placeholder: "note", ariaLabel: "Note on this trace" });
  note.addEventListener("change", async () => {
    if (await send({ note: note.value })) saved.textContent = "saved";
  });
  const saved = make("output", {}, "");
  return [make("div", { className: "say" }, make("span", { className: "m" }, "mark"), ...marks, note, saved)];
}

function all_samples(id) {
  change({ problem: id });
  return samples(id);
}

// All samples of a problem side by side, of both runs if there are two, and what models scored on it.
async function samples(id) {
  $("trace").setAttribute("aria-busy", "true");
  const runs = await attempt(() => get("problem", { stage: here().stage, id }));
  if (!runs || state.get("problem") !== id) return;
  $("trace").removeAttribute("aria-busy");
  const all = runs.flatMap(({ samples }, i) => samples.map((trace) => ({ trace, i })));
  const name = (i) => (about.runs.length > 1 ? `${about.runs[i].name}, ` : "");
  const back = button("Back to the list", () => { change({ problem: null }); if (rows.length) open(Math.max(0, at)); }, { className: "back" });
  const title = make("div", { className: "head" }, back, make("code", {}, id), `${all.length} samples`);
  if (!all.length) { show_in_place(title, make("p", { className: "missing" }, "No sample of this problem in this stage.")); return; }
  const lists = all.map(({ trace, i }) => make("section", { ariaLabel: trace.id },
    make("div", { className: "m" }, `${name(i)}sample ${trace.facts.sample}`), head_of(trace), ...said_of(trace, i), ...body_of(trace, words())));
  show_in_place(title, ...question_of(all[0].trace, words()), ...scores_of(runs), make("div", { className: "samples" }, ...lists));
  unfold();
}

function table(titles, lines) {
  return make("table", {}, make("thead", {}, make("tr", {}, ...titles.map((title) => make("th", { scope: "col" }, title)))),
    make("tbody", {}, ...lines.map(([first, ...rest]) => make("tr", {}, make("th", { scope: "row" }, first), ...rest.map((text) => make("td", {}, text))))));
}

// Correct samples of each model that was evaluated on this problem.
function scores_of(runs) {
  const names = [...new Set(runs.flatMap(({ scores }) => scores.map((s) => `${s.set}, ${s.model_role}`)))];
  if (!names.length) return [];
  const cell = (scores, name) => scores.filter((s) => `${s.set}, ${s.model_role}` === name).map((s) => `${s.correct} of ${s.samples}`).join() || "-";
  return [make("h3", {}, "correct samples in the evaluation"),
    table(["model", ...about.runs.map((run) => run.name)], names.map((name) => [name, ...runs.map(({ scores }) => cell(scores, name))]))];
}

function both_scores() {
  const percent = (share) => `${(100 * share).toFixed(1)} %`, interval = ([mean, low, high]) => `${mean} [${low}, ${high}]`;
  const lines = about.scores.map((s) => [`${s.set}, ${s.model_role}`, percent(s.a), percent(s.b),
    interval(s.difference.map((x) => (100 * x).toFixed(1))), String(s.problems)]);
  $("scores").hidden = about.runs.length < 2;
  $("scores").lastElementChild.replaceChildren(lines.length
    ? table(["model", ...about.runs.map((run) => run.name), "points [95 %]", "problems in both"], lines)
    : make("p", { className: "missing" }, "No problem was answered by the same model of both runs."));
}

async function poll() {
  const begun = performance.now();
  if (!document.hidden && about) await facets();
  setTimeout(poll, Math.max(POLL, 10 * (performance.now() - begun))); // a large run is not asked all the time
}

// While another trace is on its way, keys press nothing of the one before.
function press(what) { document.querySelector(`#trace:not([aria-busy]) ${what}`)?.click(); }

function step(by) { return open(at + by); }

async function begin() {
  about = await attempt(() => get("about", {}));
  if (!about) return;
  document.title = $("name").textContent = about.runs.map((run) => run.name).join(" and ");
  $("name").title = about.runs.map((run) => run.path).join("\n");
  fill($("run"), about.runs.map((run, i) => [String(i)]));
  about.runs.forEach((run, i) => { $("run").options[i].textContent = run.name; });
  $("run").parentElement.hidden = about.runs.length < 2;
  fill($("sort"), about.columns.map((name) => [name]), ["as in the run"]);
  both_scores();
  for (const name of CONTROLS) {
    const control = $(name);
    const apply = async () => {
      change({ [name]: control.type === "checkbox" ? (control.checked ? "true" : "") : control.value.trim(), at: null, trace: null, problem: null });
      if (name === "run" || name === "stage") { seen = null; return follow(); }
      return refresh(++asked, true);
    };
    control.addEventListener(control.matches("input:not([type=checkbox])") ? "input" : "change", control.matches("input") ? later(apply, 250) : apply);
  }
  $("clear").addEventListener("click", () => {
    const { run, stage } = here();
    state = new URLSearchParams();
    change({ run, stage });
    follow();
  });
  $("skip").addEventListener("click", () => $("list").focus());
  $("before").addEventListener("click", () => turn(-1));
  $("after").addEventListener("click", () => turn(1));
  on_keys(step, {
    s: () => press(":is(.all, .back)"),
    y: () => press(".mark-keep[aria-pressed=false]"),
    n: () => press(".mark-drop[aria-pressed=false]"),
    u: () => press("[aria-pressed=true]"),
  });
  addEventListener("hashchange", follow);
  await follow();
  setTimeout(poll, POLL);
}

begin();
