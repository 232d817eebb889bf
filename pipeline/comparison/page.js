// All questions are on the page; this shows one at a time, takes votes, keeps them, and counts them.

const main = document.getElementById("compare");
const key = "suri-compare-" + main.dataset.hash;
const items = [...main.querySelectorAll("article")];
const selects = [...main.querySelectorAll(".bar select")];
const openOnly = document.getElementById("open-only");
const byId = new Map(items.map((item) => [item.dataset.id, item]));

// --- votes: {id: {vote: "tuned" | "base" | "tie", left: "tuned" | "base", blind: whether the names were hidden}}

let votes = {};
let kept = true;
function load() {
  try {
    const found = JSON.parse(localStorage.getItem(key) || "{}");
    votes = Object.fromEntries(Object.entries(found).filter(([id]) => byId.has(id)));
  } catch {
    kept = false; // no storage: votes live as long as the page
  }
}
function save() {
  try {
    localStorage.setItem(key, JSON.stringify(votes));
  } catch {
    kept = false;
  }
  tellKept();
}
function tellKept() {
  if (!kept) document.getElementById("where").textContent = say("not-kept");
}

// --- what is shown

let shown = items;
let at = 0;
const seen = new Set(); // questions whose names were shown
function filter(stay) {
  const current = shown[at];
  shown = items.filter((item) =>
    selects.every((s) => !s.value || item.dataset[s.name] === s.value) && !(openOnly.checked && votes[item.dataset.id]));
  at = Math.max(0, stay ? shown.indexOf(current) : 0);
  show();
}
function turn(by) {
  if (!shown.length) return;
  at = (at + by + shown.length) % shown.length;
  show();
  scrollTo({ top: Math.min(scrollY, main.offsetTop) });
}
function show() {
  for (const item of items) item.hidden = item !== shown[at];
  document.getElementById("none").hidden = shown.length > 0;
  document.getElementById("at").textContent = shown.length ? say("of", { at: at + 1, count: shown.length }) : say("none");
  const done = Object.keys(votes).length;
  document.getElementById("progress").textContent = say("voted", { done, count: items.length });
  if (shown.length) paint(shown[at]);
  count();
}
function paint(item) {
  const vote = votes[item.dataset.id];
  const side = !vote ? "" : vote.vote === "tie" ? "tie" : vote.vote === item.dataset.left ? "left" : "right";
  for (const button of item.querySelectorAll("[data-vote]")) button.setAttribute("aria-pressed", String(button.dataset.vote === side));
  const [left, right] = item.querySelectorAll(".side");
  left.classList.toggle("chosen", side === "left");
  right.classList.toggle("chosen", side === "right");
  item.classList.toggle("tied", side === "tie");
  // What tells the base: the rest of an answer that did not stop, and its badge.
  item.classList.toggle("blind", !vote && !seen.has(item.dataset.id));
}
function reveal(item) {
  const button = item.querySelector(".reveal");
  const on = button.getAttribute("aria-pressed") !== "true";
  button.setAttribute("aria-pressed", String(on));
  for (const who of item.querySelectorAll(".who")) who.hidden = !on;
  if (on) seen.add(item.dataset.id);
  paint(item);
}

function cast(item, side) {
  load(); // another window may have voted
  const left = item.dataset.left, other = left === "base" ? "tuned" : "base", id = item.dataset.id;
  const vote = side === "tie" ? "tie" : side === "left" ? left : other;
  votes[id] = { vote, left, blind: !seen.has(id) && !votes[id] }; // after the first vote all of both answers is shown
  save();
  paint(item);
  if (openOnly.checked) {
    const before = at;
    filter(false);
    at = Math.min(before, Math.max(0, shown.length - 1));
    show();
  } else if (at + 1 < shown.length) {
    turn(1);
  } else {
    show();
  }
}

// --- the tally

// Wilson's score interval (1927), as pipeline/comparison/winrate.py has it.
function wilson(share, n) {
  const z = 1.959963984540054, z2 = z * z;
  const middle = (share + z2 / (2 * n)) / (1 + z2 / n);
  const half = (z / (1 + z2 / n)) * Math.sqrt((share * (1 - share)) / n + z2 / (4 * n * n));
  return [Math.max(0, middle - half), Math.min(1, middle + half)];
}
function tally(ids) {
  const cast = ids.map((id) => votes[id]).filter(Boolean);
  const [tuned, tie, base] = ["tuned", "tie", "base"].map((who) => cast.filter((v) => v.vote === who).length);
  const n = cast.length, share = n ? (tuned + tie / 2) / n : null;
  return { votes: n, tuned, tie, base, win_rate: share, interval: n ? wilson(share, n) : null };
}
const percent = (share) => (100 * share).toFixed(1) + " %";
function count() {
  const body = document.querySelector("#tally tbody");
  const groups = new Map([[say("all"), items.map((item) => item.dataset.id)]]);
  for (const by of selects.map((select) => select.name)) {
    for (const item of items) {
      const name = `${by} ${item.dataset[by]}`; // a set and a category may share a name
      groups.set(name, [...(groups.get(name) || []), item.dataset.id]);
    }
  }
  body.replaceChildren(...[...groups].map(([name, ids]) => [name, tally(ids)]).filter(([, t]) => t.votes).map(([name, t]) => {
    const row = document.createElement("tr");
    const cells = [name.replace(/^(set|category) /, ""), t.votes, t.tuned, t.tie, t.base, percent(t.win_rate), say("range", { low: percent(t.interval[0]), high: percent(t.interval[1]) })];
    cells.forEach((text, i) => {
      const cell = document.createElement(i ? "td" : "th");
      cell.textContent = text;
      if (i) cell.className = "n";
      else cell.scope = "row";
      row.append(cell);
    });
    return row;
  }));
}

function download() {
  const rows = items.filter((item) => votes[item.dataset.id]).map((item) => ({ id: item.dataset.id, set: item.dataset.set, category: item.dataset.category, ...votes[item.dataset.id] }));
  const found = { run: main.dataset.run, hash: main.dataset.hash, tally: tally(items.map((item) => item.dataset.id)), votes: rows };
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([JSON.stringify(found, null, 1) + "\n"], { type: "application/json" }));
  link.download = `votes-${main.dataset.run}.json`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}

// --- beginning

for (const select of selects) select.addEventListener("change", () => filter(false));
openOnly.addEventListener("change", () => filter(true));
main.querySelector(".back").addEventListener("click", () => turn(-1));
main.querySelector(".next").addEventListener("click", () => turn(1));
for (const item of items) {
  for (const button of item.querySelectorAll("[data-vote]")) button.addEventListener("click", () => cast(item, button.dataset.vote));
  item.querySelector(".reveal").addEventListener("click", () => reveal(item));
}
document.getElementById("export").addEventListener("click", download);
document.getElementById("clear").addEventListener("click", () => {
  if (!confirm(say("forget"))) return;
  votes = {};
  save();
  filter(true);
});
addEventListener("storage", (e) => {
  if (e.key === key) { load(); show(); }
});
// By place on the keyboard, so that they work while Hangul is typed.
const KEYS = { KeyA: "left", Digit1: "left", KeyT: "tie", Digit2: "tie", KeyB: "right", Digit3: "right" };
addEventListener("keydown", (e) => {
  if (e.ctrlKey || e.metaKey || e.altKey || e.target.closest("select, textarea, input:not([type=checkbox])")) return;
  const item = shown[at];
  if (e.code === "ArrowLeft" || e.code === "ArrowRight") turn(e.code === "ArrowLeft" ? -1 : 1);
  else if (item && KEYS[e.code]) cast(item, KEYS[e.code]);
  else if (item && e.code === "KeyR") reveal(item);
  else return;
  e.preventDefault();
});
addEventListener("languagechange-page", () => {
  show();
  tellKept();
});
for (const hidden of main.querySelectorAll(".controls, .votes, #tally, .keep")) hidden.hidden = false;
load();
if (!kept) save();
// Go on where votes end.
at = Math.max(0, shown.findIndex((item) => !votes[item.dataset.id]));
show();
