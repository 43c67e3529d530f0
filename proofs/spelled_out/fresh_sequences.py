"""RNNs, LSTMs, attention, embeddings and matrix factorisation: written after the diagnosis."""

import numpy as np

from proofs.spelled_out.exercise import Exercise

SEQUENCES = (
    Exercise(
        "rnn of words, many to one: the recurrent weight not transposed",
        """
class RNN:
    def __init__(self, p):
        self.Whh, self.Wxh, self.Why, self.bh, self.by = p["Whh"], p["Wxh"], p["Why"], p["bh"], p["by"]

    def forward(self, inputs):
        h = np.zeros((self.Whh.shape[0], 1))
        self.last_inputs = inputs
        self.last_hs = {0: h}
        for i, x in enumerate(inputs):
            h = np.tanh(self.Wxh @ x + self.Whh @ h + self.bh)
            self.last_hs[i + 1] = h
        return self.Why @ h + self.by

    def backprop(self, d_y):
        n = len(self.last_inputs)
        d_Why = d_y @ self.last_hs[n].T
        d_by = d_y
        d_Whh, d_Wxh, d_bh = np.zeros(self.Whh.shape), np.zeros(self.Wxh.shape), np.zeros(self.bh.shape)
        d_h = self.Why.T @ d_y
        for t in reversed(range(n)):
            temp = (1 - self.last_hs[t + 1] ** 2) * d_h
            d_bh += temp
            d_Whh += temp @ self.last_hs[t].T
            d_Wxh += temp @ self.last_inputs[t].T
            d_h = self.Whh.T @ temp
        return {"Whh": d_Whh, "Wxh": d_Wxh, "Why": d_Why, "bh": d_bh, "by": d_by}

def softmax(xs):
    return np.exp(xs) / np.sum(np.exp(xs))

def loss(p, inputs, target):
    return -np.log(softmax(RNN(p).forward(inputs))[target, 0])

def gradient(p, inputs, target):
    rnn = RNN(p)
    d_L_d_y = softmax(rnn.forward(inputs))
    d_L_d_y[target] -= 1
    return rnn.backprop(d_L_d_y)
""",
        {"Whh": (4, 4), "Wxh": (4, 5), "Why": (2, 4), "bh": (4, 1), "by": (2, 1)},
        lambda r: (np.eye(5)[r.integers(0, 5, 4)][:, :, None], np.array(1)),
        "d_h = self.Whh.T @ temp",
        "d_h = self.Whh @ temp",
        {"Whh", "Wxh", "bh"},
        "transpos",
    ),
    Exercise(
        "rnn that predicts the next value: derivative of the state taken again",
        """
def tanh(x):
    e = np.exp(2 * x)
    return (e - 1) / (e + 1)

def dtanh(x):
    return 1 - tanh(x) ** 2

def unroll(params, series):
    U, W, V = params
    s = np.zeros((len(series[0]), W.shape[1]))
    pre, states, outputs = [], [s], []
    for value in series:
        z = np.matmul(value, U) + np.matmul(s, W)
        s = tanh(z)
        pre.append(z)
        states.append(s)
        outputs.append(np.matmul(s, V))
    return pre, states, outputs

def loss(params, series, wanted):
    _, _, outputs = unroll(params, series)
    return sum(np.mean(np.square(o - w)) for o, w in zip(outputs, wanted)) / len(outputs)

def gradient(params, series, wanted):
    U, W, V = params
    pre, states, outputs = unroll(params, series)
    T, B = len(outputs), outputs[0].size
    dU, dW, dV = np.zeros_like(U), np.zeros_like(W), np.zeros_like(V)
    carried = np.zeros_like(states[0])
    for t in range(T)[::-1]:
        do = 2 * (outputs[t] - wanted[t]) / (B * T)
        dV += np.matmul(states[t + 1].T, do)
        ds = np.matmul(do, V.T) + carried
        dz = ds * dtanh(pre[t])
        dU += np.matmul(series[t].T, dz)
        dW += np.matmul(states[t].T, dz)
        carried = np.matmul(dz, W.T)
    return [dU, dW, dV]
""",
        [(2, 4), (4, 4), (4, 1)],
        lambda r: (r.normal(size=(4, 3, 2)), r.normal(size=(4, 3, 1))),
        "dz = ds * dtanh(pre[t])",
        "dz = ds * dtanh(states[t + 1])",
        {"0", "1"},
        "at (its|the) output",
    ),
    Exercise(
        "lstm with one matrix and a step backward: the forget gate left out of the cell's way back",
        """
def sigmoid(x):
    z = np.exp(-np.abs(x))
    return np.where(x >= 0, 1 / (1 + z), z / (1 + z))

def lstm_step_forward(x, prev_h, prev_c, Wx, Wh, b):
    H = prev_h.shape[1]
    a = x.dot(Wx) + prev_h.dot(Wh) + b
    i, f, o, g = sigmoid(a[:, :H]), sigmoid(a[:, H : 2 * H]), sigmoid(a[:, 2 * H : 3 * H]), np.tanh(a[:, 3 * H :])
    next_c = f * prev_c + i * g
    next_h = o * np.tanh(next_c)
    return next_h, next_c, (x, prev_h, prev_c, Wx, Wh, i, f, o, g, next_c)

def lstm_step_backward(dnext_h, dnext_c, cache):
    x, prev_h, prev_c, Wx, Wh, i, f, o, g, next_c = cache
    tanhc = np.tanh(next_c)
    do = dnext_h * tanhc
    dnext_c = dnext_c + dnext_h * o * (1 - tanhc**2)
    df, dprev_c = dnext_c * prev_c, dnext_c * f
    di, dg = dnext_c * g, dnext_c * i
    da = np.hstack((di * i * (1 - i), df * f * (1 - f), do * o * (1 - o), dg * (1 - g**2)))
    return da.dot(Wx.T), da.dot(Wh.T), dprev_c, x.T.dot(da), prev_h.T.dot(da), da.sum(axis=0)

def loss(p, x, h0, y):
    h, c = h0, np.zeros_like(h0)
    total = 0.0
    for t in range(x.shape[1]):
        h, c, _ = lstm_step_forward(x[:, t, :], h, c, p["Wx"], p["Wh"], p["b"])
        total = total + 0.5 * np.sum((h - y[:, t, :]) ** 2)
    return total

def gradient(p, x, h0, y):
    h, c, caches, dh = h0, np.zeros_like(h0), [], []
    for t in range(x.shape[1]):
        h, c, cache = lstm_step_forward(x[:, t, :], h, c, p["Wx"], p["Wh"], p["b"])
        caches.append(cache)
        dh.append(h - y[:, t, :])
    dWx, dWh, db = np.zeros_like(p["Wx"]), np.zeros_like(p["Wh"]), np.zeros_like(p["b"])
    dprev_h, dprev_c = np.zeros_like(h0), np.zeros_like(h0)
    while caches:
        _, dprev_h, dprev_c, dWx_t, dWh_t, db_t = lstm_step_backward(dh.pop() + dprev_h, dprev_c, caches.pop())
        dWx += dWx_t
        dWh += dWh_t
        db += db_t
    return {"Wx": dWx, "Wh": dWh, "b": db}
""",
        {"Wx": (2, 12), "Wh": (3, 12), "b": (12,)},
        lambda r: (r.normal(size=(2, 4, 2)), r.normal(size=(2, 3)), r.normal(size=(2, 4, 3))),
        "dnext_c * prev_c, dnext_c * f",
        "dnext_c * prev_c, dnext_c",
        {"Wx", "Wh", "b"},
        "(factor|gate).*(left out|forgotten)|(left out|forgotten).*(factor|gate)",
    ),
    Exercise(
        "lstm of gates over stacked state and input: slope of a sigmoid for the candidate's tanh",
        """
def sigmoid(x):
    return 1 / (1 + np.exp(-x))

def lstm_cell_forward(xt, a_prev, c_prev, parameters):
    concat = np.concatenate((a_prev, xt), axis=0)
    ft = sigmoid(np.dot(parameters["Wf"], concat) + parameters["bf"])
    it = sigmoid(np.dot(parameters["Wi"], concat) + parameters["bi"])
    cct = np.tanh(np.dot(parameters["Wc"], concat) + parameters["bc"])
    c_next = ft * c_prev + it * cct
    ot = sigmoid(np.dot(parameters["Wo"], concat) + parameters["bo"])
    a_next = ot * np.tanh(c_next)
    return a_next, c_next, (concat, c_prev, c_next, ft, it, cct, ot)

def loss(parameters, x, y):
    n_a = parameters["bf"].shape[0]
    a, c = np.zeros((n_a, x.shape[1])), np.zeros((n_a, x.shape[1]))
    for t in range(x.shape[2]):
        a, c, _ = lstm_cell_forward(x[:, :, t], a, c, parameters)
    y_hat = sigmoid(np.dot(parameters["Wy"], a))
    return -np.sum(y * np.log(y_hat) + (1 - y) * np.log(1 - y_hat)) / x.shape[1]

def gradient(parameters, x, y):
    n_a, m = parameters["bf"].shape[0], x.shape[1]
    a, c, caches = np.zeros((n_a, m)), np.zeros((n_a, m)), []
    for t in range(x.shape[2]):
        a, c, cache = lstm_cell_forward(x[:, :, t], a, c, parameters)
        caches.append(cache)
    dy = (sigmoid(np.dot(parameters["Wy"], a)) - y) / m
    gradients = {"d" + key: np.zeros(value.shape) for key, value in parameters.items()}
    gradients["dWy"] = np.dot(dy, a.T)
    da, dc = np.dot(parameters["Wy"].T, dy), np.zeros((n_a, m))
    for concat, c_prev, c_next, ft, it, cct, ot in caches[::-1]:
        dot = da * np.tanh(c_next) * ot * (1 - ot)
        dc_total = dc + ot * (1 - np.square(np.tanh(c_next))) * da
        dcct = dc_total * it * (1 - np.square(cct))
        dit = dc_total * cct * it * (1 - it)
        dft = dc_total * c_prev * ft * (1 - ft)
        dconcat = 0
        for gate, delta in zip("fico", (dft, dit, dcct, dot)):
            gradients["dW" + gate] += np.dot(delta, concat.T)
            gradients["db" + gate] += np.sum(delta, axis=1, keepdims=True)
            dconcat = dconcat + np.dot(parameters["W" + gate].T, delta)
        da = dconcat[:n_a, :]
        dc = dc_total * ft
    return {key: gradients["d" + key] for key in parameters}
""",
        {**{f"W{gate}": (3, 5) for gate in "fico"}, **{f"b{gate}": (3, 1) for gate in "fico"}, "Wy": (1, 3)},
        lambda r: (r.normal(size=(2, 4, 3)), r.integers(0, 2, (1, 4)) * 1.0),
        "dcct = dc_total * it * (1 - np.square(cct))",
        "dcct = dc_total * it * cct * (1 - cct)",
        {"Wf", "Wi", "Wc", "Wo", "bf", "bi", "bc", "bo"},
        "sigmoid|(wrong|another|other) function",
    ),
    Exercise(
        "attention of one query after the other over the past: scale left out of the keys",
        """
def attend(query, keys, values):
    scores = keys.dot(query) / keys.shape[1] ** 0.5
    scores = np.exp(scores - scores.max())
    alpha = scores / scores.sum()
    return alpha, alpha.dot(values)

def loss(p, tokens, wanted):
    Wq, Wk, Wv = p["attention"]
    Q, K, V = tokens.dot(Wq), tokens.dot(Wk), tokens.dot(Wv)
    total = 0.0
    for t in range(len(tokens)):
        _, context = attend(Q[t], K[: t + 1], V[: t + 1])
        total += ((context.dot(p["out"]) - wanted[t]) ** 2).sum()
    return total

def gradient(p, tokens, wanted):
    Wq, Wk, Wv = p["attention"]
    Q, K, V = tokens.dot(Wq), tokens.dot(Wk), tokens.dot(Wv)
    dQ, dK, dV = np.zeros_like(Q), np.zeros_like(K), np.zeros_like(V)
    d_out = np.zeros_like(p["out"])
    root = K.shape[1] ** 0.5
    for t in range(len(tokens)):
        alpha, context = attend(Q[t], K[: t + 1], V[: t + 1])
        d_y = 2 * (context.dot(p["out"]) - wanted[t])
        d_out += np.outer(context, d_y)
        d_context = p["out"].dot(d_y)
        d_alpha = V[: t + 1].dot(d_context)
        dV[: t + 1] += np.outer(alpha, d_context)
        d_scores = alpha * (d_alpha - alpha.dot(d_alpha))
        dQ[t] = d_scores.dot(K[: t + 1]) / root
        dK[: t + 1] += np.outer(d_scores, Q[t]) / root
    return {"attention": [tokens.T.dot(dQ), tokens.T.dot(dK), tokens.T.dot(dV)], "out": d_out}
""",
        {"attention": [(4, 3), (4, 3), (4, 2)], "out": (2, 3)},
        lambda r: (r.normal(size=(4, 4)), r.normal(size=(4, 3))),
        "np.outer(d_scores, Q[t]) / root",
        "np.outer(d_scores, Q[t])",
        {"attention/1"},
        "(scale|factor|divisor).*(left out|forgotten)|(left out|forgotten).*(scale|factor|divisor)",
    ),
    Exercise(
        "decoder with two heads and a triangular mask: masked after the softmax instead of before",
        """
def split(t, heads):
    B, T, C = t.shape
    return t.reshape(B, T, heads, C // heads).transpose(0, 2, 1, 3)

def merge(t):
    B, H, T, D = t.shape
    return t.transpose(0, 2, 1, 3).reshape(B, T, H * D)

def attention_weights(q, k, mask):
    att = (q @ np.swapaxes(k, -2, -1)) * (1.0 / np.sqrt(k.shape[-1]))
    att = att + (1.0 - mask) * -1e4
    att = np.exp(att - np.max(att, -1, keepdims=True))
    return att / np.sum(att, -1, keepdims=True)

def loss(p, x, mask, y):
    q, k, v = (split(t, 2) for t in np.split(x @ p["c_attn"], 3, axis=-1))
    out = merge(attention_weights(q, k, mask) @ v) @ p["c_proj"]
    return np.sum((out - y) ** 2) / len(x)

def gradient(p, x, mask, y):
    q, k, v = (split(t, 2) for t in np.split(x @ p["c_attn"], 3, axis=-1))
    att = attention_weights(q, k, mask)
    merged = merge(att @ v)
    dout = 2 * (merged @ p["c_proj"] - y) / len(x)
    dheads = split(dout @ p["c_proj"].T, 2)
    datt = dheads @ np.swapaxes(v, -2, -1)
    dv = np.swapaxes(att, -2, -1) @ dheads
    s = attention_weights(q, k, mask)
    dscore = s * (datt - np.sum(datt * s, -1, keepdims=True)) * (1.0 / np.sqrt(k.shape[-1]))
    dq, dk = dscore @ k, np.swapaxes(dscore, -2, -1) @ q
    dqkv = np.concatenate([merge(dq), merge(dk), merge(dv)], axis=-1)
    return {"c_attn": np.einsum("btc,bte->ce", x, dqkv), "c_proj": np.einsum("btc,bte->ce", merged, dout)}
""",
        {"c_attn": (4, 12), "c_proj": (4, 3)},
        lambda r: (r.normal(size=(2, 4, 4)), np.tril(np.ones((4, 4))), r.normal(size=(2, 4, 3))),
        "    s = attention_weights(q, k, mask)\n",
        "    s = mask * attention_weights(q, k, np.ones_like(mask))\n",
        {"c_attn"},
        "mask",
    ),
    Exercise(
        "word vectors with negative samples: the context's own vector in place of the word's",
        """
def sigma(x):
    return 1 / (1 + np.exp(-x))

def loss(vectors, centers, contexts, negatives):
    total = 0.0
    for c, o, ks in zip(centers, contexts, negatives):
        v = vectors["in"][c]
        total -= np.log(sigma(np.dot(vectors["out"][o], v)))
        for k in ks:
            total -= np.log(sigma(-np.dot(vectors["out"][k], v)))
    return total

def gradient(vectors, centers, contexts, negatives):
    grad_in, grad_out = np.zeros(vectors["in"].shape), np.zeros(vectors["out"].shape)
    for c, o, ks in zip(centers, contexts, negatives):
        v = vectors["in"][c]
        u = vectors["out"][o]
        g = sigma(np.dot(u, v)) - 1
        grad_in[c] += g * u
        grad_out[o] += g * v
        for k in ks:
            u = vectors["out"][k]
            g = 1 - sigma(-np.dot(u, v))
            grad_in[c] += g * u
            grad_out[k] += g * v
    return {"in": grad_in, "out": grad_out}
""",
        {"in": (5, 3), "out": (5, 3)},
        lambda r: (np.array([0, 2, 2, 4]), np.array([1, 3, 0, 2]), np.array([[3, 4], [0, 1], [4, 4], [1, 3]])),
        "grad_out[k] += g * v",
        "grad_out[k] += g * u",
        {"out"},
        "in place of|instead of",
    ),
    Exercise(
        "language model with the embedding tied to the output: the lookup's part left out",
        """
def forward(p, ids):
    E = p["embed"]
    x = E[ids].reshape(ids.shape[0], -1)
    h = np.tanh(x @ p["hidden"] + p["bias"])
    logits = h @ E.T
    top = logits.max(1, keepdims=True)
    logp = logits - top - np.log(np.exp(logits - top).sum(1, keepdims=True))
    return x, h, logp

def loss(p, ids, following):
    return -forward(p, ids)[2][range(len(following)), following].mean()

def gradient(p, ids, following):
    n, window = ids.shape
    x, h, logp = forward(p, ids)
    dlogits = np.exp(logp)
    dlogits[range(n), following] -= 1
    dlogits /= n
    dE = dlogits.T @ h
    dh = dlogits @ p["embed"]
    dpre = (1.0 - h**2) * dh
    dx = (dpre @ p["hidden"].T).reshape(n, window, -1)
    for a in range(n):
        for b in range(window):
            dE[ids[a, b]] += dx[a, b]
    return {"embed": dE, "hidden": x.T @ dpre, "bias": dpre.sum(0)}
""",
        {"embed": (6, 4), "hidden": (8, 4), "bias": (4,)},
        lambda r: (r.integers(0, 6, (5, 2)), r.integers(0, 6, 5)),
        "            dE[ids[a, b]] += dx[a, b]\n",
        "            pass\n",
        {"embed"},
        "tied|counted once|one use|path is missing|what flows back is left out",
    ),
    Exercise(
        "matrix factorisation of stars with biases, rating by rating: returned inside the loop",
        """
def predict(model, u, i):
    return model["mu"] + model["bu"][u] + model["bi"][i] + np.dot(model["P"][u, :], model["Q"][i, :].T)

def loss(model, samples, stars):
    errors = [r - predict(model, u, i) for (u, i), r in zip(samples, stars)]
    return 0.5 * sum(e**2 for e in errors)

def gradient(model, samples, stars):
    grads = {name: np.zeros_like(value) for name, value in model.items()}
    for (u, i), r in zip(samples, stars):
        e = r - predict(model, u, i)
        grads["mu"] -= e
        grads["bu"][u] -= e
        grads["bi"][i] -= e
        grads["P"][u, :] -= e * model["Q"][i, :]
        grads["Q"][i, :] -= e * model["P"][u, :]
    return grads
""",
        {"mu": (), "bu": (4,), "bi": (5,), "P": (4, 2), "Q": (5, 2)},
        lambda r: (np.array([[0, 1], [0, 4], [1, 2], [2, 0], [3, 3], [3, 1]]), r.integers(1, 6, 6) * 1.0),
        '        grads["Q"][i, :] -= e * model["P"][u, :]\n',
        '        grads["Q"][i, :] -= e * model["P"][u, :]\n        return grads\n',
        {"mu", "bu", "bi", "P", "Q"},
        "inside the loop|in the loop|only the (first|last)|overwrit",
    ),
    Exercise(
        "matrix factorisation by gradient descent: the second factor's delta through a stepped first",
        """
def loss(factors, R, lam=0.02):
    U, M = factors
    observed = R > 0
    D = np.where(observed, R - U @ M, 0.0)
    return np.sum(D**2) + lam * (np.linalg.norm(U) ** 2 + np.linalg.norm(M) ** 2)

def gradient(factors, R, lam=0.02):
    U, M = factors
    D = np.where(R > 0, R - U @ M, 0.0)
    grad_U = -2 * D @ M.T + 2 * lam * U
    grad_M = -2 * U.T @ D + 2 * lam * M
    return [grad_U, grad_M]
""",
        [(5, 2), (2, 4)],
        lambda r: (r.integers(0, 6, (5, 4)) * 1.0,),
        "    grad_M = -2 * U.T @ D",
        "    U = U - 0.005 * grad_U\n    grad_M = -2 * U.T @ D",
        {"1"},
        "stepped|updated",
    ),
)
