// The page: what it shows of the engine's numbers, or of recorded ones.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const { LINES, brief, curves, element, equation, factor, penaltyTables, shape, short, show, sum, table, updateEquations } = parts;
  const byId = (id) => document.getElementById(id);
  const { net } = data, updates = data.passes.length - 1;
  const LABELS = 60, RADIUS = 33;

  // --- what there is to step through ------------------------------------------------------------------------------
  const seen = net ? net.layers.map((_, l) => l).filter((l) => net.layers[l].kind !== "identity") : [];
  const layerRows = data.passes[0].rows.filter((row) => row.kind === "output");
  const units = net ? seen : layerRows.map((_, i) => i);
  const stages = [
    ...units.map((layer) => ({ kind: "forward", layer })),
    { kind: "loss" },
    { kind: "error" },
    ...[...units].reverse().map((layer) => ({ kind: "backward", layer })),
    ...(data.penalty ? [{ kind: "penalty" }] : []),
    { kind: "update" },
  ];
  const lossStage = units.length, depth = net ? net.layers.length : layerRows.length;
  const last = updates * stages.length + lossStage;
  const stageOf = (kind, layer) => stages.findIndex((stage) => stage.kind === kind && stage.layer === layer);
  const forwardAt = (l) => (l < 0 ? -1 : units.includes(l) ? stageOf("forward", l) : forwardAt(l - 1));
  const backwardAt = (l) => (l >= depth ? lossStage + 1 : units.includes(l) ? stageOf("backward", l) : backwardAt(l + 1));

  // Columns of units: the inputs, and every dense layer with the activations after it.
  const columns = net ? [{ dense: -1, acts: [], size: net.batch.x[0].length }] : [];
  for (const l of seen) {
    if (net.layers[l].kind === "dense") columns.push({ dense: l, acts: [], size: net.params[net.layers[l].name].w.length });
    else columns.at(-1).acts.push(l);
  }

  const state = { position: 0, example: 0, mistake: null, focus: null, params: net?.params, batch: net?.batch, edited: false };
  let passes = [];
  const at = () => state.position % stages.length, time = () => Math.floor(state.position / stages.length);
  const pass = () => passes[time()], stage = () => stages[at()];

  function compute() {
    if (net) passes = engine.train(net, state.params, state.batch, updates, state.mistake);
    draw();
  }

  // --- numbers of units, weights and where they come from ----------------------------------------------------------
  const output = (l, n) => (l < 0 ? state.batch.x[n] : pass().outputs[l][n]);
  const final = (c) => columns[c].acts.at(-1) ?? columns[c].dense;
  const deltaAfter = (l, n) => (l < 0 ? pass().dx[n] : pass().deltas[l][n]);
  const weights = (c) => pass().params[net.layers[columns[c].dense].name];
  const gradients = (c) => pass().gradients[net.layers[columns[c].dense].name];

  // The value and the derivative of a unit that this stage knows: {value, what, derivative, whose}.
  function unit(c, j) {
    const n = state.example, column = columns[c], known = {};
    for (const l of [column.dense, ...column.acts]) {
      if (forwardAt(l) <= at()) Object.assign(known, { value: output(l, n)[j], what: l < 0 ? "x" : l === column.dense ? "z" : "a" });
      if (!("derivative" in known) && backwardAt(l + 1) <= at()) Object.assign(known, { derivative: deltaAfter(l, n)[j], whose: l === column.dense ? (l < 0 ? "dL/dx" : "delta") : "error" });
    }
    return known;
  }
  const name = (c, j) => (c === 0 ? `input ${j + 1}` : c === columns.length - 1 ? `output ${j + 1}${data.classes[j] !== undefined ? ` ${short(data.classes[j])}` : ""}` : `hidden ${c}.${j + 1}`);

  // Lines of arithmetic for what has the focus, and the ids of what its number comes from.
  function explain(item) {
    const { c, o, i } = item, now = stage(), n = state.example, column = columns[c], lines = [], from = [];
    const examples = state.batch.x.map((_, n) => n);
    if (item.type === "unit" || item.type === "input") {
      lines.push(`${name(c, o)}, example ${n + 1}`);
      if (c > 0 && forwardAt(column.dense) <= at()) {
        const x = output(column.dense - 1, n), { w, b } = weights(c);
        const terms = x.map((v, i) => `${show(w[o][i])} × ${factor(v)}`);
        lines.push(`z = ${[...terms, ...(b ? [factor(b[o])] : [])].join(" + ")} = ${show(output(column.dense, n)[o])}`);
        if (now.kind === "forward") x.forEach((_, i) => from.push(`w${c}.${o}.${i}`, `u${c - 1}.${i}`));
      }
      for (const l of column.acts) {
        if (forwardAt(l) > at()) continue;
        lines.push(`a = ${net.layers[l].kind}(${show(output(l - 1, n)[o])}) = ${show(output(l, n)[o])}`);
      }
      if (c + 1 < columns.length && backwardAt(columns[c + 1].dense) <= at()) {
        const { w } = weights(c + 1), above = deltaAfter(columns[c + 1].dense, n);
        lines.push(`error = ${above.map((d, k) => `${show(w[k][o])} × ${factor(d)}`).join(" + ")} = ${show(deltaAfter(final(c), n)[o])}`);
        above.forEach((_, k) => from.push(`w${c + 1}.${k}.${o}`, `u${c + 1}.${k}`));
      } else if (c + 1 === columns.length && at() > lossStage) lines.push(`error = dL/dy = ${show(deltaAfter(final(c), n)[o])}`);
      for (const l of [...column.acts].reverse()) if (backwardAt(l) <= at()) lines.push(slopeLine(l, n, o));
    } else {
      const { w, b } = weights(c), leaf = item.type === "weight" ? "w" : "b";
      const value = leaf === "w" ? w[o][i] : b[o], g = leaf === "w" ? gradients(c).w[o][i] : gradients(c).b[o];
      lines.push(leaf === "w" ? `weight from ${name(c - 1, i)} to ${name(c, o)}: ${show(value)}` : `bias of ${name(c, o)}: ${show(value)}`);
      if (backwardAt(column.dense) <= at()) {
        const terms = examples.map((n) => (leaf === "w" ? `${show(deltaAfter(column.dense, n)[o])} × ${factor(output(column.dense - 1, n)[i])}` : show(deltaAfter(column.dense, n)[o])));
        lines.push(`dL/d${leaf} = ${terms.slice(0, LINES).join(" + ")} = ${show(g)}${examples.length > 1 ? `, the sum over ${examples.length} examples` : ""}`);
        const [act] = column.acts;
        if (leaf === "w" && column.acts.length === 1 && net.layers[act].kind !== "softmax" && !state.mistake) {
          const slope = engine.activations[net.layers[act].kind][1](output(act, n)[o], output(act - 1, n)[o], net.layers[act].slope);
          const factors = [deltaAfter(act, n)[o], slope, output(column.dense - 1, n)[i]];
          lines.push(`dL/da × da/dz × dz/dw = ${factors.map((v, k) => (k ? factor(v) : show(v))).join(" × ")} = ${show(factors.reduce((a, b) => a * b))}, example ${n + 1}`);
        }
        from.push(`u${c}.${o}`, ...(leaf === "w" ? [`u${c - 1}.${i}`] : []));
      }
      if (now.kind === "update") {
        const next = passes[time() + 1].params[net.layers[column.dense].name], moved = leaf === "w" ? next.w[o][i] : next.b[o];
        lines.push(`new ${leaf} = ${show(value)} + ${factor(moved - value)} = ${show(moved)}`);
      }
    }
    return { lines, from };
  }

  function slopeLine(l, n, o) {
    const { kind } = net.layers[l], error = deltaAfter(l, n)[o], delta = deltaAfter(l - 1, n)[o];
    if (kind === "softmax") return `delta = a (error - Σ a error) = ${show(delta)}`;
    const slope = engine.activations[kind][1](output(l, n)[o], output(l - 1, n)[o], net.layers[l].slope);
    return `delta = error × slope = ${show(error)} × ${factor(slope)} = ${show(state.mistake?.layer === l ? error : delta)}${state.mistake?.layer === l ? " (the slope is left out)" : ""}`;
  }

  // --- drawing -----------------------------------------------------------------------------------------------------
  function drawNetwork() {
    const tall = Math.max(...columns.map((column) => column.size));
    const apart = Math.max(200, 24 * tall), width = (columns.length - 1) * apart + 90, height = tall * 104 + 20;
    const place = (c, j) => [45 + c * apart, (height * (j + 0.5)) / columns[c].size];
    const svg = element("svg", { viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": "units and weights", width: "100%" });
    Object.assign(svg.style, { minWidth: `${Math.min(width, 108 * columns.length)}px`, maxHeight: tall > 6 ? "none" : "70vh" });
    const now = stage(), active = now.layer === undefined ? -1 : columns.findIndex((column) => column.dense === now.layer || column.acts.includes(now.layer));
    const lit = new Set(state.focus ? explain(state.focus).from : []);
    const many = sum(columns.slice(1).map((column, c) => column.size * columns[c].size)) > LABELS;
    const group = (item, id, kind, label, ...children) => {
      const made = element("g", { tabindex: 0, class: `${kind}${lit.has(id) ? " lit" : ""}`, id, role: "button", "aria-label": label }, ...children);
      made.addEventListener("focus", () => focusOn(item));
      made.addEventListener("mouseenter", () => focusOn(item));
      if (kind !== "unit") dragging(made, item);
      svg.append(made);
      return made;
    };
    for (let c = 1; c < columns.length; c++) {
      const { w } = weights(c), knowsGradient = backwardAt(columns[c].dense) <= at();
      w.forEach((row, o) => row.forEach((v, i) => {
        const [x1, y1] = place(c - 1, i), [x2, y2] = place(c, o), f = row.length > 1 ? 0.34 + (0.32 * i) / (row.length - 1) : 0.5;
        const ends = { x1, y1, x2, y2 }, label = `weight ${show(v)} from ${name(c - 1, i)} to ${name(c, o)}${knowsGradient ? `, gradient ${show(gradients(c).w[o][i])}` : ""}`;
        const thin = element("line", { ...ends, class: "thin", "stroke-width": Math.min(9, 1 + 2.5 * Math.abs(v)) });
        const children = [element("line", { ...ends, class: "wide" }), thin];
        if (!many) {
          const [x, y] = [x1 + f * (x2 - x1), y1 + f * (y2 - y1)];
          children.push(element("text", { x, y: y - 4, class: "number label" }, brief(v)));
          if (knowsGradient) children.push(element("text", { x, y: y + 11, class: "number label delta" }, show(Number(gradients(c).w[o][i].toPrecision(2)))));
        }
        group({ type: "weight", c, o, i }, `w${c}.${o}.${i}`, `weight${v < 0 ? " negative" : ""}`, label, ...children);
      }));
    }
    columns.forEach((column, c) => {
      for (let j = 0; j < column.size; j++) {
        const [x, y] = place(c, j), known = unit(c, j), children = [element("circle", { cx: x, cy: y, r: RADIUS })];
        if ("value" in known) children.push(element("text", { x, y: y + ("derivative" in known ? -3 : 4), class: "number" }, brief(known.value)));
        if ("derivative" in known) children.push(element("text", { x, y: y + 14, class: "number delta" }, brief(known.derivative)));
        const words = `${name(c, j)}${"value" in known ? `, ${known.what} ${show(known.value)}` : ""}${"derivative" in known ? `, ${known.whose} ${show(known.derivative)}` : ""}`;
        const made = group({ type: c ? "unit" : "input", c, o: j }, `u${c}.${j}`, c ? "unit" : "input", words, ...children);
        if (c === active) made.classList.add("active");
        if (c && weights(c).b) {
          const b = weights(c).b[j], text = element("text", { x, y: y - 38, class: "number label" }, `b ${brief(b)}`);
          group({ type: "bias", c, o: j }, `b${c}.${j}`, "bias", `bias of ${name(c, j)} ${show(b)}`, element("rect", { x: x - 36, y: y - 50, width: 72, height: 15 }), text);
        }
      }
    });
    const before = document.activeElement?.id;
    byId("network").replaceChildren(svg);
    if (before && /^[uwb]\d/.test(before)) byId(before)?.focus();
  }

  function focusOn(item) {
    if (JSON.stringify(item) === JSON.stringify(state.focus)) return;
    state.focus = item;
    const { lines, from } = explain(item);
    byId("detail").replaceChildren(...lines.map((line) => element("p", { class: "line" }, line)));
    for (const node of byId("network").querySelectorAll("g[id]")) node.classList.toggle("lit", from.includes(node.id));
  }

  // --- changing a number -------------------------------------------------------------------------------------------
  function changeBy(item, step) {
    if (item.type === "input") state.batch = { ...state.batch, x: engine.walkTo(state.batch.x, [state.example, item.o], (v) => v + step) };
    else {
      const layer = net.layers[columns[item.c].dense].name, leaf = item.type === "bias" ? "b" : "w", where = leaf === "b" ? [item.o] : [item.o, item.i];
      const stepTo = engine.walkTo(pass().params[layer][leaf], where, (v) => v + step);
      state.params = { ...pass().params, [layer]: { ...pass().params[layer], [leaf]: stepTo } };
      state.position = at(); // what is changed are the weights of this pass: from here on it is the first
    }
    state.edited = true;
    compute();
  }

  function dragging(node, item) {
    node.addEventListener("pointerdown", (start) => {
      let y = start.clientY;
      const move = (event) => {
        changeBy(item, (y - event.clientY) * 0.01);
        y = event.clientY;
      };
      const stop = () => {
        removeEventListener("pointermove", move);
        removeEventListener("pointerup", stop);
      };
      addEventListener("pointermove", move);
      addEventListener("pointerup", stop);
      start.preventDefault();
      node.focus();
    });
    node.addEventListener("keydown", (event) => {
      const direction = { ArrowUp: 1, ArrowDown: -1 }[event.key];
      if (!direction) return;
      event.preventDefault();
      changeBy(item, direction * (event.shiftKey ? 0.1 : 0.01));
    });
  }

  // --- the equation of the step ------------------------------------------------------------------------------------
  function describe() {
    const now = stage(), n = state.example, lines = [], equations = [];
    const layer = net.layers[now.layer], examples = state.batch.x.length;
    const c = columns.findIndex((column) => column.dense === now.layer);
    const sizes = c > 0 ? [columns[c].size, columns[c - 1].size] : [];
    let title = "";
    if (now.kind === "forward" && layer.kind === "dense") {
      title = `Forward through ${layer.name}`;
      equations.push(equation("", `z = W a + b    [${sizes[0]}] = [${sizes[0]} × ${sizes[1]}] [${sizes[1]}] + [${sizes[0]}], for each of ${examples} examples`));
      for (let o = 0; o < sizes[0]; o++) lines.push(explain({ type: "unit", c, o }).lines[1].replace("z =", `z${o + 1} =`));
    } else if (now.kind === "forward") {
      title = `Forward through ${layer.name}`;
      equations.push(equation("", layer.kind === "softmax" ? "a = exp(z) / Σ exp(z)" : `a = ${layer.kind}(z)`));
      output(now.layer, n).forEach((a, o) => lines.push(`a${o + 1} = ${layer.kind}(${show(output(now.layer - 1, n)[o])}) = ${show(a)}`));
    } else if (now.kind === "loss") {
      title = "The loss";
      equations.push(equation("", `L = Σ weight × loss of each example, ${data.loss}`));
      pass().items.forEach((item, n) => lines.push(`example ${n + 1}: ${show(state.batch.weight[n])} × ${show(item)}, target ${state.batch.y[n].map(show).join(", ")}`));
      lines.push(`L = ${show(pass().loss)}`);
      if (data.penalty) lines.push(`penalty = ${show(pass().penalty)}: ${data.penalty}`, `L + penalty = ${show(pass().value)}`);
      if (data.classes.length) lines.push(`classes: ${data.classes.slice(0, LINES).map(short).join(", ")}`);
    } else if (now.kind === "error") {
      title = "Backward: the error of the outputs";
      equations.push(equation("BP1", `error = dL/dy, the loss in the outputs; delta is this error times the slope of the last activation`));
      deltaAfter(net.layers.length - 1, n).forEach((d, o) => lines.push(`error${o + 1} = ${show(d)}`));
      lines.push(`(it holds the weight ${show(state.batch.weight[n])} of example ${n + 1})`);
    } else if (now.kind === "backward" && layer.kind === "dense") {
      title = `Backward through ${layer.name}`;
      equations.push(equation("BP4", `dL/dW = Σ over examples of delta aᵀ    [${sizes[0]} × ${sizes[1]}] = [${sizes[0]}] [${sizes[1]}]ᵀ`));
      if (weights(c).b) equations.push(equation("BP3", `dL/db = Σ over examples of delta    [${sizes[0]}]`));
      equations.push(equation("BP2", `error below = Wᵀ delta    [${sizes[1]}] = [${sizes[1]} × ${sizes[0]}] [${sizes[0]}]`));
      deltaAfter(now.layer - 1, n).forEach((e, i) => lines.push(`error${i + 1} = ${deltaAfter(now.layer, n).map((d, o) => `${show(weights(c).w[o][i])} × ${factor(d)}`).join(" + ")} = ${show(e)}`));
    } else if (now.kind === "backward") {
      title = `Backward through ${layer.name}`;
      const tag = now.layer > Math.max(...columns.map((column) => column.dense)) ? "BP1" : "BP2";
      equations.push(equation(tag, layer.kind === "softmax" ? "delta = a (error - Σ a error)" : `delta = error × slope, slope = ${engine.activations[layer.kind][2]}`));
      output(now.layer, n).forEach((_, o) => lines.push(slopeLine(now.layer, n, o).replace("delta =", `delta${o + 1} =`)));
    } else if (now.kind === "penalty") {
      title = "The penalty";
      equations.push(equation("", `gradient = dL/dw + l2 w + l1 sign w, ${data.penalty}`));
    } else {
      title = "Update";
      equations.push(...updateEquations(net.optimizer, time(), data.optimizer));
    }
    if (state.mistake && (state.mistake.layer ?? "error") === (state.mistake.layer === null ? now.kind : now.layer) && now.kind !== "forward") {
      equations.push(element("p", { class: "equation bad" }, `planted: ${state.mistake.text}`));
    }
    const shown = lines.slice(0, LINES).map((line) => element("p", { class: "line" }, line));
    if (lines.length > LINES) shown.push(element("p", { class: "line" }, `and ${lines.length - LINES} more`));
    byId("stage").textContent = title;
    byId("equations").replaceChildren(...equations, ...shown);
    byId("tables").replaceChildren(...(c > 0 && now.kind === "backward" ? leafTables(c) : now.kind === "update" ? columns.slice(1).flatMap((_, c) => updateTables(c + 1)) : now.kind === "penalty" ? penaltyTables(pass()) : []));
  }

  // The true derivative of a leaf: autodiff's where the page has it, else central differences.
  function truth(c, leaf) {
    const layer = net.layers[columns[c].dense].name;
    if (!state.edited && (!state.mistake || time() === 0)) {
      return ["autodiff", data.passes[time()].rows.find((row) => row.name === `${layer}/${leaf}`).autodiff];
    }
    return ["differences", engine.differences(net, pass().params, state.batch, layer, leaf)];
  }

  // The gradients of a layer; of a few examples also the share of each, whose sum they are.
  function leafTables(c) {
    const l = columns[c].dense, each = state.batch.x.length > 1 && state.batch.x.length <= 4 ? [...state.batch.x.keys()] : [];
    return Object.entries(gradients(c)).map(([leaf, hand]) => {
      const places = hand.flatMap((row, o) => (leaf === "w" ? row.map((_, i) => [o, i]) : [[o]])), [who, right] = truth(c, leaf);
      const share = (n, [o, i]) => deltaAfter(l, n)[o] * (leaf === "w" ? output(l - 1, n)[i] : 1);
      const bound = who === "autodiff" ? 1e-10 : 1e-6, scale = Math.max(...right.flat().map(Math.abs), 1e-300);
      const rows = hand.flat().map((h, k) => {
        const difference = h - right.flat()[k], bad = !(Math.abs(difference) <= bound * scale); // a NaN is bad
        const shares = each.map((n) => show(share(n, places[k])));
        return [places[k].map((v) => v + 1).join(), ...shares, show(h), show(right.flat()[k]), { text: difference === 0 ? "0" : difference.toExponential(1), bad }];
      });
      const head = ["entry", ...each.map((n) => `example ${n + 1}`), each.length ? "sum, by hand" : "by hand", who, "difference"];
      return table(`dL/d${leaf} [${shape(hand).join(" × ")}]`, head, rows.slice(0, 4 * LINES));
    });
  }

  function updateTables(c) {
    const layer = net.layers[columns[c].dense].name;
    return Object.entries(gradients(c)).map(([leaf, g]) => {
      const before = weights(c)[leaf].flat(), after = passes[time() + 1].params[layer][leaf].flat();
      const slopes = pass().slopes[`${layer}/${leaf}`]?.flat();
      const rows = g.flat().map((gradient, k) => [show(before[k]), show(gradient + (slopes?.[k] ?? 0)), show(after[k] - before[k]), show(after[k])]);
      return table(`${layer}/${leaf}`, ["weight", "gradient", "change", "new"], rows.slice(0, 4 * LINES));
    });
  }

  // --- the planted mistake, the rest of the page ---------------------------------------------------------------------
  function drawPlanted() {
    const mistake = state.mistake;
    byId("planted").hidden = !mistake;
    if (!mistake) return;
    const steps = mistake.losses.length - 1;
    const run = (planted, recorded) => (net ? engine.train(net, state.params, state.batch, steps, planted).map((pass) => pass.value) : recorded.map(Number));
    const right = run(null, data.right), wrong = run(mistake, mistake.losses), exact = (v) => Number(v.toPrecision(8));
    byId("planted-title").textContent = `Planted: ${mistake.title}`;
    byId("planted-text").textContent = `Here ${mistake.text}. After ${steps} steps the loss is ${exact(wrong.at(-1))} (dashed); with the right gradient it is ${exact(right.at(-1))}.`;
    byId("curve").replaceChildren(curves(right, wrong));
    byId("report").textContent = mistake.report;
  }

  function agreement() {
    if (!net) return `Recorded by jaxbp ${data.version} in float64; this model is not computed here, so nothing can be dragged. ${data.passes[0].rows[0].value ? "" : `Above ${data.limit} numbers the page has shapes and norms alone, and no mistakes to plant.`}`;
    const computed = engine.train(net, net.params, net.batch, updates);
    const errors = data.passes.flatMap((pass, t) => pass.rows.filter((row) => row.kind === "parameter").map((row) => {
      const cut = row.name.lastIndexOf("/"), ours = [computed[t].gradients[row.name.slice(0, cut)][row.name.slice(cut + 1)]].flat(2);
      const theirs = row.by_hand.flat(2), scale = Math.max(...theirs.map(Math.abs), 1e-300);
      return Math.max(...ours.map((v, k) => Math.abs(v - theirs[k]))) / scale;
    }));
    return `This page computes by itself. Its gradients differ from those of jaxbp ${data.version} by ${Math.max(...errors).toExponential(1)} at most, relative to the largest entry.`;
  }

  function draw() {
    const moment = time() === updates ? `after ${updates} updates` : `pass ${time() + 1} of ${updates}`;
    const now = net ? pass() : data.passes[time()], loss = `${show(now.loss)}${data.penalty ? ` + penalty ${show(now.penalty)}` : ""}`;
    byId("position").value = state.position;
    byId("where").textContent = `${moment}, step ${at() + 1} of ${stages.length}${at() >= lossStage ? `, loss ${loss}` : ""}${state.edited ? ", numbers changed by you" : ""}`;
    byId("position").setAttribute("aria-valuetext", byId("where").textContent);
    if (net) {
      drawNetwork();
      describe();
    } else recorded.describe(data, stage(), data.passes[time()], layerRows, byId);
    const lines = net && state.focus ? explain(state.focus).lines : [];
    byId("detail").replaceChildren(...lines.map((line) => element("p", { class: "line" }, line)));
    drawPlanted();
    if (byId("all").parentElement.open) drawAll();
  }

  function drawAll() {
    const note = state.edited || state.mistake ? "These are the recorded numbers, without your changes and without the mistake." : "As jaxbp recorded them.";
    byId("all").replaceChildren(element("p", {}, note), ...data.passes[time()].rows.map((row) => recorded.table(row, false)));
  }

  const go = (position) => {
    state.position = Math.max(0, Math.min(last, position));
    draw();
  };

  function exported() {
    const numbers = net ? { params: pass().params, batch: state.batch, pass: { ...pass(), params: undefined } } : { pass: data.passes[time()] };
    return { title: data.title, version: data.version, model: data.model, updates: time(), stage: stage(), mistake: state.mistake?.name ?? null, edited: state.edited, ...numbers };
  }

  byId("position").max = last;
  byId("config").replaceChildren(element("p", {}, data.model), element("pre", {}, data.config));
  byId("hint").textContent = `${net ? "Blue weights are positive, orange ones negative; violet numbers are derivatives of the loss." : ""}${data.credit ? `The steps of this run follow ${data.credit}: "sent back" is what it has in place of each derivative, "by hand" the derivative itself.` : ""}`;
  for (let n = 0; n < data.examples; n++) byId("example").append(element("option", { value: n }, `${n + 1} of ${data.examples}`));
  data.mistakes.forEach((mistake, k) => byId("mistake").append(element("option", { value: k }, mistake.title)));
  byId("agreement").textContent = agreement();
  const by = { first: -Infinity, previous: -1, next: 1, pass: stages.length };
  for (const [id, steps] of Object.entries(by)) byId(id).addEventListener("click", () => go(state.position + steps));
  byId("position").addEventListener("input", (event) => go(Number(event.target.value)));
  byId("example").addEventListener("change", (event) => {
    state.example = Number(event.target.value);
    draw();
  });
  byId("mistake").addEventListener("change", (event) => {
    const mistake = data.mistakes[event.target.value];
    state.mistake = mistake ? { ...mistake, rate: data.rate } : null;
    compute();
  });
  byId("reset").addEventListener("click", () => {
    Object.assign(state, { params: net?.params, batch: net?.batch, edited: false, focus: null });
    compute();
  });
  byId("theme").addEventListener("click", () => {
    const root = document.documentElement, dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
  });
  byId("export").addEventListener("click", () => {
    const link = element("a", { download: "backpropagation.json", href: URL.createObjectURL(new Blob([JSON.stringify(exported(), null, 1)], { type: "application/json" })) });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  });
  byId("all").parentElement.addEventListener("toggle", drawAll);
  addEventListener("keydown", (event) => {
    if (event.target.closest?.("select, input, pre") || event.ctrlKey || event.metaKey || event.altKey) return;
    const moves = { ArrowLeft: state.position - 1, ArrowRight: state.position + 1, PageUp: state.position - stages.length, PageDown: state.position + stages.length, Home: 0, End: last };
    if (!(event.key in moves)) return;
    event.preventDefault();
    go(moves[event.key]);
  });
  compute();
})();
