"use strict";
// Draws the charts of the chosen view, filters and sorts the table. All numbers come from the payload.
const payload = JSON.parse(document.getElementById("payload").textContent);
const { palette, filters, views } = payload;
const DASHES = ["solid", "dash", "dashdot", "dot"];
const MARKERS = ["circle", "square", "triangle-up", "diamond"];
const PRINT_WIDTH = 660; // pixels: within the margins of a sheet of A4 or letter paper
const HEIGHT = 360, ROW = 27;
const root = document.documentElement, holder = document.getElementById("figures");
const selects = filters.map((_, place) => document.getElementById("filter-" + place));
const metric = document.getElementById("metric");
const plots = new Map(); // id of a chart -> its element and width
let printing = false;

const css = (name) => getComputedStyle(root).getPropertyValue("--" + name).trim();
const lookOf = (place) => palette.colours[place % palette.colours.length];
const colourOf = (one) => (one.look < 0 ? css("ink") : lookOf(one.look));
const faint = (colour) => colour + "33";
const wrapped = (text, width) => {
  const lines = [""];
  for (const word of text.split(" ")) {
    const last = lines[lines.length - 1];
    if (last && (last + " " + word).length > width) lines.push(word);
    else lines[lines.length - 1] = last ? last + " " + word : word;
  }
  return lines.map(escaped).join("<br>");
};
const escaped = (text) => text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");

function shown(value) {
  if (value === null || value === undefined) return "–";
  return Math.abs(value) >= 1000
    ? Math.round(value).toLocaleString("en-US") : String(Number(value.toPrecision(4)));
}
const at = (axis, value) =>
  axis.labels ? axis.labels[Math.round(value)] : shown(value);

function hoverTexts(chart, one) {
  return one.x.map((x, k) => {
    const across = one.kind === "dots", heat = one.kind === "heat";
    const value = heat ? one.z[k] : across ? x : one.y[k];
    const ends = one.low && one.low[k] !== null && one.low[k] !== undefined
      ? ` [${shown(one.low[k])}, ${shown(one.high[k])}]` : "";
    const where = heat ? `${at(chart.x, x)}, ${at(chart.y, one.y[k])}`
      : across ? at(chart.y, one.y[k]) : at(chart.x, x);
    const note = one.notes ? `<br>${one.notes[k]}` : "";
    return `<b>${escaped(one.name)}</b><br>${escaped(where)}: ${shown(value)}${ends}${note}`;
  });
}

function tracesOf(chart) {
  const traces = [];
  chart.series.forEach((one, place) => {
    const colour = colourOf(one), group = "g" + place;
    const visible = one.hidden ? "legendonly" : true;
    const base = {
      name: escaped(one.name), legendgroup: group, visible, hoverinfo: "text", text: hoverTexts(chart, one),
    };
    if (one.kind === "heat") traces.push(heatTrace(chart, one));
    else if (one.kind === "bars") {
      const width = one.edges.slice(1).map((edge, k) => edge - one.edges[k]);
      const pattern = place ? { shape: "/", size: 5, solidity: 0.25, fgcolor: css("card") } : { shape: "" };
      traces.push({ ...base, type: "bar", x: one.edges.slice(0, -1), offset: 0, width, y: one.y, textposition: "none",
        marker: { color: colour, pattern: { ...pattern, fillmode: "overlay" }, line: { width: 0.5, color: css("card") } } });
    } else if (one.kind === "line") {
      if (one.low) {
        traces.push({ x: one.x.concat([...one.x].reverse()), y: one.high.concat([...one.low].reverse()), fill: "toself",
          fillcolor: faint(colour), line: { width: 0 }, mode: "lines", hoverinfo: "skip", legendgroup: group,
          showlegend: false, visible });
      }
      const few = one.x.length <= 12 && one.look >= 0;
      traces.push({ ...base, type: "scatter", x: one.x, y: one.y, mode: few ? "lines+markers" : "lines",
        marker: { symbol: MARKERS[one.line], size: 7 }, line: { color: colour, width: 2.2, dash: one.look < 0 ? "dot" : DASHES[one.line] } });
    } else traces.push({ ...base, ...markTrace(one, colour) });
  });
  return traces;
}

function markTrace(one, colour) {
  const middle = one.kind === "dots" ? one.x : one.y;
  const size = one.size ? one.size.map((share) => 5 + 8 * share) : 9;
  const symbol = MARKERS[one.line] + (one.filled === false ? "-open" : "");
  const trace = { type: "scatter", mode: "markers", x: one.x, y: one.y,
    marker: { color: colour, size, symbol, opacity: 1, line: { width: one.filled === false ? 2 : 0, color: colour } } };
  if (one.low) {
    trace[one.kind === "dots" ? "error_x" : "error_y"] = {
      type: "data", symmetric: false, color: colour, thickness: 1.5, width: 3,
      array: one.high.map((high, k) => (high === null ? 0 : high - middle[k])),
      arrayminus: one.low.map((low, k) => (low === null ? 0 : middle[k] - low)) };
  }
  return trace;
}

function heatTrace(chart, one) {
  const grid = () => chart.y.labels.map(() => chart.x.labels.map(() => null));
  const z = grid(), text = grid(), inside = grid(), texts = hoverTexts(chart, one);
  one.z.forEach((value, k) => {
    z[one.y[k]][one.x[k]] = value;
    text[one.y[k]][one.x[k]] = texts[k];
    inside[one.y[k]][one.x[k]] = value === null ? "" : shown(value);
  });
  const few = one.z.length <= 150;
  return { type: "heatmap", z, hovertext: text, hoverinfo: "text", text: inside, texttemplate: few ? "%{text}" : "",
    colorscale: "Cividis", zmin: chart.z_range[0], zmax: chart.z_range[1], xgap: 1, ygap: 1,
    colorbar: { title: { text: wrapped(chart.z_title, 40), side: "right", font: { size: 12 } }, thickness: 14, outlinewidth: 0 } };
}

function axisOf(axis, vertical) {
  const made = { title: { text: wrapped(axis.title, vertical ? 42 : 70), font: { size: 12.5 }, standoff: 8 }, automargin: true,
    gridcolor: css("grid"), linecolor: css("line"), zeroline: false, tickfont: { size: 11.5 }, tickformat: ",~r" };
  if (axis.log) Object.assign(made, { type: "log", dtick: axis.ticks ? undefined : "D1", tickformat: "~g", exponentformat: "none" });
  if (axis.log && !axis.ticks) Object.assign(made, { dtick: 1 });
  if (axis.ticks) Object.assign(made, { tickvals: axis.ticks.map((t) => t[0]), ticktext: axis.ticks.map((t) => t[1]) });
  if (axis.labels) {
    const last = axis.labels.length - 1;
    Object.assign(made, { tickvals: axis.labels.map((_, k) => k), ticktext: axis.labels.map(escaped), range: [-0.6, last + 0.6] });
  }
  return made;
}

function heightOf(chart) {
  const dots = chart.series.some((one) => one.kind === "dots");
  return dots ? Math.max(200, 110 + ROW * chart.y.labels.length) : HEIGHT;
}

function layoutOf(chart, width) {
  const heat = chart.series.some((one) => one.kind === "heat");
  const layout = { width, height: heightOf(chart), margin: { l: 20, r: 12, t: 8, b: 20 }, paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)", font: { color: css("ink"), family: "system-ui, Segoe UI, Roboto, Arial, sans-serif", size: 12 },
    xaxis: axisOf(chart.x, false), yaxis: axisOf(chart.y, true), barmode: "stack", bargap: 0, hovermode: "closest",
    showlegend: !heat && chart.series.length > 1, hoverlabel: { align: "left" },
    legend: { orientation: "h", x: 0, xanchor: "left", yref: "container", y: 0, yanchor: "bottom", font: { size: 12 } } };
  if (heat) { layout.xaxis.showgrid = layout.yaxis.showgrid = false; }
  if (chart.zero) layout.shapes = [{ type: "line", x0: 0, x1: 0, yref: "paper", y0: 0, y1: 1, line: { color: css("ink"), width: 1 } }];
  return layout;
}

function frameOf(chart) {
  const figure = document.createElement("figure");
  figure.id = "figure-" + chart.id;
  figure.innerHTML = '<div class="head"><h3></h3><a class="png">PNG</a></div><figcaption></figcaption><div class="plot" role="img"></div>';
  figure.querySelector("h3").textContent = chart.title;
  figure.querySelector("figcaption").textContent = chart.caption;
  const plot = figure.querySelector(".plot"), link = figure.querySelector("a");
  plot.setAttribute("aria-label", `${chart.title}. ${chart.caption}`);
  plot.style.minHeight = heightOf(chart) + "px";
  if (payload.files.includes(chart.id)) link.href = chart.id + ".png";
  else link.remove();
  link.setAttribute("aria-label", `PNG of ${chart.title}, of all trials`);
  return figure;
}

const chosen = () => selects.map((select) => Number(select.value));
const chartsOf = (places) =>
  (views[places.join(",")] || []).filter((chart) => !chart.metric || !metric || chart.metric === metric.value);

function draw() {
  const charts = chartsOf(chosen());
  holder.replaceChildren(...charts.map(frameOf));
  if (!charts.length) holder.textContent = "No trials of this choice.";
  plots.clear();
  for (const chart of charts) plots.set(chart.id, chart);
  redraw();
}

function redraw() {
  const elements = [...plots].map(([id, chart]) => [document.querySelector(`#${CSS.escape("figure-" + id)} .plot`), chart]);
  const widths = elements.map(([element]) => (printing ? PRINT_WIDTH : element.clientWidth)); // read before anything is drawn
  elements.forEach(([element, chart], k) => {
    Plotly.react(element, tracesOf(chart), layoutOf(chart, widths[k]), { displaylogo: false, modeBarButtonsToRemove: ["select2d", "lasso2d"] });
  });
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
const dark = matchMedia("(prefers-color-scheme: dark)");
const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : dark.matches);
document.getElementById("theme").addEventListener("click", () => { root.dataset.theme = isDark() ? "light" : "dark"; redraw(); });
dark.addEventListener("change", redraw);
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
let theme, resized;
addEventListener("beforeprint", () => { theme = root.dataset.theme; root.dataset.theme = "light"; printing = true; redraw(); });
addEventListener("afterprint", () => { if (theme) root.dataset.theme = theme; else delete root.dataset.theme; printing = false; redraw(); });
addEventListener("resize", () => { clearTimeout(resized); resized = setTimeout(() => { if (!printing) redraw(); }, 120); });
filterTable();
draw();
root.dataset.drawn = String(Math.round(performance.now())); // milliseconds since the page was asked for
