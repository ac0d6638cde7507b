// Shows the charts of the chosen view, filters and sorts the table. All numbers are in the payload.
const payload = JSON.parse(document.getElementById("payload").textContent);
const { palette, filters, views } = payload;
const root = document.documentElement, holder = document.getElementById("figures"), tip = document.getElementById("tip");
const selects = filters.map((_, place) => document.getElementById("filter-" + place));
const metric = document.getElementById("metric");
let figures = []; // on the page: { chart, svg, on, width, box }

const HTML = (name, attributes = {}, text = "") => {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.textContent = text;
  return made;
};

function frameOf(chart) {
  const tall = (chart.y.labels || []).length > 14 ? "tall" : "";
  const figure = HTML("figure", { id: "figure-" + chart.id, class: tall }), head = HTML("div", { class: "head" });
  head.append(HTML("h3", {}, chart.title));
  if (payload.files.includes(chart.id)) {
    head.append(HTML("a", { class: "png", href: chart.id + ".png", "aria-label": `PNG of ${chart.title}, of all trials` }, "PNG"));
  }
  const svg = document.createElementNS(SVG, "svg");
  const label = `${chart.title}. ${chart.caption} Arrow keys read the values.`;
  for (const [key, value] of Object.entries({ role: "img", tabindex: "0", "aria-label": label })) svg.setAttribute(key, value);
  const entry = { chart, svg, on: chart.series.map(() => true), figure };
  figure.append(head, HTML("figcaption", {}, chart.caption), svg);
  if (chart.z_title) figure.append(HTML("p", { class: "scale" }, `Colour: ${chart.z_title}`));
  else if (chart.series.length > 1) figure.append(legendOf(entry));
  listen(entry);
  return entry;
}

function legendOf(entry) {
  const list = HTML("ul", { class: "legend" });
  entry.chart.series.forEach((one, place) => {
    const button = HTML("button", { type: "button", "aria-pressed": String(entry.on[place]) });
    const sample = node(button, "svg", { width: 30, height: 12, viewBox: "0 0 30 12", "aria-hidden": "true" });
    sampleOf(sample, one, place);
    button.append(one.name);
    button.addEventListener("click", () => {
      entry.on[place] = !entry.on[place];
      button.setAttribute("aria-pressed", String(entry.on[place]));
      drawFigure(entry);
    });
    const item = HTML("li");
    item.append(button);
    list.append(item);
  });
  return list;
}

function sampleOf(sample, one, place) {
  const colour = colourOf(one, palette), dash = one.look < 0 ? DASHES[3] : DASHES[one.line];
  if (one.kind === "bars") {
    node(sample, "rect", { x: 4, y: 1, width: 22, height: 10, fill: colour });
    if (place) for (const x of [9, 15, 21]) node(sample, "line", { x1: x - 3, x2: x + 3, y1: 11, y2: 1, stroke: "var(--card)", "stroke-width": 1.6 });
    return;
  }
  if (one.kind === "line") node(sample, "line", { x1: 0, x2: 30, y1: 6, y2: 6, stroke: colour, class: "line", "stroke-dasharray": dash });
  if (one.kind !== "line" || (one.look >= 0 && one.x.length <= 12)) {
    node(sample, "path", { d: MARKS[one.line](4), transform: "translate(15,6)", stroke: colour, class: "mark", fill: one.filled === false ? "var(--card)" : colour });
  }
}

function drawFigure(entry) {
  entry.box = drawChart(entry.svg, entry.chart, entry.width, entry.on, palette);
  entry.spots = undefined; // found when they are asked for
  tip.hidden = true;
}

function redraw() {
  const widths = figures.map(({ svg }) => Math.max(Math.round(svg.getBoundingClientRect().width), 280)); // read before anything is drawn
  figures.forEach((entry, k) => { entry.width = widths[k]; drawFigure(entry); });
}

function listen(entry) {
  const spots = () => (entry.spots ??= spotsOf(entry.chart, entry.box, entry.on));
  entry.svg.addEventListener("pointermove", (event) => {
    const area = entry.svg.getBoundingClientRect(), ratio = entry.width / area.width;
    const [x, y] = [(event.clientX - area.left) * ratio, (event.clientY - area.top) * ratio];
    const heat = entry.chart.series.some((one) => one.kind === "heat");
    const far = (spot) => Math.hypot(spot.x - x, spot.y - y);
    const near = spots().reduce((best, spot) => (!best || far(spot) < far(best) ? spot : best), null);
    if (near && far(near) < (heat ? 200 : 60)) tell(entry, near);
    else tip.hidden = true;
  });
  entry.svg.addEventListener("pointerleave", () => { tip.hidden = true; });
  entry.svg.addEventListener("blur", () => { tip.hidden = true; });
  entry.svg.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (!step || !spots().length) return;
    event.preventDefault();
    entry.cursor = ((entry.cursor ?? (step > 0 ? -1 : 0)) + step + spots().length) % spots().length;
    tell(entry, spots()[entry.cursor]);
  });
}

function tell(entry, spot) {
  const [name, words] = wordsOf(entry.chart, spot), area = entry.svg.getBoundingClientRect(), ratio = area.width / entry.width;
  tip.replaceChildren(HTML("b", {}, name), HTML("br"), words);
  tip.hidden = false;
  const left = area.left + spot.x * ratio + 12, room = innerWidth - tip.offsetWidth - 8;
  tip.style.left = `${Math.max(4, Math.min(left, room))}px`;
  tip.style.top = `${Math.max(4, area.top + spot.y * ratio - tip.offsetHeight - 10)}px`;
}

const chosen = () => selects.map((select) => Number(select.value));
const chartsOf = (places) =>
  (views[places.join(",")] || []).filter((chart) => !chart.metric || !metric || chart.metric === metric.value);

function draw() {
  figures = chartsOf(chosen()).map(frameOf);
  holder.replaceChildren(...figures.map(({ figure }) => figure));
  if (!figures.length) holder.textContent = "No trials of this choice.";
  redraw();
}

function filterTable() {
  const places = chosen();
  let count = 0;
  const rows = document.querySelectorAll("#board tbody tr");
  for (const row of rows) {
    const own = row.dataset.at ? row.dataset.at.split(",").map(Number) : [];
    row.hidden = places.some((place, k) => place >= 0 && own[k] !== place);
    count += row.hidden ? 0 : 1;
  }
  document.getElementById("shown").textContent = `${count} of ${rows.length} rows`;
}

function sortBy(header) {
  const place = [...header.parentNode.children].indexOf(header);
  const down = header.getAttribute("aria-sort") !== "descending";
  for (const other of header.parentNode.children) other.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", down ? "descending" : "ascending");
  const body = document.querySelector("#board tbody");
  const key = (row) => row.children[place].dataset.v ?? row.children[place].textContent;
  const compare = (a, b) => {
    const [one, two] = [key(a), key(b)], numbers = [Number(one), Number(two)];
    if (one === "" || two === "") return (one === "") - (two === "");
    const order = numbers.some(Number.isNaN) ? one.localeCompare(two) : numbers[0] - numbers[1];
    return down ? -order : order;
  };
  body.append(...[...body.rows].sort(compare));
}

selects.forEach((select, place) => select.addEventListener("change", () => {
  // Not every combination is there: then one choice at a time.
  if (!payload.combined) selects.forEach((other, k) => { if (k !== place) other.value = "-1"; });
  filterTable();
  draw();
}));
if (metric) metric.addEventListener("change", draw);
document.getElementById("filters").addEventListener("submit", (event) => event.preventDefault());
for (const header of document.querySelectorAll("#board th")) {
  header.querySelector("button").addEventListener("click", () => sortBy(header));
}
const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches);
document.getElementById("theme").addEventListener("click", () => { root.dataset.theme = isDark() ? "light" : "dark"; });
for (const button of document.querySelectorAll("button[data-copy]")) {
  button.addEventListener("click", async () => {
    const text = document.getElementById(button.dataset.copy).textContent;
    try { await navigator.clipboard.writeText(text); } catch {
      const area = Object.assign(document.createElement("textarea"), { value: text });
      document.body.append(area); area.select(); document.execCommand("copy"); area.remove();
    }
    button.textContent = "copied";
    setTimeout(() => { button.textContent = "copy"; }, 1500);
  });
}
let resized;
addEventListener("resize", () => {
  clearTimeout(resized);
  resized = setTimeout(() => { if (!matchMedia("print").matches) redraw(); }, 120); // on paper figures are scaled
});
filterTable();
draw();
root.dataset.drawn = String(Math.round(performance.now())); // milliseconds since the page was asked for
