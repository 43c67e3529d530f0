"""Families of attention, embeddings and factorisations, each with the mistakes that people make in it."""

import numpy as np

from proofs.spelled_out.family import Family
from proofs.spelled_out.words import FACTOR, LEFT_OUT, MEAN, OVERWRITTEN, PLACE, SLOPE

ATTENTION = (
    Family(
        "masked attention by adding a large number",
        """
def softmax(x, axis=-1):
    e = np.exp(x - np.max(x, axis=axis, keepdims=True))
    return e / np.sum(e, axis=axis, keepdims=True)

def loss(p, x, mask, y):
    Q, K, V = x @ p["Wq"], x @ p["Wk"], x @ p["Wv"]
    scores = np.matmul(Q, K.transpose(0, 2, 1)) / np.sqrt(K.shape[-1])
    A = softmax(scores + (1 - mask) * -1e9)
    out = np.matmul(A, V) @ p["Wo"] + x
    return np.mean((out - y) ** 2)

def gradient(p, x, mask, y):
    Q, K, V = x @ p["Wq"], x @ p["Wk"], x @ p["Wv"]
    d = np.sqrt(K.shape[-1])
    scores = np.matmul(Q, K.transpose(0, 2, 1)) / d
    A = softmax(scores + (1 - mask) * -1e9)
    H = np.matmul(A, V)
    dout = 2 * (H @ p["Wo"] + x - y) / y.size
    dWo = np.sum(np.matmul(H.transpose(0, 2, 1), dout), axis=0)
    dH = dout @ p["Wo"].T
    dV = np.matmul(A.transpose(0, 2, 1), dH)
    dA = np.matmul(dH, V.transpose(0, 2, 1))
    dS = A * (dA - np.sum(dA * A, axis=-1, keepdims=True))
    dS = dS / d
    dQ = np.matmul(dS, K)
    dK = np.matmul(dS.transpose(0, 2, 1), Q)
    total = lambda a: np.sum(np.matmul(x.transpose(0, 2, 1), a), axis=0)
    return {"Wq": total(dQ), "Wk": total(dK), "Wv": total(dV), "Wo": dWo}
""",
        {"Wq": (3, 4), "Wk": (3, 4), "Wv": (3, 3), "Wo": (3, 3)},
        lambda r: (r.normal(size=(2, 4, 3)), np.tri(4), r.normal(size=(2, 4, 3))),
        (
            (
                "mask after the softmax",
                "    A = softmax(scores + (1 - mask) * -1e9)\n    H",
                "    A = softmax(scores) * mask\n    H",
                "mask|'add'|" + PLACE,
            ),
            (
                "mask forgotten",
                "    A = softmax(scores + (1 - mask) * -1e9)\n    H",
                "    A = softmax(scores)\n    H",
                "mask|'add'|" + PLACE,
            ),
            ("scale left out", "    dS = dS / d\n", "", FACTOR),
            ("row sum left out", "A * (dA - np.sum(dA * A, axis=-1, keepdims=True))", "A * dA", f"sum.*({LEFT_OUT})"),
            ("diagonal only", "A * (dA - np.sum(dA * A, axis=-1, keepdims=True))", "dA * A * (1 - A)", "diagonal"),
            ("sum over the wrong axis", "np.sum(dA * A, axis=-1", "np.sum(dA * A, axis=1", "axis|axes"),
            ("not transposed", "dK = np.matmul(dS.transpose(0, 2, 1), Q)", "dK = np.matmul(dS, Q)", "transposed"),
            ("keys for queries", "dQ = np.matmul(dS, K)", "dQ = np.matmul(dS, Q)", PLACE),
            (
                "values for keys' delta",
                "dV = np.matmul(A.transpose(0, 2, 1), dH)",
                "dV = np.matmul(A, dH)",
                "transposed",
            ),
            (
                "softmax's derivative left out",
                "dS = A * (dA - np.sum(dA * A, axis=-1, keepdims=True))",
                "dS = dA",
                SLOPE,
            ),
            (
                "first example only",
                "dWo = np.sum(np.matmul(H.transpose(0, 2, 1), dout), axis=0)",
                "dWo = np.matmul(H.transpose(0, 2, 1), dout)[0]",
                "example|axis|first|overwr",
            ),
        ),
    ),
    Family(
        "attention of several heads by reshaping",
        """
def split(a, heads):
    n, t, d = a.shape
    return a.reshape(n, t, heads, d // heads).transpose(0, 2, 1, 3)

def join(a):
    n, heads, t, d = a.shape
    return a.transpose(0, 2, 1, 3).reshape(n, t, heads * d)

def attend(p, x, keep):
    q, k, v = (split(x @ p[name], 2) for name in ("q", "k", "v"))
    s = q @ k.transpose(0, 1, 3, 2) * q.shape[-1] ** -0.5
    e = np.where(np.tri(x.shape[1]) > 0, np.exp(s), 0)
    a = e / e.sum(axis=-1, keepdims=True)
    b = a * keep / 0.75
    return q, k, v, a, b, join(b @ v)

def loss(p, x, keep, y):
    return 0.5 * np.sum((attend(p, x, keep)[-1] @ p["o"] - y) ** 2) / len(x)

def gradient(p, x, keep, y):
    q, k, v, a, b, h = attend(p, x, keep)
    dout = (h @ p["o"] - y) / len(x)
    dh = split(dout @ p["o"].T, 2)
    db = dh @ v.transpose(0, 1, 3, 2)
    dv = b.transpose(0, 1, 3, 2) @ dh
    da = db * keep / 0.75
    ds = a * (da - (a * da).sum(axis=-1, keepdims=True))
    ds = ds * q.shape[-1] ** -0.5
    dq = ds @ k
    dk = np.einsum("nhij,nhid->nhjd", ds, q)
    grads = {name: np.einsum("nti,ntj->ij", x, join(d)) for name, d in (("q", dq), ("k", dk), ("v", dv))}
    grads["o"] = np.einsum("nti,ntj->ij", h, dout)
    return grads
""",
        {"q": (3, 4), "k": (3, 4), "v": (3, 4), "o": (4, 2)},
        lambda r: (r.normal(size=(2, 4, 3)), (r.uniform(size=(2, 2, 4, 4)) < 0.75) * 1.0, r.normal(size=(2, 4, 2))),
        (
            ("dropout left out", "da = db * keep / 0.75", "da = db", FACTOR),
            ("dropout's scale left out", "da = db * keep / 0.75", "da = db * keep", FACTOR),
            ("dropout on both sides", "da - (a * da).sum", "da - (b * da).sum", PLACE + "|twice|too often"),
            ("dropout left out of the values", "dv = b.transpose", "dv = a.transpose", FACTOR + "|" + PLACE),
            ("scale left out", "    ds = ds * q.shape[-1] ** -0.5\n", "", FACTOR),
            (
                "scale applied twice",
                "    ds = ds * q.shape[-1] ** -0.5\n",
                "    ds = ds * q.shape[-1] ** -1.0\n",
                "twice|too often|too many|factor",
            ),
            ("row sum left out", "a * (da - (a * da).sum(axis=-1, keepdims=True))", "a * da", f"sum.*({LEFT_OUT})"),
            ("heads in another order", '("k", dk), ("v", dv)', '("k", dk[:, ::-1]), ("v", dv)', "order|revers|flip"),
            ("mean over examples left out", 'dout = (h @ p["o"] - y) / len(x)', 'dout = h @ p["o"] - y', MEAN),
            ("dropout's mask in the scores", "ds = a * (da", "ds = b * (da", PLACE + "|too often|twice"),
        ),
    ),
    Family(
        "attention query by query",
        """
def weights(p, x, i):
    scores = [x[i] @ p["q"] @ (x[j] @ p["k"]) for j in range(i + 1)]
    e = np.exp(np.array(scores)) if not hasattr(scores[0], "value") else np.exp(np.stack(scores))
    return e / np.sum(e)

def loss(p, x, y):
    total = 0
    for i in range(len(x)):
        w = weights(p, x, i)
        out = sum(w[j] * (x[j] @ p["v"]) for j in range(i + 1))
        total += 0.5 * np.sum((out - y[i]) ** 2)
    return total

def gradient(p, x, y):
    dq, dk, dv = (np.zeros_like(p[name]) for name in "qkv")
    for i in range(len(x)):
        w = weights(p, x, i)
        values = x[: i + 1] @ p["v"]
        dout = w @ values - y[i]
        dv += np.outer(w @ x[: i + 1], dout)
        dw = values @ dout
        ds = w * (dw - w @ dw)
        dq += np.outer(x[i], ds @ (x[: i + 1] @ p["k"]))
        dk += np.outer(ds @ x[: i + 1], x[i] @ p["q"])
    return {"q": dq, "k": dk, "v": dv}
""",
        {"q": (3, 2), "k": (3, 2), "v": (3, 2)},
        lambda r: (r.normal(size=(4, 3)), r.normal(size=(4, 2))),
        (
            ("row sum left out", "w * (dw - w @ dw)", "w * dw", f"sum.*({LEFT_OUT})"),
            ("diagonal only", "w * (dw - w @ dw)", "w * (1 - w) * dw", "diagonal"),
            ("softmax's derivative left out", "w * (dw - w @ dw)", "dw", SLOPE),
            ("overwritten", "dv += np.outer", "dv = np.outer", OVERWRITTEN),
            ("queries for keys", 'x[i] @ p["q"])', 'x[i] @ p["k"])', PLACE),
        ),
    ),
    Family(
        "word vectors with negative samples",
        """
sigmoid = lambda z: 1 / (1 + np.exp(-z))

def loss(p, centres, contexts, negatives):
    total = 0
    for c, o, others in zip(centres, contexts, negatives):
        total -= np.log(sigmoid(p["U"][o] @ p["V"][c]))
        for k in others:
            total -= np.log(sigmoid(-p["U"][k] @ p["V"][c]))
    return total / len(centres)

def gradient(p, centres, contexts, negatives):
    dV, dU = np.zeros(p["V"].shape), np.zeros(p["U"].shape)
    for c, o, others in zip(centres, contexts, negatives):
        v = p["V"][c]
        g = sigmoid(p["U"][o] @ v) - 1
        dv = g * p["U"][o]
        dU[o] += g * v
        for k in others:
            s = sigmoid(p["U"][k] @ v)
            dv += s * p["U"][k]
            dU[k] += s * v
        dV[c] += dv
    return {"V": dV / len(centres), "U": dU / len(centres)}
""",
        {"V": (5, 3), "U": (6, 3)},
        lambda r: (np.array([0, 2, 2, 4]), np.array([1, 3, 5, 1]), np.array([[2, 4], [0, 1], [4, 4], [5, 3]])),
        (
            ("repeated centre overwrites", "dV[c] += dv", "dV[c] = dv", OVERWRITTEN),
            ("repeated context overwrites", "dU[o] += g * v", "dU[o] = g * v", OVERWRITTEN),
            ("sign of the negatives", 'dv += s * p["U"][k]', 'dv -= s * p["U"][k]', "sign|minus"),
            ("one left out", 'sigmoid(p["U"][o] @ v) - 1', 'sigmoid(p["U"][o] @ v)', "term|path|factor|slope|left out"),
            ("last negative only", 'dv += s * p["U"][k]', 'dv = g * p["U"][o] + s * p["U"][k]', OVERWRITTEN + "|path"),
            ("own vector", "dU[k] += s * v", 'dU[k] += s * p["U"][k]', PLACE),
            ("mean left out", "dV / len(centres)", "dV", MEAN),
            (
                "slope twice",
                "            dU[k] += s * v",
                "            dU[k] += s * (1 - s) * v",
                "slope|derivative|factor|once too often",
            ),
        ),
    ),
    Family(
        "language model with tied vectors and a skip",
        """
def forward(p, ids):
    e = p["E"][ids]
    m = e.mean(axis=1)
    h = m + np.tanh(m @ p["W"]) @ p["P"]
    s = h @ p["E"].T
    s = s - s.max(axis=1, keepdims=True)
    return m, h, s - np.log(np.exp(s).sum(axis=1, keepdims=True))

def loss(p, ids, y):
    return -np.mean(forward(p, ids)[-1][np.arange(len(y)), y])

def gradient(p, ids, y):
    m, h, logp = forward(p, ids)
    a = np.tanh(m @ p["W"])
    ds = np.exp(logp)
    ds[np.arange(len(y)), y] -= 1
    ds /= len(y)
    dE = ds.T @ h
    dh = ds @ p["E"]
    dP = a.T @ dh
    dz = dh @ p["P"].T * (1 - a**2)
    dW = m.T @ dz
    dm = dh + dz @ p["W"].T
    for j in range(ids.shape[1]):
        np.add.at(dE, ids[:, j], dm / ids.shape[1])
    return {"E": dE, "W": dW, "P": dP}
""",
        {"E": (6, 3), "W": (3, 4), "P": (4, 3)},
        lambda r: (np.array([[0, 1, 1], [4, 1, 5], [2, 5, 0], [4, 4, 2]]), np.array([2, 3, 0, 5])),
        (
            ("tied weights once", "dE = ds.T @ h", 'dE = np.zeros_like(p["E"])', "tied|one use|path"),
            ("skip left out", "dm = dh + dz", "dm = dz", "skip|path"),
            ("branch left out", 'dm = dh + dz @ p["W"].T', "dm = dh", "skip|path"),
            (
                "repeated word overwrites",
                "np.add.at(dE, ids[:, j], dm / ids.shape[1])",
                "dE[ids[:, j]] += dm / ids.shape[1]",
                OVERWRITTEN + "|repeated",
            ),
            ("sum for the mean", "dm / ids.shape[1])", "dm)", MEAN),
            ("slope left out", 'dh @ p["P"].T * (1 - a**2)', 'dh @ p["P"].T', SLOPE),
            ("target's one left out", "    ds[np.arange(len(y)), y] -= 1\n", "", "path|term|left out"),
            ("mean left out", "    ds /= len(y)\n", "", MEAN),
            (
                "embedding's first use only",
                "for j in range(ids.shape[1]):",
                "for j in range(1):",
                "first|last|overwr|path",
            ),
        ),
    ),
    Family(
        "factorisation with biases, rating by rating",
        """
def loss(p, users, items, ratings):
    total = 0
    for u, i, r in zip(users, items, ratings):
        error = r - (3.5 + p["bu"][u] + p["bi"][i] + p["P"][u] @ p["Q"][:, i])
        total += error**2 / 2
    squares = (p["P"] ** 2).sum() + (p["Q"] ** 2).sum() + (p["bu"] ** 2).sum()
    return total + 0.02 / 2 * squares

def gradient(p, users, items, ratings):
    g = {k: 0.02 * a for k, a in p.items()}
    g["bi"] = np.zeros_like(p["bi"])
    for u, i, r in zip(users, items, ratings):
        error = r - (3.5 + p["bu"][u] + p["bi"][i] + p["P"][u] @ p["Q"][:, i])
        g["bu"][u] -= error
        g["bi"][i] -= error
        g["P"][u] -= error * p["Q"][:, i]
        g["Q"][:, i] -= error * p["P"][u]
    return g
""",
        {"P": (4, 3), "Q": (3, 5), "bu": (4,), "bi": (5,)},
        lambda r: (np.array([0, 0, 1, 2, 3, 3]), np.array([1, 3, 0, 1, 2, 4]), r.integers(1, 6, 6) * 1.0),
        (
            ("sign", 'g["P"][u] -= error', 'g["P"][u] += error', "sign|minus"),
            ("sign of a bias", 'g["bi"][i] -= error', 'g["bi"][i] += error', "sign|minus"),
            ("overwritten", 'g["bi"][i] -= error', 'g["bi"][i] = -error', OVERWRITTEN),
            ("penalty of a bias that has none", '    g["bi"] = np.zeros_like(p["bi"])\n', "", "penalty"),
            ("penalty with factor 2", "k: 0.02 * a", "k: 0.04 * a", "penalty"),
            (
                "stepped weights",
                'g["Q"][:, i] -= error * p["P"][u]',
                'g["Q"][:, i] -= error * (p["P"][u] - 0.1 * g["P"][u])',
                "stepped|updated|term|added|path",
            ),
            (
                "mean rating left out",
                'error = r - (3.5 + p["bu"][u] + p["bi"][i] + p["P"][u] @ p["Q"][:, i])\n        g',
                'error = r - (p["bu"][u] + p["bi"][i] + p["P"][u] @ p["Q"][:, i])\n        g',
                "term|3.5|loss|left out",
            ),
        ),
    ),
)
