"use strict";
// Filters, tables, provenance and theme of the page; figures are drawn when they come into view.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const KEYS = ["task", "setting", "optimizer"];
  const hidden = { task: new Set(), setting: new Set(), optimizer: new Set() };
  const set = (element, attributes) => {
    Object.entries(attributes).forEach(([name, setting]) => element.setAttribute(name, setting));
    return element;
  };
  const make = (tag, text, parent, attributes = {}) => {
    const element = set(document.createElement(tag), attributes);
    element.textContent = text ?? "";
    parent?.append(element);
    return element;
  };
  const draw = (tag, attributes) => set(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes);
  const plural = (count, word) => `${count} ${word}${count === 1 ? "" : "s"}`;
  Charts.setLooks(data.looks);

  // Figures ------------------------------------------------------------------------------------------------------------

  const figures = new Map(data.figures.map((figure) => [figure.name, Charts.unpack(figure)]));
  const panels = []; // {element, plot, panel, figure, drawn}
  const shows = (series) => KEYS.every((key) => !hidden[key].has(series.runs[key]));
  const watcher = new IntersectionObserver((entries) => entries.filter((entry) => entry.isIntersecting).forEach(({ target }) => {
    watcher.unobserve(target);
    drawPanel(target.report);
  }), { rootMargin: "500px 0px" });

  function preparePanels(member) {
    const figure = figures.get(member.dataset.figure);
    const box = member.querySelector(".panels");
    box.classList.toggle("multiples", figure.panels.some(Charts.isMultiple));
    figure.panels.forEach((panel) => {
      const element = make("div", null, box, { class: "panel" });
      const heading = make("h4", null, element);
      const names = [panel.row, panel.column].filter(Boolean);
      make("span", names.join(" · "), heading);
      if (panel.corner) make("small", panel.corner, heading);
      const plot = make("div", null, element, { class: "plot", role: "img", "aria-label": `${figure.title}: ${names.join(", ")}` });
      plot.style.minHeight = panel.categories ? `${58 + 22 * panel.categories.length}px` : Charts.isMultiple(panel) ? "150px" : "215px";
      plot.report = { element, plot, panel, figure, drawn: false };
      panels.push(plot.report);
      watcher.observe(plot);
    });
    make("p", "All of it is hidden by the filters.", box, { class: "quiet filtered", hidden: "" });
  }

  function paintLegend(member, figure) {
    const legend = member.querySelector(".legend");
    const seen = new Map(figure.panels.flatMap((panel) => panel.series).filter(({ label }) => figure.legend.includes(label)).map((series) => [series.label, series]));
    legend.hidden = !seen.size;
    legend.replaceChildren(...[...seen].map(([label, series]) => {
      const item = make("span", null, null, { "data-label": label });
      item.append(sample(series), label);
      return item;
    }));
  }

  // A piece of a series' line, with its marker where it is an optimizer's.
  function sample(series) {
    const look = Charts.lookOf(series, Charts.theme());
    const wide = series.kind === "area";
    const svg = draw("svg", { width: 30, height: 10, viewBox: "0 0 30 10", "aria-hidden": "true" });
    svg.append(draw("line", { x1: 0, y1: 5, x2: 30, y2: 5, stroke: look.colour, "stroke-width": wide ? 8 : 2, opacity: wide ? 0.4 : 1, "stroke-dasharray": look.dash.join(" ") }));
    if (look.outline) svg.append(draw("path", { d: look.outline, transform: "translate(11 1)", fill: look.colour }));
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
  function filterFigures() {
    panels.forEach((entry) => {
      const { series, row, column } = entry.panel;
      const named = KEYS.some((key) => hidden[key].has(row) || hidden[key].has(column));
      const own = series.filter(({ role }) => role !== "baseline");
      entry.element.hidden = own.length ? !own.some(shows) : named;
      if (entry.drawn && !entry.element.hidden) drawPanel(entry);
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

  function filterRows() {
    document.querySelectorAll(KEYS.map((key) => `tr[data-${key}], li[data-${key}]`).join()).forEach((row) => {
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
    filterFigures();
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

  // Every row and sentence that stands on runs can show them; a page of a meta-learning has none.
  if (data.provenance) document.querySelectorAll("details.sheet thead tr").forEach((row) => make("span", "runs", make("th", null, row, { scope: "col" }), { class: "quiet" }));
  if (data.provenance) document.querySelectorAll("details.sheet tbody tr, ul.claims li").forEach((owner) => {
    const place = owner.tagName === "TR" ? make("td", null, owner) : owner;
    if (place === owner) owner.append(" ");
    const button = make("button", "runs", place, { type: "button", class: "why", "aria-expanded": "false" });
    button.addEventListener("click", () => (opened.has(owner) ? closeRuns(owner) : openRuns(owner, button)));
    button.addEventListener("pointerover", () => { button.title = inShort(owner); }, { once: true });
  });

  // Tables ---------------------------------------------------------------------------------------------------------------

  document.querySelectorAll("details.sheet th[aria-sort]").forEach((header) => header.addEventListener("click", () => sortBy(header)));

  function sortBy(header) {
    const body = header.closest("table").tBodies[0];
    const column = header.cellIndex;
    const up = header.getAttribute("aria-sort") !== "ascending";
    header.parentElement.querySelectorAll("th[aria-sort]").forEach((other) => other.setAttribute("aria-sort", "none"));
    header.setAttribute("aria-sort", up ? "ascending" : "descending");
    [...body.rows].forEach(closeRuns);
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

  const { groups, protocols, origins } = data.provenance ?? { groups: [], protocols: [], origins: [] };
  const LABELS = ["part", "task", "setting", "optimizer", "variant"];

  function groupsOf(element) {
    return groups.filter((group) => LABELS.every((label) => element.dataset[label] === undefined || element.dataset[label] === group[label]));
  }

  function ranges(numbers) {
    const sorted = [...new Set(numbers)].sort((one, other) => one - other);
    const found = [];
    sorted.forEach((number) => {
      if (found.at(-1)?.[1] === number - 1) found.at(-1)[1] = number; else found.push([number, number]);
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
    const box = make("div", null, null, { class: "runs-box" });
    const found = groupsOf(element);
    const runs = found.reduce((sum, group) => sum + group.seeds.length, 0);
    make("p", `${plural(runs, "run")} in ${plural(found.length, "group")} of equal options`, box);
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

  const opened = new Map(); // rows and sentences whose runs are shown -> the button and what shows them

  function openRuns(owner, button) {
    button.setAttribute("aria-expanded", "true");
    let shown = runsBox(owner);
    if (owner.tagName === "TR") {
      const row = make("tr", null, null, { class: "runs" });
      make("td", null, row, { colspan: String(owner.cells.length) }).append(shown);
      owner.after(shown = row);
    } else owner.append(shown);
    opened.set(owner, [button, shown]);
  }

  function closeRuns(owner) {
    if (!opened.has(owner)) return;
    const [button, shown] = opened.get(owner);
    button.setAttribute("aria-expanded", "false");
    shown.remove();
    opened.delete(owner);
  }

  function inShort(owner) {
    const found = groupsOf(owner);
    const seeds = found.flatMap((group) => group.seeds);
    return `${seeds.length} runs, seeds ${ranges(seeds)}; ${[...new Set(found.flatMap(originsOf))].slice(0, 2).join("; ")}. Click for all.`;
  }

  const code = make("ul", null, document.getElementById("origins"));
  origins.forEach((origin, index) => {
    const count = groups.flatMap(({ seeds, origin: of }) => seeds.filter((_, at) => (Array.isArray(of) ? of[at] : of) === index)).length;
    make("li", `${plural(count, "run")}: ${originWords(origin)}`, code);
  });
  const all = document.getElementById("all-runs");
  if (all) all.querySelector(".shown").textContent = `${groups.length} groups`;
  all?.addEventListener("toggle", () => {
    const box = all.querySelector(".scroll");
    if (!all.open || box.childElementCount) return;
    const table = make("table", null, box), head = make("tr", null, make("thead", null, table));
    [...LABELS, "use", "seeds", "options", "folder"].forEach((name) => make("th", name, head, { scope: "col" }));
    const body = make("tbody", null, table);
    groups.forEach((group) => {
      const row = make("tr", null, body, Object.fromEntries(KEYS.map((key) => [`data-${key}`, group[key]])));
      row.hidden = KEYS.some((key) => hidden[key].has(group[key]));
      [...LABELS.map((label) => group[label]), group.purpose, ranges(group.seeds)].forEach((text) => make("td", text, row));
      make("td", group.options, row, { class: "wide" });
      make("td", group.path, row, { class: "path" });
    });
  });

  // Theme and print ----------------------------------------------------------------------------------------------------------

  const root = document.documentElement, button = document.getElementById("theme");
  const remember = (choice) => { try { localStorage.setItem("asgc-report-theme", choice); } catch { /* a page from a file may have no storage */ } };
  const remembered = () => { try { return localStorage.getItem("asgc-report-theme"); } catch { return null; } };

  function repaint() {
    document.querySelectorAll("[data-look]").forEach((chip) => chip.replaceChildren(sample({ label: chip.dataset.look })));
    document.querySelectorAll(".member[data-figure]").forEach((member) => paintLegend(member, figures.get(member.dataset.figure)));
    filterFigures();
  }

  function setTheme(choice) {
    if (choice === "auto") delete root.dataset.theme; else root.dataset.theme = choice;
    button.textContent = `Theme: ${choice}`;
    repaint();
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
    setTheme(before);
  });

  setTheme(["light", "dark"].includes(remembered()) ? remembered() : "auto");
  window.report = { drawAll, panels, figures };
  root.dataset.ready = "true";
})();
