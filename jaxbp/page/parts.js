// Elements and numbers as text. Nothing is ever put in as markup.
const parts = (() => {
  const LINES = 16; // of arithmetic in one step; a table has four times as many

  function element(tag, attributes = {}, ...children) {
    const inSvg = ["svg", "g", "line", "circle", "rect", "text", "path", "polyline"].includes(tag);
    const made = inSvg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    made.append(...children.map((child) => (typeof child === "object" ? child : String(child))));
    return made;
  }

  const show = (v) => (typeof v === "number" ? String(Number(v.toPrecision(5))) : String(v));
  const brief = (v) => show(Number(v.toPrecision(3)));
  const factor = (v) => (v < 0 ? `(${show(v)})` : show(v));
  const short = (text) => (text.length > 60 ? `${text.slice(0, 60)}…` : text);
  const sum = (numbers) => numbers.reduce((a, b) => a + b, 0);
  const shape = (a) => (Array.isArray(a) ? [a.length, ...shape(a[0])] : []);

  const equation = (tag, text) => element("p", { class: "equation" }, ...(tag ? [element("span", { class: "tag" }, `${tag} `)] : []), text);

  function table(caption, head, rows) {
    const row = (tag, cells) => element("tr", {}, ...cells.map((cell) => element(tag, cell.bad ? { class: "bad" } : {}, cell.text ?? cell)));
    return element("table", {}, element("caption", {}, caption), element("thead", {}, row("th", head)), element("tbody", {}, ...rows.map((cells) => row("td", cells))));
  }

  // What an optimizer does with a gradient g at step t, which counts from 0.
  function updateEquations({ kind, momentum, nesterov, b1, b2, decay, rates }, t, words) {
    const rate = `rate ${show(rates[Math.min(t, rates.length - 1)])}`, decayed = decay ? ` - rate × ${decay} w` : "";
    const adam = [
      `m = ${b1} m + ${show(1 - b1)} g,  v = ${b2} v + ${show(1 - b2)} g²`,
      `w = w - rate × (m / (1 - ${b1}ᵗ)) / √(v / (1 - ${b2}ᵗ))${decayed},  t = ${t + 1}, ${rate}`,
    ];
    const heavy = [`velocity = g + ${momentum} velocity`, `w = w - rate × ${nesterov ? `(g + ${momentum} velocity)` : "velocity"}, ${rate}`];
    const lines = kind === "adam" ? adam : momentum ? heavy : [`w = w - rate × gradient, ${rate}`];
    return [...lines, words].map((line) => equation("", line));
  }

  function penaltyTables(pass) {
    return Object.entries(pass.slopes).map(([path, slopes]) => {
      const [layer, leaf] = path.split("/"), w = pass.params[layer][leaf].flat(), g = pass.gradients[layer][leaf].flat();
      const rows = slopes.flat().map((slope, k) => [show(w[k]), show(g[k]), show(slope), show(g[k] + slope)]);
      return table(path, ["weight", "dL/dw", "of the penalty", "gradient"], rows.slice(0, 4 * LINES));
    });
  }

  // The loss over the steps of two runs.
  function curves(right, wrong) {
    const finite = [...right, ...wrong].filter(Number.isFinite), steps = right.length - 1;
    const [low, high] = [Math.min(...finite), Math.max(...finite)], [width, height] = [420, 150];
    const point = (v, t) => `${40 + (t * (width - 60)) / steps},${height - 20 - ((v - low) / (high - low || 1)) * (height - 40)}`;
    const line = (kind, values) => element("polyline", { class: `curve ${kind}`, points: values.map((v, t) => (Number.isFinite(v) ? point(v, t) : "")).join(" ") });
    const words = `loss over ${steps} steps: right ${right.map(show).join(", ")}; with the mistake ${wrong.map(show).join(", ")}`;
    const named = (x, y, words, anchor = "start") => element("text", { x, y, "text-anchor": anchor }, words);
    const numbers = [named(2, 14, `loss ${show(high)}`), named(2, height - 20, show(low)), named(40, height - 3, "step 0"), named(width - 20, height - 3, `step ${steps}`, "end")];
    const svg = element("svg", { viewBox: `0 0 ${width} ${height}`, width: "100%", role: "img", "aria-label": words }, line("right", right), line("wrong", wrong), ...numbers);
    svg.style.maxWidth = "640px";
    return svg;
  }

  return { LINES, brief, curves, element, equation, factor, penaltyTables, shape, short, show, sum, table, updateEquations };
})();
