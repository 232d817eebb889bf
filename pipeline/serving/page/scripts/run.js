// The run: its losses as a drawing, and the table of base against tuned.

let run = null; // {metrics: [{step, loss, val_loss?}], table: {columns, rows}}
const SVG = "http://www.w3.org/2000/svg";
function mark(tag, attributes, text = "") {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.textContent = text;
  return node;
}
const isNumber = (value) => typeof value === "number" && Number.isFinite(value);

// About `count` round numbers between two values.
function ticks(low, high, count) {
  const raw = (high - low) / count || 1;
  const size = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].find((one) => one * size >= raw) * size;
  const first = Math.ceil(low / step - 1e-9);
  return Array.from({ length: Math.max(0, Math.floor(high / step + 1e-9) - first + 1) }, (_, i) => Number(((first + i) * step).toPrecision(12)));
}
// The mean over the last `n` points: the loss of one micro-batch says little.
function means(points, n) {
  let sum = 0;
  return points.map(([step, value], i) => {
    sum += value - (i >= n ? points[i - n][1] : 0);
    return [step, sum / Math.min(i + 1, n)];
  });
}
const shownLoss = (value) => value.toLocaleString(language, { maximumFractionDigits: 3 });

function drawLoss() {
  const series = [["train", "loss"], ["val", "val_loss"]].map(([name, key]) =>
    [name, run.metrics.filter((row) => isNumber(row[key])).map((row) => [row.step, row[key]])]).filter(([, points]) => points.length);
  const span = Math.max(5, Math.round((series[0]?.[1].length || 0) / 12));
  if (series[0]?.[0] === "train" && series[0][1].length > 30) series.splice(1, 0, ["mean", means(series[0][1], span)]);
  $("run-loss").hidden = !series.length;
  if (!series.length || $("view-run").hidden) return;
  const width = Math.max(280, $("chart").clientWidth), height = Math.min(360, Math.max(220, width * 0.42));
  const all = series.flatMap(([, points]) => points);
  const [low, high] = [Math.min(0, ...all.map(([, y]) => y)), Math.max(...all.map(([, y]) => y))];
  const [first, last] = [Math.min(...all.map(([x]) => x)), Math.max(...all.map(([x]) => x))];
  const box = { left: 48, right: width - 12, top: 10, bottom: height - 44 };
  const x = (step) => box.left + ((step - first) / (last - first || 1)) * (box.right - box.left);
  const y = (loss) => box.bottom - ((loss - low) / (high - low || 1)) * (box.bottom - box.top);
  const svg = mark("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img" });
  const train = (series.find(([name]) => name === "train") || series[0])[1];
  svg.setAttribute("aria-label", t("run-chart", { first: shownLoss(train[0][1]), last: shownLoss(train.at(-1)[1]), steps: last }));
  for (const tick of ticks(low, high, 5)) {
    svg.append(mark("line", { x1: box.left, x2: box.right, y1: y(tick), y2: y(tick), class: "grid" }),
      mark("text", { x: box.left - 8, y: y(tick) + 5, "text-anchor": "end" }, shownLoss(tick)));
  }
  for (const tick of ticks(first, last, Math.max(2, Math.floor(width / 110))).filter(Number.isInteger)) {
    svg.append(mark("text", { x: x(tick), y: box.bottom + 20, "text-anchor": "middle" }, tick.toLocaleString(language)));
  }
  svg.append(mark("text", { x: box.right, y: height - 4, "text-anchor": "end" }, t("run-step")));
  for (const [name, points] of series) {
    if (points.length > 1) svg.append(mark("polyline", { points: points.map(([s, v]) => `${x(s).toFixed(1)},${y(v).toFixed(1)}`).join(" "), class: "line " + name }));
    if (name === "val" || points.length === 1) for (const [s, v] of points) svg.append(mark("circle", { cx: x(s), cy: y(v), r: 4, class: "dot-" + name }));
  }
  const cross = mark("line", { y1: box.top, y2: box.bottom, class: "cross", visibility: "hidden" });
  svg.append(cross);
  $("legend").replaceChildren(...series.map(([name]) => el("span", { className: "key " + name }, word("span", "run-" + name, {}, { n: span }))));
  $("chart").replaceChildren(svg);
  reading.steps = [...new Set(all.map(([step]) => step))].sort((a, b) => a - b);
  reading.show = (at) => {
    const step = reading.steps[at];
    cross.setAttribute("x1", x(step));
    cross.setAttribute("x2", x(step));
    cross.setAttribute("visibility", "visible");
    const values = () => series.map(([name, points]) => [name, points.find(([s]) => s === step)]).filter(([, point]) => point)
      .map(([name, point]) => `${t("run-" + name, { n: span })} ${shownLoss(point[1])}`).join(" · ");
    put($("point"), "run-point", { step, values });
    reading.at = at;
  };
  reading.stepAt = (px) => first + ((px - box.left) / (box.right - box.left)) * (last - first);
  if (reading.at >= reading.steps.length || reading.at < 0) reading.at = reading.steps.length - 1;
  reading.show(reading.at);
}

// The point that the pointer or the arrow keys read.
const reading = { at: -1, steps: [], show: () => {}, stepAt: () => 0 };
$("chart").addEventListener("pointermove", (event) => {
  const step = reading.stepAt(event.clientX - $("chart").getBoundingClientRect().left);
  let nearest = 0;
  for (let i = 1; i < reading.steps.length; i += 1) if (Math.abs(reading.steps[i] - step) < Math.abs(reading.steps[nearest] - step)) nearest = i;
  reading.show(nearest);
});
$("chart").addEventListener("keydown", (event) => {
  const to = { ArrowRight: reading.at + 1, ArrowLeft: reading.at - 1, Home: 0, End: reading.steps.length - 1 }[event.key];
  if (to === undefined || !reading.steps[to]) return;
  event.preventDefault();
  reading.show(to);
});

function showTable() {
  const { columns = [], rows = [] } = run.table || {};
  $("run-no-table").hidden = rows.length > 0;
  const head = el("tr", {}, ...columns.map((name) => el("th", { scope: "col", textContent: labelled(visible(String(name))) })));
  const body = rows.map((row) => el("tr", {}, ...row.map((cell, i) =>
    i ? el("td", { className: "n", textContent: visible(String(cell ?? "")) }) : el("th", { scope: "row", textContent: labelled(visible(String(cell))) }))));
  $("run-table").replaceChildren(...(rows.length ? [el("table", {}, el("thead", {}, head), el("tbody", {}, ...body))] : []));
}
async function showRun() {
  run = await call("/suri/run").catch(() => run);
  $("run-nothing").hidden = run !== null;
  if (run) paintRun();
}
function paintRun() {
  if (!run) return;
  showTable();
  drawLoss();
}
viewListeners["tab-run"] = showRun;
addEventListener("words", paintRun);
new ResizeObserver(() => !$("view-run").hidden && run && drawLoss()).observe($("view-run"));
