"use strict";
// Panels of numbers -> plotly.js charts. `Charts.unpack` readies a figure of `payload.py`; `Charts.build` is a pure
// function of a panel, what is selected and the theme.
const Charts = (() => {
  // On a dark page these colours of the palette would be too dark to see.
  const ON_DARK = { "#000000": "#e8e8e8", "#0072B2": "#4fa9e6", "#767676": "#9aa4b1", "#B8A800": "#d8c83a", "#009E73": "#29c197" };
  const FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif';
  const OFFSET = { before: -0.17, after: 0.17 }; // of two estimates in one category
  const MARKERS = 6; // on stairs, so that they read without colour; a line has one at each evaluation

  let looks = {};
  const setLooks = (value) => { looks = value; };

  function theme() {
    const chosen = document.documentElement.dataset.theme;
    const dark = chosen ? chosen === "dark" : window.matchMedia("(prefers-color-scheme: dark)").matches;
    const style = getComputedStyle(document.documentElement);
    const colours = ["text", "quiet", "line", "shade", "page"].map((name) => [name, style.getPropertyValue(`--${name}`).trim()]);
    return { dark, ...Object.fromEntries(colours) };
  }

  const shade = (colour, look) => (look.dark && ON_DARK[colour]) || colour;

  function lookOf(series, look) {
    const known = looks[series.role || series.label] || { colour: "#0072B2", dash: [], symbol: "circle" };
    return { ...known, colour: shade(known.colour, look) };
  }

  const fade = (colour, alpha) => {
    const [r, g, b] = [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));
    return `rgba(${r},${g},${b},${alpha})`;
  };
  const dashes = (lengths) => (lengths.length ? lengths.map((length) => `${1.4 * length}px`).join(",") : "solid");
  const short = (number) => {
    if (Number.isNaN(number)) return "";
    if (!Number.isFinite(number)) return number > 0 ? "∞" : "-∞";
    return String(Number(number.toPrecision(4)));
  };

  // A figure with the points of each series by themselves. What the series of a panel have in common was sent once, and
  // what is no number in JSON as a word.
  function unpack(figure) {
    const value = (number) => (number === "inf" ? Infinity : number === "-inf" ? -Infinity : number ?? NaN);
    figure.panels.forEach((panel) => panel.series.forEach((series) => {
      const { y, low, high, inner, n } = series;
      series.runs = { ...panel.runs, ...series.runs };
      series.points = (panel.xs || series.x).map((x, index) => ({
        x: value(x), y: value(y[index]), low: value(low?.[index]), high: value(high?.[index]),
        inner: inner?.map((side) => value(side[index])), n: Array.isArray(n) ? n[index] : n,
      }));
    }));
    return figure;
  }

  // Axes ---------------------------------------------------------------------------------------------------------------

  function axis(spec, look) {
    const [low, high] = spec.range;
    const found = {
      title: { text: spec.label, font: { size: 11.5, color: look.quiet }, standoff: 6 },
      type: spec.log ? "log" : "linear",
      range: spec.log ? [Math.log10(low), Math.log10(high)] : [low, high],
      gridcolor: look.line, linecolor: look.quiet, tickcolor: look.quiet, zeroline: false, showline: true,
      tickfont: { size: 11, color: look.quiet }, ticks: "outside", ticklen: 3, nticks: 5, automargin: true,
    };
    if (spec.si) found.tickformat = "~s";
    if (spec.ticks) Object.assign(found, { tickmode: "array", tickvals: spec.ticks[0], ticktext: spec.ticks[1] });
    return found;
  }

  const inPlace = (spec, number) => Number.isFinite(number) && (!spec.log || number > 0);
  const inWords = (spec, number) => short(spec.exponent ? 10 ** number : number);
  const interval = (spec, { low, high }) => (Number.isNaN(low) ? "" : ` [${inWords(spec, low)}, ${inWords(spec, high)}]`);
  const runs = ({ n }) => (n ? `<br>n = ${n}` : "");

  // Curves -------------------------------------------------------------------------------------------------------------

  // One end of a band: its points, or the corners of its stairs.
  const outline = (points, end, step) => points.flatMap((point, index) => [
    ...(step && index ? [[point.x, points[index - 1][end]]] : []), [point.x, point[end]],
  ]);

  function band(panel, series, step, colour, alpha) {
    const parts = [[]];
    series.points.forEach((point) => {
      const whole = inPlace(panel.x, point.x) && inPlace(panel.y, point.low) && inPlace(panel.y, point.high);
      if (whole) parts.at(-1).push(point); else parts.push([]);
    });
    const corners = parts.filter((part) => part.length > 1)
      .flatMap((part) => [...outline(part, "high", step), ...outline(part, "low", step).reverse(), [null, null]]);
    return {
      type: "scatter", mode: "lines", x: corners.map(([x]) => x), y: corners.map(([, y]) => y), fill: "toself", fillcolor: fade(colour, alpha),
      line: { width: 0 }, hoverinfo: "skip", name: `${series.label} interval`, meta: "band",
    };
  }

  function curve(panel, series, count, look) {
    const how = lookOf(series, look), { points } = series;
    const area = series.kind === "area", step = area || series.kind === "step";
    const text = (point) => `<b>${series.label}</b><br>${panel.x.label}: ${inWords(panel.x, point.x)}<br>` +
      `${panel.y.label || panel.column}: ${short(point.y)}${interval(panel.y, point)}${runs(point)}`;
    const line = {
      type: "scatter", mode: (how.symbol || points.length === 1) && !area ? "lines+markers" : "lines", hoverinfo: "text", name: series.label, meta: "series",
      x: points.map(({ x }) => (inPlace(panel.x, x) ? x : null)), y: points.map(({ y }) => (inPlace(panel.y, y) ? y : null)), text: points.map(text),
      line: { color: how.colour, width: area ? 0 : 2, dash: dashes(how.dash), shape: step ? "hv" : "linear" },
      marker: { symbol: how.symbol, size: step ? 6.5 : Math.max(2.5, Math.min(6.5, 160 / points.length)), color: how.colour, maxdisplayed: step ? MARKERS : 0, line: { width: /thin/.test(how.symbol) ? 1.6 : 0, color: how.colour } },
      ...(area ? { fill: "tozeroy", fillcolor: fade(how.colour, 0.35) } : {}),
    };
    const banded = series.low && !area;
    return banded ? [band(panel, series, step, how.colour, Math.min(0.2, 0.55 / count)), line] : [line];
  }

  // Estimates on categories ----------------------------------------------------------------------------------------------

  function estimates(panel, series, places, look) {
    const how = lookOf(series, look), before = series.role === "before", [, edge] = panel.x.range;
    const points = series.points.map((point) => ({ ...point, category: panel.categories[point.y] }))
      .filter(({ category }) => places.has(category))
      .map((point) => ({ ...point, y: places.get(point.category) + (OFFSET[series.role] || 0), censored: point.x === Infinity && panel.beyond !== undefined }));
    const text = (point) => `<b>${point.category}</b>${series.role ? `, ${series.label}` : ""}<br>` +
      `${point.censored ? "not reached by half of the runs" : inWords(panel.x, point.x)}${interval(panel.x, point)}${runs(point)}`;
    const trace = (mode, meta, found, rest) => ({ type: "scatter", mode, name: series.label, meta, hoverinfo: "skip", y: found.map(({ y }) => y), ...rest });
    const lines = (found, ends, width) => trace("lines", "interval", found, {
      x: found.flatMap((point) => [...ends(point), null]), y: found.flatMap(({ y }) => [y, y, null]), line: { color: how.colour, width },
    });
    const bounded = points.filter(({ low, high }) => Number.isFinite(low) && !Number.isNaN(high));
    const endless = bounded.filter(({ high }) => !Number.isFinite(high));
    const traces = [lines(bounded, ({ low, high }) => [low, Number.isFinite(high) ? high : edge], 1.6)];
    if (series.inner) traces.push(lines(points, ({ inner }) => inner, 5));
    if (endless.length) {
      traces.push(trace("markers", "interval", endless, { x: endless.map(() => edge), cliponaxis: false, marker: { symbol: "triangle-right", size: 7, color: how.colour } }));
    }
    const open = before || points.some(({ censored }) => censored);
    traces.push(trace("markers", "series", points, {
      x: points.map(({ x, censored }) => (censored ? (panel.beyond + edge) / 2 : x)), text: points.map(text), hoverinfo: "text", cliponaxis: false,
      marker: {
        symbol: points.map(({ censored }) => (censored ? "triangle-right-open" : before ? "circle" : how.symbol || "circle")),
        size: 8.5, color: before ? look.page : how.colour,
        line: { color: how.colour, width: open || /thin/.test(how.symbol) ? 1.6 : 0 },
      },
    }));
    return traces;
  }

  // Marks and panels -------------------------------------------------------------------------------------------------------

  function marks(panel, look, range) {
    return (panel.marks || []).map(([which, number, rug]) => {
      const [low, high] = which === "x" ? range.y : range.x;
      const log = which === "x" ? panel.y.log && !panel.categories : panel.x.log;
      const from = rug ? (log ? high * (low / high) ** 0.05 : high - 0.05 * (high - low)) : low;
      const along = [from, high], at = [number, number];
      return {
        type: "scatter", mode: "lines", hoverinfo: "skip", meta: "mark", name: "reference",
        ...(which === "x" ? { x: at, y: along } : { x: along, y: at }),
        line: { color: look.quiet, width: rug ? 1 : 1.2, dash: rug ? "solid" : "4px,3px" },
      };
    });
  }

  // One of many optimizers, with the baseline behind it.
  const isMultiple = (panel) => panel.series.some(({ role }) => role === "baseline");

  // {data, layout} of a panel with the series that `shows` lets through; null when none is left.
  function build(panel, shows, large) {
    const look = theme();
    const seen = panel.series.filter(shows);
    if (!seen.length) return null;
    const data = [];
    const layout = {
      showlegend: false, hovermode: "closest", dragmode: window.matchMedia("(pointer: coarse)").matches ? false : "zoom",
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { family: FONT, size: 11, color: look.text },
      margin: { l: 42, r: 10, t: 8, b: 34 }, xaxis: axis(panel.x, look), yaxis: axis(panel.y, look),
      hoverlabel: { bgcolor: look.page, bordercolor: look.line, font: { family: FONT, size: 12, color: look.text }, align: "left" },
      height: large ? 340 : isMultiple(panel) ? 150 : 215,
    };
    if (panel.categories) {
      // Categories that name series go with them; others (layers) stay.
      const names = new Set(panel.series.map((series) => series.label));
      const kept = panel.categories.filter((name) => !names.has(name) || seen.some((series) => series.label === name));
      const places = new Map(kept.map((name, index) => [name, index]));
      const range = [kept.length - 0.4, -0.6];
      const double = seen.some((series) => series.role);
      Object.assign(layout.yaxis, { tickmode: "array", tickvals: kept.map((_, index) => index), ticktext: kept, range, title: { text: "" }, showgrid: false });
      layout.height = 58 + kept.length * (double ? 32 : 22);
      layout.margin.l = 20;
      if (panel.beyond !== undefined) {
        layout.shapes = [{ type: "rect", xref: "x", yref: "paper", x0: panel.beyond, x1: panel.x.range[1], y0: 0, y1: 1, fillcolor: look.shade, line: { width: 0 }, layer: "below" }];
      }
      data.push(...marks(panel, look, { x: panel.x.range, y: range }));
      seen.forEach((series) => data.push(...estimates(panel, series, places, look)));
    } else {
      data.push(...marks(panel, look, { x: panel.x.range, y: panel.y.range }));
      const traces = seen.map((series) => curve(panel, series, seen.length, look));
      traces.forEach((some) => data.push(...some.slice(0, -1))); // bands below all lines
      traces.forEach((some) => data.push(some[some.length - 1]));
    }
    return { data, layout };
  }

  // Closer in, the ticks of the whole axis may all be outside: plotly then sets its own.
  function zoomTicks(element, panel, change) {
    const wanted = {};
    ["x", "y"].forEach((which) => {
      const ends = [0, 1].map((index) => change[`${which}axis.range[${index}]`] ?? change[`${which}axis.range`]?.[index]);
      if (!panel[which].ticks || ends.includes(undefined)) return;
      const places = panel[which].ticks[0].map((place) => (panel[which].log ? Math.log10(place) : place));
      const seen = places.filter((place) => place >= Math.min(...ends) && place <= Math.max(...ends)).length;
      const mode = seen > 1 || panel[which].exponent ? "array" : "auto";
      if (element.layout[`${which}axis`].tickmode !== mode) wanted[`${which}axis.tickmode`] = mode;
    });
    if (Object.keys(wanted).length) Plotly.relayout(element, wanted);
  }

  // Draw into an element; `width` in pixels fixes it (paper does not tell its own), else it is the element's.
  function draw(element, panel, shows, large, width) {
    const chart = build(panel, shows, large);
    if (!chart) { Plotly.purge(element); element.replaceChildren(); return false; }
    if (width) Object.assign(chart.layout, { width, autosize: false });
    Plotly.react(element, chart.data, chart.layout, { displayModeBar: false, responsive: !width, doubleClick: "reset" });
    element.removeAllListeners("plotly_relayout");
    element.on("plotly_relayout", (change) => zoomTicks(element, panel, change));
    return true;
  }

  // The numbers of a figure as CSV, as they are drawn.
  function csv(figure) {
    const quote = (cell) => (/[",\n]/.test(cell) ? `"${cell.replaceAll('"', '""')}"` : cell);
    const plain = (cell) => (cell === undefined || Number.isNaN(cell) ? "" : quote(String(cell).replace(/^(-?)Infinity$/, "$1inf")));
    const end = (cell) => (Number.isNaN(cell) ? "too few runs" : cell);
    const lines = figure.panels.flatMap((panel) => panel.series.flatMap((series) => series.points.map((point) => {
      const place = figure.header.includes("category") ? [panel.categories[point.y], point.x] : [point.x, point.y];
      const inner = figure.header.includes("quartile_low") ? point.inner || ["", ""] : [];
      return [panel.row, panel.column, series.label, ...place, end(point.low), end(point.high), ...inner.map(end), point.n];
    })));
    return [figure.header, ...lines].map((line) => `${line.map(plain).join(",")}\n`).join("");
  }

  return { build, csv, draw, isMultiple, lookOf, setLooks, theme, unpack };
})();
