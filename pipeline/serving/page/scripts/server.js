// The server's state (connecting, loading, ready, locked, gone) and what it has loaded.

const server = { state: "connecting", info: { models: [], limits: {} } };
const model = (name) => server.info.models.find((one) => one.id === name);
const shortHash = (hash) => (hash || "").slice(0, 12);

function setState(state) {
  if (state !== server.state) {
    server.state = state;
    put($("state"), "state-" + state);
    $("dot").dataset.state = state;
    $("loading").hidden = state !== "loading";
    $("gone").hidden = state !== "gone";
    if (state === "gone") put($("gone"), "gone"); // filled now, so that it is read aloud
    dispatchEvent(new Event("server"));
  }
}

let watching = 0;
async function watch() {
  clearTimeout(watching);
  try {
    await call("/health");
    if (server.state !== "ready") {
      server.info = await call("/suri/info");
      showInfo();
      setState("ready");
      dispatchEvent(new Event("info"));
    }
  } catch (error) {
    if (error.status === 401) return setState("locked"); // the user closed the dialog; the next question opens it
    setState(error.status === 503 ? "loading" : "gone");
  }
  watching = setTimeout(watch, { ready: 15000, loading: 1000 }[server.state] || 3000);
  return undefined;
}
function notReady() {
  announce(["loading", "gone"].includes(server.state) ? server.state : "state-" + server.state);
  watch();
}
addEventListener("online", watch);
document.addEventListener("visibilitychange", () => document.hidden || watch());

function showInfo() {
  const { run, version, models, default_model: first, export_command: command } = server.info;
  $("run-name").textContent = run;
  document.title = `${run} · Suri`;
  $("run-name").title = version ? `Suri ${version}` : "";
  const main = model(first) || models[0];
  $("loaded-name").replaceChildren(main ? el("b", { textContent: main.id }) : "");
  if (main) $("loaded-name").append(" ", badge(main.kind), " ", el("code", { textContent: main.template.id }));
  $("no-export").hidden = models.some((one) => one.kind === "export");
  $("export-command").textContent = command || "make export";
  const head = el("tr", {}, ...["name", "kind", "template", "context", "state"].map((name) => word("th", "column-" + name, { scope: "col" })));
  const rows = models.map((one) =>
    el("tr", {}, el("th", { scope: "row", textContent: one.id }, ...(one.note ? [el("small", { textContent: one.note })] : [])),
      el("td", {}, badge(one.kind)),
      el("td", {}, el("code", { textContent: one.template.id, title: one.template.hash || "" })),
      word("td", "context-tokens", {}, { n: one.context }),
      word("td", one.ready === false ? "model-later" : "model-ready")));
  $("models").replaceChildren(el("table", {}, el("thead", {}, head), el("tbody", {}, ...rows)));
}
function word(tag, name, properties = {}, values = {}) {
  const node = el(tag, properties);
  put(node, name, values);
  return node;
}
function badge(kind) {
  return word("span", "kind-" + kind, { className: "badge " + kind });
}
function fillModels(select, chosen, allowed = () => true) {
  select.replaceChildren(...server.info.models.filter(allowed).map((one) =>
    el("option", { value: one.id, textContent: one.id })));
  if ([...select.options].some((option) => option.value === chosen)) select.value = chosen;
}
$("copy-command").addEventListener("click", () => copy($("export-command").textContent, $("copy-command")));
document.addEventListener("click", (event) => {
  if (!$("loaded").contains(event.target)) $("loaded").open = false;
});
