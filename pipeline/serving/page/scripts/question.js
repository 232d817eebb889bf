// The question that is being written, its length in tokens, and whether it fits the model.

const draft = { get instruction() { return $("instruction").value; }, get input() { return $("input").value; } };
const isEmpty = () => !draft.instruction.trim();
const draftKey = () => [sides.a.model, draft.instruction, draft.input].join("\n");
let measured = null; // {text, tokens, count, context, key} of a draft; null while it is unknown
const isTooLong = () => measured !== null && measured.count >= measured.context && measured.key === draftKey();

function write(instruction, input) {
  $("instruction").value = instruction;
  $("input").value = input;
  for (const field of [$("instruction"), $("input")]) grow(field);
  dispatchEvent(new Event("question"));
}
function grow(field) {
  field.style.height = "auto";
  field.style.height = Math.min(field.scrollHeight + 2, innerHeight * 0.4) + "px";
}
for (const field of [$("instruction"), $("input"), $("chat-message")]) {
  field.addEventListener("input", () => {
    grow(field);
    dispatchEvent(new Event("question"));
  });
}

function requestOf(name, { instruction, input }, chosen, more) {
  return bodyOf(name, [{ role: "user", content: instruction }], input.trim() && input, chosen, more);
}

let measuring = null;
async function measure() {
  measuring?.abort();
  if (isEmpty() || server.state !== "ready" || !sides.a.model) return showCount();
  measuring = new AbortController();
  const { signal } = measuring;
  const key = draftKey();
  try {
    measured = { ...(await call("/suri/prompt", requestOf(sides.a.model, draft, settings), signal)), key };
  } catch {
    if (signal.aborted) return undefined; // a later draft is being measured
    measured = null; // the answer will say what is wrong
  }
  return showCount();
}
const measureSoon = later(350, measure);
addEventListener("question", () => {
  if (isEmpty()) measured = null;
  showCount();
  measureSoon();
  saveSession();
});
addEventListener("info", measureSoon);

function limitsOf({ count, context }) {
  return { count, context, over: count - context + 1 };
}
function showCount() {
  const long = isTooLong();
  $("count").classList.toggle("wrong", long);
  $("instruction").setAttribute("aria-invalid", String(long));
  if (measured) put($("count"), long ? "too-long" : "count", limitsOf(measured));
  else clear($("count"));
  dispatchEvent(new Event("measured"));
}
