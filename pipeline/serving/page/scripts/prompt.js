// The exact prompt of the draft, as text and token by token.

const MOST_TOKENS = 1500; // shown one by one
const choosePrompt = tabs(document.querySelector("#prompt .tabs"), (tab) => {
  $("prompt-text").hidden = tab.id !== "tab-text";
  $("prompt-tokens").hidden = tab.id !== "tab-tokens";
});

function showPrompt() {
  if (measured) put($("prompt-count"), "tokens", { n: measured.count });
  else clear($("prompt-count"));
  if (!$("prompt").open) return;
  if (!measured) {
    put($("prompt-about"), "prompt-empty");
    $("prompt-text").textContent = $("prompt-tokens").textContent = "";
    return;
  }
  put($("prompt-about"), "prompt-about", { model: sides.a.model });
  show($("prompt-text"), measured.text);
  const tokens = measured.tokens.slice(0, MOST_TOKENS).map(({ id, text }) =>
    el("span", { className: "token" }, el("span", { textContent: visible(text).replace(/\n/g, "⏎") || "∅" }), el("small", { textContent: id })));
  if (measured.count > tokens.length) tokens.push(word("span", "more-tokens", { className: "soft" }, { n: measured.count - tokens.length }));
  $("prompt-tokens").replaceChildren(...tokens);
}
addEventListener("measured", showPrompt);
$("prompt").addEventListener("toggle", showPrompt);
