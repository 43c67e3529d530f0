"""Multilayer perceptrons, softmax regression, CNNs, batch norm and layer norm: written after the diagnosis."""

import numpy as np

from proofs.spelled_out.exercise import Exercise

LAYERS = (
    Exercise(
        "network of sizes, one example after the other: an accumulator overwritten",
        """
def sigmoid(z):
    return 1.0 / (1.0 + np.exp(-z))

def sigmoid_prime(z):
    return sigmoid(z) * (1 - sigmoid(z))

def feedforward(p, a):
    for b, w in zip(p["biases"], p["weights"]):
        a = sigmoid(np.dot(w, a) + b)
    return a

def loss(p, xs, ys):
    return sum(0.5 * np.linalg.norm(feedforward(p, x) - y) ** 2 for x, y in zip(xs, ys)) / len(xs)

def backprop(p, x, y):
    nabla_b = [np.zeros(b.shape) for b in p["biases"]]
    nabla_w = [np.zeros(w.shape) for w in p["weights"]]
    activation = x
    activations, zs = [x], []
    for b, w in zip(p["biases"], p["weights"]):
        z = np.dot(w, activation) + b
        zs.append(z)
        activation = sigmoid(z)
        activations.append(activation)
    delta = (activations[-1] - y) * sigmoid_prime(zs[-1])
    nabla_b[-1] = delta
    nabla_w[-1] = np.dot(delta, activations[-2].transpose())
    for l in range(2, len(zs) + 1):
        delta = np.dot(p["weights"][-l + 1].transpose(), delta) * sigmoid_prime(zs[-l])
        nabla_b[-l] = delta
        nabla_w[-l] = np.dot(delta, activations[-l - 1].transpose())
    return nabla_b, nabla_w

def gradient(p, xs, ys):
    nabla_b = [np.zeros(b.shape) for b in p["biases"]]
    nabla_w = [np.zeros(w.shape) for w in p["weights"]]
    for x, y in zip(xs, ys):
        delta_nabla_b, delta_nabla_w = backprop(p, x, y)
        nabla_b = [nb + dnb for nb, dnb in zip(nabla_b, delta_nabla_b)]
        nabla_w = [nw + dnw for nw, dnw in zip(nabla_w, delta_nabla_w)]
    return {"biases": [nb / len(xs) for nb in nabla_b], "weights": [nw / len(xs) for nw in nabla_w]}
""",
        {"biases": [(5, 1), (4, 1), (2, 1)], "weights": [(5, 3), (4, 5), (2, 4)]},
        lambda r: (r.normal(size=(6, 3, 1)), r.uniform(size=(6, 2, 1))),
        "[nw + dnw for nw, dnw in",
        "[dnw for nw, dnw in",
        {"weights/0", "weights/1", "weights/2"},
        "overwrit|only the last|assigned",
    ),
    Exercise(
        "class with fit and predict: matrix product for the product by entries",
        """
class TwoLayerNet:
    def __init__(self, W1, b1, W2, b2):
        self.W1, self.b1, self.W2, self.b2 = W1, b1, W2, b2

    def tanh(self, s):
        return 2 / (1 + np.exp(-2 * s)) - 1

    def forward(self, X):
        self.X = X
        self.z1 = np.dot(X, self.W1) + self.b1
        self.a1 = self.tanh(self.z1)
        return np.dot(self.a1, self.W2) + self.b2

    def tanh_prime(self, s):
        return 1 - self.tanh(s) ** 2

    def backward(self, dscores):
        grads = {}
        grads["W2"] = np.dot(self.a1.T, dscores)
        grads["b2"] = np.sum(dscores, axis=0)
        dhidden = np.dot(dscores, self.W2.T)
        dhidden = dhidden * self.tanh_prime(self.z1)
        grads["W1"] = np.dot(self.X.T, dhidden)
        grads["b1"] = np.sum(dhidden, axis=0)
        return grads

def loss(p, X, y):
    out = TwoLayerNet(**p).forward(X)
    return np.square(out[:, 0] - y).mean()

def gradient(p, X, y):
    net = TwoLayerNet(**p)
    out = net.forward(X)
    return net.backward(2 * (out - y[:, None]) / y.shape[0])
""",
        {"W1": (4, 6), "b1": (6,), "W2": (6, 1), "b2": (1,)},
        lambda r: (r.normal(size=(6, 4)), r.normal(size=6)),
        "dhidden = dhidden * self.tanh_prime(self.z1)",
        "dhidden = np.dot(dhidden, self.tanh_prime(self.z1))",
        {"W1", "b1"},
        "matrix product",
    ),
    Exercise(
        "mlp of swish units: derivative of the gate alone",
        """
def sigm(x):
    return np.exp(x) / (np.exp(x) + 1)

def swish(x):
    return x * sigm(x)

def d_swish(x):
    s = sigm(x)
    return s + x * s * (1 - s)

def loss(p, X, T):
    (W, c), (V, d) = p
    Y = swish(X @ W + c) @ V + d
    return np.einsum("nk,nk->", Y - T, Y - T) / X.shape[0]

def gradient(p, X, T):
    (W, c), (V, d) = p
    A = X @ W + c
    H = swish(A)
    E = 2.0 / X.shape[0] * (H @ V + d - T)
    gV, gd = np.einsum("nh,nk->hk", H, E), np.einsum("nk->k", E)
    B = np.einsum("nk,hk->nh", E, V) * d_swish(A)
    gW, gc = np.einsum("ni,nh->ih", X, B), np.einsum("nh->h", B)
    return [(gW, gc), (gV, gd)]
""",
        [[(3, 5), (5,)], [(5, 2), (2,)]],
        lambda r: (r.normal(size=(8, 3)), r.normal(size=(8, 2))),
        "return s + x * s * (1 - s)",
        "return s * (1 - s)",
        {"0/0", "0/1"},
        "(wrong|another|other) function|(derivative|slope) of (a |the )?(sigmoid|gate|factor)",
    ),
    Exercise(
        "softmax with squared errors, a Jacobian for each example: its diagonal only",
        """
def stable_softmax(v):
    v = v - v.max()
    return np.exp(v) / np.exp(v).sum()

def loss(theta, X, Y):
    m, J = X.shape[0], 0.0
    for x, y in zip(X, Y):
        h = stable_softmax(theta["W"].dot(x) + theta["b"])
        J += ((h - y) ** 2).sum()
    return J / (2 * m)

def gradient(theta, X, Y):
    m = X.shape[0]
    W_grad, b_grad = np.zeros_like(theta["W"]), np.zeros_like(theta["b"])
    for x, y in zip(X, Y):
        h = stable_softmax(theta["W"].dot(x) + theta["b"])
        jacobian = np.diag(h) - np.outer(h, h)
        dz = jacobian.dot(h - y)
        W_grad += np.outer(dz, x)
        b_grad += dz
    return {"W": W_grad / m, "b": b_grad / m}
""",
        {"W": (4, 3), "b": (4,)},
        lambda r: (r.normal(size=(6, 3)), np.eye(4)[r.integers(0, 4, 6)]),
        "jacobian = np.diag(h) - np.outer(h, h)",
        "jacobian = np.diag(h * (1 - h))",
        {"W", "b"},
        "diagonal",
    ),
    Exercise(
        "softmax classifier with loops over examples and classes: penalty before the division",
        """
def loss(p, X, y, reg=0.7):
    W = p["W"]
    num_train = X.shape[0]
    total = 0.0
    for i in range(num_train):
        f = X[i].dot(W)
        f = f - np.max(f)
        total += -f[y[i]] + np.log(np.sum(np.exp(f)))
    return total / num_train + 0.5 * reg * np.sum(W * W)

def gradient(p, X, y, reg=0.7):
    W = p["W"]
    dW = np.zeros_like(W)
    num_train, num_classes = X.shape[0], W.shape[1]
    for i in range(num_train):
        f = X[i].dot(W)
        f = f - np.max(f)
        prob = np.exp(f) / np.sum(np.exp(f))
        for j in range(num_classes):
            dW[:, j] += (prob[j] - (j == y[i])) * X[i]
    dW /= num_train
    dW += reg * W
    return {"W": dW}
""",
        {"W": (5, 3)},
        lambda r: (r.normal(size=(8, 5)), r.integers(0, 3, 8)),
        "    dW /= num_train\n    dW += reg * W\n",
        "    dW += reg * W\n    dW /= num_train\n",
        {"W"},
        "penalty",
    ),
    Exercise(
        "two convolutions with pad and stride in naive loops: stride forgotten on the way back",
        """
def conv_forward_naive(x, w, b, stride, pad):
    N, C, H, W = x.shape
    F, _, HH, WW = w.shape
    x_pad = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    H_out, W_out = 1 + (H + 2 * pad - HH) // stride, 1 + (W + 2 * pad - WW) // stride
    rows = []
    for i in range(H_out):
        for j in range(W_out):
            window = x_pad[:, :, i * stride : i * stride + HH, j * stride : j * stride + WW]
            rows.append((window[:, None] * w[None]).sum(axis=(2, 3, 4)) + b)
    return np.stack(rows, axis=-1).reshape(N, F, H_out, W_out)

def conv_backward_naive(dout, x, w, stride, pad):
    N, C, H, W = x.shape
    F, _, HH, WW = w.shape
    x_pad = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    dx_pad, dw = np.zeros_like(x_pad), np.zeros_like(w)
    db = np.sum(dout, axis=(0, 2, 3))
    for n in range(N):
        for f in range(F):
            for i in range(dout.shape[2]):
                for j in range(dout.shape[3]):
                    h, v = i * stride, j * stride
                    dw[f] += x_pad[n, :, h : h + HH, v : v + WW] * dout[n, f, i, j]
                    dx_pad[n, :, h : h + HH, v : v + WW] += w[f] * dout[n, f, i, j]
    return dx_pad[:, :, pad : pad + H, pad : pad + W], dw, db

def loss(p, x, y):
    h = np.tanh(conv_forward_naive(x, p["W1"], p["b1"], 1, 1))
    out = conv_forward_naive(h, p["W2"], p["b2"], 2, 0)
    return np.sum((out - y) ** 2) / x.shape[0]

def gradient(p, x, y):
    h = np.tanh(conv_forward_naive(x, p["W1"], p["b1"], 1, 1))
    out = conv_forward_naive(h, p["W2"], p["b2"], 2, 0)
    dout = 2 * (out - y) / x.shape[0]
    dh, dW2, db2 = conv_backward_naive(dout, h, p["W2"], 2, 0)
    _, dW1, db1 = conv_backward_naive(dh * (1 - h * h), x, p["W1"], 1, 1)
    return {"W1": dW1, "b1": db1, "W2": dW2, "b2": db2}
""",
        {"W1": (2, 1, 3, 3), "b1": (2,), "W2": (3, 2, 2, 2), "b2": (3,)},
        lambda r: (r.normal(size=(2, 1, 4, 4)), r.normal(size=(2, 3, 2, 2))),
        "dx_pad[n, :, h : h + HH, v : v + WW] += w[f]",
        "dx_pad[n, :, i : i + HH, j : j + WW] += w[f]",
        {"W1", "b1"},
        "stride",
    ),
    Exercise(
        "cnn of one image with a filter in plain loops: an accumulator added to itself",
        """
def correlate(image, kernel):
    h, w = image.shape[0] - kernel.shape[0] + 1, image.shape[1] - kernel.shape[1] + 1
    result = np.empty((h, w))
    for r in range(h):
        for c in range(w):
            result[r, c] = np.sum(image[r : r + kernel.shape[0], c : c + kernel.shape[1]] * kernel)
    return result

def relu(a):
    return np.where(a > 0, a, 0)

def loss(params, image, label):
    kernels, biases, dense = params
    maps = [relu(correlate(image, k) + b) for k, b in zip(kernels, biases)]
    scores = dense @ np.concatenate([m.ravel() for m in maps])
    return np.log(np.exp(scores).sum()) - scores[label]

def gradient(params, image, label):
    kernels, biases, dense = params
    maps = [relu(correlate(image, k) + b) for k, b in zip(kernels, biases)]
    features = np.concatenate([m.ravel() for m in maps])
    scores = dense @ features
    delta = np.exp(scores) / np.exp(scores).sum()
    delta[label] -= 1.0
    grad_features = (dense.T @ delta).reshape(len(kernels), *maps[0].shape)
    grad_kernels, grad_biases = np.zeros(kernels.shape), np.zeros(biases.shape)
    for f, m in enumerate(maps):
        back = grad_features[f] * (m > 0)
        grad_biases[f] = back.sum()
        for r in range(back.shape[0]):
            for c in range(back.shape[1]):
                window = image[r : r + kernels.shape[1], c : c + kernels.shape[2]]
                grad_kernels[f] = grad_kernels[f] + window * back[r, c]
    return [grad_kernels, grad_biases, np.outer(delta, features)]
""",
        [(3, 2, 2), (3,), (4, 18)],
        lambda r: (r.normal(size=(4, 3)), np.array(2)),
        "grad_kernels[f] = grad_kernels[f] + window",
        "grad_kernels[f] += grad_kernels[f] + window",
        {"0"},
        "added to itself|accumulator|doubl",
    ),
    Exercise(
        "batch norm as a graph of small steps: the mean's way back left out",
        """
def batchnorm_forward(x, gamma, beta, eps=1e-4):
    N, D = x.shape
    mu = 1.0 / N * np.sum(x, axis=0)
    xmu = x - mu
    sq = xmu**2
    var = 1.0 / N * np.sum(sq, axis=0)
    sqrtvar = np.sqrt(var + eps)
    ivar = 1.0 / sqrtvar
    xhat = xmu * ivar
    gammax = gamma * xhat
    return gammax + beta, (xhat, gamma, xmu, ivar, sqrtvar, var, eps)

def batchnorm_backward(dout, cache):
    xhat, gamma, xmu, ivar, sqrtvar, var, eps = cache
    N, D = dout.shape
    dbeta = np.sum(dout, axis=0)
    dgammax = dout
    dgamma = np.sum(dgammax * xhat, axis=0)
    dxhat = dgammax * gamma
    divar = np.sum(dxhat * xmu, axis=0)
    dxmu1 = dxhat * ivar
    dsqrtvar = -1.0 / (sqrtvar**2) * divar
    dvar = 0.5 * 1.0 / np.sqrt(var + eps) * dsqrtvar
    dsq = 1.0 / N * np.ones((N, D)) * dvar
    dxmu2 = 2 * xmu * dsq
    dx1 = dxmu1 + dxmu2
    dmu = -1 * np.sum(dxmu1 + dxmu2, axis=0)
    dx2 = 1.0 / N * np.ones((N, D)) * dmu
    dx = dx1 + dx2
    return dx, dgamma, dbeta

def loss(p, x, t):
    a, _ = batchnorm_forward(np.dot(x, p["W"]), p["gamma"], p["beta"])
    s = 1 / (1 + np.exp(-a))
    return np.sum((s - t) ** 2) * 0.5

def gradient(p, x, t):
    a, cache = batchnorm_forward(np.dot(x, p["W"]), p["gamma"], p["beta"])
    s = 1 / (1 + np.exp(-a))
    da = (s - t) * s * (1 - s)
    dx, dgamma, dbeta = batchnorm_backward(da, cache)
    return {"W": np.dot(x.T, dx), "gamma": dgamma, "beta": dbeta}
""",
        {"W": (4, 3), "gamma": (3,), "beta": (3,)},
        lambda r: (r.normal(size=(7, 4)) + 1.0, r.uniform(size=(7, 3))),
        "    dx = dx1 + dx2\n",
        "    dx = dx1\n",
        {"W"},
        "mean.*(left out|missing|constant)|(left out|missing).*mean|projection|path is missing",
    ),
    Exercise(
        "batch norm of units in rows: N - 1 for N",
        """
def normalise(Z):
    mu = Z.mean(axis=1, keepdims=True)
    sigma = np.std(Z, axis=1, keepdims=True)
    return (Z - mu) / sigma

def loss(params, X, Y):
    Z = params[0] @ X
    A = np.maximum(0, params[1] * normalise(Z) + params[2])
    Z2 = params[3] @ A
    P = np.exp(Z2) / np.exp(Z2).sum(axis=0)
    return -(Y * np.log(P)).sum() / Y.shape[1]

def gradient(params, X, Y):
    m = X.shape[1]
    Z = params[0] @ X
    Zhat = normalise(Z)
    Zt = params[1] * Zhat + params[2]
    A = np.maximum(0, Zt)
    Z2 = params[3] @ A
    dZ2 = np.exp(Z2) / np.exp(Z2).sum(axis=0) - Y
    dW2 = dZ2 @ A.T / m
    dZt = (params[3].T @ dZ2) * (Zt > 0)
    dgamma = (dZt * Zhat).sum(axis=1, keepdims=True) / m
    dbeta = dZt.sum(axis=1, keepdims=True) / m
    dZhat = dZt * params[1]
    sigma = np.std(Z, axis=1, keepdims=True)
    centred = dZhat - dZhat.mean(axis=1, keepdims=True)
    dZ = (centred - Zhat * np.sum(dZhat * Zhat, axis=1, keepdims=True) / m) / sigma
    dW1 = dZ @ X.T / m
    return [dW1, dgamma, dbeta, dW2]
""",
        [(5, 3), (5, 1), (5, 1), (4, 5)],
        lambda r: (r.normal(size=(3, 8)), np.eye(4)[:, r.integers(0, 4, 8)]),
        "np.sum(dZhat * Zhat, axis=1, keepdims=True) / m)",
        "np.sum(dZhat * Zhat, axis=1, keepdims=True) / (m - 1))",
        {"0"},
        r"n ?- ?1|unbiased",
    ),
    Exercise(
        "layer norm after a residual: scale left out",
        """
def ln(x, scale, offset):
    mu = x.sum(-1)[..., None] / x.shape[-1]
    d = x - mu
    v = np.einsum("...i,...i->...", d, d)[..., None] / x.shape[-1]
    return d * (v + 1e-6) ** -0.5 * scale + offset

def loss(P, x, target):
    h = x + np.maximum(x @ P["up"], 0) @ P["down"]
    return 0.5 * np.mean((ln(h, P["scale"], P["offset"]) - target) ** 2)

def gradient(P, x, target):
    u = x @ P["up"]
    r = np.maximum(u, 0)
    h = x + r @ P["down"]
    d = h - h.mean(-1, keepdims=True)
    rstd = (np.square(d).mean(-1, keepdims=True) + 1e-6) ** -0.5
    xhat = d * rstd
    g = (P["scale"] * xhat + P["offset"] - target) / target.size
    wdy = P["scale"] * g
    c1 = (xhat * wdy).mean(-1, keepdims=True)
    c2 = wdy.mean(-1, keepdims=True)
    dh = (wdy - (xhat * c1 + c2)) * rstd
    ddown = np.tensordot(r, dh, axes=([0, 1], [0, 1]))
    du = dh @ P["down"].T * (u > 0)
    dup = np.tensordot(x, du, axes=([0, 1], [0, 1]))
    return {"up": dup, "down": ddown, "scale": (g * xhat).sum((0, 1)), "offset": g.sum((0, 1))}
""",
        {"up": (4, 6), "down": (6, 4), "scale": (4,), "offset": (4,)},
        lambda r: (r.normal(size=(2, 3, 4)), r.normal(size=(2, 3, 4))),
        'wdy = P["scale"] * g',
        "wdy = g",
        {"up", "down"},
        "(scale|gamma|factor).*(left out|forgotten)|(left out|forgotten).*(scale|gamma|factor)",
    ),
)
