"""Multilayer perceptrons, softmax regression, CNNs, batch norm and layer norm: what the diagnosis was not made with."""

import numpy as np

from proofs.spelled_out.exercise import Exercise

LAYERS = (
    Exercise(
        "mlp with examples in columns: derivative of tanh for sigmoid",
        """
def sigmoid(z):
    return np.exp(z) / (1 + np.exp(z))

def forward(p, X):
    A1 = sigmoid(p["W1"] @ X + p["b1"])
    A2 = sigmoid(p["W2"] @ A1 + p["b2"])
    return A1, A2

def loss(p, X, Y):
    A1, A2 = forward(p, X)
    m = Y.shape[1]
    return -(1 / m) * np.sum(Y * np.log(A2) + (1 - Y) * np.log(1 - A2))

def gradient(p, X, Y):
    A1, A2 = forward(p, X)
    m = Y.shape[1]
    dZ2 = A2 - Y
    dW2 = (1 / m) * np.dot(dZ2, A1.T)
    db2 = (1 / m) * np.sum(dZ2, axis=1, keepdims=True)
    dZ1 = np.dot(p["W2"].T, dZ2) * A1 * (1 - A1)
    dW1 = (1 / m) * np.dot(dZ1, X.T)
    db1 = (1 / m) * np.sum(dZ1, axis=1, keepdims=True)
    return {"W1": dW1, "b1": db1, "W2": dW2, "b2": db2}
""",
        {"W1": (4, 3), "b1": (4, 1), "W2": (2, 4), "b2": (2, 1)},
        lambda r: (r.normal(size=(3, 7)), r.integers(0, 2, (2, 7)) * 1.0),
        "dZ2) * A1 * (1 - A1)",
        "dZ2) * (1 - A1**2)",
        {"W1", "b1"},
        "tanh|(wrong|another|other) function",
    ),
    Exercise(
        "mlp with softplus: slope in one layer's gradient only",
        """
def softplus(z):
    return jnp.log(1 + jnp.exp(z))

def sigmoid(z):
    return 1 / (1 + jnp.exp(-z))

def loss(p, x, y):
    h = softplus(x @ p["w1"] + p["b1"])
    return 0.5 * ((sigmoid(h @ p["w2"] + p["b2"]) - y) ** 2).sum()

def gradient(p, x, y):
    z = x @ p["w1"] + p["b1"]
    h = softplus(z)
    o = sigmoid(h @ p["w2"] + p["b2"])
    error = o - y
    slope = o * (1 - o)
    dw2 = h.T @ (error * slope)
    db2 = (error * slope).sum(axis=0)
    dh = (error * slope) @ p["w2"].T
    dz = dh * sigmoid(z)
    return {"w1": x.T @ dz, "b1": dz.sum(axis=0), "w2": dw2, "b2": db2}
""",
        {"w1": (3, 4), "b1": (4,), "w2": (4, 2), "b2": (2,)},
        lambda r: (r.normal(size=(6, 3)), r.uniform(size=(6, 2))),
        "dh = (error * slope) @",
        "dh = error @",
        {"w1", "b1"},
        "(derivative|slope).*(left out|missing)",
    ),
    Exercise(
        "softmax regression with a temperature: temperature forgotten",
        """
T = 2.5

def log_softmax(z):
    z = z - np.max(z, axis=1, keepdims=True)
    return z - np.log(np.sum(np.exp(z), axis=1, keepdims=True))

def loss(p, x, y):
    return -np.mean(np.sum(y * log_softmax(x @ p["w"] / T), axis=1))

def gradient(p, x, y):
    s = np.exp(log_softmax(x @ p["w"] / T))
    dz = (s - y) / len(x) / T
    return {"w": x.T @ dz}
""",
        {"w": (4, 3)},
        lambda r: (r.normal(size=(7, 4)), np.eye(3)[r.integers(0, 3, 7)]),
        "dz = (s - y) / len(x) / T",
        "dz = (s - y) / len(x)",
        {"w"},
        "temperature|(scale|factor).*(left out|forgotten)|(left out|forgotten).*(scale|factor)",
    ),
    Exercise(
        "softmax policy: row sum left out",
        """
def policy(p, states):
    preferences = states @ p["w"] + p["b"]
    e = jnp.exp(preferences - preferences.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)

def loss(p, states, rewards):
    return -(policy(p, states) * rewards).sum(axis=1).mean()

def gradient(p, states, rewards):
    pi = policy(p, states)
    dpi = -rewards / len(states)
    dz = pi * (dpi - (pi * dpi).sum(axis=1, keepdims=True))
    return {"w": states.T @ dz, "b": dz.sum(axis=0)}
""",
        {"w": (3, 4), "b": (4,)},
        lambda r: (r.normal(size=(5, 3)), r.normal(size=(5, 4))),
        "dz = pi * (dpi - (pi * dpi).sum(axis=1, keepdims=True))",
        "dz = pi * dpi",
        {"w", "b"},
        "row sum|normali[sz]|denominator|sum.*(left out|missing|constant)|(left out|missing).*sum",
    ),
    Exercise(
        "cnn over time in loops: an accumulator overwritten",
        """
def conv(x, w, b):
    n, steps, channels = x.shape
    filters, k, _ = w.shape
    out = np.zeros((n, steps - k + 1, filters))
    for t in range(steps - k + 1):
        for f in range(filters):
            out[:, t, f] = (x[:, t : t + k, :] * w[f]).sum(axis=(1, 2)) + b[f]
    return out

def loss(p, x, y):
    a = np.tanh(conv(x, p["w"], p["b"]))
    return 0.5 * np.sum((a.mean(axis=1) @ p["v"] - y) ** 2)

def gradient(p, x, y):
    a = np.tanh(conv(x, p["w"], p["b"]))
    features = a.mean(axis=1)
    dout = features @ p["v"] - y
    da = (dout @ p["v"].T)[:, None, :] / a.shape[1] * np.ones(a.shape)
    dz = da * (1 - a**2)
    dw = np.zeros(p["w"].shape)
    k = dw.shape[1]
    for n in range(x.shape[0]):
        for t in range(a.shape[1]):
            for f in range(a.shape[2]):
                dw[f] += dz[n, t, f] * x[n, t : t + k]
    return {"w": dw, "b": dz.sum(axis=(0, 1)), "v": features.T @ dout}
""",
        {"w": (3, 2, 2), "b": (3,), "v": (3, 2)},
        lambda r: (r.normal(size=(4, 5, 2)), r.normal(size=(4, 2))),
        "dw[f] += dz",
        "dw[f] = dz",
        {"w"},
        "overwrit|only the (first|last)|assigned",
    ),
    Exercise(
        "cnn with pooling by reshape: a mean for a maximum",
        """
def forward(p, x):
    n, size, _ = x.shape
    z = sum(p["w"][:, i, j] * x[:, i : size - 1 + i, j : size - 1 + j, None] for i in range(2) for j in range(2))
    z = z + p["b"]
    a = jnp.where(z > 0, z, 0)
    blocks = a.reshape(n, (size - 1) // 2, 2, (size - 1) // 2, 2, -1)
    return z, blocks, blocks.max(axis=(2, 4))

def loss(p, x, y):
    pooled = forward(p, x)[-1]
    return jnp.mean((pooled.reshape(len(x), -1) @ p["v"] - y) ** 2)

def gradient(p, x, y):
    z, blocks, pooled = forward(p, x)
    flat = pooled.reshape(len(x), -1)
    dout = 2 * (flat @ p["v"] - y) / y.size
    dpooled = (dout @ p["v"].T).reshape(pooled.shape)[:, :, None, :, None]
    dblocks = dpooled * (blocks == pooled[:, :, None, :, None])
    dz = dblocks.reshape(z.shape) * (z > 0)
    n, size, _ = x.shape
    patch = lambda i, j: x[:, i : size - 1 + i, j : size - 1 + j]
    rows = [[jnp.einsum("nhwf,nhw->f", dz, patch(i, j)) for j in range(2)] for i in range(2)]
    dw = jnp.stack([jnp.stack(row, axis=-1) for row in rows], axis=1)
    return {"w": dw, "b": dz.sum(axis=(0, 1, 2)), "v": flat.T @ dout}
""",
        {"w": (3, 2, 2), "b": (3,), "v": (12, 2)},
        lambda r: (r.normal(size=(4, 5, 5)), r.normal(size=(4, 2))),
        "dblocks = dpooled * (blocks == pooled[:, :, None, :, None])",
        "dblocks = dpooled * jnp.ones(blocks.shape) / 4",
        {"w", "b"},
        "(mean|average|evenly|equally|shared|spread).*(max|pool)|(max|pool).*(mean|average|evenly|equally|shared|spread)",
    ),
    Exercise(
        "batch norm before softplus: both projections left out",
        """
def loss(p, x, y):
    z = np.dot(x, p["w"])
    zhat = (z - np.mean(z, 0)) / np.sqrt(np.var(z, 0) + 1e-5)
    h = np.log(1 + np.exp(zhat * p["g"] + p["b"]))
    return np.sum((h - y) ** 2) / len(x)

def gradient(p, x, y):
    n = len(x)
    z = np.dot(x, p["w"])
    istd = 1 / np.sqrt(np.var(z, 0) + 1e-5)
    zhat = (z - np.mean(z, 0)) * istd
    a = zhat * p["g"] + p["b"]
    da = 2 * (np.log(1 + np.exp(a)) - y) / n / (1 + np.exp(-a))
    dzhat = da * p["g"]
    dz = istd * (dzhat - dzhat.mean(0) - zhat * (dzhat * zhat).mean(0))
    return {"w": np.dot(x.T, dz), "g": np.sum(da * zhat, 0), "b": np.sum(da, 0)}
""",
        {"w": (3, 4), "g": (4,), "b": (4,)},
        lambda r: (r.normal(size=(6, 3)), r.normal(size=(6, 4))),
        "dz = istd * (dzhat - dzhat.mean(0) - zhat * (dzhat * zhat).mean(0))",
        "dz = istd * dzhat",
        {"w"},
        "mean.*(left out|missing|constant)|(left out|missing).*mean|projection|path is missing|statistic",
    ),
    Exercise(
        "batch norm of images: epsilon forgotten",
        """
def loss(p, x, y):
    z = x @ p["w"]
    mean = z.mean(axis=(0, 1))
    var = ((z - mean) ** 2).mean(axis=(0, 1))
    out = p["gamma"] * (z - mean) / jnp.sqrt(var + 0.01) + p["beta"]
    return 0.5 * jnp.sum((jnp.maximum(out, 0).mean(axis=1) - y) ** 2)

def gradient(p, x, y):
    z = x @ p["w"]
    mean = z.mean(axis=(0, 1))
    std = jnp.sqrt(((z - mean) ** 2).mean(axis=(0, 1)) + 0.01)
    zhat = (z - mean) / std
    out = p["gamma"] * zhat + p["beta"]
    dh = (jnp.maximum(out, 0).mean(axis=1) - y)[:, None, :] / x.shape[1]
    dout = dh * (out > 0)
    dgamma = (dout * zhat).sum(axis=(0, 1))
    dbeta = dout.sum(axis=(0, 1))
    centred = z - mean
    dzhat = dout * p["gamma"]
    s = jnp.sqrt((centred**2).mean(axis=(0, 1)) + 0.01)
    dz = dzhat / s - centred * (dzhat * centred).mean(axis=(0, 1)) / s**3
    dz = dz - dz.mean(axis=(0, 1))
    return {"w": jnp.einsum("npi,npj->ij", x, dz), "gamma": dgamma, "beta": dbeta}
""",
        {"w": (2, 3), "gamma": (3,), "beta": (3,)},
        lambda r: (r.normal(size=(4, 5, 2)), r.normal(size=(4, 3))),
        "s = jnp.sqrt((centred**2).mean(axis=(0, 1)) + 0.01)",
        "s = jnp.sqrt((centred**2).mean(axis=(0, 1)))",
        {"w"},
        "epsilon|constant.*(left out|forgotten)|(left out|forgotten).*constant",
    ),
    Exercise(
        "layer norm before relu: projection on the deviation left out",
        """
def loss(p, x, y):
    z = x @ p["w"]
    centred = z - z.mean(axis=1, keepdims=True)
    zhat = centred / (centred**2).mean(axis=1, keepdims=True) ** 0.5
    return ((jnp.maximum(zhat, 0) @ p["v"] - y) ** 2).sum() / 2

def gradient(p, x, y):
    z = x @ p["w"]
    centred = z - z.mean(axis=1, keepdims=True)
    std = (centred**2).mean(axis=1, keepdims=True) ** 0.5
    zhat = centred / std
    h = jnp.maximum(zhat, 0)
    dout = h @ p["v"] - y
    dzhat = dout @ p["v"].T * (zhat > 0)
    dcentred = dzhat / std - zhat * (dzhat * zhat).mean(axis=1, keepdims=True) / std
    dz = dcentred - dcentred.mean(axis=1, keepdims=True)
    return {"w": x.T @ dz, "v": h.T @ dout}
""",
        {"w": (3, 6), "v": (6, 2)},
        lambda r: (r.normal(size=(5, 3)), r.normal(size=(5, 2))),
        "dcentred = dzhat / std - zhat * (dzhat * zhat).mean(axis=1, keepdims=True) / std",
        "dcentred = dzhat / std",
        {"w"},
        "variance|deviation|projection|path is missing|statistic|(std|root|square).*(left out|missing)",
    ),
    Exercise(
        "layer norm of a transformer: N for N - 1",
        """
def loss(p, x, y):
    z = x @ p["w"]
    mean = z.mean(axis=-1, keepdims=True)
    std = z.std(axis=-1, keepdims=True, ddof=1)
    return np.mean((p["a"] * (z - mean) / (std + 1e-6) + p["b"] - y) ** 2)

def gradient(p, x, y):
    z = x @ p["w"]
    n = z.shape[-1]
    centred = z - z.mean(axis=-1, keepdims=True)
    std = z.std(axis=-1, keepdims=True, ddof=1)
    zhat = centred / (std + 1e-6)
    dout = 2 * (p["a"] * zhat + p["b"] - y) / y.size
    dzhat = dout * p["a"]
    dstd = -np.sum(dzhat * centred, axis=-1, keepdims=True) / (std + 1e-6) ** 2
    dcentred = dzhat / (std + 1e-6) + dstd * centred / ((n - 1) * std)
    dz = dcentred - dcentred.mean(axis=-1, keepdims=True)
    return {"w": x.T @ dz, "a": np.sum(dout * zhat, axis=0), "b": np.sum(dout, axis=0)}
""",
        {"w": (4, 5), "a": (5,), "b": (5,)},
        lambda r: (r.normal(size=(6, 4)), r.normal(size=(6, 5))),
        "dstd * centred / ((n - 1) * std)",
        "dstd * centred / (n * std)",
        {"w"},
        r"n ?- ?1|unbiased",
    ),
)
