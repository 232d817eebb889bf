// Votes on A and B, kept in this browser. A line of the export is a line of `make compare`'s answers.jsonl with the
// fields of its page's votes (vote, left, blind). `blind` is false: the models' names stand above the answers.

let votes = kept("localStorage", "votes", {}); // {key: line}
const voteKey = () => [asked.id, sides.a.answer.model, sides.b.answer.model].join(" ");
const hasEnded = (answer) => answer.end !== "" && !isRunning(answer) && answer.text !== "";

// Which of the two counts as `base` and which as `tuned`; of two tuned models B is the one compared with.
function roles() {
  const [a, b] = [sides.a, sides.b].map((side) => model(side.answer.model)?.kind);
  return a === "base" && b !== "base" ? { a: "base", b: "tuned" } : { a: "tuned", b: "base" };
}
function lineOf(vote) {
  const of = roles();
  const answerOf = (who) => (of.a === who ? sides.a : sides.b).answer;
  const [base, tuned] = ["base", "tuned"].map((who) => ({ text: answerOf(who).text, stopped: answerOf(who).end === "stop" }));
  return {
    id: asked.id, set: "ui", category: "other", instruction: asked.instruction, input: asked.input, reference: "", base, tuned,
    vote: vote === "tie" ? "tie" : of[vote], left: of.a, blind: false, models: { base: answerOf("base").model, tuned: answerOf("tuned").model },
  };
}
function cast(vote) {
  votes = kept("localStorage", "votes", votes); // another window may have voted
  votes[voteKey()] = lineOf(vote);
  saveVotes();
  announce("voted");
}
function saveVotes() {
  if (!keep("localStorage", "votes", votes)) $("not-kept").hidden = false;
  showVote();
}
function showVote() {
  const both = asked !== null && compared() && [sides.a, sides.b].every((side) => hasEnded(side.answer));
  $("vote").hidden = !both;
  const count = Object.keys(votes).length;
  $("votes").hidden = !count;
  put($("votes-count"), "votes", { n: count });
  if (!both) return;
  const same = sides.a.answer.model === sides.b.answer.model;
  put($("vote").querySelector("p"), same ? "vote-same" : "vote");
  $("vote").querySelector("div").hidden = same;
  const line = votes[voteKey()];
  const chosen = !line ? "" : line.vote === "tie" ? "tie" : line.vote === line.left ? "a" : "b";
  for (const button of $("vote").querySelectorAll("button")) button.setAttribute("aria-pressed", String(button.dataset.vote === chosen));
}
for (const button of $("vote").querySelectorAll("button")) button.addEventListener("click", () => cast(button.dataset.vote));
$("votes-export").addEventListener("click", () => {
  const lines = Object.values(votes).map((line) => JSON.stringify(line) + "\n").join("");
  download(lines, `votes-${server.info.run || "ui"}.jsonl`, "application/jsonl");
});
$("votes-forget").addEventListener("click", () => {
  if (!confirm(t("votes-forget-all"))) return;
  votes = {};
  saveVotes();
});
addEventListener("storage", (event) => {
  if (event.key !== "suri-votes") return;
  votes = kept("localStorage", "votes", {});
  showVote();
});
