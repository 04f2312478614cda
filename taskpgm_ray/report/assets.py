"""Style and behaviour of the page: plain CSS and a little JavaScript, inlined, no network."""

CSS = """
:root { color-scheme: light dark; --ink:#1a2130; --soft:#5a6578; --paper:#ffffff; --panel:#f6f7f9; --line:#dfe3e9;
  --main:#2f7ed8; --good:#16794f; --bad:#b3261e; --warn:#8a5a00; --warnbg:#fff4da; --chosen:#fff7d6; }
@media (prefers-color-scheme: dark) { :root { --ink:#e6e9ef; --soft:#9aa5b6; --paper:#12161d; --panel:#1a202a;
  --line:#2c3442; --main:#5b9ee8; --good:#5fcb98; --bad:#f28b82; --warn:#f0c36d; --warnbg:#33290f; --chosen:#2f2a12; } }
* { box-sizing: border-box; }
body { margin:0; background:var(--paper); color:var(--ink); font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,
  "Helvetica Neue",Arial,sans-serif; }
main { max-width:70rem; margin:0 auto; padding:2.5rem 1.5rem 5rem; }
h1 { font-size:1.05rem; font-weight:600; color:var(--soft); margin:0 0 .4rem; overflow-wrap:anywhere; }
.verdict { font-size:1.7rem; line-height:1.3; font-weight:650; letter-spacing:-.01em; margin:0 0 .6rem;
  max-width:54rem; overflow-wrap:anywhere; }
.lead { font-size:1.1rem; margin:0 0 1.4rem; max-width:52rem; color:var(--soft); overflow-wrap:anywhere; }
h2 { font-size:1.35rem; letter-spacing:-.01em; margin:3.2rem 0 .5rem; padding-top:1.1rem;
  border-top:1px solid var(--line); }
p { max-width:46rem; margin:.4rem 0 1rem; }
.tiles { display:grid; grid-template-columns:repeat(auto-fit,minmax(9.5rem,1fr)); gap:.7rem; margin:1.2rem 0;
  padding:0; }
.tiles div { background:var(--panel); border:1px solid var(--line); border-radius:.6rem; padding:.7rem .9rem; }
.tiles dt { color:var(--soft); font-size:.82rem; } .tiles dd { margin:0; font-size:1.3rem; font-weight:620;
  font-variant-numeric:tabular-nums; }
nav { font-size:.9rem; margin:1.2rem 0 0; display:flex; flex-wrap:wrap; gap:.2rem 1.2rem; }
nav a { color:var(--main); text-decoration:none; white-space:nowrap; } nav a:hover { text-decoration:underline; }
figure { margin:1rem 0 1.4rem; } figcaption { color:var(--soft); font-size:.92rem; max-width:46rem; margin-top:.4rem; }
.plot { width:100%; min-height:8rem; }
.note { color:var(--soft); } .warning { background:var(--warnbg); border-left:4px solid var(--warn); padding:.6rem 1rem;
  border-radius:.3rem; max-width:none; overflow-wrap:anywhere; }
.scroll { overflow:auto; max-height:34rem; border:1px solid var(--line); border-radius:.6rem; margin:.8rem 0 1.2rem; }
table { border-collapse:collapse; width:100%; font-size:.9rem; font-variant-numeric:tabular-nums; }
th { position:sticky; top:0; background:var(--panel); text-align:left; font-weight:600; z-index:1; padding:0;
  box-shadow:inset 0 -1px var(--line); }
th button { all:unset; display:block; width:100%; box-sizing:border-box; padding:.5rem .75rem; cursor:pointer;
  white-space:nowrap; } th.num button { text-align:right; }
th button:focus-visible { outline:2px solid var(--main); outline-offset:-2px; }
th[aria-sort=ascending] button::after { content:" \\2191"; }
th[aria-sort=descending] button::after { content:" \\2193"; }
td { padding:.4rem .75rem; border-top:1px solid var(--line); vertical-align:top; min-width:4.5rem; max-width:26rem;
  overflow-wrap:break-word; }
tbody tr:first-child td { border-top:0; } .num { text-align:right; white-space:nowrap; }
tr.chosen td { background:var(--chosen); font-weight:600; }
td.bad:not(.num) { min-width:11rem; }
td.good { color:var(--good); } td.bad { color:var(--bad); } td.warn { color:var(--warn); }
.bar { display:block; height:3px; margin:3px 0 1px auto; border-radius:2px; background:var(--main); }
.tabs { display:flex; flex-wrap:wrap; gap:.3rem; margin:.8rem 0 0; }
.tabs button { font:inherit; font-size:.9rem; color:var(--ink); background:var(--panel); border:1px solid var(--line);
  border-radius:.5rem; padding:.3rem .9rem; cursor:pointer; }
.tabs button[aria-selected=true] { background:var(--main); border-color:var(--main); color:#fff; }
details { margin:1rem 0; } summary { cursor:pointer; font-weight:600; }
pre { background:var(--panel); border:1px solid var(--line); border-radius:.6rem; padding:1rem; overflow:auto;
  font-size:.82rem; line-height:1.45; max-height:40rem; }
.hidden { position:absolute; width:1px; height:1px; overflow:hidden; clip-path:inset(50%); white-space:nowrap; }
[hidden] { display:none !important; }
@media print { main { max-width:none; padding:0; } .scroll, pre { max-height:none; overflow:visible; border:0; }
  nav, .tabs { display:none; } figure, tr { break-inside:avoid; }
  table { font-size:7.5pt; } td { padding:.2rem .4rem; min-width:0; }
  th button { padding:.3rem .4rem; white-space:normal; }
  h2 { break-after:avoid; } th { position:static; }
  :root { color-scheme:light; --ink:#000; --soft:#444; --paper:#fff; --panel:#fff; --line:#ccc; --main:#2f7ed8;
  --chosen:#eee; --warnbg:#fff; --good:#16794f; --bad:#b3261e; --warn:#8a5a00; } body { font-size:11pt; } }
"""

SCRIPT = """
const figures = JSON.parse(document.getElementById("figures").textContent);
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
const shown = () => Object.keys(figures).filter((id) => document.getElementById(id).offsetParent !== null);
const drawAll = () => shown().forEach((id) => draw(id, darkness.matches));
const drawIn = (panel) => panel.querySelectorAll(".plot").forEach((plot) => draw(plot.id, darkness.matches));
darkness.addEventListener("change", drawAll);
addEventListener("beforeprint", () => shown().forEach((id) => draw(id, false, 680)));
addEventListener("afterprint", drawAll);

for (const bar of document.querySelectorAll(".tabs")) {
  const tabs = [...bar.querySelectorAll("button")];
  const panel = (tab) => document.getElementById(tab.getAttribute("aria-controls"));
  const select = (chosen) => {
    for (const tab of tabs) {
      tab.setAttribute("aria-selected", tab === chosen);
      tab.tabIndex = tab === chosen ? 0 : -1;
      panel(tab).hidden = tab !== chosen;
    }
    drawIn(panel(chosen));
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
drawAll();
"""
