"use strict";
// What the report and `retort view` share: a list of traces, a trace with its marks, themes. Texts of models become
// text nodes, never markup. Temml renders formulas and trusts no input; a formula that it rejects stays text.
const FORMULA = /\$\$([^$]{1,1500})\$\$|\\\[([^]{1,1500}?)\\\]|\\\(([^]{1,1500}?)\\\)|\$(?!\s|[\d.,]+\s)([^$\n]{1,300})(?<!\s)\$(?!\d)/g;
const FORMULAS = 300; // matches tried in one text; the rest of it stays text
const MARKS = 400; // places marked in one text, for each mark
const SHORT = 12; // characters of evidence below which only its last place is marked
const $ = (id) => document.getElementById(id);

function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

function button(text, does, properties = {}) {
  const element = make("button", { type: "button", ...properties }, text);
  element.addEventListener("click", () => does(element));
  return element;
}

function later(action, wait = 120) {
  let timer;
  return () => { clearTimeout(timer); timer = setTimeout(action, wait); };
}

// The words of a search, all of which must occur; "a phrase" in quotes is one word.
function words_of(text) {
  return [...text.toLowerCase().matchAll(/"([^"]+)"?|(\S+)/g)].map(([, phrase, word]) => phrase ?? word);
}

function pattern_of(...texts) {
  const escaped = (text) => text.trim().split(/\s+/).map((word) => word.replace(/[^\p{L}\p{N}]/gu, "\\$&")).join("\\s+");
  try {
    return new RegExp(texts.map(escaped).join("|"), "gi");
  } catch { // too long for an expression
    return null;
  }
}

// What to mark in a field of a trace: the words of the search, and the evidence of rules that did not pass.
function marks_in(trace, field, words) {
  const found = words.map((word) => ({ pattern: pattern_of(word) }));
  for (const [rule, outcome, reason, evidence] of trace.verdicts) {
    if (outcome === "passed" || !evidence) continue;
    for (const part of evidence.replace(/…$/, "").split(" | ")) { // such as "12 times: the words"
      const pattern = part.trim() && pattern_of(...new Set([part, part.replace(/^[^:\n]{1,40}: (?=\S)/, "")]));
      const short = part.length < SHORT; // such as an answer: it is marked in the response, if it is there
      if (pattern && (!short || (field === "response") === (trace.response ?? "").search(pattern) >= 0)) {
        found.push({ pattern, className: "fired", title: `${rule}: ${reason}`, last: short });
      }
    }
  }
  return found.filter((mark) => mark.pattern);
}

// The places of all marks in a text, in order, none over another.
function places(text, marks) {
  const found = [];
  for (const { pattern, last, ...look } of marks) {
    const find = new RegExp(pattern);
    const own = [];
    for (let match; own.length < MARKS && (match = find.exec(text)) && match[0];) {
      own.push({ from: match.index, to: find.lastIndex, look });
    }
    found.push(...(last ? own.slice(-1) : own));
  }
  let end = 0;
  return found.sort((a, b) => a.from - b.from || b.to - a.to)
    .filter(({ from, to }) => from >= end && (end = to));
}

// Text with its formulas rendered, and marks on it.
function rich(className, text, marks = []) {
  const element = make("div", { className: `text ${className}` });
  const find = new RegExp(FORMULA), marked = places(text, marks);
  let from = 0, match;
  const plain = (end) => {
    for (const place of marked.filter((place) => place.from >= from && place.to <= end)) {
      element.append(text.slice(from, place.from), make("mark", place.look, text.slice(place.from, place.to)));
      from = place.to;
    }
    element.append(text.slice(from, end));
    from = end;
  };
  for (let tries = 0; tries < FORMULAS && (match = find.exec(text)); tries++) {
    const [whole, a, b, c, d] = match, end = match.index + whole.length;
    const rendered = formula(a ?? b ?? c ?? d, a !== undefined || b !== undefined);
    if (rendered) {
      plain(match.index);
      const within = marked.find((place) => place.from < end && place.to > match.index);
      element.append(within ? make("mark", within.look, rendered) : rendered);
      from = end;
    } else {
      find.lastIndex = match.index + 1; // not a formula: a part of it may be one
    }
  }
  plain(text.length);
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

// A line of the list of traces.
function line_of(trace, i, facts, open) {
  const line = make("li", { id: `t${i}` },
    make("span", { className: "q" }, trace.question.slice(0, 200)),
    make("span", { className: "m" }, make("span", { className: trace.outcome }, trace.outcome),
      ` ${trace.reason ? trace.reason + " " : ""}- ${facts.filter(Boolean).join(", ")}`));
  line.setAttribute("role", "option");
  line.setAttribute("aria-selected", "false");
  line.addEventListener("click", () => open(i));
  return line;
}

// Selects a line of the list; -1 selects none.
function select_line(i, scroll) {
  $("list").querySelector("[aria-selected='true']")?.setAttribute("aria-selected", "false");
  const line = $("list").children[i];
  line?.setAttribute("aria-selected", "true");
  $("list").setAttribute("aria-activedescendant", line?.id ?? "");
  if (scroll) line?.scrollIntoView({ block: "nearest" });
}

// Shows a trace, or what stands in its place. A focus that was there stays there, for those who use keys alone.
function show_in_place(...children) {
  const within = $("trace").contains(document.activeElement);
  $("trace").replaceChildren(...children);
  $("trace").scrollTop = 0;
  if (within) $("trace").focus({ preventScroll: true });
}

// Keys of the list, and of the page unless one types into a field. `step(n)` moves in the list.
function on_keys(step, keys) {
  $("list").addEventListener("keydown", (event) => {
    const by = { ArrowDown: 1, ArrowUp: -1, PageDown: 10, PageUp: -10 }[event.key];
    if (!by) return;
    event.preventDefault();
    step(by);
  });
  const common = {
    "/": () => { $("search").scrollIntoView({ block: "nearest" }); $("search").focus(); },
    j: () => step(1),
    k: () => step(-1),
    t: () => { const folds = [...$("trace").querySelectorAll(".fold")]; for (const fold of folds) fold.open = !folds[0].open; },
    c: () => $("trace").querySelector(".copy")?.click(),
  };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || /INPUT|SELECT|TEXTAREA/.test(event.target.tagName)) return;
    const does = { ...common, ...keys }[event.key];
    if (does) { event.preventDefault(); does(); }
  });
}

// The first line of a trace: its id, outcome and facts, and the given controls.
function head_of(trace, ...controls) {
  const tokens = trace.completion_tokens === null ? null : `${trace.completion_tokens.toLocaleString("en")} tokens`;
  return make("div", { className: "head" }, make("code", {}, trace.id),
    button("Copy id", (pressed) => copy_text(trace.id, pressed), { className: "copy", title: "Copy the id" }), ...controls,
    make("strong", { className: trace.outcome }, trace.outcome), trace.reason,
    make("span", { className: "m" }, [trace.teacher, trace.finish_reason, tokens].filter(Boolean).join(", ")));
}

function question_of(trace, words) {
  return [make("h3", {}, "question"), rich("question", trace.question, words.map((word) => ({ pattern: pattern_of(word) })))];
}

// What the teacher wrote and what the rules made of it.
function body_of(trace, words) {
  return [
    trace.error ? make("p", { className: "rejected" }, trace.error) : null,
    make("div", { className: "answers" },
      make("div", {}, make("h3", {}, "extracted answer"), rich(trace.correct ?? "", trace.answer ?? "-")),
      make("div", {}, make("h3", {}, "reference"), rich("", trace.reference ?? "-"))),
    reasoning(trace, words),
    make("h3", {}, "response"), rich("response", trace.response ?? "", marks_in(trace, "response", words)),
    make("h3", {}, "verdicts"), verdicts(trace),
  ].filter(Boolean);
}

// Folded, and rendered when it is first opened. A search that matches in it opens it.
function reasoning(trace, words) {
  if (trace.reasoning === null) return make("p", { className: "missing" }, "no reasoning");
  const folded = make("details", { className: "fold" },
    make("summary", {}, `reasoning (${trace.reasoning.length.toLocaleString("en")} characters)`));
  folded.addEventListener("toggle", () => {
    if (folded.open && folded.children.length === 1) {
      folded.append(rich("reasoning", trace.reasoning, marks_in(trace, "reasoning", words)));
    }
  });
  folded.open = words.some((word) => trace.reasoning.toLowerCase().includes(word));
  return folded;
}

function verdicts(trace) {
  const rows = trace.verdicts.map(([rule, outcome, reason, evidence]) => make("tr", {},
    make("th", { scope: "row" }, rule), make("td", { className: outcome }, outcome), make("td", {}, reason ?? ""),
    make("td", {}, evidence ?? "")));
  if (!rows.length) return make("p", { className: "missing" }, "not filtered yet");
  const titles = ["rule", "verdict", "reason", "evidence"].map((title) => make("th", { scope: "col" }, title));
  return make("div", { className: "wide" },
    make("table", {}, make("thead", {}, make("tr", {}, ...titles)), make("tbody", {}, ...rows)));
}

async function copy_text(text, pressed) {
  const before = pressed.textContent;
  try {
    await navigator.clipboard.writeText(text);
  } catch { // no permission, or no clipboard
    const field = make("textarea", { value: text });
    document.body.append(field);
    field.select();
    document.execCommand("copy");
    field.remove();
  }
  pressed.textContent = "Copied";
  setTimeout(() => { pressed.textContent = before; }, 1200);
}

// Themes.
{
  const themes = ["system", "light", "dark"];
  let now = 0;
  $("theme").addEventListener("click", () => {
    now = (now + 1) % themes.length;
    if (now) document.documentElement.dataset.theme = themes[now];
    else delete document.documentElement.dataset.theme;
    $("theme").textContent = `Theme: ${themes[now]}`;
  });
}
