"use strict";
// Panels of numbers -> plotly.js charts. `Charts.build` is a pure function of a panel, what is selected and the theme.
const Charts = (() => {
  const ROLES = { before: "#767676", after: "#0072B2", threshold: "#D55E00" };
  // On a dark page these colours of the palette would be too dark to see.
  const ON_DARK = { "#000000": "#e8e8e8", "#0072B2": "#4fa9e6", "#767676": "#9aa4b1", "#B8A800": "#d8c83a", "#009E73": "#29c197" };
  const FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif';
  const OFFSET = { before: -0.17, after: 0.17 }; // of two estimates in one category
  const MARKERS = 6; // on a line, so that it reads without colour

  let looks = {};
  const setLooks = (value) => { looks = value; };

  function theme() {
    const chosen = document.documentElement.dataset.theme;
    const dark = chosen ? chosen === "dark" : window.matchMedia("(prefers-color-scheme: dark)").matches;
    const style = getComputedStyle(document.documentElement);
    const variable = (name) => style.getPropertyValue(name).trim();
    return { dark, text: variable("--text"), quiet: variable("--quiet"), line: variable("--line"), shade: variable("--shade"), page: variable("--page") };
  }

  const shade = (colour, look) => (look.dark && ON_DARK[colour]) || colour;

  function lookOf(series, look) {
    if (series.role in ROLES) {
      return { colour: shade(ROLES[series.role], look), dash: series.role === "threshold" ? [5, 2] : [], symbol: "" };
    }
    const known = looks[series.role || series.label] || { colour: "#0072B2", dash: [], symbol: "circle" };
    return { ...known, colour: shade(known.colour, look) };
  }

  const fade = (colour, alpha) => {
    const [r, g, b] = [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));
    return `rgba(${r},${g},${b},${alpha})`;
  };
  const dashes = (lengths) => (lengths.length ? lengths.map((length) => `${1.4 * length}px`).join(",") : "solid");
  const value = (number) => (number === "inf" ? Infinity : number === "-inf" ? -Infinity : number === null ? NaN : number);
  const short = (number) => {
    if (number === undefined || Number.isNaN(number)) return "";
    if (!Number.isFinite(number)) return number > 0 ? "∞" : "-∞";
    return String(Number(number.toPrecision(4)));
  };
  const countOf = (series, index) => (Array.isArray(series.n) ? series.n[index] : series.n);

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
    if (spec.log && high / low >= 100) Object.assign(found, { dtick: 1, exponentformat: "power" });
    if (spec.log && high / low < 100) {
      // Hardly a power of ten on it: 1, 2 and 5 of each decade, in plain digits.
      const ticks = [];
      for (let decade = Math.floor(Math.log10(low)); decade <= Math.log10(high); decade += 1) {
        [1, 2, 5].forEach((digit) => ticks.push(Number(`${digit}e${decade}`)));
      }
      Object.assign(found, { tickmode: "array", tickvals: ticks, ticktext: ticks.map(short) });
    }
    if (spec.si) found.tickformat = "~s";
    if (spec.exponent) {
      const step = Math.max(1, Math.ceil((high - low) / 5));
      const ticks = [];
      for (let tick = Math.ceil(low); tick <= high; tick += 1) if (tick % step === 0) ticks.push(tick);
      Object.assign(found, { tickmode: "array", tickvals: ticks, ticktext: ticks.map((tick) => `10<sup>${tick}</sup>`) });
    }
    if (spec.ticks) Object.assign(found, { tickmode: "array", tickvals: spec.ticks[0], ticktext: spec.ticks[1] });
    return found;
  }

  const inPlace = (spec, number) => Number.isFinite(number) && (!spec.log || number > 0);
  const inWords = (spec, number) => (spec.exponent ? short(10 ** number) : short(number));

  // Curves -------------------------------------------------------------------------------------------------------------

  // The corners of a curve: its points, or those of its stairs.
  function corners(x, y, step) {
    if (!step) return [x, y];
    const xs = [], ys = [];
    x.forEach((at, index) => {
      if (index) { xs.push(at); ys.push(y[index - 1]); }
      xs.push(at); ys.push(y[index]);
    });
    return [xs, ys];
  }

  function band(panel, series, step, colour, alpha) {
    const xs = [], ys = [];
    let run = [];
    const close = () => {
      if (run.length > 1) {
        const x = run.map((index) => series.x[index]);
        const [upperX, upperY] = corners(x, run.map((index) => value(series.high[index])), step);
        const [lowerX, lowerY] = corners(x, run.map((index) => value(series.low[index])), step);
        xs.push(...upperX, ...lowerX.reverse(), null);
        ys.push(...upperY, ...lowerY.reverse(), null);
      }
      run = [];
    };
    series.x.forEach((x, index) => {
      const whole = [series.low[index], series.high[index]].every((end) => inPlace(panel.y, value(end)));
      if (whole && inPlace(panel.x, x)) run.push(index); else close();
    });
    close();
    return {
      type: "scatter", mode: "lines", x: xs, y: ys, fill: "toself", fillcolor: fade(colour, alpha),
      line: { width: 0 }, hoverinfo: "skip", name: `${series.label} interval`, meta: "band",
    };
  }

  function curve(panel, series, count, look) {
    const how = lookOf(series, look);
    const step = series.kind === "step" || series.kind === "area";
    const traces = [];
    if (series.low && series.kind !== "area") traces.push(band(panel, series, step, how.colour, Math.min(0.2, 0.55 / count)));
    const x = series.x.map((number) => (inPlace(panel.x, value(number)) ? value(number) : null));
    const y = series.y.map((number) => (inPlace(panel.y, value(number)) ? value(number) : null));
    const text = series.x.map((number, index) => {
      const ends = series.low ? ` [${short(value(series.low[index]))}, ${short(value(series.high[index]))}]` : "";
      const runs = countOf(series, index);
      return `<b>${series.label}</b><br>${panel.x.label}: ${inWords(panel.x, value(number))}<br>` +
        `${panel.y.label || panel.column}: ${short(value(series.y[index]))}${ends}${runs ? `<br>n = ${runs}` : ""}`;
    });
    const area = series.kind === "area";
    traces.push({
      type: "scatter", mode: how.symbol && !area ? "lines+markers" : "lines", x, y, text, hoverinfo: "text",
      name: series.label, meta: "series",
      line: { color: how.colour, width: area ? 0 : 2, dash: dashes(how.dash), shape: step ? "hv" : "linear" },
      marker: { symbol: how.symbol, size: 6.5, color: how.colour, maxdisplayed: MARKERS, line: { width: /thin/.test(how.symbol) ? 1.6 : 0, color: how.colour } },
      ...(area ? { fill: "tozeroy", fillcolor: fade(how.colour, 0.35) } : {}),
    });
    return traces;
  }

  // Estimates on categories ----------------------------------------------------------------------------------------------

  function estimates(panel, series, places, look) {
    const how = lookOf(series, look);
    const [, end] = panel.x.range;
    const ends = { x: [], y: [] }, quartiles = { x: [], y: [] }, arrows = { x: [], y: [] };
    const points = { x: [], y: [], text: [], open: [] };
    series.x.forEach((number, index) => {
      const place = places.get(panel.categories[series.y[index]]);
      if (place === undefined) return;
      const y = place + (OFFSET[series.role] || 0);
      const x = value(number), low = series.low ? value(series.low[index]) : NaN, high = series.high ? value(series.high[index]) : NaN;
      if (Number.isFinite(low) && !Number.isNaN(high)) {
        ends.x.push(low, Number.isFinite(high) ? high : end, null);
        ends.y.push(y, y, null);
        if (!Number.isFinite(high)) { arrows.x.push(end); arrows.y.push(y); }
      }
      if (series.inner) {
        quartiles.x.push(value(series.inner[0][index]), value(series.inner[1][index]), null);
        quartiles.y.push(y, y, null);
      }
      const censored = x === Infinity && panel.beyond !== undefined;
      points.x.push(censored ? (panel.beyond + end) / 2 : x);
      points.y.push(y);
      points.open.push(censored || series.role === "before");
      const runs = countOf(series, index);
      const interval = Number.isNaN(low) ? "" : ` [${inWords(panel.x, low)}, ${inWords(panel.x, high)}]`;
      points.text.push(`<b>${panel.categories[series.y[index]]}</b>${series.role ? `, ${series.label}` : ""}<br>` +
        `${censored ? "not reached by half of the runs" : inWords(panel.x, x)}${interval}${runs ? `<br>n = ${runs}` : ""}`);
    });
    const line = (data, width) => ({
      type: "scatter", mode: "lines", ...data, line: { color: how.colour, width }, hoverinfo: "skip", name: series.label, meta: "interval",
    });
    const symbols = points.open.map((open, index) => {
      if (panel.beyond !== undefined && open) return "triangle-right-open";
      return series.role === "before" ? "circle" : how.symbol || "circle";
    });
    const traces = [line(ends, 1.6)];
    if (series.inner) traces.push(line(quartiles, 5));
    if (arrows.x.length) {
      traces.push({ type: "scatter", mode: "markers", ...arrows, cliponaxis: false, hoverinfo: "skip", name: series.label, meta: "interval", marker: { symbol: "triangle-right", size: 7, color: how.colour } });
    }
    traces.push({
      type: "scatter", mode: "markers", x: points.x, y: points.y, text: points.text, hoverinfo: "text", name: series.label, meta: "series", cliponaxis: false,
      marker: {
        symbol: symbols, size: 8.5,
        color: points.open.map((open) => (open && series.role === "before" ? look.page : how.colour)),
        line: { color: how.colour, width: points.open.some(Boolean) || /thin/.test(how.symbol) ? 1.6 : 0 },
      },
    });
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
      height: large ? 340 : 215,
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

  // Draw into an element; `width` in pixels fixes it (paper does not tell its own), else it is the element's.
  function draw(element, panel, shows, large, width) {
    const chart = build(panel, shows, large);
    if (!chart) { Plotly.purge(element); element.replaceChildren(); return false; }
    if (width) Object.assign(chart.layout, { width, autosize: false });
    Plotly.react(element, chart.data, chart.layout, { displayModeBar: false, responsive: !width, doubleClick: "reset" });
    return true;
  }

  // The numbers of a figure as CSV, as they are drawn.
  function csv(figure) {
    const quote = (cell) => (/[",\n]/.test(String(cell)) ? `"${String(cell).replaceAll('"', '""')}"` : String(cell));
    const plain = (number) => (number === null || number === undefined ? "" : number);
    const inner = figure.header.includes("quartile_low");
    const lines = [figure.header];
    figure.panels.forEach((panel) => panel.series.forEach((series) => series.x.forEach((x, index) => {
      const place = figure.header.includes("category") ? [(panel.categories || [])[series.y[index]], x] : [x, series.y[index]];
      const quartiles = inner ? (series.inner ? [series.inner[0][index], series.inner[1][index]] : ["", ""]) : [];
      const ends = series.low ? [plain(series.low[index]), plain(series.high[index])] : ["", ""];
      lines.push([panel.row, panel.column, series.label, ...place.map(plain), ...ends, ...quartiles, plain(countOf(series, index))]);
    })));
    return `${lines.map((line) => line.map(quote).join(",")).join("\n")}\n`;
  }

  return { build, draw, csv, lookOf, setLooks, theme };
})();
