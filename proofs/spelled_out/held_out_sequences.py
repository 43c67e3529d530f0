"""RNNs, LSTMs, attention, embeddings and matrix factorisation: what the diagnosis was not made with."""

import numpy as np

from proofs.spelled_out.exercise import Exercise

SEQUENCES = (
    Exercise(
        "rnn of characters: slope left out on the way back in time",
        """
def forward(p, inputs):
    hs, ps = [np.zeros((p["Whh"].shape[0], 1))], []
    for t in range(len(inputs)):
        hs.append(np.tanh(p["Wxh"][:, inputs[t]].reshape(-1, 1) + np.dot(p["Whh"], hs[-1]) + p["bh"]))
        y = np.dot(p["Why"], hs[-1]) + p["by"]
        ps.append(np.exp(y) / np.sum(np.exp(y)))
    return hs, ps

def loss(p, inputs, targets):
    hs, ps = forward(p, inputs)
    total = 0
    for t in range(len(inputs)):
        total += -np.log(ps[t][targets[t], 0])
    return total

def gradient(p, inputs, targets):
    hs, ps = forward(p, inputs)
    d = {name: np.zeros_like(a) for name, a in p.items()}
    dhnext = np.zeros_like(hs[0])
    for t in reversed(range(len(inputs))):
        dy = np.copy(ps[t])
        dy[targets[t]] -= 1
        d["Why"] += np.dot(dy, hs[t + 1].T)
        d["by"] += dy
        dh = np.dot(p["Why"].T, dy) + dhnext
        dhraw = (1 - hs[t + 1] * hs[t + 1]) * dh
        d["bh"] += dhraw
        d["Wxh"][:, inputs[t]] += dhraw[:, 0]
        d["Whh"] += np.dot(dhraw, hs[t].T)
        dhnext = np.dot(p["Whh"].T, dhraw)
    return d
""",
        {"Wxh": (4, 5), "Whh": (4, 4), "bh": (4, 1), "Why": (5, 4), "by": (5, 1)},
        lambda r: (np.array([0, 2, 4, 2, 1]), np.array([2, 4, 2, 1, 3])),
        'np.dot(p["Whh"].T, dhraw)',
        'np.dot(p["Whh"].T, dh)',
        {"Wxh", "Whh", "bh"},
        "(derivative|slope).*(left out|missing)|path is missing",
    ),
    Exercise(
        "rnn with an output at every step: returned inside the loop",
        """
def states(p, x):
    h, all_h = jnp.zeros((len(x), p["wh"].shape[0])), []
    for t in range(x.shape[1]):
        h = jnp.tanh(x[:, t] @ p["wx"] + h @ p["wh"] + p["b"])
        all_h.append(h)
    return all_h

def loss(p, x, y):
    return sum(jnp.mean((h @ p["wy"] - y[:, t]) ** 2) for t, h in enumerate(states(p, x)))

def gradient(p, x, y):
    all_h = states(p, x)
    dwx, dwh, dwy, db = (jnp.zeros(p[k].shape) for k in ("wx", "wh", "wy", "b"))
    dh = 0
    for t in range(x.shape[1] - 1, -1, -1):
        dout = 2 * (all_h[t] @ p["wy"] - y[:, t]) / y[:, t].size
        dz = (dout @ p["wy"].T + dh) * (1 - all_h[t] ** 2)
        dwy += all_h[t].T @ dout
        dwx += x[:, t].T @ dz
        db += jnp.sum(dz, axis=0)
        if t > 0:
            dwh += all_h[t - 1].T @ dz
        dh = dz @ p["wh"].T
    return {"wx": dwx, "wh": dwh, "wy": dwy, "b": db}
""",
        {"wx": (3, 4), "wh": (4, 4), "wy": (4, 2), "b": (4,)},
        lambda r: (r.normal(size=(5, 4, 3)), r.normal(size=(5, 4, 2))),
        '        dh = dz @ p["wh"].T\n',
        '        return {"wx": dwx, "wh": dwh, "wy": dwy, "b": db}\n',
        {"wx", "wh", "wy", "b"},
        "inside the loop|in the loop|only the (first|last)|overwrit|truncat",
    ),
    Exercise(
        "lstm over a sentence: a gate's factor forgotten",
        """
sigmoid = lambda z: 1 / (1 + np.exp(-z))

def run(p, x):
    size = p["b"].shape[0] // 4
    h, c, tape = np.zeros(size), np.zeros(size), []
    for x_t in x:
        a = p["W"] @ x_t + p["U"] @ h + p["b"]
        i, f, g, o = np.split(a, 4)
        i, f, g, o = sigmoid(i), sigmoid(f), np.tanh(g), sigmoid(o)
        tape.append((x_t, h, c, i, f, g, o))
        c = f * c + i * g
        h = o * np.tanh(c)
    return h, c, tape

def loss(p, x, y):
    h, _, _ = run(p, x)
    return 0.5 * np.sum((h - y) ** 2)

def gradient(p, x, y):
    h, c, tape = run(p, x)
    dW, dU, db = np.zeros(p["W"].shape), np.zeros(p["U"].shape), np.zeros(p["b"].shape)
    dh, dc = h - y, np.zeros(h.shape)
    for x_t, h_prev, c_prev, i, f, g, o in tape[::-1]:
        c = f * c_prev + i * g
        do = dh * np.tanh(c)
        dc = dc + dh * o * (1 - np.tanh(c) ** 2)
        di, df, dg = dc * g, dc * c_prev, dc * i
        da = np.hstack([di * i * (1 - i), df * f * (1 - f), dg * (1 - g**2), do * o * (1 - o)])
        dW += np.outer(da, x_t)
        dU += np.outer(da, h_prev)
        db += da
        dh = p["U"].T @ da
        dc = dc * f
    return {"W": dW, "U": dU, "b": db}
""",
        {"W": (12, 2), "U": (12, 3), "b": (12,)},
        lambda r: (r.normal(size=(4, 2)), r.normal(size=3)),
        "dc * g, dc * c_prev, dc * i",
        "dc * g, dc * c_prev, dc",
        {"W", "U", "b"},
        "(factor|gate).*(left out|forgotten)|(left out|forgotten).*(factor|gate)",
    ),
    Exercise(
        "lstm with outputs at every step: the delta of h is not handed on",
        """
def sigma(z):
    return 1.0 / (1.0 + jnp.exp(-z))

def step(p, h, c, x_t):
    n = h.shape[1]
    a = x_t @ p["wx"] + h @ p["wh"] + p["b"]
    i, f, o, g = sigma(a[:, :n]), sigma(a[:, n : 2 * n] + 1), sigma(a[:, 2 * n : 3 * n]), jnp.tanh(a[:, 3 * n :])
    c_new = f * c + i * g
    return o * jnp.tanh(c_new), c_new, (i, f, o, g)

def loss(p, x, y):
    h = c = jnp.zeros((x.shape[1], p["wh"].shape[0]))
    total = 0
    for x_t, y_t in zip(x, y):
        h, c, _ = step(p, h, c, x_t)
        total = total + 0.5 * jnp.sum((h - y_t) ** 2)
    return total / x.shape[1]

def gradient(p, x, y):
    h = c = jnp.zeros((x.shape[1], p["wh"].shape[0]))
    saved = []
    for x_t, y_t in zip(x, y):
        h_new, c_new, gates = step(p, h, c, x_t)
        saved.append((x_t, y_t, h, c, h_new, c_new, gates))
        h, c = h_new, c_new
    grads = {k: jnp.zeros_like(v) for k, v in p.items()}
    dh_next, dc_next = jnp.zeros_like(h), jnp.zeros_like(c)
    for x_t, y_t, h, c, h_new, c_new, (i, f, o, g) in reversed(saved):
        dh = (h_new - y_t) / x.shape[1] + dh_next
        dc = dc_next + dh * o * (1 - jnp.tanh(c_new) ** 2)
        do = dh * jnp.tanh(c_new)
        da = jnp.concatenate([dc * g * i * (1 - i), dc * c * f * (1 - f), do * o * (1 - o), dc * i * (1 - g**2)], 1)
        grads["wx"] += x_t.T @ da
        grads["wh"] += h.T @ da
        grads["b"] += da.sum(0)
        dh_next = da @ p["wh"].T
        dc_next = dc * f
    return grads
""",
        {"wx": (2, 12), "wh": (3, 12), "b": (12,)},
        lambda r: (r.normal(size=(4, 5, 2)), r.normal(size=(4, 5, 3))),
        '        dh_next = da @ p["wh"].T\n',
        "",
        {"wx", "wh", "b"},
        "handed on|truncat|path is missing",
    ),
    Exercise(
        "masked attention: mask after the softmax instead of before",
        """
def scores(p, x):
    return (x @ p["wq"]) @ (x @ p["wk"]).T / np.sqrt(p["wk"].shape[1])

def softmax(s):
    e = np.exp(s - np.max(s, axis=1, keepdims=True))
    return e / np.sum(e, axis=1, keepdims=True)

def loss(p, x, mask, y):
    a = softmax(np.where(mask, scores(p, x), -1e9))
    return np.mean((a @ x @ p["wv"] - y) ** 2)

def gradient(p, x, mask, y):
    q, k, v = x @ p["wq"], x @ p["wk"], x @ p["wv"]
    a = softmax(np.where(mask, scores(p, x), -1e9))
    dout = 2 * (a @ v - y) / y.size
    dv = a.T @ dout
    da = dout @ v.T
    ds = a * (da - np.sum(da * a, axis=1, keepdims=True)) / np.sqrt(k.shape[1])
    return {"wq": x.T @ ds @ k, "wk": x.T @ ds.T @ q, "wv": x.T @ dv}
""",
        {"wq": (3, 4), "wk": (3, 4), "wv": (3, 2)},
        lambda r: (r.normal(size=(6, 3)), np.tri(6) > 0, r.normal(size=(6, 2))),
        "    a = softmax(np.where(mask, scores(p, x), -1e9))\n    dout",
        "    a = softmax(scores(p, x)) * mask\n    dout",
        {"wq", "wk", "wv"},
        "mask",
    ),
    Exercise(
        "attention of two heads: diagonal of the Jacobian only",
        """
def attend(p, x):
    q, k, v = (jnp.einsum("nti,hid->nhtd", x, p[name]) for name in ("q", "k", "v"))
    s = jnp.einsum("nhtd,nhud->nhtu", q, k) / jnp.sqrt(q.shape[-1])
    w = jnp.exp(s) / jnp.exp(s).sum(-1, keepdims=True)
    return q, k, v, w, jnp.einsum("nhtu,nhud->nhtd", w, v)

def loss(p, x, y):
    heads = attend(p, x)[-1]
    return 0.5 * jnp.sum((jnp.einsum("nhtd,hdo->nto", heads, p["o"]) - y) ** 2)

def gradient(p, x, y):
    q, k, v, w, heads = attend(p, x)
    dout = jnp.einsum("nhtd,hdo->nto", heads, p["o"]) - y
    dheads = jnp.einsum("nto,hdo->nhtd", dout, p["o"])
    dw = jnp.einsum("nhtd,nhud->nhtu", dheads, v)
    dv = jnp.einsum("nhtu,nhtd->nhud", w, dheads)
    ds = w * (dw - (dw * w).sum(-1, keepdims=True))
    ds = ds / jnp.sqrt(q.shape[-1])
    dq, dk = jnp.einsum("nhtu,nhud->nhtd", ds, k), jnp.einsum("nhtu,nhtd->nhud", ds, q)
    grads = {name: jnp.einsum("nti,nhtd->hid", x, d) for name, d in (("q", dq), ("k", dk), ("v", dv))}
    return grads | {"o": jnp.einsum("nhtd,nto->hdo", heads, dout)}
""",
        {"q": (2, 4, 3), "k": (2, 4, 3), "v": (2, 4, 3), "o": (2, 3, 2)},
        lambda r: (r.normal(size=(2, 5, 4)), r.normal(size=(2, 5, 2))),
        "ds = w * (dw - (dw * w).sum(-1, keepdims=True))",
        "ds = dw * w * (1 - w)",
        {"q", "k"},
        "diagonal",
    ),
    Exercise(
        "embedding of a context: a sum for the mean",
        """
def forward(p, context):
    h = jnp.mean(p["input"][context], axis=1)
    e = jnp.exp(h @ p["output"])
    return h, e / jnp.sum(e, axis=1, keepdims=True)

def loss(p, context, word):
    return -jnp.sum(jnp.log(forward(p, context)[1])[jnp.arange(len(word)), word]) / len(word)

def gradient(p, context, word):
    h, probs = forward(p, context)
    dscores = (probs - jnp.eye(probs.shape[1])[word]) / len(word)
    dh = dscores @ p["output"].T
    dinput = jnp.zeros_like(p["input"])
    for position in range(context.shape[1]):
        dinput = dinput.at[context[:, position]].add(dh / context.shape[1])
    return {"input": dinput, "output": h.T @ dscores}
""",
        {"input": (7, 4), "output": (4, 7)},
        lambda r: (r.integers(0, 7, (5, 3)), r.integers(0, 7, 5)),
        "add(dh / context.shape[1])",
        "add(dh)",
        {"input"},
        "sum instead of mean|(mean|division|factor).*(left out|forgotten)|(left out|forgotten).*(mean|division|factor)",
    ),
    Exercise(
        "embedding with a residual block: skip left out",
        """
def forward(p, ids):
    e = p["table"][ids]
    a = np.tanh(np.matmul(e, p["w1"]))
    h = e + np.matmul(a, p["w2"])
    return e, a, h, 1 / (1 + np.exp(-h.sum(axis=1) @ p["v"]))

def loss(p, ids, y):
    prob = forward(p, ids)[-1]
    return -np.mean(y * np.log(prob) + (1 - y) * np.log(1 - prob))

def gradient(p, ids, y):
    e, a, h, prob = forward(p, ids)
    dlogit = (prob - y) / len(y)
    dv = h.sum(axis=1).T @ dlogit
    dh = np.ones((1, ids.shape[1], 1)) * np.outer(dlogit, p["v"])[:, None, :]
    da = dh @ p["w2"].T * (1 - a**2)
    dw2 = np.einsum("nti,ntj->ij", a, dh)
    dw1 = np.einsum("nti,ntj->ij", e, da)
    de = dh + da @ p["w1"].T
    dtable = np.zeros(p["table"].shape)
    for n in range(ids.shape[0]):
        for t in range(ids.shape[1]):
            dtable[ids[n, t]] += de[n, t]
    return {"table": dtable, "w1": dw1, "w2": dw2, "v": dv}
""",
        {"table": (6, 3), "w1": (3, 4), "w2": (4, 3), "v": (3,)},
        lambda r: (r.integers(0, 6, (4, 3)), r.integers(0, 2, 4) * 1.0),
        'de = dh + da @ p["w1"].T',
        'de = da @ p["w1"].T',
        {"table"},
        "skip|residual|path is missing",
    ),
    Exercise(
        "matrix factorisation in a loop over ratings: sign of the penalty",
        """
def loss(p, users, items, ratings):
    total = 0.05 * (np.sum(p["u"] ** 2) + np.sum(p["v"] ** 2))
    for i, j, r in zip(users, items, ratings):
        total += (r - np.dot(p["u"][i], p["v"][j])) ** 2
    return total

def gradient(p, users, items, ratings):
    du, dv = np.zeros_like(p["u"]), np.zeros_like(p["v"])
    for i, j, r in zip(users, items, ratings):
        error = r - np.dot(p["u"][i], p["v"][j])
        du[i] += -2 * error * p["v"][j]
        dv[j] += -2 * error * p["u"][i]
    du += 0.1 * p["u"]
    dv += 0.1 * p["v"]
    return {"u": du, "v": dv}
""",
        {"u": (5, 3), "v": (4, 3)},
        lambda r: (np.array([0, 0, 1, 2, 3, 4, 4]), np.array([1, 3, 0, 1, 2, 3, 0]), r.integers(1, 6, 7) * 1.0),
        'du += 0.1 * p["u"]',
        'du -= 0.1 * p["u"]',
        {"u"},
        "penalty",
    ),
    Exercise(
        "matrix factorisation with dropout: its scale left out",
        """
def loss(p, x, keep):
    hidden = x @ p["down"] * keep / 0.8
    return jnp.mean(jnp.sum((hidden @ p["up"] - x) ** 2, axis=1))

def gradient(p, x, keep):
    hidden = x @ p["down"] * keep / 0.8
    dout = 2 * (hidden @ p["up"] - x) / len(x)
    dhidden = dout @ p["up"].T * keep / 0.8
    return {"down": x.T @ dhidden, "up": hidden.T @ dout}
""",
        {"down": (5, 4), "up": (4, 5)},
        lambda r: (r.normal(size=(6, 5)), (r.uniform(size=(6, 4)) < 0.8) * 1.0),
        'dout @ p["up"].T * keep / 0.8',
        'dout @ p["up"].T * keep',
        {"down"},
        "(scale|factor|dropout).*(left out|forgotten)|(left out|forgotten).*(scale|factor|dropout)",
    ),
)
