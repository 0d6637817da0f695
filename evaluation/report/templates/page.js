"use strict";
// Filters, tables, provenance and theme of the page; figures are drawn when they come into view.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const KEYS = ["task", "setting", "optimizer"];
  const hidden = { task: new Set(), setting: new Set(), optimizer: new Set() };
  const make = (tag, text, parent, attributes) => {
    const element = document.createElement(tag);
    if (text !== undefined && text !== null) element.textContent = text;
    Object.entries(attributes || {}).forEach(([name, setting]) => element.setAttribute(name, setting));
    if (parent) parent.append(element);
    return element;
  };
  Charts.setLooks(data.looks);

  // Figures ------------------------------------------------------------------------------------------------------------

  // What a panel's series have in common is sent once.
  data.figures.forEach((figure) => figure.panels.forEach((panel) => panel.series.forEach((series) => {
    series.runs = { ...panel.runs, ...series.runs };
    if (panel.xs) series.x = panel.xs;
  })));
  const figures = new Map(data.figures.map((figure) => [figure.name, figure]));
  const panels = []; // {element, plot, panel, figure, drawn}
  const shows = (series) => KEYS.every((key) => !hidden[key].has(series.runs[key]));
  const watcher = "IntersectionObserver" in window
    ? new IntersectionObserver((entries) => entries.forEach((entry) => {
      if (entry.isIntersecting) { watcher.unobserve(entry.target); drawPanel(entry.target.report); }
    }), { rootMargin: "500px 0px" })
    : null;

  function preparePanels(member) {
    const figure = figures.get(member.dataset.figure);
    const box = member.querySelector(".panels");
    figure.panels.forEach((panel) => {
      const element = make("div", null, box, { class: "panel" });
      const heading = make("h4", null, element);
      make("span", [panel.row, panel.column].filter(Boolean).join(" · "), heading);
      if (panel.corner) make("small", panel.corner, heading);
      const plot = make("div", null, element, { class: "plot", role: "img", "aria-label": `${figure.title}: ${[panel.row, panel.column].filter(Boolean).join(", ")}` });
      plot.style.minHeight = panel.categories ? `${58 + 22 * panel.categories.length}px` : "215px";
      const entry = { element, plot, panel, figure, drawn: false };
      plot.report = entry;
      panels.push(entry);
      if (watcher) watcher.observe(plot);
    });
    make("p", "All of it is hidden by the filters.", box, { class: "quiet filtered", hidden: "" });
    prepareLegend(member, figure);
  }

  function prepareLegend(member, figure) {
    const legend = member.querySelector(".legend");
    const seen = new Map();
    figure.panels.forEach((panel) => panel.series.forEach((series) => seen.set(series.label, series)));
    const named = figure.panels.some((panel) => (panel.categories || []).some((name) => seen.has(name)));
    legend.hidden = named || !seen.size;
    if (legend.hidden) return;
    seen.forEach((series, label) => {
      const item = make("span", null, legend, { "data-label": label });
      item.append(sample(series));
      item.append(label);
    });
  }

  function sample(series) {
    const look = Charts.lookOf(series, Charts.theme());
    const known = data.looks[series.role || series.label];
    const draw = (tag, attributes) => {
      const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
      Object.entries(attributes).forEach(([name, setting]) => element.setAttribute(name, setting));
      return element;
    };
    const wide = series.kind === "area";
    const svg = draw("svg", { width: 30, height: 10, viewBox: "0 0 30 10", "aria-hidden": "true" });
    svg.append(draw("line", { x1: 0, y1: 5, x2: 30, y2: 5, stroke: look.colour, "stroke-width": wide ? 8 : 2, opacity: wide ? 0.4 : 1, "stroke-dasharray": look.dash.join(" ") }));
    if (known && !series.role) svg.append(draw("path", { d: known.outline, transform: "translate(11 1)", fill: look.colour }));
    return svg;
  }

  const PAPER = 218; // pixels of a panel in print, three of which fit on A4 and Letter
  let paper = false;

  function drawPanel(entry) {
    entry.drawn = true;
    const large = entry.figure.panels.length === 1 && !paper;
    const drawn = Charts.draw(entry.plot, entry.panel, shows, large, paper ? PAPER : 0);
    entry.plot.style.minHeight = "";
    if (!drawn && entry.panel.note) make("p", entry.panel.note, entry.plot, { class: "empty" });
    return drawn;
  }

  // A panel goes when all its series are filtered out; one that was empty before stays with its note, if its task does.
  function filterFigures(redraw) {
    panels.forEach((entry) => {
      const { series, row, column } = entry.panel;
      const named = [row, column].some((name) => hidden.task.has(name) || hidden.setting.has(name) || hidden.optimizer.has(name));
      entry.element.hidden = series.length ? !series.some(shows) : named;
      if (redraw && entry.drawn && !entry.element.hidden) drawPanel(entry);
    });
    document.querySelectorAll(".member[data-figure]").forEach((member) => {
      const figure = figures.get(member.dataset.figure);
      const mine = panels.filter((entry) => entry.figure === figure && !entry.element.hidden).map((entry) => entry.panel);
      const rows = new Set(mine.map((panel) => panel.row)), columns = new Set(mine.map((panel) => panel.column));
      const box = member.querySelector(".panels");
      // A full grid keeps its columns; a few panels stand in one row; many wrap as they fit.
      const grid = rows.size > 1 && columns.size > 1 && columns.size < 6;
      const across = grid ? columns.size : mine.length < 5 ? mine.length : 0;
      box.style.setProperty("--columns", String(across));
      if (across) box.dataset.columns = across; else delete box.dataset.columns;
      member.querySelectorAll(".legend [data-label]").forEach((item) => { item.hidden = hidden.optimizer.has(item.dataset.label); });
      const fixed = member.querySelector(".fixed");
      if (fixed) fixed.hidden = !hidden.task.size;
      member.querySelector(".filtered").hidden = mine.length > 0;
    });
    document.querySelectorAll("select.member").forEach((select) => {
      [...select.options].forEach((option) => {
        option.disabled = !panels.some((entry) => entry.figure.name === option.value && !entry.element.hidden);
      });
      const free = [...select.options].find((option) => !option.disabled);
      if (free && select.selectedOptions[0].disabled) { select.value = free.value; showMember(select); }
    });
  }

  function showMember(select) {
    select.closest(".family").querySelectorAll("[data-figure]").forEach((member) => { member.hidden = member.dataset.figure !== select.value; });
    if (!watcher) drawAll();
  }

  function drawAll() {
    panels.forEach((entry) => { if (!entry.element.closest("[hidden]")) drawPanel(entry); });
  }

  document.querySelectorAll(".member[data-figure]").forEach(preparePanels);
  document.querySelectorAll("select.member").forEach((select) => {
    select.value = select.options[0].value; // a browser may remember another from before a reload
    select.addEventListener("change", () => showMember(select));
  });
  document.querySelectorAll("button.csv").forEach((button) => button.addEventListener("click", () => {
    const figure = figures.get(button.closest(".family").querySelector("[data-figure]:not([hidden])").dataset.figure);
    const link = make("a", null, document.body, { href: URL.createObjectURL(new Blob([Charts.csv(figure)], { type: "text/csv" })), download: `${figure.name}.csv` });
    link.click();
    setTimeout(() => { URL.revokeObjectURL(link.href); link.remove(); }, 1000);
  }));

  // Filters --------------------------------------------------------------------------------------------------------------

  function paintLooks() {
    const theme = Charts.theme();
    document.querySelectorAll("svg[data-look]").forEach((svg) => {
      const { colour } = Charts.lookOf({ label: svg.dataset.look }, theme);
      svg.querySelector("line").setAttribute("stroke", colour);
      svg.querySelector("path").setAttribute("fill", colour);
    });
    document.querySelectorAll(".member[data-figure]").forEach((member) => {
      member.querySelector(".legend").replaceChildren();
      prepareLegend(member, figures.get(member.dataset.figure));
    });
  }

  function filterRows() {
    const labelled = document.querySelectorAll("tr[data-task], tr[data-setting], tr[data-optimizer], li[data-task], li[data-setting], li[data-optimizer]");
    labelled.forEach((row) => {
      row.hidden = KEYS.some((key) => hidden[key].has(row.dataset[key]));
      if (row.hidden) closeRuns(row);
    });
    document.querySelectorAll("details.sheet").forEach((sheet) => {
      const shown = sheet.querySelector(":scope > summary .shown");
      if (!shown.dataset.all) return;
      const visible = sheet.querySelectorAll("tbody > tr:not([hidden]):not(.runs)").length;
      shown.textContent = visible === Number(shown.dataset.all) ? `${visible} rows` : `${visible} of ${shown.dataset.all} rows`;
    });
  }

  function applyFilters() {
    const active = KEYS.filter((key) => hidden[key].size).map((key) => {
      const all = document.querySelectorAll(`fieldset[data-filter="${key}"] .chip`).length;
      return `${all - hidden[key].size} of ${all} ${key}s`;
    });
    document.getElementById("filter-state").textContent = active.length ? active.join(", ") : "all shown";
    document.querySelectorAll("fieldset[data-filter]").forEach((group) => {
      const mine = hidden[group.dataset.filter];
      group.querySelectorAll(".chip").forEach((chip) => chip.setAttribute("aria-pressed", String(!mine.has(chip.dataset.value))));
      group.querySelector(".reset").hidden = !mine.size;
    });
    filterFigures(true);
    filterRows();
  }

  document.querySelectorAll("fieldset[data-filter]").forEach((group) => {
    const mine = hidden[group.dataset.filter];
    group.addEventListener("click", (event) => {
      const chip = event.target.closest(".chip");
      if (event.target.closest(".reset")) mine.clear();
      else if (!chip) return;
      else if (mine.has(chip.dataset.value)) mine.delete(chip.dataset.value);
      else mine.add(chip.dataset.value);
      applyFilters();
    });
  });
  if (window.matchMedia("(max-width: 640px)").matches) document.getElementById("filter-box").open = false;

  // Every row and sentence that stands on runs can show them.
  document.querySelectorAll("details.sheet thead tr").forEach((row) => make("span", "runs", make("th", null, row, { scope: "col" }), { class: "quiet" }));
  document.querySelectorAll("details.sheet tbody tr, ul.claims li").forEach((owner) => {
    const place = owner.tagName === "TR" ? make("td", null, owner) : owner;
    if (place === owner) owner.append(" ");
    make("button", "runs", place, { type: "button", class: "why", "aria-expanded": "false" });
  });

  // Tables ---------------------------------------------------------------------------------------------------------------

  document.querySelectorAll("details.sheet thead").forEach((head) => head.addEventListener("click", (event) => {
    const header = event.target.closest("th[aria-sort]");
    if (header) sortBy(header);
  }));

  function sortBy(header) {
    const body = header.closest("table").tBodies[0];
    const column = header.cellIndex;
    const up = header.getAttribute("aria-sort") !== "ascending";
    header.parentElement.querySelectorAll("th[aria-sort]").forEach((other) => other.setAttribute("aria-sort", "none"));
    header.setAttribute("aria-sort", up ? "ascending" : "descending");
    body.querySelectorAll("tr.runs").forEach((row) => closeRuns(row.previousElementSibling));
    const key = (row) => {
      const cell = row.cells[column];
      return cell.dataset.value === undefined ? cell.textContent.trim() : Number(cell.dataset.value);
    };
    const rows = [...body.rows].map((row) => [key(row), row]);
    rows.sort(([one], [other]) => {
      // Numbers before words, and what is missing last in both directions.
      if (typeof one !== typeof other) return typeof one === "number" ? -1 : 1;
      const order = typeof one === "number" ? one - other || 0 : one.localeCompare(other, "en", { numeric: true });
      return up ? order : -order;
    });
    body.append(...rows.map(([, row]) => row));
  }

  // Provenance -----------------------------------------------------------------------------------------------------------

  const { groups, protocols, origins } = data.provenance;
  const LABELS = ["part", "task", "setting", "optimizer", "variant"];

  function groupsOf(element) {
    return groups.filter((group) => LABELS.every((label) => element.dataset[label] === undefined || element.dataset[label] === group[label]));
  }

  function ranges(numbers) {
    const sorted = [...new Set(numbers)].sort((one, other) => one - other);
    const found = [];
    sorted.forEach((number) => {
      const last = found[found.length - 1];
      if (last && number === last[1] + 1) last[1] = number; else found.push([number, number]);
    });
    return found.map(([low, high]) => (low === high ? String(low) : `${low}–${high}`)).join(", ");
  }

  function originWords(origin) {
    const code = origin.commit ? `commit ${origin.commit.slice(0, 12)}${origin.dirty ? " with uncommitted changes" : ""}` : "commit unknown";
    const versions = [["asgc", origin.version], ["EnvPool", origin.envpool], ["torch", origin.torch]].filter(([, version]) => version).map(([name, version]) => `${name} ${version}`);
    return [code, ...versions, origin.device].filter(Boolean).join(", ");
  }

  const originsOf = (group) => [...new Set([].concat(group.origin))].map((index) => originWords(origins[index]));

  function runsBox(element) {
    const box = document.createElement("div");
    box.className = "runs-box";
    const found = groupsOf(element);
    const runs = found.reduce((sum, group) => sum + group.seeds.length, 0);
    make("p", `${runs} ${runs === 1 ? "run" : "runs"} in ${found.length} ${found.length === 1 ? "group" : "groups"} of equal options`, box);
    found.slice(0, 12).forEach((group) => {
      const list = make("dl", null, box);
      const add = (name, text, code) => { make("dt", name, list); make(code ? "code" : "span", text, make("dd", null, list)); };
      add("runs", `${LABELS.map((label) => group[label]).join(" / ")}, seeds ${ranges(group.seeds)} (${group.purpose})`);
      add("folder", group.path, true);
      add("code", originsOf(group).join("; "));
      add("protocol", protocols[group.protocol].join(", "));
      if (group.options) add("options", group.options, true);
      if (group.command) add("first run", group.command, true);
    });
    if (found.length > 12) make("p", `… and ${found.length - 12} more groups: “All runs” lists them.`, box);
    return box;
  }

  function closeRuns(owner) {
    const button = owner && owner.querySelector(":scope > td > .why, :scope > .why");
    if (!button || button.getAttribute("aria-expanded") !== "true") return;
    button.setAttribute("aria-expanded", "false");
    if (owner.tagName === "TR") owner.nextElementSibling.remove(); else owner.querySelector(".runs-box").remove();
  }

  document.addEventListener("click", (event) => {
    const button = event.target.closest("button.why");
    if (!button) return;
    const owner = button.closest("tr, li");
    if (button.getAttribute("aria-expanded") === "true") { closeRuns(owner); return; }
    button.setAttribute("aria-expanded", "true");
    if (owner.tagName === "TR") {
      const row = make("tr", null, null, { class: "runs" });
      make("td", null, row, { colspan: String(owner.cells.length) }).append(runsBox(owner));
      owner.after(row);
    } else {
      owner.append(runsBox(owner));
    }
  });
  document.addEventListener("pointerover", (event) => {
    const button = event.target.closest && event.target.closest("button.why");
    if (!button || button.dataset.told) return;
    button.dataset.told = "yes";
    const found = groupsOf(button.closest("tr, li"));
    const seeds = found.flatMap((group) => group.seeds);
    button.title = `${seeds.length} runs, seeds ${ranges(seeds)}; ${[...new Set(found.flatMap(originsOf))].slice(0, 2).join("; ")}. Click for all.`;
  });

  const code = make("ul", null, document.getElementById("origins"));
  origins.forEach((origin, index) => {
    const count = groups.reduce((sum, group) => sum + group.seeds.filter((_, at) => [].concat(group.origin)[Array.isArray(group.origin) ? at : 0] === index).length, 0);
    make("li", `${count} ${count === 1 ? "run" : "runs"}: ${originWords(origin)}`, code);
  });
  const all = document.getElementById("all-runs");
  all.querySelector(".shown").textContent = `${groups.length} groups`;
  all.addEventListener("toggle", () => {
    const box = all.querySelector(".scroll");
    if (!all.open || box.childElementCount) return;
    const table = make("table", null, box);
    const head = make("tr", null, make("thead", null, table));
    [...LABELS, "use", "seeds", "options", "folder"].forEach((name) => make("th", name, head, { scope: "col" }));
    const body = make("tbody", null, table);
    groups.forEach((group) => {
      const row = make("tr", null, body, Object.fromEntries(KEYS.map((key) => [`data-${key}`, group[key]])));
      row.hidden = KEYS.some((key) => hidden[key].has(group[key]));
      LABELS.forEach((label) => make("td", group[label], row));
      make("td", group.purpose, row);
      make("td", ranges(group.seeds), row);
      make("td", group.options, row, { class: "wide" });
      make("td", group.path, row, { class: "path" });
    });
  });

  // Theme and print ----------------------------------------------------------------------------------------------------------

  const root = document.documentElement, button = document.getElementById("theme");
  const remember = (choice) => { try { localStorage.setItem("asgc-report-theme", choice); } catch { /* a page from a file may have no storage */ } };
  const remembered = () => { try { return localStorage.getItem("asgc-report-theme"); } catch { return null; } };

  function setTheme(choice) {
    if (choice === "auto") delete root.dataset.theme; else root.dataset.theme = choice;
    button.textContent = `Theme: ${choice}`;
    repaint();
  }

  function repaint() {
    paintLooks();
    filterFigures(true);
  }

  button.addEventListener("click", () => {
    const next = { auto: "light", light: "dark", dark: "auto" }[root.dataset.theme || "auto"];
    remember(next);
    setTheme(next);
  });
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", repaint);
  let before;
  window.addEventListener("beforeprint", () => {
    before = root.dataset.theme || "auto";
    paper = true;
    setTheme("light");
    drawAll();
  });
  window.addEventListener("afterprint", () => {
    paper = false;
    if (before !== undefined) setTheme(before);
  });

  setTheme(["light", "dark"].includes(remembered()) ? remembered() : "auto");
  if (!watcher) drawAll();
  window.report = { drawAll, panels, figures };
  root.dataset.ready = "true";
})();
