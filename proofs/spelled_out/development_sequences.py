"""RNNs, LSTMs, attention, embeddings and matrix factorisation: what the diagnosis may learn."""

import numpy as np

from proofs.spelled_out.exercise import Exercise

SEQUENCES = (
    Exercise(
        "rnn in loops: an accumulator overwritten",
        """
def forward(p, x, h0):
    h = [h0]
    for t in range(x.shape[1]):
        h.append(np.tanh(np.dot(x[:, t], p["wx"]) + np.dot(h[-1], p["wh"]) + p["b"]))
    return h

def loss(p, x, h0, y):
    h = forward(p, x, h0)
    total = 0.0
    for t in range(x.shape[1]):
        total += 0.5 * np.sum((np.dot(h[t + 1], p["wy"]) - y[:, t]) ** 2) / len(x)
    return total

def gradient(p, x, h0, y):
    h = forward(p, x, h0)
    dwx, dwh, db, dwy = (np.zeros_like(p[name]) for name in ("wx", "wh", "b", "wy"))
    dhnext = np.zeros_like(h0)
    for t in reversed(range(x.shape[1])):
        dout = (np.dot(h[t + 1], p["wy"]) - y[:, t]) / len(x)
        dwy += np.dot(h[t + 1].T, dout)
        dh = np.dot(dout, p["wy"].T) + dhnext
        dz = (1 - h[t + 1] ** 2) * dh
        dwx += np.dot(x[:, t].T, dz)
        dwh += np.dot(h[t].T, dz)
        db += np.sum(dz, axis=0)
        dhnext = np.dot(dz, p["wh"].T)
    return {"wx": dwx, "wh": dwh, "b": db, "wy": dwy}
""",
        {"wx": (2, 4), "wh": (4, 4), "b": (4,), "wy": (4, 2)},
        lambda r: (r.normal(size=(3, 5, 2)), r.normal(size=(3, 4)), r.normal(size=(3, 5, 2))),
        "dwh += np.dot",
        "dwh = np.dot",
        {"wh"},
        "overwrit|only the (first|last)|assigned",
    ),
    Exercise(
        "rnn with sigmoid: truncated at one step",
        """
def sigmoid(z):
    return 1.0 / (1.0 + jnp.exp(-z))

def forward(p, x):
    h = [jnp.zeros((x.shape[1], p["wh"].shape[0]))]
    for x_t in x:
        h.append(sigmoid(x_t @ p["wx"] + h[-1] @ p["wh"] + p["b"]))
    return h

def loss(p, x, y):
    return jnp.mean((forward(p, x)[-1] @ p["wy"] - y) ** 2)

def gradient(p, x, y):
    h = forward(p, x)
    dout = 2 * (h[-1] @ p["wy"] - y) / y.size
    dh = dout @ p["wy"].T
    dwx, dwh, db = 0, 0, 0
    for t in range(len(x) - 1, -1, -1):
        dz = dh * h[t + 1] * (1 - h[t + 1])
        dwx = dwx + x[t].T @ dz
        dwh = dwh + h[t].T @ dz
        db = db + dz.sum(axis=0)
        dh = dz @ p["wh"].T
    return {"wx": dwx, "wh": dwh, "b": db, "wy": h[-1].T @ dout}
""",
        {"wx": (3, 4), "wh": (4, 4), "b": (4,), "wy": (4, 1)},
        lambda r: (r.normal(size=(4, 5, 3)), r.normal(size=(5, 1))),
        '        dh = dz @ p["wh"].T\n',
        "        break\n",
        {"wx", "wh", "b"},
        "truncat|handed on|only the last|one step",
    ),
    Exercise(
        "lstm in loops: the delta of c is not handed on",
        """
def sigmoid(z):
    return 1 / (1 + np.exp(-z))

def forward(p, x):
    n, steps, _ = x.shape
    size = p["w"].shape[1] // 4
    h, c = np.zeros((n, size)), np.zeros((n, size))
    cache = []
    for t in range(steps):
        z = np.concatenate([x[:, t], h], axis=1)
        a = z @ p["w"] + p["b"]
        i, f = sigmoid(a[:, :size]), sigmoid(a[:, size : 2 * size])
        o, g = sigmoid(a[:, 2 * size : 3 * size]), np.tanh(a[:, 3 * size :])
        c_prev, c = c, f * c + i * g
        h = o * np.tanh(c)
        cache.append((z, i, f, o, g, c_prev, c))
    return h, cache

def loss(p, x, y):
    h, _ = forward(p, x)
    return 0.5 * np.sum((h @ p["wy"] - y) ** 2)

def gradient(p, x, y):
    h, cache = forward(p, x)
    inputs = x.shape[2]
    dout = h @ p["wy"] - y
    dwy = h.T @ dout
    dw, db = np.zeros_like(p["w"]), np.zeros_like(p["b"])
    dh, dc_next = dout @ p["wy"].T, np.zeros_like(h)
    for z, i, f, o, g, c_prev, c in reversed(cache):
        tanh_c = np.tanh(c)
        dc = dc_next + dh * o * (1 - tanh_c**2)
        da = np.concatenate(
            [dc * g * i * (1 - i), dc * c_prev * f * (1 - f), dh * tanh_c * o * (1 - o), dc * i * (1 - g**2)], axis=1
        )
        dw += z.T @ da
        db += da.sum(axis=0)
        dh = (da @ p["w"].T)[:, inputs:]
        dc_next = dc * f
    return {"w": dw, "b": db, "wy": dwy}
""",
        {"w": (5, 12), "b": (12,), "wy": (3, 2)},
        lambda r: (r.normal(size=(4, 3, 2)), r.normal(size=(4, 2))),
        "        dc_next = dc * f\n",
        "",
        {"w", "b"},
        "handed on|truncat|path is missing",
    ),
    Exercise(
        "lstm with a weight for each gate: a gate's bias copied",
        """
def sigmoid(z):
    return 1 / (1 + jnp.exp(-z))

def forward(p, x):
    h = c = jnp.zeros((x.shape[1], p["bi"].size))
    steps = []
    for x_t in x:
        z = jnp.hstack([x_t, h])
        i, f, o = (sigmoid(z @ p["w" + gate] + p["b" + gate]) for gate in "ifo")
        g = jnp.tanh(z @ p["wg"] + p["bg"])
        old, c = c, f * c + i * g
        h = o * jnp.tanh(c)
        steps.append((z, i, f, o, g, old, c))
    return h, steps

def loss(p, x, y):
    return jnp.mean(jnp.sum((forward(p, x)[0] - y) ** 2, axis=1))

def gradient(p, x, y):
    h, steps = forward(p, x)
    size = h.shape[1]
    grads = {name: jnp.zeros_like(a) for name, a in p.items()}
    dh, dc = 2 * (h - y) / len(y), 0
    for z, i, f, o, g, old, c in steps[::-1]:
        do = dh * jnp.tanh(c) * o * (1 - o)
        dc = dc + dh * o * (1 - jnp.tanh(c) ** 2)
        di = dc * g * i * (1 - i)
        df = dc * old * f * (1 - f)
        dg = dc * i * (1 - g * g)
        grads["wi"] += z.T @ di
        grads["wf"] += z.T @ df
        grads["wo"] += z.T @ do
        grads["wg"] += z.T @ dg
        grads["bi"] += di.sum(0)
        grads["bf"] += df.sum(0)
        grads["bo"] += do.sum(0)
        grads["bg"] += dg.sum(0)
        dz = di @ p["wi"].T + df @ p["wf"].T + do @ p["wo"].T + dg @ p["wg"].T
        dh = dz[:, -size:]
        dc = dc * f
    return grads
""",
        {**{f"w{gate}": (5, 3) for gate in "ifog"}, **{f"b{gate}": (3,) for gate in "ifog"}},
        lambda r: (r.normal(size=(3, 4, 2)), r.normal(size=(4, 3))),
        'grads["bf"] += df.sum(0)',
        'grads["bf"] += di.sum(0)',
        {"bf"},
        "true gradient of .*bi|copied",
    ),
    Exercise(
        "attention of one head: scale left out",
        """
def softmax(s):
    e = np.exp(s - s.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)

def loss(p, x, y):
    q, k, v = x @ p["wq"], x @ p["wk"], x @ p["wv"]
    a = softmax(q @ k.T / np.sqrt(q.shape[1]))
    return np.sum((a @ v - y) ** 2)

def gradient(p, x, y):
    q, k, v = x @ p["wq"], x @ p["wk"], x @ p["wv"]
    a = softmax(q @ k.T / np.sqrt(q.shape[1]))
    dout = 2 * (a @ v - y)
    dv = a.T @ dout
    da = dout @ v.T
    ds = a * (da - (da * a).sum(axis=-1, keepdims=True))
    ds = ds / np.sqrt(q.shape[1])
    return {"wq": x.T @ (ds @ k), "wk": x.T @ (ds.T @ q), "wv": x.T @ dv}
""",
        {"wq": (4, 3), "wk": (4, 3), "wv": (4, 2)},
        lambda r: (r.normal(size=(5, 4)), r.normal(size=(5, 2))),
        "    ds = ds / np.sqrt(q.shape[1])\n",
        "",
        {"wq", "wk"},
        "(scale|factor).*(left out|forgotten)|(left out|forgotten).*(scale|factor)",
    ),
    Exercise(
        "causal attention of a batch: row sum left out",
        """
def weights(q, k):
    steps = q.shape[1]
    scores = jnp.einsum("nid,njd->nij", q, k) / q.shape[-1] ** 0.5
    e = jnp.where(jnp.tril(jnp.ones((steps, steps))) == 1, jnp.exp(scores), 0)
    return e / jnp.sum(e, axis=2, keepdims=True)

def loss(p, x, y):
    a = weights(x @ p["wq"], x @ p["wk"])
    return jnp.mean((a @ (x @ p["wv"]) @ p["wo"] - y) ** 2)

def gradient(p, x, y):
    q, k, v = x @ p["wq"], x @ p["wk"], x @ p["wv"]
    a = weights(q, k)
    h = a @ v
    dout = 2 * (h @ p["wo"] - y) / y.size
    dh = dout @ p["wo"].T
    da = jnp.einsum("nid,njd->nij", dh, v)
    ds = a * (da - jnp.sum(a * da, axis=2, keepdims=True)) / q.shape[-1] ** 0.5
    dq = jnp.einsum("nij,njd->nid", ds, k)
    dk = jnp.einsum("nij,nid->njd", ds, q)
    dv = jnp.einsum("nij,nid->njd", a, dh)
    project = lambda left, right: jnp.einsum("nti,ntj->ij", left, right)
    return {"wq": project(x, dq), "wk": project(x, dk), "wv": project(x, dv), "wo": project(h, dout)}
""",
        {"wq": (3, 4), "wk": (3, 4), "wv": (3, 2), "wo": (2, 3)},
        lambda r: (r.normal(size=(2, 5, 3)), r.normal(size=(2, 5, 3))),
        "ds = a * (da - jnp.sum(a * da, axis=2, keepdims=True))",
        "ds = a * da",
        {"wq", "wk"},
        "row sum|normali[sz]|denominator|sum.*(left out|missing|constant)|(left out|missing).*sum",
    ),
    Exercise(
        "embedding: a repeated index overwrites",
        """
def loss(p, ids, y):
    e = p["table"][ids]
    h = np.tanh(np.mean(e, axis=1) @ p["w"])
    return 0.5 * np.sum((h - y) ** 2)

def gradient(p, ids, y):
    mean = p["table"][ids].mean(axis=1)
    h = np.tanh(mean @ p["w"])
    dz = (h - y) * (1 - h**2)
    de = np.repeat((dz @ p["w"].T)[:, None, :], ids.shape[1], axis=1) / ids.shape[1]
    dtable = np.zeros_like(p["table"])
    np.add.at(dtable, ids, de)
    return {"table": dtable, "w": mean.T @ dz}
""",
        {"table": (6, 3), "w": (3, 2)},
        lambda r: (np.array([[0, 1, 1], [4, 1, 5], [2, 5, 0], [4, 4, 2]]), r.normal(size=(4, 2))),
        "np.add.at(dtable, ids, de)",
        "dtable[ids] += de",
        {"table"},
        "overwrit|repeated",
    ),
    Exercise(
        "embedding tied to the output: counted once",
        """
def forward(p, ids):
    e = p["table"][ids]
    h = jnp.tanh(e @ p["w"])
    scores = h @ p["table"].T
    return e, h, jnp.exp(scores) / jnp.sum(jnp.exp(scores), axis=1, keepdims=True)

def loss(p, ids, targets):
    probs = forward(p, ids)[-1]
    return -jnp.sum(jnp.log(probs[jnp.arange(len(targets)), targets]))

def gradient(p, ids, targets):
    e, h, probs = forward(p, ids)
    dscores = probs - jnp.eye(probs.shape[1])[targets]
    dh = dscores @ p["table"]
    dz = dh * (1 - h**2)
    de = dz @ p["w"].T
    dtable = jnp.zeros_like(p["table"]).at[ids].add(de)
    dtable = dtable + dscores.T @ h
    return {"table": dtable, "w": e.T @ dz}
""",
        {"table": (5, 3), "w": (3, 3)},
        lambda r: (np.array([0, 3, 3, 1, 4, 0, 2]), np.array([1, 3, 0, 4, 4, 2, 2])),
        "    dtable = dtable + dscores.T @ h\n",
        "",
        {"table"},
        "tied|counted once|one use|path is missing",
    ),
    Exercise(
        "matrix factorisation with a mask: mask left out",
        """
def loss(p, ratings, known):
    predicted = p["u"] @ p["v"].T + p["b"]
    return 0.5 * np.sum(known * (predicted - ratings) ** 2)

def gradient(p, ratings, known):
    error = known * (p["u"] @ p["v"].T + p["b"] - ratings)
    return {"u": error @ p["v"], "v": error.T @ p["u"], "b": error.sum(axis=0)}
""",
        {"u": (5, 2), "v": (4, 2), "b": (4,)},
        lambda r: (r.integers(1, 6, (5, 4)) * 1.0, (r.uniform(size=(5, 4)) < 0.6) * 1.0),
        "error = known * (p",
        "error = (p",
        {"u", "v", "b"},
        "(mask|factor).*(left out|forgotten)|(left out|forgotten).*(mask|factor)",
    ),
    Exercise(
        "matrix factorisation of a graph: a weight in place of the other",
        """
def sigmoid(z):
    return 1 / (1 + jnp.exp(-z))

def loss(p, links):
    probability = sigmoid(p["u"] @ p["v"].T)
    return -jnp.mean(links * jnp.log(probability) + (1 - links) * jnp.log(1 - probability))

def gradient(p, links):
    delta = (sigmoid(p["u"] @ p["v"].T) - links) / links.size
    return {"u": delta @ p["v"], "v": delta.T @ p["u"]}
""",
        {"u": (5, 2), "v": (5, 2)},
        lambda r: (r.integers(0, 2, (5, 5)) * 1.0,),
        'delta @ p["v"]',
        'delta @ p["u"]',
        {"u"},
        "in place of|instead of",
    ),
)
