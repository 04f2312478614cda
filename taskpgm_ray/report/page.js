// Library and figures are gzip in base64, see packed() of page.py.
async function unpacked(id) {
  const bytes = Uint8Array.from(atob(document.getElementById(id).textContent), (letter) => letter.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
}
let figures = {};
const darkness = matchMedia("(prefers-color-scheme: dark)");
const scales = {
  sequential: [[[0, "#f4f7fb"], [.25, "#c3dbf4"], [.5, "#7fb2e6"], [.75, "#3a7fc8"], [1, "#123f7a"]],
               [[0, "#171d27"], [.25, "#1d3a5f"], [.5, "#2b66a8"], [.75, "#6aa6e6"], [1, "#e3effc"]]],
  diverging: [[[0, "#a63a1c"], [.25, "#eda585"], [.5, "#f7f7f7"], [.75, "#86b6e6"], [1, "#17508f"]],
              [[0, "#f3a27f"], [.25, "#a3492a"], [.5, "#1b212b"], [.75, "#2f6fb4"], [1, "#9cc8f5"]]],
};
// Plotly does not see the page's style sheet, so each figure is coloured when it is drawn.
function draw(id, dark, width) {
  const ink = dark ? "#e6e9ef" : "#1a2130";
  const { data, layout } = JSON.parse(JSON.stringify(figures[id]).replaceAll("#11151c", ink));
  const grid = dark ? "#2c3442" : "#e6e9ee", paper = dark ? "#12161d" : "#ffffff";
  layout.font = { family: "system-ui, -apple-system, Segoe UI, Roboto, Arial, sans-serif", size: 12.5, color: ink };
  layout.paper_bgcolor = layout.plot_bgcolor = "rgba(0,0,0,0)";
  layout.modebar = { bgcolor: "rgba(0,0,0,0)", color: dark ? "#6d7888" : "#a3acba", activecolor: ink };
  layout.hoverlabel = { bgcolor: paper, bordercolor: grid, font: { color: ink }, namelength: -1 };
  for (const key of Object.keys(layout).filter((k) => /^[xy]axis/.test(k))) {
    Object.assign(layout[key], { gridcolor: grid, zerolinecolor: grid, linecolor: grid });
  }
  for (const trace of data) if (scales[trace.meta]) trace.colorscale = scales[trace.meta][dark ? 1 : 0];
  if (width) layout.width = width;
  const narrow = document.getElementById(id).clientWidth < 640;
  if (narrow && layout.legend?.orientation === "v") {
    Object.assign(layout.legend, { orientation: "h", x: 0, y: -0.22, yanchor: "top" });
    layout.height += 18 * data.length;
    document.getElementById(id).style.height = `${layout.height}px`;
  }
  // Plotly offers a button that uploads the chart to a cloud service: not from a report that promises no network.
  Plotly.react(id, data, layout, { responsive: !width, displaylogo: false,
    displayModeBar: width || narrow ? false : "hover", showSendToCloud: false, plotlyServerURL: "",
    modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"] });
}
const drawn = new Set(), plots = [...document.querySelectorAll(".plot")];
const visible = (plot) => plot.offsetParent !== null;
function show(plot) {
  drawn.add(plot.id);
  draw(plot.id, darkness.matches);
}
function redraw() {
  for (const plot of plots.filter((one) => drawn.has(one.id))) {
    // What is hidden is drawn anew when it is opened.
    if (visible(plot)) show(plot); else drawn.delete(plot.id);
  }
}
// A figure is drawn when a reader comes near it: most of the time that a page takes is that of its figures.
const near = new IntersectionObserver((seen) => {
  for (const { isIntersecting, target } of seen) {
    if (isIntersecting && !drawn.has(target.id)) show(target);
  }
}, { rootMargin: "400px" });
async function start() {
  if (!("DecompressionStream" in window)) {
    for (const plot of plots) plot.textContent = "This browser is too old to draw figures; the tables have the numbers.";
    return;
  }
  figures = JSON.parse(await unpacked("figures"));
  const library = document.createElement("script");
  library.textContent = await unpacked("plotly");
  document.head.append(library);
  plots.forEach((plot) => near.observe(plot));
  darkness.addEventListener("change", redraw);
  addEventListener("beforeprint", () => plots.filter(visible).forEach((plot) => draw(plot.id, false, 680)));
  addEventListener("afterprint", () => plots.filter(visible).forEach(show));
}

for (const bar of document.querySelectorAll(".tabs")) {
  const tabs = [...bar.querySelectorAll("button")];
  const panel = (tab) => document.getElementById(tab.getAttribute("aria-controls"));
  const select = (chosen) => {
    for (const tab of tabs) {
      tab.setAttribute("aria-selected", tab === chosen);
      tab.tabIndex = tab === chosen ? 0 : -1;
      panel(tab).hidden = tab !== chosen;
    }
  };
  bar.addEventListener("click", (event) => { if (tabs.includes(event.target)) select(event.target); });
  bar.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const next = tabs[(tabs.indexOf(document.activeElement) + step + tabs.length) % tabs.length];
    next.focus(); select(next);
  });
}

for (const table of document.querySelectorAll("table.sortable")) {
  const headers = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  headers.forEach((header, column) => header.firstChild.addEventListener("click", () => {
    const down = header.getAttribute("aria-sort") === "ascending" ||
      (!header.hasAttribute("aria-sort") && header.classList.contains("num"));
    headers.forEach((other) => other.removeAttribute("aria-sort"));
    header.setAttribute("aria-sort", down ? "descending" : "ascending");
    const numeric = header.classList.contains("num");
    const key = (row) => {
      const cell = row.cells[column];
      return numeric ? ("sort" in cell.dataset ? Number(cell.dataset.sort) : NaN) : cell.textContent;
    };
    const compare = (a, b) => {
      if (!numeric) return (down ? -1 : 1) * a[0].localeCompare(b[0], undefined, { numeric: true });
      // Rows without a value stay at the end, whichever way the column is sorted.
      if (Number.isNaN(a[0]) || Number.isNaN(b[0])) return Number.isNaN(a[0]) - Number.isNaN(b[0]);
      return (down ? -1 : 1) * (a[0] - b[0]);
    };
    body.append(...[...body.rows].map((row) => [key(row), row]).sort(compare).map((pair) => pair[1]));
  }));
}

// What a table shows, as a file; numbers as they are, not as they are rounded for reading.
function csv(table) {
  const quoted = (text) => (/[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
  const value = (cell) => quoted(cell.dataset.csv ?? cell.dataset.sort ?? cell.textContent);
  const rows = [...table.tHead.rows, ...[...table.tBodies[0].rows].filter((row) => !row.hidden)];
  return rows.map((row) => [...row.cells].map(value).join(",")).join("\n") + "\n";
}
for (const table of document.querySelectorAll("table.sortable")) {
  const tools = document.createElement("div"), save = document.createElement("button");
  const name = table.caption.textContent;
  tools.className = "tools";
  if (table.tBodies[0].rows.length > 8) {
    const filter = document.createElement("input");
    Object.assign(filter, { type: "search", placeholder: "filter rows" });
    filter.setAttribute("aria-label", `Filter the rows of: ${name}`);
    filter.addEventListener("input", () => {
      const wanted = filter.value.toLowerCase().split(/\s+/);
      for (const row of table.tBodies[0].rows) {
        const text = row.textContent.toLowerCase();
        row.hidden = !wanted.every((word) => text.includes(word));
      }
    });
    tools.append(filter);
  }
  Object.assign(save, { type: "button", textContent: "CSV" });
  save.setAttribute("aria-label", `Download as CSV: ${name}`);
  save.addEventListener("click", () => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([csv(table)], { type: "text/csv" }));
    link.download = `${name.toLowerCase().replace(/[^a-z0-9]+/g, "-").slice(0, 60)}.csv`;
    link.click();
    URL.revokeObjectURL(link.href);
  });
  tools.append(save);
  table.parentElement.before(tools);
}
start();
