"""Families of multilayer perceptrons and softmax regressions, each with the mistakes that people make in it."""

import numpy as np

from proofs.spelled_out.family import Family
from proofs.spelled_out.words import FACTOR, LEFT_OUT, MEAN, OVERWRITTEN, PLACE, SLOPE

LAYERS = (
    Family(
        "mlp in columns with a penalty",
        """
def sigmoid(z):
    return 1 / (1 + np.exp(-z))

def loss(p, X, Y):
    m = X.shape[1]
    A1 = np.maximum(0, np.dot(p["W1"], X) + p["b1"])
    A2 = np.tanh(np.dot(p["W2"], A1) + p["b2"])
    A3 = np.clip(sigmoid(np.dot(p["W3"], A2) + p["b3"]), 1e-12, 1 - 1e-12)
    cost = -np.sum(np.multiply(Y, np.log(A3)) + np.multiply(1 - Y, np.log(1 - A3))) / m
    return cost + 0.7 / (2 * m) * (np.sum(np.square(p["W1"])) + np.sum(np.square(p["W2"])) + np.sum(p["W3"] ** 2))

def gradient(p, X, Y):
    m = X.shape[1]
    Z1 = np.dot(p["W1"], X) + p["b1"]
    A1 = np.maximum(0, Z1)
    A2 = np.tanh(np.dot(p["W2"], A1) + p["b2"])
    A3 = sigmoid(np.dot(p["W3"], A2) + p["b3"])
    dZ3 = A3 - Y
    dW3 = 1 / m * np.dot(dZ3, A2.T) + 0.7 / m * p["W3"]
    db3 = 1 / m * np.sum(dZ3, axis=1, keepdims=True)
    dA2 = np.dot(p["W3"].T, dZ3)
    dZ2 = np.multiply(dA2, 1 - np.power(A2, 2))
    dW2 = 1 / m * np.dot(dZ2, A1.T) + 0.7 / m * p["W2"]
    db2 = 1 / m * np.sum(dZ2, axis=1, keepdims=True)
    dA1 = np.dot(p["W2"].T, dZ2)
    dZ1 = np.array(dA1, copy=True)
    dZ1 = dZ1 * (Z1 > 0)
    dW1 = 1 / m * np.dot(dZ1, X.T) + 0.7 / m * p["W1"]
    db1 = 1 / m * np.sum(dZ1, axis=1, keepdims=True)
    return {"W1": dW1, "b1": db1, "W2": dW2, "b2": db2, "W3": dW3, "b3": db3}
""",
        {"W1": (5, 3), "b1": (5, 1), "W2": (4, 5), "b2": (4, 1), "W3": (2, 4), "b3": (2, 1)},
        lambda r: (r.normal(size=(3, 8)), r.integers(0, 2, (2, 8)) * 1.0),
        (
            ("slope of tanh left out", "np.multiply(dA2, 1 - np.power(A2, 2))", "dA2", SLOPE),
            ("slope of relu left out", "dZ1 = dZ1 * (Z1 > 0)", "pass", SLOPE),
            ("mask of another layer", "dZ1 * (Z1 > 0)", "dZ1 * (A1 > 0.5)", "mask|slope"),
            ("square forgotten in tanh's slope", "np.power(A2, 2)", "A2", "slope 1 - y"),
            ("sigmoid's slope for tanh's", "1 - np.power(A2, 2)", "A2 * (1 - A2)", "sigmoid|slope y"),
            (
                "slope of the output where there is none",
                "dZ3 = A3 - Y",
                "dZ3 = (A3 - Y) * A3 * (1 - A3)",
                "slope.*(where no|once too often|twice)|(once too often|twice).*slope|applied",
            ),
            (
                "penalty left out",
                "dW2 = 1 / m * np.dot(dZ2, A1.T) + 0.7 / m",
                "dW2 = 1 / m * np.dot(dZ2, A1.T) + 0 / m",
                "penalty",
            ),
            (
                "penalty with factor",
                "dW3 = 1 / m * np.dot(dZ3, A2.T) + 0.7 / m",
                "dW3 = 1 / m * np.dot(dZ3, A2.T) + 0.7",
                "penalty",
            ),
            ("1/m left out", "db2 = 1 / m * np.sum", "db2 = np.sum", MEAN),
            ("weight of another layer", 'dA1 = np.dot(p["W2"].T, dZ2)', 'dA1 = np.dot(p["W2"].T, dA2)', SLOPE),
            (
                "activation in place of its input",
                "dW2 = 1 / m * np.dot(dZ2, A1.T)",
                "dW2 = 1 / m * np.dot(dZ2, Z1.T)",
                PLACE,
            ),
            (
                "stepped weights",
                "    dA1 = np.dot(",
                '    p = p | {"W2": p["W2"] - 0.05 * dW2}\n    dA1 = np.dot(',
                "stepped|updated",
            ),
            ("bias summed over the wrong axis's mean", "db1 = 1 / m * np.sum(dZ1", "db1 = 1 / m * np.mean(dZ1", MEAN),
        ),
    ),
    Family(
        "mlp of layer objects with dropout",
        """
class Linear:
    def __init__(self, w, b):
        self.w, self.b = w, b

    def forward(self, x):
        self.x = x
        return x @ self.w + self.b

    def backward(self, dout):
        self.dw = self.x.T @ dout
        self.db = dout.sum(0)
        return dout @ self.w.T

class Softplus:
    def forward(self, x):
        self.x = x
        return np.log(1 + np.exp(x))

    def backward(self, dout):
        return dout / (1 + np.exp(-self.x))

class Dropout:
    def __init__(self, mask, keep):
        self.mask, self.keep = mask, keep

    def forward(self, x):
        return x * self.mask / self.keep

    def backward(self, dout):
        return dout * self.mask / self.keep

def network(p, mask):
    return [Linear(p["w1"], p["b1"]), Softplus(), Dropout(mask, 0.6), Linear(p["w2"], p["b2"])]

def forward(layers, x):
    for layer in layers:
        x = layer.forward(x)
    return x

def loss(p, x, y, mask):
    return np.square(forward(network(p, mask), x) - y).mean()

def gradient(p, x, y, mask):
    layers = network(p, mask)
    out = forward(layers, x)
    dout = 2 * (out - y) / out.size
    for layer in reversed(layers):
        dout = layer.backward(dout)
    first, last = layers[0], layers[-1]
    return {"w1": first.dw, "b1": first.db, "w2": last.dw, "b2": last.db}
""",
        {"w1": (3, 5), "b1": (5,), "w2": (5, 2), "b2": (2,)},
        lambda r: (r.normal(size=(6, 3)), r.normal(size=(6, 2)), (r.uniform(size=(6, 5)) < 0.6) * 1.0),
        (
            ("dropout's mask left out", "dout * self.mask / self.keep", "dout / self.keep", FACTOR),
            ("dropout's scale left out", "dout * self.mask / self.keep", "dout * self.mask", FACTOR),
            ("dropout left out", "        return dout * self.mask / self.keep", "        return dout", FACTOR),
            (
                "slope at the output",
                "dout / (1 + np.exp(-self.x))",
                "dout / (1 + np.exp(-np.log(1 + np.exp(self.x))))",
                "wrong point|at the output",
            ),
            ("slope left out", "return dout / (1 + np.exp(-self.x))", "return dout", SLOPE),
            ("factor 2", "dout = 2 * (out - y)", "dout = (out - y)", "factor"),
            ("half of the delta handed on", "return dout @ self.w.T", "return dout @ self.w.T * 0.5", "factor"),
            ("mean over examples", "self.db = dout.sum(0)", "self.db = dout.mean(0)", MEAN),
        ),
    ),
    Family(
        "softmax regression example by example",
        """
def scores_of(p, x):
    return p["W"].dot(x) + p["b"]

def loss(p, X, y):
    total = 0.0
    for i in range(len(X)):
        f = scores_of(p, X[i])
        f = f - np.max(f)
        total += np.log(np.sum(np.exp(f / 1.7))) - f[y[i]] / 1.7
    return total / len(X) + 0.5 * 0.1 * np.sum(p["W"] * p["W"])

def gradient(p, X, y):
    dW = np.zeros(p["W"].shape)
    db = np.zeros(p["b"].shape)
    for i in range(len(X)):
        f = scores_of(p, X[i]) / 1.7
        prob = np.exp(f) / np.sum(np.exp(f))
        for j in range(len(prob)):
            error = prob[j] - (1.0 if j == y[i] else 0.0)
            error /= 1.7
            dW[j, :] += error * X[i]
            db[j] += error
    dW /= len(X)
    db /= len(X)
    dW += 0.1 * p["W"]
    return {"W": dW, "b": db}
""",
        {"W": (3, 4), "b": (3,)},
        lambda r: (r.normal(size=(5, 4)), r.integers(0, 3, 5)),
        (
            ("temperature forgotten", "            error /= 1.7\n", "", FACTOR),
            ("accumulator overwritten", "dW[j, :] += error", "dW[j, :] = error", OVERWRITTEN),
            (
                "added to itself",
                "dW[j, :] += error * X[i]",
                "dW[j, :] += dW[j, :] + error * X[i]",
                "added|itself|counted twice|too often",
            ),
            ("mean left out", "    db /= len(X)\n", "", MEAN),
            ("penalty's sign", 'dW += 0.1 * p["W"]', 'dW -= 0.1 * p["W"]', "penalty"),
            (
                "returned inside the loop",
                "    dW /= len(X)\n",
                "        break\n    dW /= len(X)\n",
                "only the (first|last)|overwrit|inside the loop|in the loop",
            ),
            ("temperature forgotten in the scores", "f = scores_of(p, X[i]) / 1.7", "f = scores_of(p, X[i])", FACTOR),
        ),
    ),
    Family(
        "softmax classifier in columns with one-hot targets",
        """
def softmax(Z):
    E = np.exp(Z - Z.max(axis=0))
    return E / E.sum(axis=0)

def loss(p, X, Y):
    H = np.arctan(p["V"].T @ X)
    return np.sum((softmax(p["W"].T @ H + p["b"]) - Y) ** 2) / X.shape[1]

def gradient(p, X, Y):
    H = np.arctan(p["V"].T @ X)
    S = softmax(p["W"].T @ H + p["b"])
    dS = 2 * (S - Y) / X.shape[1]
    dZ = S * (dS - np.einsum("kn,kn->n", S, dS))
    dH = p["W"] @ dZ
    dA = dH / (1 + (p["V"].T @ X) ** 2)
    return {"V": X @ dA.T, "W": H @ dZ.T, "b": dZ.sum(axis=1, keepdims=True)}
""",
        {"V": (3, 4), "W": (4, 3), "b": (3, 1)},
        lambda r: (r.normal(size=(3, 6)), np.eye(3)[:, r.integers(0, 3, 6)]),
        (
            ("row sum left out", 'S * (dS - np.einsum("kn,kn->n", S, dS))', "S * dS", f"sum.*({LEFT_OUT})"),
            ("diagonal only", 'S * (dS - np.einsum("kn,kn->n", S, dS))', "S * (1 - S) * dS", "diagonal"),
            ("softmax's derivative left out", 'dZ = S * (dS - np.einsum("kn,kn->n", S, dS))', "dZ = dS", SLOPE),
            ("slope at the output", '(1 + (p["V"].T @ X) ** 2)', "(1 + H**2)", "output|wrong point"),
            ("slope left out", 'dA = dH / (1 + (p["V"].T @ X) ** 2)', "dA = dH", SLOPE),
            ("slope of tanh", 'dH / (1 + (p["V"].T @ X) ** 2)', "dH * (1 - H**2)", "tanh|another"),
            (
                "sum over the rows of the wrong axis",
                'np.einsum("kn,kn->n", S, dS)',
                "np.mean(S * dS, axis=0)",
                "mean|factor|1 /",
            ),
        ),
    ),
)
