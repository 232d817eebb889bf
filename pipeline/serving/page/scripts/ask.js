// Asking: answer A, and beside it B. Both stream at the same time.

let asked = null; // {id, when, instruction, input, settings} of the answers on the page; null: none

class Side {
  constructor(letter) {
    this.letter = letter.toUpperCase();
    this.select = el("select", { id: "model-" + letter });
    this.kind = el("span");
    this.text = el("div", { className: "t", dir: "auto" });
    this.wait = el("p", { className: "soft waiting", hidden: true });
    this.problem = el("p", { className: "wrong", hidden: true });
    this.facts = el("p", { className: "facts soft" });
    this.more = word("button", "continue", { type: "button", hidden: true });
    this.copy = word("button", "copy", { type: "button", hidden: true });
    this.root = el("section", { id: "side-" + letter, className: "side" },
      el("div", { className: "head" }, el("h3", { textContent: this.letter }), this.select, this.kind),
      el("div", { className: "body", hidden: true }, this.wait, this.text, this.problem),
      el("div", { className: "foot", hidden: true }, this.facts, this.more, this.copy));
    $("sides").append(this.root);
    this.stream = new Stream(() => this.paintSoon());
    this.select.addEventListener("change", () => changedModels());
    this.more.addEventListener("click", () => go([this], true));
    this.copy.addEventListener("click", () => copy(this.answer.text, this.copy));
    this.painting = 0;
  }
  get model() {
    return this.select.value;
  }
  get answer() {
    return this.stream.answer;
  }
  set answer(answer) {
    this.stream.answer = answer;
    this.paint();
  }
  paintSoon() {
    this.painting ||= requestAnimationFrame(() => this.paint());
  }
  paint() {
    cancelAnimationFrame(this.painting);
    this.painting = 0;
    const { answer } = this;
    const [, body, foot] = this.root.children;
    body.hidden = foot.hidden = !answer.end;
    this.text.setAttribute("aria-busy", String(isRunning(answer)));
    this.root.classList.toggle("running", isRunning(answer));
    this.wait.hidden = answer.end !== "waiting";
    this.wait.textContent = waitingText(answer);
    if (!answer.text && answer.end === "stop") put(this.text, "no-text");
    else {
      delete this.text.dataset.t;
      show(this.text, answer.text);
    }
    this.problem.hidden = answer.end !== "error";
    if (answer.end === "error") this.problem.textContent = answer.limits ? t("too-long", answer.limits) : problemText(answer);
    this.facts.textContent = facts(answer);
    this.facts.classList.toggle("cut", answer.end !== "stop" && !isRunning(answer));
    this.more.hidden = !isCut(answer) || !asked;
    this.copy.hidden = !answer.text || isRunning(answer);
  }
  name() {
    this.root.setAttribute("aria-label", t("answer", { letter: this.letter }));
    this.select.setAttribute("aria-label", t("model-of", { letter: this.letter }));
    this.kind.replaceChildren();
    const one = model(this.model);
    if (one) this.kind.replaceChildren(badge(one.kind));
  }
}
const sides = { a: new Side("a"), b: new Side("b") };
const compared = () => $("compare").checked && !$("compare-field").hidden;
const active = () => (compared() ? [sides.a, sides.b] : [sides.a]);
const anyRunning = () => sides.a.stream.running || sides.b.stream.running;

async function ask() {
  if (anyRunning()) return;
  if (isEmpty()) {
    announce("write-first");
    put($("count"), "write-first");
    $("instruction").focus();
    return;
  }
  if (server.state !== "ready") {
    notReady();
    return;
  }
  if (isTooLong()) {
    announce("too-long", limitsOf(measured));
    $("instruction").focus();
    return;
  }
  const now = new Date();
  asked = { id: "ui-" + now.getTime().toString(36), when: now.toISOString(), instruction: draft.instruction, input: draft.input, settings: { ...settings } };
  for (const side of Object.values(sides)) side.answer = { ...BLANK };
  if (narrow.matches) $("sides").scrollIntoView({ block: "start" });
  await go(active(), false);
}

// Streams the answers of some sides; more: behind what they have.
async function go(some, more) {
  announce("answering");
  const question = asked;
  const ends = some.map(async (side) => {
    const name = more ? side.answer.model : side.model;
    const ending = side.stream.run(requestOf(name, question, question.settings, more ? side.answer.text : ""), more);
    showBusy();
    const answer = await ending;
    if (answer.code === "context_length_exceeded") await tellLimits(answer, requestOf(name, question, question.settings));
    if (asked !== question) return;
    side.paint();
    announceAnswer(answer, side.letter);
  });
  await Promise.all(ends);
  if (asked !== question) return; // another one is on the page
  showBusy();
  remember();
}
async function tellLimits(answer, body) {
  try {
    answer.limits = limitsOf(await call("/suri/prompt", body));
  } catch {
    // the server's own sentence stays
  }
}
function stop() {
  for (const side of Object.values(sides)) side.stream.stop();
}
// Another question, or none, with its answers by letter.
function take(question, answers) {
  if (anyRunning()) remember();
  stop();
  asked = question;
  for (const [letter, side] of Object.entries(sides)) {
    side.stream = new Stream(() => side.paintSoon());
    side.answer = answers[letter] || { ...BLANK };
  }
}
function fresh() {
  take(null, {});
  write("", "");
  showBusy();
  $("instruction").focus();
}

function showBusy() {
  const running = anyRunning();
  const focused = document.activeElement;
  $("stop").hidden = !running;
  $("ask").disabled = running;
  if (running && focused === $("ask")) $("stop").focus();
  if (!running && focused === $("stop")) $("ask").focus();
  $("empty").hidden = asked !== null;
  for (const side of Object.values(sides)) side.select.disabled = side.stream.running;
  showVote();
  saveSession();
}
function showCompared() {
  const both = compared();
  sides.b.root.hidden = !both;
  document.querySelector(".tabs.sides").hidden = !both;
  $("sides").classList.toggle("two", both);
  if (!both) chooseSide($("tab-a"));
  showVote();
}
const chooseSide = tabs(document.querySelector(".tabs.sides"), (tab) => {
  $("sides").dataset.shown = tab.id.slice(4);
});

function changedModels() {
  for (const side of Object.values(sides)) side.name();
  const template = model(sides.a.model)?.template;
  $("template-name").textContent = template?.id || "";
  put($("template-lock"), "locked", { hash: shortHash(template?.hash) });
  dispatchEvent(new Event("question"));
}
const narrow = matchMedia("(max-width: 700px)");
let wanted = {}; // models of the last session
addEventListener("info", () => {
  const { models, default_model: first } = server.info;
  const a = sides.a.model || wanted.a || first;
  const other = models.find((one) => one.id !== a && one.kind === "base") || models.find((one) => one.id !== a);
  fillModels(sides.a.select, a);
  fillModels(sides.b.select, sides.b.model || wanted.b || other?.id);
  $("compare-field").hidden = models.length < 2;
  showCompared();
  changedModels();
});
$("compare").addEventListener("change", () => {
  showCompared();
  changedModels();
});
$("form").addEventListener("submit", (event) => {
  event.preventDefault();
  ask();
});
$("stop").addEventListener("click", stop);
$("new").addEventListener("click", fresh);
addEventListener("words", () => {
  for (const side of Object.values(sides)) {
    if (server.info.models.length) fillModels(side.select, side.model);
    side.name();
    side.paint();
  }
});

// --- examples of the question sets

async function showExamples() {
  const questions = await call("/suri/questions").catch(() => []);
  const groups = ["en", "ko"].map((code) => [code, questions.filter((one) => one.language === code).slice(0, 3)]);
  $("example-list").replaceChildren(...groups.filter(([, some]) => some.length).map(([code, some]) =>
    el("div", {}, word("h3", "examples-" + code), ...some.map((one) => {
      const button = el("button", { type: "button", className: "example", lang: code }, el("span", { textContent: visible(one.instruction) }));
      if (one.input) button.append(el("small", { textContent: visible(one.input) }));
      button.addEventListener("click", () => {
        write(one.instruction, one.input || "");
        $("instruction").focus();
        if (narrow.matches) $("form").scrollIntoView();
      });
      return button;
    }))));
  $("examples").hidden = !questions.length;
}
addEventListener("info", showExamples, { once: true });
