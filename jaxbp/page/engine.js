"use strict";
// Backpropagation through a chain of layers, in plain numbers. x is [example][feature]; w is [output][input].
// A net is {layers: [{name, kind, slope}], loss: {kind, factor}, optimizer, penalties}; params are {name: {w, b}}.
// The tests hold it to 1e-12 of jaxbp's own numbers.
const engine = (() => {
  const sum = (numbers) => numbers.reduce((a, b) => a + b, 0);
  const dot = (a, b) => a.reduce((total, v, i) => total + v * b[i], 0);
  const softplus = (z) => Math.max(z, 0) + Math.log1p(Math.exp(-Math.abs(z)));
  const sigmoid = (z) => (z >= 0 ? 1 / (1 + Math.exp(-z)) : Math.exp(z) / (1 + Math.exp(z)));
  const softmax = (row) => {
    const top = Math.max(...row), e = row.map((z) => Math.exp(z - top)), total = sum(e);
    return e.map((v) => v / total);
  };

  // name: [value of z, slope from the output a and z, the slope in words]
  const activations = {
    sigmoid: [sigmoid, (a) => a * (1 - a), "a (1 - a)"],
    tanh: [Math.tanh, (a) => 1 - a * a, "1 - a²"],
    relu: [(z) => Math.max(z, 0), (a, z) => (z > 0 ? 1 : 0), "1 if z > 0, else 0"],
    leaky_relu: [(z, s) => (z >= 0 ? z : s * z), (a, z, s) => (z >= 0 ? 1 : s), "1 if z ≥ 0, else a small slope"],
    softplus: [softplus, (a) => -Math.expm1(-a), "1 - exp(-a)"],
    identity: [(z) => z, () => 1, "1"],
  };

  // kind: [loss of an output row y with target row t, its derivative in y]
  const losses = {
    squared: [(y, t, f) => f * sum(y.map((v, o) => (v - t[o]) ** 2)), (y, t, f) => y.map((v, o) => 2 * f * (v - t[o]))],
    absolute: [(y, t) => sum(y.map((v, o) => Math.abs(v - t[o]))), (y, t) => y.map((v, o) => Math.sign(v - t[o]))],
    binary: [
      (y, t) => sum(y.map((v, o) => t[o] * softplus(-v) + (1 - t[o]) * softplus(v))),
      (y, t) => y.map((v, o) => sigmoid(v) - t[o]),
    ],
    softmax: [
      (y, t) => {
        const top = Math.max(...y), total = Math.log(sum(y.map((v) => Math.exp(v - top)))) + top;
        return sum(y.map((v, o) => t[o] * (total - v)));
      },
      (y, t) => softmax(y).map((p, o) => sum(t) * p - t[o]),
    ],
  };

  function forwardLayer(layer, params, x) {
    if (layer.kind === "dense") {
      const { w, b } = params[layer.name];
      return x.map((row) => w.map((weights, o) => dot(weights, row) + (b ? b[o] : 0)));
    }
    if (layer.kind === "softmax") return x.map(softmax);
    return x.map((row) => row.map((z) => activations[layer.kind][0](z, layer.slope)));
  }

  // BP3 and BP4: every gradient is delta times activation, summed over the examples. BP2: the delta goes back through w.
  function backwardLayer(layer, params, x, y, dy) {
    if (layer.kind === "dense") {
      const { w, b } = params[layer.name];
      const gw = w.map((weights, o) => weights.map((_, i) => sum(x.map((row, n) => dy[n][o] * row[i]))));
      const gb = b && b.map((_, o) => sum(dy.map((row) => row[o])));
      return { dx: back(w, dy), gradient: b ? { w: gw, b: gb } : { w: gw } };
    }
    if (layer.kind === "softmax") {
      return { dx: y.map((p, n) => p.map((v, o) => v * (dy[n][o] - dot(dy[n], p)))), gradient: {} };
    }
    const slope = activations[layer.kind][1];
    return { dx: dy.map((row, n) => row.map((d, o) => d * slope(y[n][o], x[n][o], layer.slope))), gradient: {} };
  }

  const back = (w, dy) => dy.map((row) => w[0].map((_, i) => sum(row.map((d, o) => d * w[o][i]))));

  // The same mistakes as jaxbp/page/mistakes.py plants.
  function withMistake(mistake, layer, params, x, y, dy) {
    const right = backwardLayer(layer, params, x, y, dy);
    const { w } = params[layer.name] || {};
    if (mistake.name === "slope") right.dx = dy;
    if (mistake.name === "transpose") right.dx = dy.map((row) => w.map((weights) => dot(weights, row)));
    if (mistake.name === "bias") right.gradient.b = right.gradient.b.map((g) => g / dy.length);
    if (mistake.name === "stepped") {
      right.dx = back(w.map((row, o) => row.map((v, i) => v - mistake.rate * right.gradient.w[o][i])), dy);
    }
    return right;
  }

  // l2 / 2 w² + l1 |w| over the weights that have a penalty, and its slopes l2 w + l1 sign w by path.
  function penalty(net, params) {
    const slopes = {};
    let value = 0;
    for (const [path, [l2, l1]] of Object.entries(net.penalties)) {
      const [name, leaf] = path.split("/"), w = params[name][leaf];
      value += sum(w.flat().map((v) => (l2 / 2) * v * v + l1 * Math.abs(v)));
      slopes[path] = walk(w, (v) => l2 * v + l1 * Math.sign(v));
    }
    return { value, slopes };
  }

  // Everything of one pass: outputs[l] and deltas[l] (dL / d outputs[l]) of every layer, dx and gradients of the loss;
  // the penalty and its slopes; and value, loss and penalty together.
  function pass(net, params, batch, mistake) {
    const outputs = [];
    for (const layer of net.layers) outputs.push(forwardLayer(layer, params, outputs.at(-1) || batch.x));
    const y = outputs.at(-1), [item, derivative] = losses[net.loss.kind];
    const items = y.map((row, n) => item(row, batch.y[n], net.loss.factor));
    const loss = sum(items.map((item, n) => batch.weight[n] * item)), added = penalty(net, params);
    const factor = mistake ? mistake.factor : 1;
    let dy = y.map((row, n) => derivative(row, batch.y[n], net.loss.factor).map((d) => factor * batch.weight[n] * d)); // BP1
    const deltas = [], gradients = {};
    for (let l = net.layers.length - 1; l >= 0; l--) {
      const layer = net.layers[l], x = l ? outputs[l - 1] : batch.x;
      deltas[l] = dy;
      const planted = mistake && mistake.layer === l;
      const step = planted ? withMistake(mistake, layer, params, x, outputs[l], dy) : backwardLayer(layer, params, x, outputs[l], dy);
      gradients[layer.name] = step.gradient;
      dy = step.dx;
    }
    return { outputs, items, loss, penalty: added.value, slopes: added.slopes, value: loss + added.value, deltas, dx: dy, gradients };
  }

  const walk = (a, f, ...others) => (Array.isArray(a) ? a.map((v, i) => walk(v, f, ...others.map((o) => o[i]))) : f(a, ...others));

  // One leaf's step -> [what is added to the weight, first memory, second memory]; t counts the steps from 0.
  function change(optimizer, t, g, w, m, v) {
    const rate = optimizer.rates[Math.min(t, optimizer.rates.length - 1)];
    if (optimizer.kind === "sgd") {
      const velocity = g + optimizer.momentum * m;
      return [-rate * (optimizer.nesterov ? g + optimizer.momentum * velocity : velocity), velocity, 0];
    }
    const mean = optimizer.b1 * m + (1 - optimizer.b1) * g, square = optimizer.b2 * v + (1 - optimizer.b2) * g * g;
    const [first, second] = [mean / (1 - optimizer.b1 ** (t + 1)), square / (1 - optimizer.b2 ** (t + 1))];
    return [-rate * (first / (Math.sqrt(second) + optimizer.eps) + optimizer.decay * w), mean, square];
  }

  // -> {params, memory} after step t. memory holds what the optimizer remembers, by name and leaf.
  function update(net, params, gradients, memory, t) {
    const next = {}, kept = {}, { slopes } = penalty(net, params);
    for (const { name } of net.layers) {
      next[name] = {};
      for (const [leaf, ofLoss] of Object.entries(gradients[name] || {})) {
        const w = params[name][leaf], zero = walk(w, () => 0), path = name + "/" + leaf;
        const g = walk(ofLoss, (g, slope) => g + slope, slopes[path] || zero);
        const [m, v] = memory[path] || [zero, zero], factor = net.optimizer.factors[path];
        const entry = (i) => walk(g, (g, w, m, v) => change(net.optimizer, t, g, w, m, v)[i], w, m, v);
        kept[path] = [entry(1), entry(2)];
        next[name][leaf] = factor ? walk(w, (w, u) => w + factor * u, entry(0)) : w;
      }
    }
    return { params: next, memory: kept };
  }

  // The passes before each of `steps` steps and after the last, with the parameters of each.
  function train(net, params, batch, steps, mistake) {
    const passes = [];
    for (let t = 0, memory = {}; ; t++) {
      const now = { params, ...pass(net, params, batch, mistake) };
      passes.push(now);
      if (t === steps) return passes;
      ({ params, memory } = update(net, params, now.gradients, memory, t));
    }
  }

  // (L(w + h) - L(w - h)) / 2h for every entry of a leaf: what the page shows where it has no number of autodiff's.
  function differences(net, params, batch, name, leaf, h = 1e-5) {
    const w = params[name][leaf];
    const moved = (place, by) => walkTo(w, place, (v) => v + by);
    const value = (w) => pass(net, { ...params, [name]: { ...params[name], [leaf]: w } }, batch).loss;
    const places = leaf === "b" ? w.map((_, o) => [o]) : w.map((row, o) => row.map((_, i) => [o, i]));
    const slope = (place) => (value(moved(place, h)) - value(moved(place, -h))) / (2 * h);
    return leaf === "b" ? places.map(slope) : places.map((row) => row.map(slope));
  }

  const walkTo = (a, [first, ...rest], f) => a.map((v, i) => (i !== first ? v : rest.length ? walkTo(v, rest, f) : f(v)));

  return { pass, train, update, differences, activations, softmax, walkTo };
})();
if (typeof module !== "undefined") module.exports = engine;
