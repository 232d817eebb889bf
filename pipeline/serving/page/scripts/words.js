// English or Korean, light or dark. The browser decides at first; the switches at the top are remembered.

const root = document.documentElement;
let language = kept("localStorage", "language", (navigator.language || "en").startsWith("ko") ? "ko" : "en");

function t(name, values = {}) {
  return TEXTS[language][name].replace(/\{(\w+)\}/g, (_, key) => {
    const value = values[key];
    return typeof value === "number" ? value.toLocaleString(language) : value;
  });
}
// A text of the page that follows the language. values: numbers, texts, or functions that give a text.
const filled = new WeakMap();
function put(node, name, values = {}) {
  node.dataset.t = name;
  filled.set(node, values);
  paintText(node);
}
function paintText(node) {
  const values = Object.entries(filled.get(node) || {}).map(([key, value]) => [key, typeof value === "function" ? value() : value]);
  node.textContent = t(node.dataset.t, Object.fromEntries(values));
}
function clear(node) {
  delete node.dataset.t;
  node.textContent = "";
}
function announce(name, values) {
  put($("status"), name, values);
}

// Names of measurements come in English from the server.
const WORDS = new RegExp(`(?<!\\w)(?:${Object.keys(TEXTS.labels).sort((a, b) => b.length - a.length).join("|")})(?!\\w)`, "g");
function labelled(text) {
  return language === "ko" ? text.replace(WORDS, (word) => TEXTS.labels[word]) : text;
}

function speak(to) {
  language = to;
  root.lang = to;
  for (const node of document.querySelectorAll("[data-t]")) paintText(node);
  for (const node of document.querySelectorAll("[data-t-label]")) node.setAttribute("aria-label", t(node.dataset.tLabel));
  for (const node of document.querySelectorAll("[data-t-placeholder]")) node.placeholder = t(node.dataset.tPlaceholder);
  $("language").textContent = to === "en" ? "한국어" : "English";
  $("language").lang = to === "en" ? "ko" : "en";
  nameTheme();
  dispatchEvent(new Event("words"));
}
$("language").addEventListener("click", () => {
  speak(language === "en" ? "ko" : "en");
  keep("localStorage", "language", language);
});

const darkScheme = matchMedia("(prefers-color-scheme: dark)");
function isDark() {
  return root.dataset.theme ? root.dataset.theme === "dark" : darkScheme.matches;
}
function nameTheme() {
  $("theme").setAttribute("aria-label", t(isDark() ? "theme-light" : "theme-dark"));
  $("theme").title = t(isDark() ? "theme-light" : "theme-dark");
}
const theme = kept("localStorage", "theme", "");
if (theme) root.dataset.theme = theme;
$("theme").addEventListener("click", () => {
  root.dataset.theme = isDark() ? "light" : "dark";
  keep("localStorage", "theme", root.dataset.theme);
  nameTheme();
});
darkScheme.addEventListener("change", nameTheme);
