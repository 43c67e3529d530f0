"""The layouts of the literature, and the identities of matrix calculus in one of them.

Derivatives are in numerator layout: D f has the axes of f, then those of the argument; a gradient has the shape of its
argument. The identities are those of Parr & Howard ("The matrix calculus you need for deep learning", arXiv
1802.01528), of Mishachev ("Backpropagation in matrix notation", arXiv 1707.02746) and of Choy ("Short note on matrix
differentials and backpropagation"). Each is written in NumPy; the numbers beside it are those of jax.jacobian.

Nets with small integers for weights and inputs compute without rounding, so their layouts agree to the bit.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxbp import Chain, Context, Dense, ReLU

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("strict")]
draw = np.random.default_rng(3)
a, b, c = draw.normal(size=(4, 3)), draw.normal(size=(2, 5)), draw.normal(size=(3, 2))
u, v, w = draw.normal(size=(3, 3))
x, y, s = draw.normal(size=(3, 2)), draw.normal(size=(3, 2)), 0.7
q = draw.normal(size=(3, 3)) + 3 * np.eye(3)
inv, eye, ones = np.linalg.inv(q), np.eye(3), np.ones(3)
weights, g = draw.normal(size=(2, 4)), draw.normal(size=(3, 4))
units = np.einsum("ik,jl->ijkl", eye, np.eye(2))  # D X of a matrix [3, 2] in itself
gate = lambda z: (z > 0).astype(float)
vec = lambda m: m.reshape(-1, order="F")  # columns under each other
unvec = lambda z: z.reshape(2, 3).T
relu, norm, dot = jax.nn.relu, jnp.linalg.norm, jnp.vdot
neuron = np.maximum(q @ w + s, 0)  # for three examples, the rows of q
p = np.exp(u) / np.exp(u).sum()

IDENTITIES = {  # what it says: (f, its argument, D f)
    # vectors: Parr & Howard, section 4
    "D u = I": (lambda u: u, u, eye),
    "D_u (u + v) = I": (lambda u: u + v, u, eye),
    "D_v (u - v) = -I": (lambda v: u - v, v, -eye),
    "D_u (u * v) = diag v": (lambda u: u * v, u, np.diag(v)),
    "D_u (u / v) = diag 1/v": (lambda u: u / v, u, np.diag(1 / v)),
    "D_v (u / v) = diag -u/v^2": (lambda v: u / v, v, np.diag(-u / v**2)),
    "D_s (u + s 1) = 1": (lambda s: u + s, s, ones),
    "D_s (s u) = u": (lambda s: s * u, s, u),
    "D_u (s u) = s I": (lambda u: s * u, u, s * eye),
    "D sum u = 1^T": (jnp.sum, u, ones),
    "D sum f(u) = f'(u)^T": (lambda u: jnp.sum(jnp.sin(u)), u, np.cos(u)),
    "D_s sum s u = sum u": (lambda s: jnp.sum(s * u), s, u.sum()),
    "D f(u) = diag f'(u)": (jnp.tanh, u, np.diag(1 - np.tanh(u) ** 2)),
    "D f(g(u)) = D f D g": (lambda u: a @ jnp.sin(u), u, a @ np.diag(np.cos(u))),
    "total derivative": (lambda s: s + s**2, s, 1 + 2 * s),  # of x + u(x) with u = x^2
    "D_w w.x = x^T": (lambda w: dot(w, u), w, u),
    "D_w max(0, w.x + b)": (lambda w: relu(dot(w, u) + s), w, gate(w @ u + s) * u),
    "D_b max(0, w.x + b)": (lambda s: relu(dot(w, u) + s), s, gate(w @ u + s)),
    "D_w of a neuron's mean squared error": (
        lambda w: jnp.mean((v - relu(q @ w + s)) ** 2),
        w,
        2 / 3 * (neuron - v) * gate(neuron) @ q,
    ),
    "D_b of a neuron's mean squared error": (
        lambda s: jnp.mean((v - relu(q @ w + s)) ** 2),
        s,
        2 / 3 * np.sum((neuron - v) * gate(neuron)),
    ),
    "D |u|^2 = 2 u^T": (lambda u: dot(u, u), u, 2 * u),
    "D |u| = u^T / |u|": (norm, u, u / np.linalg.norm(u)),
    "D A u = A": (lambda u: a @ u, u, a),
    "D u^T Q = Q^T": (lambda u: u @ q, u, q.T),
    "D u^T Q u = u^T (Q + Q^T)": (lambda u: u @ q @ u, u, u @ (q + q.T)),
    "D |Q u - v|^2 = 2 (Q u - v)^T Q": (lambda u: jnp.sum((q @ u - v) ** 2), u, 2 * (q @ u - v) @ q),
    "D softmax = diag p - p p^T": (jax.nn.softmax, u, np.diag(p) - np.outer(p, p)),
    "D logsumexp = softmax": (jax.nn.logsumexp, u, p),
    # matrices by their differentials: dF = D F [dX]
    "d(X^T) = dX^T": (jnp.transpose, x, np.einsum("ijkl->jikl", units)),
    "d(A X B) = A dX B": (lambda x: a @ x @ b, x, np.einsum("ik,lj->ijkl", a, b)),
    "vec(A X B) = (B^T kron A) vec X": (lambda z: vec(a @ unvec(z) @ b), vec(x), np.kron(b.T, a)),
    "d(X X) = dX X + X dX": (lambda q: q @ q, q, np.einsum("ik,lj->ijkl", eye, q) + np.einsum("ik,lj->ijkl", q, eye)),
    "d(X * Y) = dX * Y": (lambda x: x * y, x, units * y[:, :, None, None]),
    "d f(X) = f'(X) * dX": (jnp.tanh, x, units * (1 - np.tanh(x) ** 2)[:, :, None, None]),
    "d(X^-1) = -X^-1 dX X^-1": (jnp.linalg.inv, q, -np.einsum("ik,lj->ijkl", inv, inv)),
    "diag v: V_mn = v_m delta_mn": (jnp.diag, v, np.einsum("mn,mk->mnk", eye, eye)),
    "each row of X times u^T": (lambda v: q * v[None], v, np.einsum("ij,jk->ijk", q, eye)),
    # scalars of matrices by the trace: df = tr(G^T dX), with the gradient G like X
    "grad tr X = I": (jnp.trace, q, eye),
    "grad tr(C^T X) = C": (lambda x: jnp.trace(c.T @ x), x, c),
    "grad tr(X^T Q X) = (Q + Q^T) X": (lambda x: jnp.trace(x.T @ q @ x), x, (q + q.T) @ x),
    "grad |X|^2 = 2 X": (lambda x: jnp.sum(x**2), x, 2 * x),
    "grad u^T X v = u v^T": (lambda x: u @ x @ b[:, 0], x, np.outer(u, b[:, 0])),
    "grad det X = det X X^-T": (jnp.linalg.det, q, np.linalg.det(q) * inv.T),
    "grad log|det X| = X^-T": (lambda q: jnp.linalg.slogdet(q)[1], q, inv.T),
    "grad tr X^-1 = -X^-2T": (lambda q: jnp.trace(jnp.linalg.inv(q)), q, -(inv @ inv).T),
    # a layer Y = X W + 1 b^T with a row for each example, and E with gradient G in Y
    "dE/dX = G W^T": (lambda x: dot(g, x @ weights), x, g @ weights.T),
    "dE/dW = X^T G": (lambda w: dot(g, x @ w), weights, x.T @ g),
    "dE/db = G^T 1": (lambda v: dot(q, q + v[None]), v, q.T @ ones),
    "dE/dZ = G * f'(Z)": (lambda x: dot(y, jnp.sin(x)), x, y * np.cos(x)),
    "D_b of every row is I": (lambda v: q @ q + v[None], v, np.broadcast_to(eye, (3, 3, 3))),
}


@functools.cache
def jacobians():
    """D f of every identity, by jax.jacobian, in one program."""
    every = lambda: {name: jax.jacobian(f)(jnp.asarray(argument)) for name, (f, argument, _) in IDENTITIES.items()}
    return jax.device_get(jax.jit(every)())


@pytest.mark.parametrize("name", IDENTITIES)
def test_identity(name):
    claim = np.asarray(IDENTITIES[name][2])
    assert jacobians()[name].shape == claim.shape
    np.testing.assert_allclose(jacobians()[name], claim, rtol=1e-12, atol=1e-13)


SHAPES = {"scalar": (), "vector": (2,), "matrix": (3, 2)}


@pytest.mark.parametrize("below", SHAPES)
@pytest.mark.parametrize("above", SHAPES)
def test_shape_of_a_derivative(above, below):
    """Numerator layout: the axes of what is derived, then those of what it is derived in. The other layout swaps them,
    and a gradient, that of a scalar, has the shape of its argument in both."""
    f = lambda argument: jnp.full(SHAPES[above], jnp.sum(argument))
    spec = jax.ShapeDtypeStruct(SHAPES[below], jnp.float64)
    assert jax.eval_shape(jax.jacobian(f), spec).shape == SHAPES[above] + SHAPES[below]
    if above == "scalar":
        assert jax.eval_shape(jax.grad(f), spec).shape == SHAPES[below]


# --- one net in every layout -----------------------------------------------------------------------------------------

whole = lambda *shape: draw.integers(-3, 4, shape).astype(float)
NET = Chain(Dense(4), ReLU(), Dense(2))
W1, B1, W2, B2 = whole(4, 3), whole(4), whole(2, 4), whole(2)
X, T = whole(5, 3), whole(5, 2)


@functools.cache
def rows():
    """(y, dx, grads) of the library: a row for each example, a row of w for each unit."""
    params = {"00_dense": {"w": W1, "b": B1}, "01_relu": {}, "02_dense": {"w": W2, "b": B2}}
    y, cache = NET.forward(params, X, Context())
    return y, *NET.backward(params, cache, y - T)


def test_columns_are_the_transpose_of_rows():
    """Z = W A + b 1^T with a column for each example: the deltas are transposed, the gradients are the same."""
    a0 = X.T
    z1 = W1 @ a0 + B1[:, None]
    a1 = np.maximum(z1, 0)
    y = W2 @ a1 + B2[:, None]
    delta2 = y - T.T
    delta1 = W2.T @ delta2 * gate(z1)
    np.testing.assert_array_equal(y.T, rows()[0])
    np.testing.assert_array_equal((W1.T @ delta1).T, rows()[1])
    by_columns = {
        "00_dense": {"w": delta1 @ a0.T, "b": delta1.sum(1)},
        "01_relu": {},
        "02_dense": {"w": delta2 @ a1.T, "b": delta2.sum(1)},
    }
    jax.tree.map(np.testing.assert_array_equal, by_columns, rows()[2])
    np.testing.assert_array_equal(y.argmax(0), rows()[0].argmax(1))  # the class of each column


def test_weights_with_a_column_for_each_unit_are_the_transpose():
    """Y = X W' + 1 b^T with W' [I, O]: dW' = X^T delta, and what goes back takes W'^T."""
    z1 = X @ W1.T + B1
    delta2 = np.maximum(z1, 0) @ W2.T + B2 - T
    delta1 = delta2 @ W2 * gate(z1)
    np.testing.assert_array_equal(np.maximum(z1, 0).T @ delta2, rows()[2]["02_dense"]["w"].T)
    np.testing.assert_array_equal(X.T @ delta1, rows()[2]["00_dense"]["w"].T)


def with_ones(z):
    """The examples [N, I] with a one at the end of each: [N, I + 1]."""
    return np.concatenate([z, np.ones((len(z), 1))], 1)


def test_the_bias_is_a_column_of_weights_for_an_input_of_one():
    """theta = [W | b], with a row for each unit of the next layer and a column for each of this one, and one more."""
    theta1, theta2 = np.c_[W1, B1], np.c_[W2, B2]
    assert theta1.shape == (4, 3 + 1)
    assert theta2.shape == (2, 4 + 1)
    layer = Dense(4, bias=False)
    z1, cache1 = layer.forward({"w": theta1}, with_ones(X))
    a1 = np.maximum(z1, 0)
    y, cache2 = layer.forward({"w": theta2}, with_ones(a1))
    da1, of_theta2 = layer.backward({"w": theta2}, cache2, y - T)
    dx, of_theta1 = layer.backward({"w": theta1}, cache1, da1[:, :-1] * gate(z1))  # nothing goes back into a one
    np.testing.assert_array_equal(y, rows()[0])
    np.testing.assert_array_equal(dx[:, :-1], rows()[1])
    joined = lambda name: np.c_[rows()[2][name]["w"], rows()[2][name]["b"]]
    np.testing.assert_array_equal(of_theta1["w"], joined("00_dense"))
    np.testing.assert_array_equal(of_theta2["w"], joined("02_dense"))


def test_the_jacobian_of_a_net_is_the_product_of_its_layers():
    """W2 diag(f'(z)) W1, the flow of activations through the net; of linear layers alone the product of the weights."""
    flow = np.stack([W2 @ np.diag(gate(W1 @ row + B1)) @ W1 for row in X])
    params = {"00_dense": {"w": W1, "b": B1}, "01_relu": {}, "02_dense": {"w": W2, "b": B2}}
    _, cache = NET.forward(params, X, Context())
    back = [NET.backward(params, cache, np.tile(unit, (5, 1)))[0] for unit in np.eye(2)]
    np.testing.assert_array_equal(np.stack(back, 1), flow)
    linear = Chain(Dense(4), Dense(2))
    params = {"00_dense": {"w": W1, "b": B1}, "01_dense": {"w": W2, "b": B2}}
    np.testing.assert_array_equal(linear.forward(params, X, Context())[0], X @ (W2 @ W1).T + W2 @ B1 + B2)
