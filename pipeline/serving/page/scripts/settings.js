// How answers are sampled. Greedy is the default; the other preset is Alpaca-LoRA's demo made a little warmer.

const GREEDY = { temperature: 0, top_p: 1, top_k: 0, repetition_penalty: 1 };
const CREATIVE = { ...GREEDY, temperature: 0.7, top_p: 0.9 };
const RANGES = { // text, least, most, step
  temperature: ["temperature", 0, 2, 0.1], top_p: ["top-p", 0.01, 1, 0.01], top_k: ["top-k", 0, 1000, 1],
  repetition_penalty: ["repetition", 1, 2, 0.05], max_tokens: ["max-tokens", 1, 1024, 1], seed: ["seed", 0, 2147483647, 1],
};
const START = { preset: "greedy", ...GREEDY, max_tokens: 256, seed: 42 };
let settings = { ...START, ...kept("localStorage", "settings", {}) };
const numberFields = {};

for (const [name, [text, low, high, step]] of Object.entries(RANGES)) {
  const field = el("input", { type: "number", id: "set-" + name, min: low, max: high, step: Number.isInteger(step) ? 1 : "any", inputMode: "decimal" });
  const label = el("label", { htmlFor: field.id }, word("span", text));
  const wrong = el("span", { className: "wrong", id: field.id + "-wrong", hidden: true });
  field.setAttribute("aria-describedby", wrong.id);
  $("numbers").append(el("div", {}, label, field, wrong));
  numberFields[name] = field;
  field.addEventListener("input", () => {
    const value = field.valueAsNumber;
    const fits = value >= Number(field.min) && value <= Number(field.max) && (step !== 1 || Number.isInteger(value));
    field.setAttribute("aria-invalid", String(!fits));
    wrong.hidden = fits;
    put(wrong, "range", { low: Number(field.min), high: Number(field.max) });
    if (!fits) return; // the last good value stays
    settings[name] = value;
    if (name in GREEDY) settings.preset = "own";
    keepSettings();
  });
  field.addEventListener("change", () => field.getAttribute("aria-invalid") === "true" && showSettings());
}
function showSettings() {
  for (const radio of document.querySelectorAll("[name=preset]")) radio.checked = radio.value === settings.preset;
  for (const [name, field] of Object.entries(numberFields)) {
    if (document.activeElement === field && field.getAttribute("aria-invalid") !== "true") continue;
    field.value = settings[name];
    field.removeAttribute("aria-invalid");
    $(field.id + "-wrong").hidden = true;
  }
  put($("settings-now"), settings.preset === "own" ? "own" : settings.preset);
}
function keepSettings() {
  showSettings();
  keep("localStorage", "settings", settings);
  dispatchEvent(new Event("question"));
}
for (const radio of document.querySelectorAll("[name=preset]")) {
  radio.addEventListener("change", () => {
    settings = { ...settings, ...{ greedy: GREEDY, creative: CREATIVE }[radio.value], preset: radio.value };
    keepSettings();
  });
}
$("reset").addEventListener("click", () => {
  settings = { ...START, max_tokens: Math.min(START.max_tokens, Number(numberFields.max_tokens.max)) };
  keepSettings();
});
addEventListener("info", () => {
  const most = server.info.limits.max_tokens || 1024;
  numberFields.max_tokens.max = most;
  settings.max_tokens = Math.min(settings.max_tokens, most);
  showSettings();
});

// The request of a question. more: the beginning of the answer, which the model goes on with.
function bodyOf(name, messages, input, chosen, more = "") {
  const { temperature, top_p, top_k, repetition_penalty, max_tokens, seed } = chosen;
  const body = { model: name, messages, ...(input && { input }), max_tokens, temperature, seed };
  if (temperature > 0 && top_p < 1) body.top_p = top_p;
  if (temperature > 0 && top_k > 0) body.top_k = top_k;
  if (repetition_penalty !== 1) body.repetition_penalty = repetition_penalty;
  if (more) Object.assign(body, { messages: [...messages, { role: "assistant", content: more }], continue_final_message: true });
  return body;
}
