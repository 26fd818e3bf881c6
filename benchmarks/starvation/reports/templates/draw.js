const charts = JSON.parse(document.getElementById("charts").textContent);
const css = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
// Only what stands under "color" is the name of a variable: a contender may be called anything.
const coloured = (value, key) => Array.isArray(value) ? value.map(item => coloured(item, key))
  : value && typeof value === "object" ? Object.fromEntries(Object.entries(value).map(([k, v]) => [k, coloured(v, k)]))
  : key === "color" && typeof value === "string" && value.startsWith("--") ? css(value) : value;
const picker = document.getElementById("contender");
const touch = matchMedia("(pointer: coarse)").matches;
function draw() {
  const lines = {gridcolor: css("--line"), zerolinecolor: css("--line"), linecolor: css("--line")};
  for (const [id, figures] of Object.entries(charts)) {
    const place = document.getElementById(id);
    const figure = figures.length === 1 ? figures[0] : figures[Number(picker.value)];
    if (!place) continue;
    place.closest(".panel").classList.toggle("empty", !figure);
    for (const part of place.closest(".panel").children) part.hidden = part.className === "none" ? !!figure : !figure;
    if (!figure) continue;
    const layout = coloured(figure.layout);
    for (const axis of ["xaxis", "yaxis", "yaxis2"]) if (layout[axis]) layout[axis] = {...lines, ...layout[axis]};
    // A finger's drag scrolls the page; there are buttons for the rest.
    if (layout.dragmode && touch) layout.dragmode = false;
    Plotly.react(id, coloured(figure.data), {
      ...layout, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", margin: {l: 8, r: 28, t: 40, b: 40},
      font: {family: "system-ui, sans-serif", size: 13, color: css("--ink")},
      hoverlabel: {bgcolor: css("--card"), bordercolor: css("--line"), font: {color: css("--ink")}},
    }, {responsive: true, displayModeBar: false});
  }
}
// Zoom by `factor` about the middle, or move by a share of what is seen; null shows all.
function look(factor, move) {
  const axis = document.getElementById("timeline").layout.xaxis;
  const end = axis.maxallowed;
  let [from, to] = axis.range;
  const half = Math.min(end, (to - from) * factor) / 2;
  const middle = Math.min(Math.max((from + to) / 2 + move * (to - from), half), end - half);
  [from, to] = factor === null ? [0, end] : [middle - half, middle + half];
  return Plotly.relayout("timeline", {"xaxis.range": [from, to]});
}
for (const [id, factor, move] of [["closer", .4, 0], ["wider", 2.5, 0], ["earlier", 1, -.5], ["later", 1, .5], ["all", null, 0]])
  document.getElementById(id).addEventListener("click", () => look(factor, move));
picker.addEventListener("change", draw);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
draw();
