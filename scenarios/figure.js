"use strict";
// Draws a chart (scenarios/chart.py) as SVG. Nothing is computed here but places on the screen.
const SVG = "http://www.w3.org/2000/svg";
const DASHES = ["", "8 3", "8 3 2 3", "2 2.5"]; // as palette.LINES
const HEIGHT = 330, ROW = 25, FONT = 12, GAP = 8;
const pen = document.createElement("canvas").getContext("2d");
pen.font = `${FONT}px system-ui, "Segoe UI", Roboto, Arial, sans-serif`;
const widthOf = (text) => pen.measureText(text).width;
const finite = (value) => value !== null && value !== undefined;

function node(parent, name, attributes = {}, text) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  parent.append(made);
  return made;
}

function shown(value) {
  if (!finite(value)) return "–";
  const text = Math.abs(value) >= 1000 ? Math.round(value).toLocaleString("en-US") : String(Number(value.toPrecision(4)));
  return text.replace("-", "\u2212");
}

function fitted(text, width) { // cut in the middle where there is no room: ends tell names apart
  let [front, back] = [Math.ceil(text.length / 2), Math.floor(text.length / 2)];
  const kept = () => (front + back < text.length ? `${text.slice(0, front)}…${text.slice(text.length - back)}` : text);
  while (front > 1 && widthOf(kept()) > width) { if (front > back) front -= 1; else back -= 1; }
  return kept();
}

function wrapped(text, width) {
  const lines = [""];
  for (const word of text.split(" ")) {
    const last = lines[lines.length - 1];
    if (last && widthOf(`${last} ${word}`) > width) lines.push(word);
    else lines[lines.length - 1] = last ? `${last} ${word}` : word;
  }
  return lines;
}

// ---- scales: from values to 0..1, and the values that have a tick

function spanOf(chart, direction, on) {
  const values = [];
  let floor = null;
  chart.series.forEach((one, place) => {
    if (!on[place]) return;
    const across = one.kind === "dots" ? "x" : "y";
    if (one.kind === "bars" && direction === "y") {
      floor = one.y.map((value, k) => value + (floor ? floor[k] : 0));
      values.push(0, ...floor);
    } else values.push(...(one.kind === "bars" ? one.edges : one[direction]));
    if (direction === across && one.low) values.push(...one.low, ...one.high);
  });
  if (chart.zero && direction === "x") values.push(0);
  return values.filter(finite);
}

function scaleOf(axis, values) {
  if (axis.labels) {
    const size = axis.labels.length;
    return { at: (value) => (value + 0.5) / size, ticks: axis.labels.map((label, k) => [k, label]) };
  }
  const by = axis.log ? Math.log10 : (value) => value;
  let low = Infinity, high = -Infinity;
  for (const value of values) if (!axis.log || value > 0) { low = Math.min(low, by(value)); high = Math.max(high, by(value)); }
  if (low > high) [low, high] = [0, 1];
  const pad = high > low ? 0.03 * (high - low) : Math.abs(low) * 0.1 || 0.5;
  [low, high] = [low - pad, high + pad];
  const at = (value) => (by(value) - low) / (high - low);
  const ticks = axis.ticks ? axis.ticks.map(([value, name]) => [value, name])
    : axis.log ? logTicks(low, high) : evenTicks(low, high);
  return { at, ticks: ticks.filter(([value]) => at(value) >= -1e-9 && at(value) <= 1 + 1e-9) };
}

function evenTicks(low, high) {
  const rough = (high - low) / 5, power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 2.5, 5, 10].find((factor) => factor * power >= rough * 0.999);
  const ticks = [];
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high + 1e-9 * step; k += 1) {
    const value = Number((k * step).toPrecision(12));
    ticks.push([value, value.toLocaleString("en-US", { maximumSignificantDigits: 12 }).replace("-", "\u2212")]);
  }
  return ticks;
}

function logTicks(low, high) {
  const factors = high - low < 2.2 ? [1, 2, 5] : [1], skip = Math.ceil((high - low) / 7), ticks = [];
  for (let power = Math.floor(low); power <= high; power += 1) {
    if (power % skip) continue;
    for (const factor of factors) {
      const value = Number((factor * 10 ** power).toPrecision(6));
      ticks.push([value, value >= 1e-4 ? value.toLocaleString("en-US", { maximumSignificantDigits: 6 }) : value.toExponential(0)]);
    }
  }
  return ticks;
}

// ---- one chart

function layoutOf(chart, width, on) {
  const dots = chart.series.some((one) => one.kind === "dots"), heat = chart.series.some((one) => one.kind === "heat");
  const scale = { x: scaleOf(chart.x, spanOf(chart, "x", on)), y: scaleOf(chart.y, spanOf(chart, "y", on)) };
  const widest = Math.max(0, ...scale.y.ticks.map(([, name]) => widthOf(name)));
  const height = dots ? Math.max(170, 64 + ROW * chart.y.labels.length) : HEIGHT;
  const titles = { x: wrapped(chart.x.title, width - 20), y: chart.y.title ? wrapped(chart.y.title, height - 70) : [] };
  const room = Math.min(widest, 0.42 * width);
  const left = 6 + titles.y.length * (FONT + 3) + room + GAP, right = width - (heat ? 74 : 14);
  const top = 8, bottom = height - 22 - titles.x.length * (FONT + 3);
  const place = {
    x: (value) => left + scale.x.at(value) * (right - left), y: (value) => bottom - scale.y.at(value) * (bottom - top),
  };
  return { width, height, left, right, top, bottom, room, scale, place, titles };
}

function drawAxes(svg, chart, box) {
  const heat = chart.series.some((one) => one.kind === "heat"), { place, left, right, top, bottom } = box;
  const axes = node(svg, "g", { class: "axes" });
  let end = -Infinity;
  for (const [value, name] of box.scale.x.ticks) {
    const x = place.x(value), half = widthOf(name) / 2;
    if (!heat) node(axes, "line", { x1: x, x2: x, y1: top, y2: bottom, class: "grid" });
    if (x - half < end + 4) continue; // names do not overlap
    end = x + half;
    node(axes, "text", { x, y: bottom + FONT + 4, "text-anchor": "middle" }, name);
  }
  for (const [value, name] of box.scale.y.ticks) {
    const y = place.y(value);
    if (!heat) node(axes, "line", { x1: left, x2: right, y1: y, y2: y, class: "grid" });
    const text = node(axes, "text", { x: left - GAP, y: y + 4, "text-anchor": "end" }, fitted(name, box.room + 1));
    if (text.textContent !== name) node(text, "title", {}, name);
  }
  node(axes, "path", { d: `M${left},${top}V${bottom}H${right}`, class: "frame" });
  const longest = Math.max(...box.titles.x.map(widthOf)) / 2 + 4; // below the axis, but within the figure
  const middle = Math.max(longest, Math.min((left + right) / 2, box.width - longest));
  box.titles.x.forEach((line, k) => node(axes, "text",
    { x: middle, y: bottom + 22 + (k + 1) * (FONT + 2), "text-anchor": "middle", class: "name" }, line));
  box.titles.y.forEach((line, k) => node(axes, "text",
    { transform: `translate(${12 + k * (FONT + 3)},${(top + bottom) / 2}) rotate(-90)`, "text-anchor": "middle", class: "name" }, line));
  if (chart.zero) node(axes, "line", { x1: place.x(0), x2: place.x(0), y1: top, y2: bottom, class: "zero" });
}

function pathOf(xs, ys, place) {
  let path = "", broken = true;
  xs.forEach((x, k) => {
    if (!finite(ys[k])) { broken = true; return; }
    path += `${broken ? "M" : "L"}${place.x(x).toFixed(1)},${place.y(ys[k]).toFixed(1)}`;
    broken = false;
  });
  return path;
}

const MARKS = [ // as palette.MARKERS: circle, square, triangle, diamond
  (r) => `M${-r},0a${r},${r} 0 1,0 ${2 * r},0a${r},${r} 0 1,0 ${-2 * r},0Z`,
  (r) => `M${-r},${-r}H${r}V${r}H${-r}Z`,
  (r) => `M0,${-1.2 * r}L${1.1 * r},${0.8 * r}H${-1.1 * r}Z`,
  (r) => `M0,${-1.3 * r}L${1.2 * r},0L0,${1.3 * r}L${-1.2 * r},0Z`,
];

function drawLine(group, one, box, colour) {
  if (one.low) {
    const forth = pathOf(one.x, one.high, box.place), back = pathOf([...one.x].reverse(), [...one.low].reverse(), box.place);
    if (forth && back) node(group, "path", { d: forth + back.replace("M", "L") + "Z", fill: colour, class: "band" });
  }
  const dash = one.look < 0 ? DASHES[3] : DASHES[one.line];
  node(group, "path", { d: pathOf(one.x, one.y, box.place), stroke: colour, class: "line", "stroke-dasharray": dash });
  if (one.look >= 0 && one.x.length <= 12) drawMarks(group, { ...one, low: undefined }, box, colour);
}

function drawMarks(group, one, box, colour) {
  const { place } = box, across = one.kind === "dots";
  one.x.forEach((value, k) => {
    if (!finite(value) || !finite(one.y[k])) return;
    const x = place.x(value), y = place.y(one.y[k]);
    if (one.low && finite(one.low[k])) {
      const [a, b] = [one.low[k], one.high[k]].map(across ? place.x : place.y);
      const d = across ? `M${a},${y}H${b}M${a},${y - 3}v6M${b},${y - 3}v6` : `M${x},${a}V${b}M${x - 3},${a}h6M${x - 3},${b}h6`;
      node(group, "path", { d, stroke: colour, class: "interval" });
    }
    const mark = MARKS[one.line](one.size ? 2.2 + 3.6 * one.size[k] : 4.2);
    node(group, "path", { d: mark, transform: `translate(${x},${y})`, stroke: colour, class: "mark", fill: one.filled === false ? "var(--card)" : colour });
  });
}

function drawBars(group, one, box, colour, floor, hatch) {
  const { place } = box;
  one.y.forEach((value, k) => {
    const [x1, x2] = [place.x(one.edges[k]), place.x(one.edges[k + 1])], base = floor ? floor[k] : 0;
    const [y1, y2] = [place.y(base + value), place.y(base)];
    const rect = { x: x1, y: y1, width: Math.max(x2 - x1 - 0.7, 0.3), height: Math.max(y2 - y1, 0) };
    node(group, "rect", { ...rect, fill: colour });
    if (hatch) node(group, "rect", { ...rect, fill: `url(#${hatch})` });
  });
  return one.y.map((value, k) => value + (floor ? floor[k] : 0));
}

function colourAt(chart, value, ramp) {
  const [low, high] = chart.z_range, share = high > low ? (value - low) / (high - low) : 0.5;
  return ramp[Math.max(0, Math.min(ramp.length - 1, Math.round(share * (ramp.length - 1))))];
}

function drawHeat(svg, group, chart, one, box, ramp) {
  const { place, right, top, bottom } = box, many = one.z.length > 150;
  const [w, h] = [place.x(1) - place.x(0), place.y(0) - place.y(1)];
  one.z.forEach((value, k) => {
    if (!finite(value)) return;
    const [x, y] = [place.x(one.x[k]), place.y(one.y[k])], [fill, ink] = colourAt(chart, value, ramp);
    node(group, "rect", { x: x - w / 2 + 0.5, y: y - h / 2 + 0.5, width: w - 1, height: h - 1, fill });
    if (!many && w > widthOf(shown(value)) + 2) node(group, "text", { x, y: y + 4, "text-anchor": "middle", style: `fill:${ink}` }, shown(value));
  });
  const steps = ramp.length, from = right + 12, each = (bottom - top) / steps;
  ramp.forEach(([fill], k) => node(group, "rect", { x: from, y: bottom - (k + 1) * each, width: 12, height: each + 0.5, fill }));
  const [low, high] = chart.z_range;
  for (const [value, name] of evenTicks(low, high > low ? high : low + 1)) {
    node(svg, "text", { x: from + 16, y: bottom - ((value - low) / (high > low ? high - low : 1)) * (bottom - top) + 4 }, name);
  }
}

function drawChart(svg, chart, width, on, palette) {
  svg.replaceChildren();
  const box = layoutOf(chart, width, on), hatch = `hatch-${chart.id}`;
  svg.setAttribute("viewBox", `0 0 ${width} ${box.height}`);
  drawAxes(svg, chart, box);
  const pattern = node(node(svg, "defs"), "pattern", { id: hatch, width: 6, height: 6, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" });
  node(pattern, "line", { x1: 0, x2: 0, y1: 0, y2: 6, stroke: "var(--card)", "stroke-width": 2.2 });
  let floor = null;
  chart.series.forEach((one, place) => {
    if (!on[place]) return;
    const group = node(svg, "g", { "data-series": one.name }), colour = colourOf(one, palette);
    if (one.kind === "heat") drawHeat(svg, group, chart, one, box, palette.ramp);
    else if (one.kind === "bars") floor = drawBars(group, one, box, colour, floor, place ? hatch : "");
    else if (one.kind === "line") drawLine(group, one, box, colour);
    else drawMarks(group, one, box, colour);
  });
  return box;
}

const colourOf = (one, palette) => (one.look < 0 ? "var(--ink)" : palette.colours[one.look % palette.colours.length]);

// ---- what stands under the pointer

function spotsOf(chart, box, on) {
  const spots = [];
  let floor = null;
  chart.series.forEach((one, series) => {
    if (!on[series]) return;
    one.y.forEach((y, k) => {
      if (!finite(y) || !finite(one.x[k])) return;
      const base = one.kind === "bars" && floor ? floor[k] : 0;
      spots.push({ series, k, x: box.place.x(one.x[k]), y: box.place.y(y + base) });
    });
    if (one.kind === "bars") floor = one.y.map((value, k) => value + (floor ? floor[k] : 0));
  });
  return spots;
}

function wordsOf(chart, spot) {
  const one = chart.series[spot.series], k = spot.k, at = (axis, value) => (axis.labels ? axis.labels[Math.round(value)] : shown(value));
  const value = one.kind === "heat" ? one.z[k] : one.kind === "dots" ? one.x[k] : one.y[k];
  const where = one.kind === "heat" ? `${at(chart.x, one.x[k])}, ${at(chart.y, one.y[k])}`
    : one.kind === "dots" ? at(chart.y, one.y[k])
      : one.kind === "bars" ? `${shown(one.edges[k])} to ${shown(one.edges[k + 1])}` : at(chart.x, one.x[k]);
  const ends = one.low && finite(one.low[k]) ? ` [${shown(one.low[k])}, ${shown(one.high[k])}]` : "";
  const notes = one.notes ? `, ${one.notes[k]}` : "";
  return [one.name, `${where}: ${shown(value)}${ends}${notes}`];
}
