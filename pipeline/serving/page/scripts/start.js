// Keys of the whole page, and its beginning.

// Ctrl+Enter while an IME composes: the last syllable is finished first, then the question is asked.
let askAfterComposition = false;
function submitView() {
  if (document.body.dataset.view === "chat") send();
  else if (document.body.dataset.view === "ask") ask();
}
addEventListener("keydown", (event) => {
  if (document.querySelector("dialog[open]")) return;
  if ((event.code === "Enter" || event.code === "NumpadEnter") && (event.ctrlKey || event.metaKey)) {
    if (event.target.closest?.("button, summary, select")) return;
    event.preventDefault();
    if (event.isComposing) askAfterComposition = true;
    else submitView();
  } else if (event.key === "Escape" && !event.isComposing) {
    if (document.body.dataset.view === "chat") chatStream.stop();
    else stop();
    $("loaded").open = false;
  }
});
addEventListener("compositionend", () => {
  if (askAfterComposition) setTimeout(submitView);
  askAfterComposition = false;
});

$("not-kept").hidden = keeps;
showSettings();
const view = restoreSession();
restoreTalk();
choosePrompt($("tab-text"));
chooseCode($("tab-curl"));
chooseSide($("tab-a"));
showCompared();
speak(language);
chooseView($("tab-" + (view || "ask")));
showBusy();
dispatchEvent(new Event("question"));
watch();
