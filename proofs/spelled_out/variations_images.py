"""Families of CNNs and norms, each with the mistakes that people make in it."""

from proofs.spelled_out.family import Family
from proofs.spelled_out.words import FACTOR, LEFT_OUT, MEAN, OVERWRITTEN, PLACE, SLOPE

IMAGES = (
    Family(
        "cnn of images by loops over everything",
        """
def convolve(x, w, b, s):
    N, C, H, W = x.shape
    F, _, k, _ = w.shape
    out = np.zeros((N, F, (H - k) // s + 1, (W - k) // s + 1))
    for n in range(N):
        for f in range(F):
            for i in range(out.shape[2]):
                for j in range(out.shape[3]):
                    patch = x[n, :, i * s : i * s + k, j * s : j * s + k]
                    out[n, f, i, j] = np.sum(patch * w[f]) + b[f]
    return out

def loss(p, x, y):
    a = np.tanh(convolve(x, p["w"], p["b"], 2))
    return np.sum((a.reshape(len(x), -1) @ p["v"] - y) ** 2) / 2

def gradient(p, x, y):
    s = 2
    a = np.tanh(convolve(x, p["w"], p["b"], s))
    flat = a.reshape(len(x), -1)
    dout = flat @ p["v"] - y
    dz = np.dot(dout, p["v"].T).reshape(a.shape) * (1 - a**2)
    dw, db = np.zeros_like(p["w"]), np.zeros_like(p["b"])
    k = dw.shape[2]
    for n in range(dz.shape[0]):
        for f in range(dz.shape[1]):
            for i in range(dz.shape[2]):
                for j in range(dz.shape[3]):
                    dw[f] += x[n, :, i * s : i * s + k, j * s : j * s + k] * dz[n, f, i, j]
                    db[f] += dz[n, f, i, j]
    return {"w": dw, "b": db, "v": flat.T @ dout}
""",
        {"w": (2, 2, 2, 2), "b": (2,), "v": (8, 2)},
        lambda r: (r.normal(size=(2, 2, 4, 4)), r.normal(size=(2, 2))),
        (
            ("accumulator overwritten", "dw[f] += x[n", "dw[f] = x[n", OVERWRITTEN),
            ("bias overwritten", "db[f] += dz", "db[f] = dz", OVERWRITTEN),
            (
                "stride forgotten",
                "dw[f] += x[n, :, i * s : i * s + k, j * s : j * s + k]",
                "dw[f] += x[n, :, i : i + k, j : j + k]",
                "stride",
            ),
            ("added to itself", "dw[f] += x[n", "dw[f] += dw[f] + x[n", "added|itself|counted twice|too often"),
            ("slope left out", ".reshape(a.shape) * (1 - a**2)", ".reshape(a.shape)", SLOPE),
            ("kernel's axes swapped", "* dz[n, f, i, j]\n", "* dz[n, f, j, i]\n", PLACE + "|transposed|order"),
            ("other filter", "* dz[n, f, i, j]\n", "* dz[n, 1 - f, i, j]\n", PLACE + "|order"),
            (
                "weight in place of the patch",
                "dw[f] += x[n, :, i * s : i * s + k, j * s : j * s + k]",
                'dw[f] += p["w"][f]',
                PLACE,
            ),
        ),
    ),
    Family(
        "cnn with average pools and padding",
        """
def windows(x):
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1)))
    return np.stack([padded[:, i : i + x.shape[1], j : j + x.shape[2]] for i in range(3) for j in range(3)], -1)

def forward(p, x):
    z = np.einsum("nhwk,kf->nhwf", windows(x), p["w"]) + p["b"]
    h = z / (1 + np.exp(-z))
    n, height, width, f = h.shape
    pooled = h.reshape(n, height // 2, 2, width // 2, 2, f).mean(axis=(2, 4))
    return z, h, pooled

def loss(p, x, y):
    pooled = forward(p, x)[-1]
    scores = np.tensordot(pooled, p["v"], axes=3)
    return np.mean(np.log(1 + np.exp(-y * scores)))

def gradient(p, x, y):
    z, h, pooled = forward(p, x)
    scores = np.tensordot(pooled, p["v"], axes=3)
    dscores = -y / (1 + np.exp(y * scores)) / len(y)
    dv = np.tensordot(dscores, pooled, axes=(0, 0))
    dpooled = dscores[:, None, None, None] * p["v"]
    dh = np.repeat(np.repeat(dpooled, 2, axis=1), 2, axis=2) / 4
    sigma = 1 / (1 + np.exp(-z))
    dz = dh * (sigma + z * sigma * (1 - sigma))
    return {"w": np.einsum("nhwk,nhwf->kf", windows(x), dz), "b": dz.sum(axis=(0, 1, 2)), "v": dv}
""",
        {"w": (9, 2), "b": (2,), "v": (2, 2, 2)},
        lambda r: (r.normal(size=(3, 4, 4)), r.integers(0, 2, 3) * 2.0 - 1),
        (
            ("average without 1/k^2", "axis=2) / 4", "axis=2)", MEAN + "|" + FACTOR),
            ("average with 1/k", "axis=2) / 4", "axis=2) / 2", "factor|mean|1 /"),
            (
                "half of swish's slope",
                "(sigma + z * sigma * (1 - sigma))",
                "sigma",
                "(path|derivative).*(left out|missing)",
            ),
            (
                "sigmoid's slope for swish's",
                "(sigma + z * sigma * (1 - sigma))",
                "sigma * (1 - sigma)",
                "sigmoid|another",
            ),
            ("slope left out", "dh * (sigma + z * sigma * (1 - sigma))", "dh", SLOPE),
            ("sign of the label", "dscores = -y /", "dscores = y /", "sign|minus"),
            ("label left out", "dscores = -y / (1", "dscores = -1 / (1", FACTOR),
            ("mean left out", "/ (1 + np.exp(y * scores)) / len(y)", "/ (1 + np.exp(y * scores))", MEAN),
        ),
    ),
    Family(
        "cnn with overlapping max pools over time",
        """
def forward(p, x):
    T = x.shape[1] - 2
    z = sum(x[:, k : k + T] @ p["w"][k] for k in range(3)) + p["b"]
    a = jnp.maximum(z, 0.1 * z)
    pooled = jnp.stack([jnp.max(a[:, t : t + 2], axis=1) for t in range(T - 1)], axis=1)
    return z, a, pooled

def loss(p, x, y):
    return 0.5 * jnp.mean(jnp.sum((jnp.einsum("ntf,tfo->no", forward(p, x)[2], p["v"]) - y) ** 2, axis=1))

def gradient(p, x, y):
    z, a, pooled = forward(p, x)
    dout = (jnp.einsum("ntf,tfo->no", pooled, p["v"]) - y) / len(x)
    dpooled = jnp.einsum("no,tfo->ntf", dout, p["v"])
    da = jnp.zeros_like(a)
    for t in range(pooled.shape[1]):
        window = a[:, t : t + 2]
        da = da.at[:, t : t + 2].add(jnp.where(window == pooled[:, t : t + 1], dpooled[:, t : t + 1], 0))
    dz = da * jnp.where(z > 0, 1, 0.1)
    T = z.shape[1]
    dw = jnp.stack([jnp.einsum("ntc,ntf->cf", x[:, k : k + T], dz) for k in range(3)])
    return {"w": dw, "b": dz.sum((0, 1)), "v": jnp.einsum("ntf,no->tfo", pooled, dout)}
""",
        {"w": (3, 2, 3), "b": (3,), "v": (3, 3, 2)},
        lambda r: (r.normal(size=(4, 6, 2)), r.normal(size=(4, 2))),
        (
            ("overlapping pools assigned", "da.at[:, t : t + 2].add", "da.at[:, t : t + 2].set", OVERWRITTEN),
            (
                "every entry of a pool",
                "jnp.where(window == pooled[:, t : t + 1], dpooled[:, t : t + 1], 0)",
                "dpooled[:, t : t + 1]",
                "every entry|mask",
            ),
            (
                "mean for a maximum",
                "jnp.where(window == pooled[:, t : t + 1], dpooled[:, t : t + 1], 0)",
                "dpooled[:, t : t + 1] / 2",
                "mean",
            ),
            ("leak forgotten", "jnp.where(z > 0, 1, 0.1)", "jnp.where(z > 0, 1, 0)", "slope|factor|operand"),
            ("slope left out", "da * jnp.where(z > 0, 1, 0.1)", "da", SLOPE),
            (
                "windows shifted",
                "x[:, k : k + T], dz) for k",
                "x[:, 2 - k : 2 - k + T], dz) for k",
                "order|flip|revers",
            ),
        ),
    ),
    Family(
        "batch norm of images with channels first",
        """
def norm(p, x):
    mu = x.mean(axis=(0, 2, 3), keepdims=True)
    var = x.var(axis=(0, 2, 3), keepdims=True)
    xhat = (x - mu) / np.sqrt(var + 1e-3)
    return mu, var, xhat, p["gamma"].reshape(1, -1, 1, 1) * xhat + p["beta"].reshape(1, -1, 1, 1)

def loss(p, x, y):
    z = np.einsum("nchw,cf->nfhw", x, p["w"])
    out = np.tanh(norm(p, z)[-1])
    return np.mean((out.sum(axis=(2, 3)) - y) ** 2)

def gradient(p, x, y):
    z = np.einsum("nchw,cf->nfhw", x, p["w"])
    mu, var, zhat, a = norm(p, z)
    out = np.tanh(a)
    m = z.shape[0] * z.shape[2] * z.shape[3]
    dsum = 2 * (out.sum(axis=(2, 3)) - y) / y.size
    da = dsum[:, :, None, None] * (1 - out**2)
    dgamma = np.sum(da * zhat, axis=(0, 2, 3))
    dbeta = np.sum(da, axis=(0, 2, 3))
    dzhat = da * p["gamma"][None, :, None, None]
    ivar = 1 / np.sqrt(var + 1e-3)
    dvar = np.sum(dzhat * (z - mu), axis=(0, 2, 3), keepdims=True) * -0.5 * ivar**3
    dmu = np.sum(-dzhat * ivar, axis=(0, 2, 3), keepdims=True)
    dmu = dmu + dvar * np.mean(-2 * (z - mu), axis=(0, 2, 3), keepdims=True)
    dz = dzhat * ivar + dvar * 2 * (z - mu) / m + dmu / m
    return {"w": np.einsum("nchw,nfhw->cf", x, dz), "gamma": dgamma, "beta": dbeta}
""",
        {"w": (2, 3), "gamma": (3,), "beta": (3,)},
        lambda r: (r.normal(size=(3, 2, 2, 3)), r.normal(size=(3, 3))),
        (
            ("epsilon forgotten", "ivar = 1 / np.sqrt(var + 1e-3)", "ivar = 1 / np.sqrt(var)", "epsilon"),
            ("mean's path left out", "/ m + dmu / m", "/ m", f"mean.*({LEFT_OUT})"),
            ("variance's path left out", "+ dvar * 2 * (z - mu) / m + dmu", "+ dmu", f"mean.*({LEFT_OUT})"),
            ("both paths left out", " + dvar * 2 * (z - mu) / m + dmu / m", "", f"mean.*({LEFT_OUT})"),
            ("N - 1 for N", "2 * (z - mu) / m", "2 * (z - mu) / (m - 1)", "n - 1"),
            (
                "count of examples only",
                "    m = z.shape[0] * z.shape[2] * z.shape[3]",
                "    m = z.shape[0]",
                "factor|mean|sum|path",
            ),
            ("gamma left out", 'da * p["gamma"][None, :, None, None]', "da", FACTOR),
            ("beta for gamma", 'da * p["gamma"][None', 'da * p["beta"][None', PLACE),
            ("power of the variance", "-0.5 * ivar**3", "-0.5 * ivar**2", f"factor|divisor.*({LEFT_OUT}|squared)"),
            ("factor of the variance", "-0.5 * ivar**3", "-ivar**3", "factor"),
            ("slope left out", "* (1 - out**2)", "", SLOPE),
            ("input for its normalised value", "np.sum(da * zhat, axis", "np.sum(da * z, axis", PLACE),
        ),
    ),
    Family(
        "layer norm with an unbiased deviation",
        """
def normalise(z):
    return (z - z.mean(-1, keepdims=True)) / (z.std(-1, ddof=1, keepdims=True) + 1e-3)

def loss(p, x, y):
    h = x + np.maximum(normalise(x @ p["w1"]) * p["g"] + p["b"], 0) @ p["w2"]
    return np.sum((h - y) ** 2) / len(x)

def gradient(p, x, y):
    z = x @ p["w1"]
    n = z.shape[1]
    mean, std = z.mean(1, keepdims=True), z.std(1, ddof=1, keepdims=True)
    zhat = (z - mean) / (std + 1e-3)
    a = zhat * p["g"] + p["b"]
    r = np.maximum(a, 0)
    dh = 2 * (x + r @ p["w2"] - y) / len(x)
    da = (dh @ p["w2"].T) * (a > 0)
    dzhat = da * p["g"]
    dstd = -(dzhat * (z - mean)).sum(1, keepdims=True) / (std + 1e-3) ** 2
    dc = dzhat / (std + 1e-3) + (z - mean) / (n - 1) / std * dstd
    dz = dc - dc.mean(1, keepdims=True)
    return {"w1": x.T @ dz, "g": (da * zhat).sum(0), "b": da.sum(0), "w2": r.T @ dh}
""",
        {"w1": (3, 4), "g": (4,), "b": (4,), "w2": (4, 3)},
        lambda r: (r.normal(size=(5, 3)), r.normal(size=(5, 3))),
        (
            ("N for N - 1", "(z - mean) / (n - 1)", "(z - mean) / n", "n - 1"),
            ("epsilon forgotten once", "dc = dzhat / (std + 1e-3)", "dc = dzhat / std", "epsilon"),
            ("epsilon forgotten in the other", "/ (std + 1e-3) ** 2", "/ std**2", "epsilon"),
            ("square forgotten", "/ (std + 1e-3) ** 2", "/ (std + 1e-3)", "squared|divisor|factor|operand"),
            ("mean's path left out", "dz = dc - dc.mean(1, keepdims=True)", "dz = dc", f"mean.*({LEFT_OUT})"),
            ("scale left out", 'dzhat = da * p["g"]', "dzhat = da", FACTOR),
            (
                "deviation's path left out",
                " + (z - mean) / (n - 1) / std * dstd",
                "",
                f"(path|sum|mean|root|sqrt).*({LEFT_OUT})",
            ),
            ("mask left out", '(dh @ p["w2"].T) * (a > 0)', '(dh @ p["w2"].T)', SLOPE),
            ("mask of the normalised value", "* (a > 0)", "* (zhat > 0)", "mask|slope|operand|place"),
        ),
    ),
)
