// Questions and answers of this browser; and what is on the page, so that loading it again loses nothing.

const MOST = 100; // questions kept
const entries = () => kept("localStorage", "history", []);

function remember() {
  const finished = (answer) => (isRunning(answer) ? { ...answer, end: "stopped" } : answer);
  const answers = Object.fromEntries(Object.entries(sides).filter(([, side]) => side.answer.end).map(([letter, side]) => [letter, finished(side.answer)]));
  let list = [{ ...asked, answers }, ...entries().filter((one) => one.id !== asked.id)].slice(0, MOST);
  while (!keep("localStorage", "history", list) && list.length > 1) list = list.slice(0, list.length >> 1); // storage is full
  showHistory();
}
function showHistory() {
  const list = entries();
  $("history-nothing").hidden = list.length > 0;
  $("history-clear").hidden = !list.length;
  $("history").replaceChildren(...list.map((one) => {
    const when = new Date(one.when).toLocaleString(language, { dateStyle: "medium", timeStyle: "short" });
    const who = Object.values(one.answers).map((answer) => answer.model).join(" · ");
    const open = word("button", "history-open", { type: "button" });
    const remove = word("button", "history-delete", { type: "button" });
    const question = el("p", { className: "clip", id: "history-" + one.id });
    const answer = el("p", { className: "clip soft" });
    show(question, one.instruction);
    show(answer, one.answers.a?.text || "");
    for (const button of [open, remove]) button.setAttribute("aria-describedby", question.id);
    open.addEventListener("click", () => restore(one));
    remove.addEventListener("click", () => {
      keep("localStorage", "history", entries().filter((other) => other.id !== one.id));
      showHistory();
      $("tab-history").focus();
    });
    return el("li", {}, el("p", { className: "soft small", textContent: `${when} · ${who}` }), question, answer, el("div", { className: "row" }, open, remove));
  }));
}
function restore({ answers, ...question }) {
  take(question, answers);
  for (const side of Object.values(sides)) if (model(side.answer.model)) side.select.value = side.answer.model;
  if (answers.b) $("compare").checked = true;
  showCompared();
  changedModels();
  write(question.instruction, question.input);
  showBusy();
  chooseView($("tab-ask"));
}
$("history-clear").addEventListener("click", () => {
  if (!confirm(t("history-sure"))) return;
  keep("localStorage", "history", null);
  showHistory();
});
viewListeners["tab-history"] = showHistory;
addEventListener("words", showHistory);

// --- the page itself, in this tab

let restored = false;
function saveSession() {
  if (!restored) return;
  const answers = Object.fromEntries(Object.entries(sides).map(([letter, side]) => [letter, side.answer]));
  keep("sessionStorage", "page", {
    instruction: $("instruction").value, input: $("input").value, asked, answers, compare: $("compare").checked,
    models: { a: sides.a.model || wanted.a, b: sides.b.model || wanted.b }, view: document.body.dataset.view,
  });
}
function restoreSession() {
  const page = kept("sessionStorage", "page", null);
  $("compare").checked = page ? page.compare : !narrow.matches;
  if (page) {
    wanted = page.models;
    asked = page.asked;
    for (const [letter, answer] of Object.entries(page.answers)) {
      sides[letter].answer = isRunning(answer) ? { ...answer, end: "interrupted", wait: 0 } : answer;
    }
    write(page.instruction, page.input);
  }
  restored = true;
  return page?.view;
}
addEventListener("pagehide", saveSession);
setInterval(() => anyRunning() && saveSession(), 1000); // a browser that crashes sends no pagehide
