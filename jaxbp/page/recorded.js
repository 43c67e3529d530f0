// Rows of the record, and models whose numbers are recorded, not computed here.
const recorded = (() => {
  const { LINES, element, equation, show } = parts;

  // A row of the record. Large ones come without their numbers.
  function table(row, onlyValues) {
    const cosine = row.cosine === null || row.cosine === undefined ? "" : `, cosine of what is sent back ${show(row.cosine)}`;
    const derivative = `, norm of the derivative ${show(row.derivative_norm)}, difference from autodiff ${Number(row.difference).toExponential(1)}${cosine}`;
    const caption = `${row.name} [${row.shape.join(" × ")}]: norm ${show(row.norm)}${onlyValues ? "" : derivative}`;
    const flat = (a) => [a].flat(Infinity);
    if (!row.value) return parts.table(caption, [], []);
    const columns = [["value", row.value], ["by hand", row.by_hand], ["autodiff", row.autodiff], ["sent back", row.sent]].filter(([, a]) => a);
    const shown = onlyValues ? columns.slice(0, 1) : columns;
    const rows = flat(row.value).slice(0, 4 * LINES).map((_, k) => shown.map(([, a]) => show(flat(a)[k])));
    return parts.table(caption, shown.map(([name]) => name), rows);
  }

  function describe(data, now, pass, layerRows, byId) {
    const name = layerRows[now.layer]?.name, isOutput = (row, name) => row.kind === "output" && row.name === name;
    const items = layerRows.map((row) => element("li", row.name === name ? { class: "active" } : {}, `${row.name} ${row.shape.join(" × ")}`));
    byId("network").replaceChildren(element("ol", { class: "boxes" }, ...items));
    const titles = { forward: `Forward through ${name}`, loss: "The loss", error: "Backward: the error of the outputs", backward: `Backward through ${name}`, penalty: "The penalty", update: "Update" };
    byId("stage").textContent = titles[now.kind];
    const concerns = (row) => (name !== undefined ? isOutput(row, name) || (row.kind === "parameter" && row.name.startsWith(`${name}/`)) : now.kind === "penalty" ? row.kind === "penalty" : now.kind === "update" ? row.kind === "parameter" : isOutput(row, layerRows.at(-1).name));
    const concerned = pass.rows.filter(concerns);
    const tag = { error: "BP1", backward: concerned.some((row) => row.kind === "parameter") ? "BP2, BP3, BP4" : "BP2" }[now.kind];
    const added = data.penalty ? ` + penalty ${show(pass.penalty)}, ${data.penalty}` : "";
    const texts = { loss: `L = ${show(pass.loss)}, ${data.loss}${added}`, update: data.optimizer };
    byId("equations").replaceChildren(equation(tag, texts[now.kind] ?? concerned[0]?.formula ?? ""));
    byId("tables").replaceChildren(...concerned.map((row) => table(row, now.kind === "forward")));
  }

  return { describe, table };
})();
