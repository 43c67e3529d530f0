"""Multilayer perceptrons, softmax regression, CNNs, batch norm and layer norm: what the diagnosis may learn."""

from proofs.spelled_out.exercise import Exercise

LAYERS = (
    Exercise(
        "mlp with sigmoids: derivative left out",
        """
def sigmoid(z):
    return 1 / (1 + np.exp(-z))

def loss(p, x, y):
    h = sigmoid(np.dot(x, p["w1"]) + p["b1"])
    o = sigmoid(np.dot(h, p["w2"]) + p["b2"])
    return np.sum((o - y) ** 2) / (2 * len(x))

def gradient(p, x, y):
    h = sigmoid(np.dot(x, p["w1"]) + p["b1"])
    o = sigmoid(np.dot(h, p["w2"]) + p["b2"])
    delta2 = (o - y) / len(x) * o * (1 - o)
    delta1 = np.dot(delta2, p["w2"].T) * h * (1 - h)
    return {
        "w1": np.dot(x.T, delta1), "b1": np.sum(delta1, axis=0),
        "w2": np.dot(h.T, delta2), "b2": np.sum(delta2, axis=0),
    }
""",
        {"w1": (3, 5), "b1": (5,), "w2": (5, 2), "b2": (2,)},
        lambda r: (r.normal(size=(7, 3)), r.uniform(size=(7, 2))),
        'np.dot(delta2, p["w2"].T) * h * (1 - h)',
        'np.dot(delta2, p["w2"].T)',
        {"w1", "b1"},
        "derivative.*left out",
    ),
    Exercise(
        "mlp with tanh: delta through weights that were stepped",
        """
def tanh(z):
    return (jnp.exp(z) - jnp.exp(-z)) / (jnp.exp(z) + jnp.exp(-z))

def loss(p, x, y):
    out = tanh(x @ p["w1"] + p["b1"]) @ p["w2"] + p["b2"]
    return ((out - y) ** 2).mean()

def gradient(p, x, y):
    w1, b1, w2, b2 = p["w1"], p["b1"], p["w2"], p["b2"]
    h = tanh(x @ w1 + b1)
    dout = 2 * (h @ w2 + b2 - y) / y.size
    dw2 = h.T @ dout
    db2 = dout.sum(axis=0)
    dz = dout @ w2.T * (1 - h**2)
    dw1 = x.T @ dz
    db1 = dz.sum(axis=0)
    return {"w1": dw1, "b1": db1, "w2": dw2, "b2": db2}
""",
        {"w1": (4, 5), "b1": (5,), "w2": (5, 3), "b2": (3,)},
        lambda r: (r.normal(size=(6, 4)), r.normal(size=(6, 3))),
        "    dz = dout",
        "    w2 = w2 - 0.1 * dw2\n    dz = dout",
        {"w1", "b1"},
        "stepped|updated",
    ),
    Exercise(
        "softmax regression with squared error: diagonal of the Jacobian only",
        """
def softmax(z):
    e = np.exp(z - np.max(z, axis=1, keepdims=True))
    return e / np.sum(e, axis=1, keepdims=True)

def loss(p, x, y):
    return 0.5 * np.mean(np.sum((softmax(x.dot(p["w"]) + p["b"]) - y) ** 2, axis=1))

def gradient(p, x, y):
    s = softmax(x.dot(p["w"]) + p["b"])
    ds = (s - y) / x.shape[0]
    dz = s * (ds - np.sum(ds * s, axis=1, keepdims=True))
    return {"w": x.T.dot(dz), "b": dz.sum(axis=0)}
""",
        {"w": (4, 3), "b": (3,)},
        lambda r: (r.normal(size=(7, 4)), r.uniform(size=(7, 3))),
        "s * (ds - np.sum(ds * s, axis=1, keepdims=True))",
        "ds * s * (1 - s)",
        {"w", "b"},
        "diagonal",
    ),
    Exercise(
        "softmax regression with a penalty: factor 2 of the penalty",
        """
def loss(p, x, y):
    scores = x @ p["w"] + p["b"]
    probs = jnp.exp(scores) / jnp.exp(scores).sum(axis=1, keepdims=True)
    return -jnp.log(probs[jnp.arange(len(y)), y]).mean() + 0.3 * (p["w"] * p["w"]).sum()

def gradient(p, x, y):
    scores = x @ p["w"] + p["b"]
    probs = jnp.exp(scores) / jnp.exp(scores).sum(axis=1, keepdims=True)
    dscores = probs.at[jnp.arange(len(y)), y].add(-1) / len(y)
    dw = x.T @ dscores + 2 * 0.3 * p["w"]
    return {"w": dw, "b": dscores.sum(axis=0)}
""",
        {"w": (3, 4), "b": (4,)},
        lambda r: (r.normal(size=(6, 3)), r.integers(0, 4, 6)),
        "2 * 0.3 * p",
        "0.3 * p",
        {"w"},
        "penalty",
    ),
    Exercise(
        "cnn in loops: overlapping pools assigned",
        """
def conv(x, w, b):
    n, height, width = x.shape
    filters, k, _ = w.shape
    out = np.zeros((n, filters, height - k + 1, width - k + 1))
    for f in range(filters):
        for i in range(height - k + 1):
            for j in range(width - k + 1):
                out[:, f, i, j] = np.sum(x[:, i : i + k, j : j + k] * w[f], axis=(1, 2)) + b[f]
    return out

def pool(a):
    n, filters, height, width = a.shape
    out = np.zeros((n, filters, height - 1, width - 1))
    for i in range(height - 1):
        for j in range(width - 1):
            out[:, :, i, j] = np.max(a[:, :, i : i + 2, j : j + 2], axis=(2, 3))
    return out

def loss(p, x, y):
    h = pool(np.maximum(conv(x, p["w"], p["b"]), 0))
    return 0.5 * np.sum((h.reshape(len(x), -1) @ p["v"] - y) ** 2) / len(x)

def gradient(p, x, y):
    z = conv(x, p["w"], p["b"])
    a = np.maximum(z, 0)
    h = pool(a)
    flat = h.reshape(len(x), -1)
    dout = (flat @ p["v"] - y) / len(x)
    dh = (dout @ p["v"].T).reshape(h.shape)
    da = np.zeros(a.shape)
    for i in range(h.shape[2]):
        for j in range(h.shape[3]):
            winner = a[:, :, i : i + 2, j : j + 2] == h[:, :, i : i + 1, j : j + 1]
            da[:, :, i : i + 2, j : j + 2] += winner * dh[:, :, i : i + 1, j : j + 1]
    dz = da * (z > 0)
    dw = np.zeros(p["w"].shape)
    k = dw.shape[1]
    for f in range(len(dw)):
        for i in range(z.shape[2]):
            for j in range(z.shape[3]):
                dw[f] += np.sum(x[:, i : i + k, j : j + k] * dz[:, f, i, j][:, None, None], axis=0)
    return {"w": dw, "b": dz.sum(axis=(0, 2, 3)), "v": flat.T @ dout}
""",
        {"w": (2, 2, 2), "b": (2,), "v": (12, 2)},
        lambda r: (r.normal(size=(3, 4, 5)), r.normal(size=(3, 2))),
        "da[:, :, i : i + 2, j : j + 2] += winner",
        "da[:, :, i : i + 2, j : j + 2] = winner",
        {"w", "b"},
        "overwrit|overlap|assigned",
    ),
    Exercise(
        "cnn with a stride: stride forgotten",
        """
def conv(x, w, b, stride=2):
    k = w.shape[1]
    out = []
    for i in range((x.shape[1] - k) // stride + 1):
        for j in range((x.shape[2] - k) // stride + 1):
            patch = x[:, i * stride : i * stride + k, j * stride : j * stride + k]
            out.append(jnp.tensordot(patch, w, ((1, 2), (1, 2))) + b)
    return jnp.stack(out, axis=1)

def loss(p, x, y):
    h = jnp.maximum(conv(x, p["w"], p["b"]), 0)
    return jnp.mean((jnp.sum(h, axis=1) - y) ** 2)

def gradient(p, x, y, stride=2):
    z = conv(x, p["w"], p["b"])
    h = jnp.maximum(z, 0)
    dh = 2 * (jnp.sum(h, axis=1) - y) / y.size
    dz = jnp.where(z > 0, dh[:, None, :], 0)
    k = p["w"].shape[1]
    columns = (x.shape[2] - k) // stride + 1
    dw = jnp.zeros_like(p["w"])
    for position in range(z.shape[1]):
        i, j = position // columns, position % columns
        patch = x[:, i * stride : i * stride + k, j * stride : j * stride + k]
        dw = dw + jnp.einsum("nf,nij->fij", dz[:, position], patch)
    return {"w": dw, "b": dz.sum(axis=(0, 1))}
""",
        {"w": (3, 2, 2), "b": (3,)},
        lambda r: (r.normal(size=(4, 6, 7)), r.normal(size=(4, 3))),
        """position % columns
        patch = x[:, i * stride : i * stride + k, j * stride : j * stride + k]""",
        """position % columns
        patch = x[:, i : i + k, j : j + k]""",
        {"w"},
        "stride",
    ),
    Exercise(
        "batch norm in steps: N - 1 for N",
        """
def loss(p, x, y):
    z = x @ p["w"]
    mu = np.mean(z, axis=0)
    var = np.mean((z - mu) ** 2, axis=0)
    zhat = (z - mu) / np.sqrt(var + 1e-5)
    out = np.maximum(p["gamma"] * zhat + p["beta"], 0) @ p["v"]
    return 0.5 * np.mean(np.sum((out - y) ** 2, axis=1))

def gradient(p, x, y):
    n = x.shape[0]
    z = x @ p["w"]
    mu = z.mean(axis=0)
    var = ((z - mu) ** 2).mean(axis=0)
    std = np.sqrt(var + 1e-5)
    zhat = (z - mu) / std
    a = p["gamma"] * zhat + p["beta"]
    h = np.maximum(a, 0)
    dout = (h @ p["v"] - y) / n
    da = dout @ p["v"].T * (a > 0)
    dzhat = da * p["gamma"]
    dvar = np.sum(dzhat * (z - mu) * -0.5 * std**-3, axis=0)
    dmu = np.sum(-dzhat / std, axis=0)
    dz = dzhat / std + dvar * 2 * (z - mu) / n + dmu / n
    return {"w": x.T @ dz, "gamma": (da * zhat).sum(axis=0), "beta": da.sum(axis=0), "v": h.T @ dout}
""",
        {"w": (3, 4), "gamma": (4,), "beta": (4,), "v": (4, 2)},
        lambda r: (r.normal(size=(7, 3)), r.normal(size=(7, 2))),
        "2 * (z - mu) / n",
        "2 * (z - mu) / (n - 1)",
        {"w"},
        r"n ?- ?1|unbiased",
    ),
    Exercise(
        "batch norm in one line: scale left out",
        """
def loss(p, x, y):
    z = x @ p["w"]
    zhat = (z - z.mean(0)) / jnp.sqrt(z.var(0) + 1e-3)
    out = 1 / (1 + jnp.exp(-(p["gamma"] * zhat + p["beta"])))
    return -jnp.mean(y * jnp.log(out) + (1 - y) * jnp.log(1 - out))

def gradient(p, x, y):
    z = x @ p["w"]
    std = jnp.sqrt(z.var(0) + 1e-3)
    zhat = (z - z.mean(0)) / std
    out = 1 / (1 + jnp.exp(-(p["gamma"] * zhat + p["beta"])))
    da = (out - y) / y.size
    dbeta = da.sum(0)
    dgamma = (da * zhat).sum(0)
    dz = p["gamma"] / (len(x) * std) * (len(x) * da - dbeta - zhat * dgamma)
    return {"w": x.T @ dz, "gamma": dgamma, "beta": dbeta}
""",
        {"w": (4, 3), "gamma": (3,), "beta": (3,)},
        lambda r: (r.normal(size=(6, 4)), r.integers(0, 2, (6, 3)) * 1.0),
        'dz = p["gamma"] / (len(x) * std)',
        "dz = 1 / (len(x) * std)",
        {"w"},
        "(scale|gamma|factor).*(left out|forgotten)|(left out|forgotten).*(scale|gamma|factor)",
    ),
    Exercise(
        "layer norm: projection on the mean left out",
        """
def layer_norm(z, g, b):
    mean = jnp.mean(z, axis=-1, keepdims=True)
    std = jnp.sqrt(jnp.mean((z - mean) ** 2, axis=-1, keepdims=True) + 1e-5)
    return g * (z - mean) / std + b

def loss(p, x, y):
    out = layer_norm(x @ p["w"] + p["c"], p["g"], p["b"])
    return jnp.sum((out - y) ** 2) / 2

def gradient(p, x, y):
    z = x @ p["w"] + p["c"]
    mean = jnp.mean(z, axis=-1, keepdims=True)
    std = jnp.sqrt(jnp.mean((z - mean) ** 2, axis=-1, keepdims=True) + 1e-5)
    zhat = (z - mean) / std
    dout = p["g"] * zhat + p["b"] - y
    dzhat = dout * p["g"]
    dz = dzhat - dzhat.mean(-1, keepdims=True) - zhat * (dzhat * zhat).mean(-1, keepdims=True)
    dz = dz / std
    return {"w": x.T @ dz, "c": dz.sum(0), "g": (dout * zhat).sum(0), "b": dout.sum(0)}
""",
        {"w": (3, 5), "c": (5,), "g": (5,), "b": (5,)},
        lambda r: (r.normal(size=(4, 3)), r.normal(size=(4, 5))),
        "dz = dzhat - dzhat.mean(-1, keepdims=True) - zhat",
        "dz = dzhat - zhat",
        {"w", "c"},
        "mean.*(left out|missing)|(left out|missing).*mean|projection|path is missing",
    ),
    Exercise(
        "rms norm: the path through the statistic left out",
        """
def loss(p, x, y):
    z = x @ p["w"]
    rms = np.sqrt(np.mean(z**2, axis=1, keepdims=True) + 1e-6)
    return np.mean((p["g"] * z / rms - y) ** 2)

def gradient(p, x, y):
    z = x @ p["w"]
    rms = np.sqrt(np.mean(z**2, axis=1, keepdims=True) + 1e-6)
    dout = 2 * (p["g"] * z / rms - y) / y.size
    dy = dout * p["g"]
    dz = dy / rms - z * np.mean(dy * z, axis=1, keepdims=True) / rms**3
    return {"w": x.T @ dz, "g": np.sum(dout * z / rms, axis=0)}
""",
        {"w": (3, 4), "g": (4,)},
        lambda r: (r.normal(size=(5, 3)), r.normal(size=(5, 4))),
        "dz = dy / rms - z * np.mean(dy * z, axis=1, keepdims=True) / rms**3",
        "dz = dy / rms",
        {"w"},
        "statistic|projection|path is missing|(mean|rms|root).*(left out|missing)",
    ),
)
