"use strict";
// The page's own script: themes, tooltips on charts, the table of problems, the browser of traces. Texts of models
// become text nodes, never markup. Temml renders formulas and trusts no input; a formula that it rejects stays text.
const DATA = JSON.parse(document.getElementById("data").textContent);
const FORMULA = /\$\$([^$]{1,1500})\$\$|\\\[([^]{1,1500}?)\\\]|\\\(([^]{1,1500}?)\\\)|\$(?!\s|[\d.,]+\s)([^$\n]{1,300})(?<!\s)\$(?!\d)/g;
const FORMULAS = 300; // matches tried in one text; the rest of it stays text
const $ = (id) => document.getElementById(id);

function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

function formula(source, display) {
  const element = make("span", { className: display ? "display" : "" });
  try {
    temml.render(source, element, {
      displayMode: display, throwOnError: true, trust: false, maxExpand: 200, maxSize: [20, 20],
    });
  } catch {
    return null;
  }
  return element;
}

function marked(text, word) {
  if (!word) return [text];
  const parts = [], low = text.toLowerCase();
  let from = 0, at;
  while (low.length === text.length && parts.length < 400 && (at = low.indexOf(word, from)) >= 0) {
    parts.push(text.slice(from, at), make("mark", {}, text.slice(at, at + word.length)));
    from = at + word.length;
  }
  return [...parts, text.slice(from)];
}

// Text with its formulas rendered.
function rich(className, text, word = "") {
  const element = make("div", { className: `text ${className}` });
  const find = new RegExp(FORMULA);
  let from = 0, match;
  for (let tries = 0; tries < FORMULAS && (match = find.exec(text)); tries++) {
    const [whole, a, b, c, d] = match;
    const rendered = formula(a ?? b ?? c ?? d, a !== undefined || b !== undefined);
    if (rendered) {
      element.append(...marked(text.slice(from, match.index), word), rendered);
      from = match.index + whole.length;
    } else {
      find.lastIndex = match.index + 1; // not a formula: a part of it may be one
    }
  }
  element.append(...marked(text.slice(from), word));
  return element;
}

function options(select, rows, field) {
  const counts = new Map();
  for (const row of rows) counts.set(row[field], (counts.get(row[field]) ?? 0) + 1);
  const values = [...counts.keys()].filter((value) => value !== "").sort();
  select.append(make("option", { value: "" }, "all"));
  for (const value of values) select.append(make("option", { value }, `${value} (${counts.get(value)})`));
}

function later(action, wait = 120) {
  let timer;
  return () => { clearTimeout(timer); timer = setTimeout(action, wait); };
}

// Themes and tooltips.
{
  const themes = ["system", "light", "dark"];
  let now = 0;
  $("theme").addEventListener("click", () => {
    now = (now + 1) % themes.length;
    if (now) document.documentElement.dataset.theme = themes[now];
    else delete document.documentElement.dataset.theme;
    $("theme").textContent = `Theme: ${themes[now]}`;
  });
  document.addEventListener("pointermove", (event) => {
    const over = event.target.closest?.("figure [aria-label]:not([aria-roledescription='axis'])");
    $("tip").hidden = !over;
    if (!over) return;
    $("tip").textContent = over.getAttribute("aria-label");
    $("tip").style.left = `${Math.min(event.clientX + 12, innerWidth - 260)}px`;
    $("tip").style.top = `${event.clientY + 14}px`;
  });
}

// The browser of traces.
const browser = { shown: [], at: -1 };
const FILTERS = { stage: "f-stage", outcome: "f-outcome", reason: "f-reason", source: "f-source" };

function text_of(trace) {
  trace.low ??= [trace.id, trace.problem_id, trace.question, trace.reasoning, trace.response, trace.reference, trace.answer]
    .join("\n").toLowerCase();
  return trace.low;
}

function filter() {
  const word = $("f-search").value.trim().toLowerCase();
  const wanted = Object.entries(FILTERS).map(([field, id]) => [field, $(id).value]).filter(([, value]) => value);
  browser.shown = DATA.traces.filter(
    (trace) => wanted.every(([field, value]) => trace[field] === value) && (!word || text_of(trace).includes(word)),
  );
  $("f-count").textContent = `${browser.shown.length} of ${DATA.traces.length}`;
  $("list").replaceChildren(...browser.shown.map(item));
  $("trace").replaceChildren();
  browser.at = -1;
  if (browser.shown.length) open_trace(0, false);
}

function item(trace, i) {
  const line = make("li", { id: `t${i}` },
    make("span", { className: "q" }, trace.question.slice(0, 200)),
    make("span", { className: "m" }, make("span", { className: trace.outcome }, trace.outcome),
      ` ${trace.reason ? trace.reason + " " : ""}- ${trace.stage}, ${trace.source}`));
  line.setAttribute("role", "option");
  line.setAttribute("aria-selected", "false");
  line.addEventListener("click", () => open_trace(i));
  return line;
}

function open_trace(i, scroll = true) {
  if (i < 0 || i >= browser.shown.length) return;
  const lines = $("list").children;
  lines[browser.at]?.setAttribute("aria-selected", "false");
  lines[i].setAttribute("aria-selected", "true");
  $("list").setAttribute("aria-activedescendant", `t${i}`);
  if (scroll) lines[i].scrollIntoView({ block: "nearest" });
  browser.at = i;
  $("trace").replaceChildren(...whole(browser.shown[i]));
  $("trace").scrollTop = 0;
}

function whole(trace) {
  const word = $("f-search").value.trim().toLowerCase();
  const copy = make("button", { type: "button", id: "copy", title: "Copy the id" }, "Copy id");
  copy.addEventListener("click", () => copy_text(trace.id, copy));
  const facts = [trace.teacher, trace.finish_reason, trace.completion_tokens === null ? null : `${trace.completion_tokens.toLocaleString("en")} tokens`];
  return [
    make("div", { className: "head" }, make("code", {}, trace.id), copy,
      make("strong", { className: trace.outcome }, trace.outcome), trace.reason,
      make("span", { className: "m" }, facts.filter(Boolean).join(", "))),
    trace.error ? make("p", { className: "rejected" }, trace.error) : null,
    make("h3", {}, "question"), rich("question", trace.question, word),
    make("div", { className: "answers" },
      make("div", {}, make("h3", {}, "extracted answer"), rich(trace.correct ?? "", trace.answer ?? "-")),
      make("div", {}, make("h3", {}, "reference"), rich("", trace.reference ?? "-"))),
    reasoning(trace, word),
    make("h3", {}, "response"), rich("response", trace.response ?? "", word),
    make("h3", {}, "verdicts"), verdicts(trace),
  ].filter(Boolean);
}

// Folded, and rendered when it is first opened. A search that matches in it opens it.
function reasoning(trace, word) {
  if (trace.reasoning === null) return make("p", { className: "missing" }, "no reasoning");
  const folded = make("details", { id: "reasoning" },
    make("summary", {}, `reasoning (${trace.reasoning.length.toLocaleString("en")} characters)`));
  folded.addEventListener("toggle", () => {
    if (folded.open && folded.children.length === 1) folded.append(rich("reasoning", trace.reasoning, word));
  });
  folded.open = Boolean(word) && trace.reasoning.toLowerCase().includes(word);
  return folded;
}

function verdicts(trace) {
  const rows = trace.verdicts.map(([rule, outcome, reason, evidence]) => make("tr", {},
    make("td", {}, rule), make("td", { className: outcome }, outcome), make("td", {}, reason ?? ""),
    make("td", {}, evidence ?? "")));
  return rows.length ? make("table", {}, make("tbody", {}, ...rows)) : make("p", { className: "missing" }, "not filtered yet");
}

async function copy_text(text, button) {
  try {
    await navigator.clipboard.writeText(text);
  } catch { // no permission, or no clipboard
    const field = make("textarea", { value: text });
    document.body.append(field);
    field.select();
    document.execCommand("copy");
    field.remove();
  }
  button.textContent = "Copied";
  setTimeout(() => { button.textContent = "Copy id"; }, 1200);
}

if ($("list")) {
  for (const [field, id] of Object.entries(FILTERS)) {
    options($(id), DATA.traces, field);
    $(id).addEventListener("change", filter);
  }
  $("f-search").addEventListener("input", later(filter));
  $("f-clear").addEventListener("click", () => {
    for (const id of [...Object.values(FILTERS), "f-search"]) $(id).value = "";
    filter();
  });
  $("list").addEventListener("keydown", (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1, PageDown: 10, PageUp: -10 }[event.key];
    if (!step) return;
    event.preventDefault();
    open_trace(Math.max(0, Math.min(browser.shown.length - 1, browser.at + step)));
  });
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || /INPUT|SELECT|TEXTAREA/.test(event.target.tagName)) return;
    const does = {
      "/": () => { $("browser").scrollIntoView(); $("f-search").focus(); },
      j: () => open_trace(browser.at + 1),
      k: () => open_trace(browser.at - 1),
      t: () => { if ($("reasoning")) $("reasoning").open = !$("reasoning").open; },
      c: () => $("copy")?.click(),
    }[event.key];
    if (does) { event.preventDefault(); does(); }
  });
  filter();
}

// The table of problems.
if ($("p-table")) {
  const PAGE = 50;
  const models = [...new Set(DATA.problems.flatMap((row) => Object.keys(row.correct)))];
  const held = new Set(DATA.traces.filter((trace) => trace.stage.startsWith("evaluate")).map((trace) => trace.problem_id));
  let rows = [], pages = 1;
  const draw = () => {
    $("p-table").tBodies[0].replaceChildren(...rows.slice(0, pages * PAGE).map(line));
    $("p-more").hidden = rows.length <= pages * PAGE;
    $("p-count").textContent = `${rows.length} of ${DATA.problems.length} problems` + (DATA.unlisted ? `; ${DATA.unlisted} more are not listed` : "");
  };
  const line = (row) => {
    const see = make("button", { type: "button" }, "answers");
    see.addEventListener("click", () => {
      $("f-clear").click();
      $("f-search").value = row.problem;
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
    const word = $("p-search").value.trim().toLowerCase();
    rows = DATA.problems.filter((row) =>
      (!$("p-set").value || row.set === $("p-set").value) && (!$("p-change").value || row.change === $("p-change").value) &&
      (!word || `${row.question}\n${row.problem}`.toLowerCase().includes(word)));
    pages = 1;
    draw();
  });
  const titles = ["set", "training", "question", "reference", ...models.map((name) => `${name}, correct`), ""];
  $("p-table").tHead.append(make("tr", {}, ...titles.map((title) => make("th", {}, title))));
  options($("p-set"), DATA.problems, "set");
  options($("p-change"), DATA.problems, "change");
  for (const id of ["p-set", "p-change"]) $(id).addEventListener("change", select);
  $("p-search").addEventListener("input", select);
  $("p-more").addEventListener("click", () => { pages += 1; draw(); });
  rows = DATA.problems;
  draw();
}
