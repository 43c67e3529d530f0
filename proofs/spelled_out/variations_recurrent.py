"""Families of RNNs and LSTMs, each with the mistakes that people make in it."""

import numpy as np

from proofs.spelled_out.family import Family
from proofs.spelled_out.words import FACTOR, HANDED_ON, LEFT_OUT, OVERWRITTEN, PLACE, SHIFTED, SLOPE, TOO_OFTEN

RECURRENT = (
    Family(
        "rnn of characters in columns",
        """
def forward(p, inputs):
    xs, hs, ps = {}, {-1: np.zeros((p["Whh"].shape[0], 1))}, {}
    for t in range(len(inputs)):
        xs[t] = np.zeros((p["Wxh"].shape[1], 1))
        xs[t][inputs[t]] = 1
        hs[t] = np.tanh(np.dot(p["Wxh"], xs[t]) + np.dot(p["Whh"], hs[t - 1]) + p["bh"])
        y = np.dot(p["Why"], hs[t]) + p["by"]
        ps[t] = np.exp(y) / np.sum(np.exp(y))
    return xs, hs, ps

def loss(p, inputs, targets):
    xs, hs, ps = forward(p, inputs)
    return -sum(np.log(ps[t][targets[t], 0]) for t in range(len(inputs)))

def gradient(p, inputs, targets):
    xs, hs, ps = forward(p, inputs)
    dWxh, dWhh, dWhy = np.zeros_like(p["Wxh"]), np.zeros_like(p["Whh"]), np.zeros_like(p["Why"])
    dbh, dby = np.zeros_like(p["bh"]), np.zeros_like(p["by"])
    dhnext = np.zeros_like(hs[0])
    for t in reversed(range(len(inputs))):
        dy = np.copy(ps[t])
        dy[targets[t]] -= 1
        dWhy += np.dot(dy, hs[t].T)
        dby += dy
        dh = np.dot(p["Why"].T, dy) + dhnext
        dhraw = (1 - hs[t] * hs[t]) * dh
        dbh += dhraw
        dWxh += np.dot(dhraw, xs[t].T)
        dWhh += np.dot(dhraw, hs[t - 1].T)
        dhnext = np.dot(p["Whh"].T, dhraw)
    return {"Wxh": dWxh, "Whh": dWhh, "Why": dWhy, "bh": dbh, "by": dby}
""",
        {"Wxh": (4, 5), "Whh": (4, 4), "Why": (5, 4), "bh": (4, 1), "by": (5, 1)},
        lambda r: (np.array([0, 2, 4, 2, 1, 3]), np.array([2, 4, 2, 1, 3, 3])),
        (
            ("slope left out", "(1 - hs[t] * hs[t]) * dh", "dh", SLOPE),
            ("slope left out on the way back", 'np.dot(p["Whh"].T, dhraw)', 'np.dot(p["Whh"].T, dh)', SLOPE),
            ("slope left out in one gradient", "np.dot(dhraw, xs[t].T)", "np.dot(dh, xs[t].T)", SLOPE),
            ("not handed on", '        dhnext = np.dot(p["Whh"].T, dhraw)\n', "", HANDED_ON),
            (
                "truncated after three steps",
                '        dhnext = np.dot(p["Whh"].T, dhraw)\n',
                '        dhnext = np.dot(p["Whh"].T, dhraw) if t != 3 else 0 * dhraw\n',
                HANDED_ON,
            ),
            (
                "truncated at every second step",
                '        dhnext = np.dot(p["Whh"].T, dhraw)\n',
                '        dhnext = np.dot(p["Whh"].T, dhraw) if t % 2 else 0 * dhraw\n',
                HANDED_ON,
            ),
            ("own step", "dWhh += np.dot(dhraw, hs[t - 1].T)", "dWhh += np.dot(dhraw, hs[t].T)", SHIFTED),
            ("overwritten", "dWxh += np.dot", "dWxh = np.dot", OVERWRITTEN),
            ("added to itself", "dWhh += np.dot(", "dWhh += dWhh + np.dot(", TOO_OFTEN),
            (
                "bias added twice",
                "        dbh += dhraw\n",
                "        dbh += dhraw + dhraw\n",
                TOO_OFTEN + "|factor|twice",
            ),
            ("transposed weights", 'np.dot(p["Whh"].T, dhraw)', 'np.dot(p["Whh"], dhraw)', "transposed"),
            (
                "output's delta left out",
                'dh = np.dot(p["Why"].T, dy) + dhnext',
                'dh = dhnext + (np.dot(p["Why"].T, dy) if t == 5 else 0)',
                f"path.*({LEFT_OUT})|only the last|path is missing",
            ),
            (
                "returned inside the loop",
                '        dhnext = np.dot(p["Whh"].T, dhraw)\n',
                "        break\n",
                OVERWRITTEN + "|truncat|in the loop|last",
            ),
            ("target's one left out", "        dy[targets[t]] -= 1\n", "", "path|term|skip|left out"),
        ),
    ),
    Family(
        "rnn of padded batches",
        """
def step(x, h, p):
    return np.tanh(x @ p["wx"] + h @ p["wh"] + p["b"])

def loss(p, x, mask, y):
    h = np.zeros((x.shape[0], p["wh"].shape[0]))
    total = 0
    for t in range(x.shape[1]):
        m = mask[:, t : t + 1]
        h = m * step(x[:, t], h, p) + (1 - m) * h
        total += np.sum(mask[:, t] * (h @ p["v"] - y[:, t]) ** 2)
    return total / np.sum(mask)

def gradient(p, x, mask, y):
    n, T, d = x.shape
    hidden = [np.zeros((n, p["wh"].shape[0]))]
    raw = []
    for t in range(T):
        raw.append(step(x[:, t], hidden[-1], p))
        m = mask[:, t : t + 1]
        hidden.append(m * raw[-1] + (1 - m) * hidden[-1])
    grads = {k: np.zeros(a.shape) for k, a in p.items()}
    dh = np.zeros_like(hidden[0])
    for t in range(T - 1, -1, -1):
        m = mask[:, t : t + 1]
        dout = 2 * mask[:, t] * (hidden[t + 1] @ p["v"] - y[:, t]) / np.sum(mask)
        grads["v"] += hidden[t + 1].T @ dout
        dh = dh + np.outer(dout, p["v"])
        dz = dh * m * (1 - raw[t] ** 2)
        grads["wx"] += x[:, t].T @ dz
        grads["wh"] += hidden[t].T @ dz
        grads["b"] += dz.sum(axis=0)
        dh = dz @ p["wh"].T + dh * (1 - m)
    return grads
""",
        {"wx": (2, 4), "wh": (4, 4), "b": (4,), "v": (4,)},
        lambda r: (
            r.normal(size=(3, 4, 2)),
            np.array([[1.0, 1, 1, 1], [1, 0, 0, 1], [0, 1, 1, 0]]),
            r.normal(size=(3, 4)),
        ),
        (
            ("mask left out of the slope", "dh * m * (1 - raw[t] ** 2)", "dh * (1 - raw[t] ** 2)", FACTOR),
            ("skip of padded steps left out", 'dz @ p["wh"].T + dh * (1 - m)', 'dz @ p["wh"].T', "path|skip"),
            ("mask of the loss left out", "2 * mask[:, t] * (hidden", "2 * (hidden", FACTOR),
            (
                "mean over all steps",
                "/ np.sum(mask)\n        grads",
                "/ mask.size\n        grads",
                "factor|mean|stands for",
            ),
            ("not handed on", 'dh = dz @ p["wh"].T + dh * (1 - m)', "dh = dh * (1 - m)", HANDED_ON),
            (
                "slope by the masked state",
                "(1 - raw[t] ** 2)",
                "(1 - hidden[t] ** 2)",
                "slope|" + PLACE + "|wrong point",
            ),
            ("inputs of the step after", 'grads["wx"] += x[:, t].T', 'grads["wx"] += x[:, t - 1].T', SHIFTED),
            ("overwritten", 'grads["wh"] += hidden', 'grads["wh"] = hidden', OVERWRITTEN),
        ),
    ),
    Family(
        "lstm in columns with a matrix for each gate",
        """
def sigmoid(z):
    return 1 / (1 + np.exp(-z))

def forward(p, x):
    n_h = p["bf"].shape[0]
    h, c = np.zeros((n_h, x.shape[1])), np.zeros((n_h, x.shape[1]))
    caches = []
    for t in range(x.shape[2]):
        z = np.concatenate((h, x[:, :, t]), axis=0)
        f, i = sigmoid(p["Wf"] @ z + p["bf"]), sigmoid(p["Wi"] @ z + p["bi"])
        g, o = np.tanh(p["Wg"] @ z + p["bg"]), sigmoid(p["Wo"] @ z + p["bo"])
        c_prev, c = c, f * c + i * g
        h = o * np.tanh(c)
        caches.append((z, f, i, g, o, c_prev, c))
    return h, caches

def loss(p, x, y):
    h, _ = forward(p, x)
    return np.sum((h - y) ** 2) / (2 * x.shape[1])

def gradient(p, x, y):
    h, caches = forward(p, x)
    n_h = h.shape[0]
    grads = {k: np.zeros_like(a) for k, a in p.items()}
    dh, dc = (h - y) / x.shape[1], np.zeros_like(h)
    for z, f, i, g, o, c_prev, c in reversed(caches):
        do = dh * np.tanh(c) * o * (1 - o)
        dc = dc + dh * o * (1 - np.square(np.tanh(c)))
        df = dc * c_prev * f * (1 - f)
        di = dc * g * i * (1 - i)
        dg = dc * i * (1 - g**2)
        for gate, da in (("f", df), ("i", di), ("g", dg), ("o", do)):
            grads["W" + gate] += da @ z.T
            grads["b" + gate] += np.sum(da, axis=1, keepdims=True)
        dz = p["Wf"].T @ df + p["Wi"].T @ di + p["Wg"].T @ dg + p["Wo"].T @ do
        dh = dz[:n_h]
        dc = dc * f
    return grads
""",
        {**{f"W{gate}": (3, 5) for gate in "figo"}, **{f"b{gate}": (3, 1) for gate in "figo"}},
        lambda r: (r.normal(size=(2, 4, 3)), r.normal(size=(3, 4))),
        (
            ("slope of the cell left out", "dh * o * (1 - np.square(np.tanh(c)))", "dh * o", SLOPE),
            ("output gate's factor left out", "dh * o * (1 - np", "dh * (1 - np", FACTOR),
            ("forget gate's slope", "c_prev * f * (1 - f)", "c_prev", SLOPE),
            ("sigmoid's slope for tanh's", "dc * i * (1 - g**2)", "dc * i * g * (1 - g)", "sigmoid|another|slope y"),
            ("c for c before", "df = dc * c_prev", "df = dc * c", PLACE + "|step (before|after)"),
            ("factor of the input gate left out", "dg = dc * i *", "dg = dc *", FACTOR),
            ("a gate's path left out", ' + p["Wo"].T @ do', "", "path"),
            ("gates exchanged", '("f", df), ("i", di)', '("f", di), ("i", df)', "true gradient of|order|" + PLACE),
            ("delta of c not handed on", "        dc = dc * f\n", "        dc = 0 * dc\n", HANDED_ON),
            ("delta of c without its gate", "        dc = dc * f\n", "", FACTOR),
            ("delta of h not handed on", "        dh = dz[:n_h]\n", "        dh = 0 * dh\n", HANDED_ON),
            ("old delta of c left out", "dc = dc + dh * o", "dc = dh * o", HANDED_ON),
            ("bias overwritten", 'grads["b" + gate] +=', 'grads["b" + gate] =', OVERWRITTEN),
            ("inputs for states", "dh = dz[:n_h]", "dh = dz[2:]", "order|shift|" + PLACE),
        ),
    ),
)
