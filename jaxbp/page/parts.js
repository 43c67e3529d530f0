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

  // A row of the record. Large ones come without their numbers.
  function recordedTable(row, onlyValues) {
    const caption = `${row.name} [${row.shape.join(" × ")}]: norm ${show(row.norm)}${onlyValues ? "" : `, norm of the derivative ${show(row.derivative_norm)}, difference from autodiff ${Number(row.difference).toExponential(1)}`}`;
    const flat = (a) => [a].flat(Infinity);
    if (!row.value) return table(caption, [], []);
    const columns = onlyValues ? [row.value] : [row.value, row.by_hand, row.autodiff];
    const rows = flat(row.value).slice(0, 4 * LINES).map((_, k) => columns.map((a) => show(flat(a)[k])));
    return table(caption, ["value", "by hand", "autodiff"].slice(0, columns.length), rows);
  }

  // The loss over the steps of two runs.
  function curves(right, wrong) {
    const finite = [...right, ...wrong].filter(Number.isFinite), steps = right.length - 1;
    const [low, high] = [Math.min(...finite), Math.max(...finite)], [width, height] = [420, 150];
    const point = (v, t) => `${40 + (t * (width - 60)) / steps},${height - 20 - ((v - low) / (high - low || 1)) * (height - 40)}`;
    const line = (kind, values) => element("polyline", { class: `curve ${kind}`, points: values.map((v, t) => (Number.isFinite(v) ? point(v, t) : "")).join(" ") });
    const words = `loss over ${steps} steps: right ${right.map(show).join(", ")}; with the mistake ${wrong.map(show).join(", ")}`;
    const numbers = [element("text", { x: 2, y: 14 }, show(high)), element("text", { x: 2, y: height - 8 }, show(low))];
    const svg = element("svg", { viewBox: `0 0 ${width} ${height}`, width: "100%", role: "img", "aria-label": words }, line("right", right), line("wrong", wrong), ...numbers);
    svg.style.maxWidth = "640px";
    return svg;
  }

  return { LINES, brief, curves, element, equation, factor, recordedTable, shape, short, show, sum, table };
})();
