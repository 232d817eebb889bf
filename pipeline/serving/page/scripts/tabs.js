// Rows of tabs, one tab stop each: arrow keys, Home and End move between tabs.

function tabs(list, chosen) {
  const all = () => [...list.querySelectorAll("[role=tab]")].filter((tab) => !tab.hidden);
  function choose(tab, focus) {
    for (const other of list.querySelectorAll("[role=tab]")) {
      other.setAttribute("aria-selected", String(other === tab));
      other.tabIndex = other === tab ? 0 : -1;
    }
    if (focus) tab.focus();
    chosen(tab);
  }
  list.addEventListener("click", (event) => {
    const tab = event.target.closest("[role=tab]");
    if (tab) choose(tab);
  });
  list.addEventListener("keydown", (event) => {
    const shown = all();
    const at = shown.indexOf(event.target);
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: shown.length - 1 }[event.key];
    if (at < 0 || to === undefined || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault();
    choose(shown[(to + shown.length) % shown.length], true);
  });
  return choose;
}

const viewListeners = {}; // what a view does when it is opened
const chooseView = tabs(document.querySelector(".views"), (tab) => {
  for (const view of document.querySelectorAll(".view")) view.hidden = view.id !== tab.getAttribute("aria-controls");
  document.body.dataset.view = tab.id.slice(4);
  viewListeners[tab.id]?.();
});
