// A conversation, where the template has turns. It stays in this tab.

let talk = kept("sessionStorage", "chat", { messages: [], model: "", system: "" }); // messages: {role, content, answer?}
const chatStream = new Stream(() => {
  const last = talk.messages.at(-1);
  if (last?.role !== "assistant") return;
  Object.assign(last, { content: chatStream.answer.text, answer: chatStream.answer });
  paintTurn($("turns").lastElementChild, last, true);
});

function turnOf(message, last) {
  const text = el("div", { className: "t", dir: "auto" });
  const parts = [el("p", { className: "who soft" }), text, el("p", { className: "wrong", hidden: true }), el("div", { className: "foot" })];
  const turn = el("li", { className: message.role }, ...parts);
  if (message.role === "assistant") {
    const again = word("button", "chat-again", { type: "button", className: "again" });
    const more = word("button", "continue", { type: "button", className: "more" });
    const copying = word("button", "copy", { type: "button" });
    again.addEventListener("click", () => talk.messages.pop() && reply());
    more.addEventListener("click", () => reply(true));
    copying.addEventListener("click", () => copy(message.content, copying));
    parts[3].append(el("p", { className: "facts soft" }), more, again, copying);
  }
  paintTurn(turn, message, last);
  return turn;
}
function paintTurn(turn, message, last) {
  const [who, text, problem, foot] = turn.children;
  who.textContent = message.role === "user" ? t("you") : message.answer?.model || talk.model;
  show(text, message.content);
  const { answer } = message;
  if (!answer) return;
  const running = isRunning(answer);
  text.setAttribute("aria-busy", String(running));
  if (answer.end === "waiting" && !answer.text) text.textContent = waitingText(answer);
  problem.hidden = answer.end !== "error";
  problem.textContent = answer.limits ? t("too-long", answer.limits) : problemText(answer);
  const [fact, more, again, copying] = foot.children;
  fact.textContent = facts(answer);
  more.hidden = !last || !isCut(answer);
  again.hidden = !last || running;
  copying.hidden = running || !answer.text;
}
function showTalk() {
  const { messages } = talk;
  $("chat-empty").hidden = messages.length > 0;
  $("chat-new").disabled = !messages.length;
  $("turns").replaceChildren(...messages.map((message, i) => turnOf(message, i === messages.length - 1)));
  showTalking();
}
function showTalking() {
  const focused = document.activeElement;
  $("chat-stop").hidden = !chatStream.running;
  $("chat-send").hidden = chatStream.running;
  $("chat-model").disabled = chatStream.running;
  if (chatStream.running && focused === $("chat-send")) $("chat-stop").focus();
  if (!chatStream.running && focused === $("chat-stop")) $("chat-send").focus();
  saveTalk();
}
function saveTalk() {
  keep("sessionStorage", "chat", { ...talk, system: $("chat-system").value });
}

async function send() {
  const text = $("chat-message").value;
  if (!text.trim() || chatStream.running) return;
  if (server.state !== "ready") {
    notReady();
    return;
  }
  talk.messages.push({ role: "user", content: text });
  $("chat-message").value = "";
  grow($("chat-message"));
  await reply();
}
// What the model is told: a question whose answer failed is left out with it, since turns alternate.
function withoutFailures(messages) {
  const failed = (message) => message?.role === "assistant" && !message.content;
  return messages.filter((message, i) => !failed(message) && !failed(messages[i + 1])).map(({ role, content }) => ({ role, content }));
}
async function reply(more = false) {
  if (chatStream.running) return;
  talk.model = $("chat-model").value;
  const before = withoutFailures(more ? talk.messages.slice(0, -1) : talk.messages);
  const system = $("chat-system-field").hidden ? "" : $("chat-system").value.trim();
  const messages = system ? [{ role: "system", content: system }, ...before] : before;
  const begun = more ? talk.messages.at(-1).content : "";
  if (more) chatStream.answer = talk.messages.at(-1).answer;
  else talk.messages.push({ role: "assistant", content: "", answer: { ...BLANK } });
  showTalk();
  const ending = chatStream.run(bodyOf(talk.model, messages, "", settings, begun), more);
  showTalking();
  $("turns").lastElementChild.scrollIntoView({ block: "nearest" });
  announce("answering");
  const answer = await ending;
  if (answer.code === "context_length_exceeded") await tellLimits(answer, bodyOf(talk.model, messages, "", settings));
  showTalk();
  announceAnswer(answer, "");
}
$("chat-form").addEventListener("submit", (event) => {
  event.preventDefault();
  send();
});
$("chat-stop").addEventListener("click", () => chatStream.stop());
$("chat-new").addEventListener("click", () => {
  chatStream.stop();
  talk.messages = [];
  showTalk();
  $("chat-message").focus();
});
$("chat-system").addEventListener("input", saveTalk);
function changedChatModel() {
  $("chat-system-field").hidden = model($("chat-model").value)?.system !== true;
}
$("chat-model").addEventListener("change", changedChatModel);
addEventListener("info", () => {
  const hasTurns = (one) => one.turns;
  fillModels($("chat-model"), $("chat-model").value || talk.model || server.info.default_model, hasTurns);
  $("tab-chat").hidden = !$("chat-model").options.length;
  if ($("tab-chat").hidden && document.body.dataset.view === "chat") chooseView($("tab-ask"));
  changedChatModel();
});
addEventListener("words", () => {
  if (server.info.models.length) fillModels($("chat-model"), $("chat-model").value, (one) => one.turns);
  showTalk();
});
addEventListener("pagehide", saveTalk);
function restoreTalk() {
  $("chat-system").value = talk.system;
  for (const { answer } of talk.messages) if (answer && isRunning(answer)) answer.end = "interrupted";
  showTalk();
}
