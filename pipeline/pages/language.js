"use strict";
// English or Korean: every text of the page is there in both; this shows one. The browser's language decides at first.
const LANGUAGE_TEXTS = JSON.parse(document.body.dataset.texts);
let language = "en";
function say(name, values) {
  return LANGUAGE_TEXTS[language][name].replace(/\{(\w+)\}/g, (_, key) => values[key]);
}
function tipOf(mark) {
  return (language === "ko" && mark.dataset.tipKo) || mark.dataset.tip;
}
const ATTRIBUTES = ["aria-label", "title"];
function speak(to) {
  language = to;
  document.documentElement.lang = to;
  for (const item of document.querySelectorAll("[data-ko]")) {
    if (item.dataset.en === undefined) item.dataset.en = item.textContent;
    item.textContent = item.dataset[to];
  }
  for (const name of ATTRIBUTES) {
    for (const item of document.querySelectorAll(`[data-${name}-ko]`)) {
      if (!item.hasAttribute(`data-${name}-en`)) item.setAttribute(`data-${name}-en`, item.getAttribute(name));
      item.setAttribute(name, item.getAttribute(`data-${name}-${to}`));
    }
  }
  const button = document.getElementById("language");
  button.textContent = to === "en" ? "한국어" : "English";
  button.lang = to === "en" ? "ko" : "en";
  button.hidden = false;
  dispatchEvent(new Event("languagechange-page"));
}
function remembered() {
  try {
    return localStorage.getItem("suri-language");
  } catch {
    return null; // no storage: the browser's language
  }
}
document.getElementById("language").addEventListener("click", () => {
  speak(language === "en" ? "ko" : "en");
  try {
    localStorage.setItem("suri-language", language);
  } catch {
    // it holds as long as the page
  }
});
const preferred = remembered() || navigator.language || "en";
speak(preferred.startsWith("ko") ? "ko" : "en");
