"use strict";
// The report's own script: tooltips on charts, the browser of traces, the table of problems.
const DATA = JSON.parse(document.getElementById("data").textContent);

function options(select, rows, field) {
  const counts = new Map();
  for (const row of rows) counts.set(row[field], (counts.get(row[field]) ?? 0) + 1);
  const values = [...counts.keys()].filter((value) => value !== "").sort();
  select.append(make("option", { value: "" }, "all"));
  for (const value of values) select.append(make("option", { value }, `${value} (${counts.get(value)})`));
}

document.addEventListener("pointermove", (event) => {
  const over = event.target.closest?.("figure g [aria-label]:not([aria-roledescription='axis'])");
  $("tip").hidden = !over;
  if (!over) return;
  $("tip").textContent = over.getAttribute("aria-label");
  $("tip").style.left = `${Math.min(event.clientX + 12, innerWidth - 260)}px`;
  $("tip").style.top = `${event.clientY + 14}px`;
});

// The browser of traces.
const browser = { shown: [], at: -1 };
const FILTERS = { stage: "f-stage", outcome: "f-outcome", reason: "f-reason", source: "f-source" };

function text_of(trace) {
  trace.low ??= [trace.id, trace.problem_id, trace.question, trace.reasoning, trace.response, trace.reference, trace.answer]
    .join("\n").toLowerCase();
  return trace.low;
}

function filter() {
  const words = words_of($("search").value);
  const wanted = Object.entries(FILTERS).map(([field, id]) => [field, $(id).value]).filter(([, value]) => value);
  browser.shown = DATA.traces.filter((trace) =>
    wanted.every(([field, value]) => trace[field] === value) && words.every((word) => text_of(trace).includes(word)));
  $("f-count").textContent = `${browser.shown.length} of ${DATA.traces.length}`;
  $("list").replaceChildren(...browser.shown.map((trace, i) => line_of(trace, i, [trace.stage, trace.source], open_trace)));
  browser.at = -1;
  const none = "No trace of the sample matches. All words must occur; fewer words or another filter find more.";
  show_in_place(...(browser.shown.length ? [] : [make("p", { className: "missing" }, none)]));
  open_trace(0, false);
}

function open_trace(i, move = true) {
  const trace = browser.shown[i];
  if (!trace) return;
  browser.at = i;
  select_line(i, move);
  const words = words_of($("search").value);
  const link = make("a", { href: link_to(trace), className: "link" }, "link");
  show_in_place(head_of(trace, link), ...question_of(trace, words), ...body_of(trace, words));
  if (move) history.replaceState(null, "", link.href);
}

const link_to = (trace) => `#trace=${encodeURIComponent(trace.id)}`;

// Opens the trace that the address names: report.html#trace=ID.
function follow_link() {
  const id = new URLSearchParams(location.hash.slice(1)).get("trace");
  if (id === null) return;
  clear();
  const at = DATA.traces.findIndex((trace) => trace.id === id);
  if (at >= 0) open_trace(at);
  else show_in_place(make("p", { className: "missing" }, `${id} is not in this sample: \`retort view\` shows every trace.`));
  $("browser").scrollIntoView();
}

function clear() {
  for (const id of [...Object.values(FILTERS), "search"]) $(id).value = "";
  filter();
}

if ($("list")) {
  for (const [field, id] of Object.entries(FILTERS)) {
    options($(id), DATA.traces, field);
    $(id).addEventListener("change", filter);
  }
  $("search").addEventListener("input", later(filter));
  $("f-clear").addEventListener("click", clear);
  on_keys((by) => open_trace(Math.max(0, Math.min(browser.shown.length - 1, browser.at + by))), {});
  filter();
  addEventListener("hashchange", follow_link);
  follow_link();
}

// The table of problems.
if ($("p-table")) {
  const PAGE = 50;
  const models = [...new Set(DATA.problems.flatMap((row) => Object.keys(row.correct)))];
  const held = new Set(DATA.traces.filter((trace) => trace.stage.startsWith("evaluate")).map((trace) => trace.problem_id));
  let rows = [], pages = 1;
  const draw = () => {
    $("p-table").tBodies[0].replaceChildren(...rows.slice(0, pages * PAGE).map(line));
    if (!rows.length) $("p-table").tBodies[0].append(make("tr", {}, make("td", { className: "missing", colSpan: 99 }, "No problem matches.")));
    $("p-more").hidden = rows.length <= pages * PAGE;
    $("p-count").textContent = `${rows.length} of ${DATA.problems.length} problems` + (DATA.unlisted ? `; ${DATA.unlisted} more are not listed` : "");
  };
  const line = (row) => {
    const see = make("button", { type: "button" }, "answers");
    see.addEventListener("click", () => {
      clear();
      $("search").value = row.problem;
      filter();
      $("browser").scrollIntoView();
      $("list").focus({ preventScroll: true });
    });
    return make("tr", {},
      make("td", {}, row.set), make("td", { className: row.change }, row.change), rich_cell(row.question || row.problem),
      rich_cell(row.reference),
      ...models.map((name) => make("td", { className: "n" }, row.correct[name] ? row.correct[name].join("/") : "-")),
      make("td", {}, held.has(row.problem) ? see : null));
  };
  const rich_cell = (text) => make("td", {}, rich("", text));
  const select = later(() => {
    const words = words_of($("p-search").value);
    rows = DATA.problems.filter((row) =>
      (!$("p-set").value || row.set === $("p-set").value) && (!$("p-change").value || row.change === $("p-change").value) &&
      words.every((word) => `${row.question}\n${row.problem}`.toLowerCase().includes(word)));
    pages = 1;
    draw();
  });
  const titles = ["set", "training", "question", "reference", ...models.map((name) => `${name}, correct`), ""];
  $("p-table").tHead.append(make("tr", {}, ...titles.map((title) => make("th", { scope: "col" }, title))));
  options($("p-set"), DATA.problems, "set");
  options($("p-change"), DATA.problems, "change");
  for (const id of ["p-set", "p-change"]) $(id).addEventListener("change", select);
  $("p-search").addEventListener("input", select);
  $("p-more").addEventListener("click", () => { pages += 1; draw(); });
  rows = DATA.problems;
  draw();
}
