// Everything is on the page already; this only shows one thing at a time and says what the pointer is on.

// What the pointer or the keyboard is on.
const tip = document.getElementById("tip");
function point(target, x, y) {
  const mark = target instanceof Element ? target.closest("[data-tip]") : null;
  tip.classList.toggle("on", !!mark);
  if (!mark) return;
  tip.textContent = tipOf(mark);
  const box = tip.getBoundingClientRect();
  const left = Math.min(Math.max(8, x + 14), innerWidth - box.width - 8);
  const top = y + 18 + box.height > innerHeight ? y - box.height - 12 : y + 18;
  tip.style.left = left + "px";
  tip.style.top = top + "px";
}
addEventListener("pointermove", (e) => point(e.target, e.clientX, e.clientY));
addEventListener("pointerdown", (e) => point(e.target, e.clientX, e.clientY));
addEventListener("scroll", () => tip.classList.remove("on"), { passive: true });
addEventListener("focusin", (e) => {
  const mark = e.target.querySelector && e.target.closest("svg a") ? e.target.querySelector("[data-tip]") : null;
  if (!mark) return;
  const box = mark.getBoundingClientRect();
  point(mark, box.left, box.bottom);
});

// A link to a rule opens it.
function open() {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (!target) return;
  if (target.tagName === "DETAILS") target.open = true;
  target.scrollIntoView();
}
addEventListener("hashchange", open);
document.addEventListener("click", (e) => {
  const link = e.target instanceof Element ? e.target.closest("a[href^='#']") : null;
  if (link && link.getAttribute("href") === location.hash) open(); // the same rule once more
});

// Rows one by one, filtered.
class Pager {
  constructor(root) {
    this.root = root;
    this.items = [...root.querySelectorAll("article")];
    this.filters = [...root.querySelectorAll("select")];
    this.count = root.querySelector("output");
    root.querySelector(".controls").hidden = false;
    root.querySelector(".back").addEventListener("click", () => this.turn(-1));
    root.querySelector(".next").addEventListener("click", () => this.turn(1));
    for (const select of this.filters) select.addEventListener("change", () => this.filter());
    this.filter();
  }
  filter() {
    this.shown = this.items.filter((item) =>
      this.filters.every((s) => !s.value || item.dataset[s.name].split("\n").includes(s.value)));
    this.at = 0;
    this.show();
  }
  turn(by) {
    if (!this.shown.length) return;
    this.at = (this.at + by + this.shown.length) % this.shown.length;
    this.show();
  }
  show() {
    for (const item of this.items) item.hidden = item !== this.shown[this.at];
    this.count.textContent = this.shown.length ? say("of", { at: this.at + 1, count: this.shown.length }) : say("none");
  }
}
const pagers = [...document.querySelectorAll(".pager")].map((root) => new Pager(root));
addEventListener("languagechange-page", () => pagers.forEach((pager) => pager.show()));

// Arrow keys turn the pager that the reader is looking at.
addEventListener("keydown", (e) => {
  const by = { ArrowLeft: -1, ArrowRight: 1 }[e.key];
  if (!by || e.ctrlKey || e.metaKey || e.altKey || e.shiftKey || e.target.closest("select, input, textarea, .scroll")) return;
  const middle = innerHeight / 2;
  const seen = pagers.find((p) => {
    const box = p.root.getBoundingClientRect();
    return p.root.contains(document.activeElement) || (box.top < middle && box.bottom > middle / 3);
  });
  if (seen) {
    e.preventDefault();
    seen.turn(by);
  }
});
open();
