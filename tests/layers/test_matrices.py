"""Functions of matrices at equal eigenvalues, gauges that are refused, and matrices with a structure."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbp
from jaxbp import ops, structures
from jaxbp.ops.spectral_functions import NAMED, Pair, Power, quotients, spectral_backward
from proofs.spectral import SPECTRA, errors, ours

pytestmark = pytest.mark.slow
EQUAL = np.diag([2.0, 2.0, 5.0])


# --- functions of symmetric matrices ---------------------------------------------------------------------------------


@pytest.mark.parametrize("spectrum", SPECTRA)
def test_gradient_is_that_of_50_digits(float64, spectrum):
    pytest.importorskip("mpmath")
    names = ("sqrt", "exp") if spectrum == "zero" else ("inverse_sqrt", "log")
    assert max(errors(spectrum, name, "float64", {"ours": ours})["ours"] for name in names) < 1e-12


@pytest.mark.parametrize(
    ("function", "g"),
    [
        (NAMED["sqrt"], np.sqrt),
        (NAMED["inverse_sqrt"], lambda w: 1 / np.sqrt(w)),
        (NAMED["log"], np.log),
        (NAMED["exp"], np.exp),
        (Power(0.3), lambda w: w ** np.longdouble(0.3)),
        (Power(-2.0), lambda w: w ** np.longdouble(-2)),
        (Pair(jnp.sin, jnp.cos), np.sin),
    ],
    ids=lambda f: str(f) if isinstance(f, Power) else "",
)
def test_quotients_lose_no_digits(float64, function, g):
    """From gaps of a hundredth to those of rounding, against differences in 80 bits where these have digits left."""
    w = 1.7 * (1 + np.array([0, 1e-2, 0.3, 0.9, 9.0, 1e-5, 1e-15]))
    k = np.asarray(quotients(function, None, jnp.asarray(w)))
    wide = w.astype(np.longdouble)
    gap = wide[:, None] - wide[None, :]
    tested = np.abs(gap) > 1e-6
    quotient = (g(wide)[:, None] - g(wide)[None, :])[tested] / gap[tested]
    np.testing.assert_allclose(k[tested], quotient.astype(float), rtol=3e-13)
    near = k[np.ix_([0, 6], [0, 6])]
    np.testing.assert_allclose(near, near[0, 0], rtol=1e-13)
    np.testing.assert_allclose(
        k[0, 0], np.asarray((g(wide[:1] + 1e-6) - g(wide[:1] - 1e-6)) / 2e-6, float)[0], rtol=1e-9
    )


@pytest.mark.parametrize("exponent", [0, 1, 2, 3, 6, -1, -2, -5])
def test_whole_powers_take_eigenvalues_of_both_signs(float64, exponent):
    """Equal ones, opposite ones, and for exponents that are not negative a zero."""
    w = np.array([-2.0, -2, -0.5, 0.5, 2, 3] + [0.0] * (exponent >= 0))
    k = np.asarray(quotients(Power(exponent), None, jnp.asarray(w)))
    gap = w[:, None] - w
    difference = w[:, None] ** float(exponent) - w ** float(exponent)
    slope = exponent * w ** float(exponent - 1) if exponent else 0 * w
    expected = np.where(gap == 0, slope[:, None], difference / np.where(gap == 0, 1, gap))
    np.testing.assert_allclose(k, expected, rtol=1e-13, atol=1e-15)


def test_other_powers_have_no_gradient_at_negative_eigenvalues():
    assert np.all(np.isnan(quotients(Power(0.5), None, jnp.array([-1.0, -1, -2]))))


def test_an_eigenvalue_of_zero_has_an_infinite_slope_where_the_delta_reaches_it():
    kept = jnp.array([0.0, 1, 4]), jnp.eye(3)
    gradient = lambda dy: spectral_backward(NAMED["sqrt"], 0.0, kept, dy)[0]
    np.testing.assert_allclose(gradient(jnp.diag(jnp.array([0.0, 1, 1]))), np.diag([0, 0.5, 0.25]))
    assert np.isinf(gradient(jnp.eye(3))[0, 0])


def test_both_forms_of_the_square_root_are_right_in_float32(float64):
    """Value and gradient of 64 x 64, to 1e-6 of the norm of those in float64. There the root's square is the matrix."""
    draw = np.random.default_rng(0)
    x = draw.normal(size=(2, 64, 128))
    a = jnp.asarray(x @ np.swapaxes(x, 1, 2) / 128 + np.eye(64), jnp.float32)
    dy = jnp.asarray(draw.normal(size=a.shape), jnp.float32)

    def pulled(a, dy, form):
        y, back = jax.vjp(lambda a: ops.sqrtm_psd(a, form), a)
        return y, back(dy)[0]

    forms = jax.jit(lambda a, dy: [pulled(a, dy, form) for form in ("eigh", "products")])
    by_eigh, truth = forms(a.astype(jnp.float64), dy.astype(jnp.float64))
    for root, _ in (by_eigh, truth):
        np.testing.assert_allclose(root @ root, a.astype(jnp.float64), rtol=0, atol=1e-8)
    norm = lambda m: np.linalg.norm(np.asarray(m, np.float64), axis=(1, 2))
    error = lambda m, exact: float(np.max(norm(np.asarray(m, np.float64) - exact) / norm(exact)))
    errors = [jax.tree.map(error, result, truth) for result in forms(a, dy)]
    assert max(jax.tree.leaves(errors)) <= 1e-6, errors


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: ops.spectral(EQUAL, "squrt"), "unknown function of a symmetric matrix 'squrt'; did you mean 'sqrt'"),
        (lambda: jaxbp.Spectral("lg"), "unknown function of a symmetric matrix 'lg'; did you mean 'log'"),
        (lambda: ops.sqrtm_psd(EQUAL, "product"), "unknown form of sqrtm_psd 'product'; did you mean 'products'"),
        (lambda: ops.logm_psd(jnp.ones((2, 3))), r"the matrices must be square, \[..., D, D\], got \[2, 3\]"),
        (lambda: ops.qr(jnp.ones((2, 3))), r"must be \[..., M, K\] with M >= K, got \[2, 3\]"),
        (lambda: ops.solve(jnp.ones((3, 3)), jnp.ones(3)), r"solve takes a \[..., D, D\] and b \[..., D, K\], got"),
        (lambda: ops.sylvester(*[jnp.ones((3, 3))] * 2, jnp.ones((3, 2))), "sylvester takes a"),
        (lambda: jaxbp.Eigh(0.0), "Eigh: tolerance must be positive, got 0.0"),
        (lambda: ops.sylvester(*[jnp.ones((3, 3))] * 2, jnp.ones((2, 3, 3))), "sylvester takes a"),
        (lambda: ops.sylvester(jnp.ones((2, 3, 3)), jnp.ones((3, 3)), jnp.ones((2, 3, 3))), "sylvester takes a"),
        (lambda: ops.pinv(jnp.ones(3)), r"pinv takes matrices \[..., M, K\], got \[3\]"),
        (lambda: structures.Sparse(((1, 2, 3),)), r"Sparse: entries must be pairs \(row, column\) of whole numbers"),
        (lambda: structures.Sparse((1, 2)), r"Sparse: entries must be pairs \(row, column\) of whole numbers, got"),
        (lambda: structures.LowRank(1.5), "LowRank: rank must be a whole number, got 1.5"),
        (lambda: structures.Banded(1, -1), "Banded: upper must be at least 0, got -1"),
    ],
    ids=range(15),
)
def test_what_cannot_be_used_is_refused_in_one_line(call, text):
    with pytest.raises(jaxbp.InputError, match=text):
        call()


def test_a_pseudo_inverse_has_penroses_four_properties_at_any_rank(float64):
    draw = np.random.default_rng(0)
    a = draw.normal(size=(4, 2)) @ draw.normal(size=(2, 5))  # of rank 2
    p = ops.pinv(jnp.asarray(a))
    np.testing.assert_allclose(a @ p @ a, a, atol=1e-13)
    np.testing.assert_allclose(p @ a @ p, p, atol=1e-13)
    np.testing.assert_allclose(a @ p, (a @ p).T, atol=1e-13)
    np.testing.assert_allclose(p @ a, (p @ a).T, atol=1e-13)


# --- eigenvectors ----------------------------------------------------------------------------------------------------


def eigh_gradient(a, score):
    """The gradient in A [N, D, D] of score(w, V), by the layer."""
    layer = jaxbp.Eigh()
    y, cache = layer.forward({}, jnp.asarray(a), jaxbp.Context())
    return layer.backward({}, cache, jax.grad(lambda y: score(*y))(y))[0]


def test_what_sees_the_plane_alone_has_a_gradient(float64):
    """The sum of the eigenvalues of a plane, and the projector on it."""
    m = np.random.default_rng(0).normal(size=(3, 3))
    np.testing.assert_allclose(eigh_gradient(EQUAL[None], lambda w, v: jnp.sum(w[:, :2])), [np.diag([1.0, 1, 0])])
    onto = lambda w, v: jnp.sum(m * (v[0, :, :2] @ v[0, :, :2].T))
    mixed = np.zeros((3, 3))
    mixed[:2, 2] = mixed[2, :2] = (m + m.T)[:2, 2] / (2 - 5) / 2
    np.testing.assert_allclose(eigh_gradient(EQUAL[None], onto)[0], mixed, atol=1e-14)


@pytest.mark.parametrize("score", [lambda w, v: v[0, 1, 0] + w[1, 0], lambda w, v: w[0, 0]], ids=["vector", "value"])
def test_a_choice_of_vectors_is_refused(float64, score):
    two = np.stack([EQUAL, np.diag([1.0, 2, 5])])
    with pytest.raises(jaxbp.InputError, match="Eigh: the gradient depends on the choice of vectors: 1 matrices"):
        eigh_gradient(two, score)
    traced = jax.jit(lambda a: eigh_gradient(a, score))(two)
    assert np.all(np.isnan(traced[0]))
    assert np.all(np.isfinite(traced[1]))


def test_singular_vectors_of_equal_values_are_refused(float64):
    layer = jaxbp.Svd()
    (u, s, v), cache = layer.forward({}, jnp.asarray(EQUAL[None]), jaxbp.Context())
    dx, _ = layer.backward({}, cache, (jnp.zeros_like(u), jnp.ones_like(s), jnp.zeros_like(v)))
    np.testing.assert_allclose(dx[0], np.eye(3), atol=1e-14)
    with pytest.raises(jaxbp.InputError, match="Svd: the gradient depends on the choice of vectors"):
        layer.backward({}, cache, (jnp.arange(9.0).reshape(1, 3, 3), jnp.zeros_like(s), jnp.zeros_like(v)))


# --- layers ----------------------------------------------------------------------------------------------------------


def test_whitened_rows_are_uncorrelated():
    x = jax.random.normal(jax.random.key(0), (500, 3)) @ jnp.array([[1.0, 0.5, 0], [0, 1, 0.3], [0, 0, 2]]) + 1
    layer = jaxbp.Whitening(epsilon=1e-6)
    y, cache = layer.forward({}, x, jaxbp.Context())
    np.testing.assert_allclose(y.T @ y / 500, np.eye(3), atol=1e-4)
    np.testing.assert_allclose(jnp.mean(y, 0), np.zeros(3), atol=1e-5)
    state = jaxbp.Whitening(momentum=0.0, epsilon=1e-6).next_state(layer.init_state(x), cache)
    np.testing.assert_allclose(layer.forward({}, x, jaxbp.Context.evaluation(state))[0], y, atol=1e-5)


@pytest.mark.parametrize("function", ["sqrt", "log"])
def test_dead_channels_have_a_gradient(float64, function):
    """Two channels of zeros are two equal eigenvalues of zero, below the floor; JAX's rule for eigh gives nan."""
    pool = jaxbp.Chain((jaxbp.SecondOrderPool(), jaxbp.Spectral(function, floor=1e-3), jaxbp.SymmetricVector()))
    x = jax.random.normal(jax.random.key(0), (2, 9, 5), jnp.float64).at[..., 3:].set(0)
    params = pool.init(jax.random.key(1), x)
    value = jax.jit(lambda x: jnp.sum(jnp.sin(pool.forward(params, x, jaxbp.Context())[0])))
    y, cache = pool.forward(params, x, jaxbp.Context())
    dx, _ = pool.backward(params, cache, jnp.cos(y))
    v = jax.random.normal(jax.random.key(2), x.shape, jnp.float64)
    slope = (value(x + 1e-5 * v) - value(x - 1e-5 * v)) / 2e-5
    np.testing.assert_allclose(jnp.vdot(dx, v), slope, rtol=1e-7)
    assert not np.all(np.isfinite(jax.grad(value)(x)))


def test_a_symmetric_vector_keeps_inner_products():
    a, b = (np.random.default_rng(seed).normal(size=(1, 4, 4)).astype(np.float32) for seed in (0, 1))
    a, b = a + np.swapaxes(a, 1, 2), b + np.swapaxes(b, 1, 2)
    vector = lambda a: jaxbp.SymmetricVector().forward({}, jnp.asarray(a), jaxbp.Context())[0]
    np.testing.assert_allclose(jnp.vdot(vector(a), vector(b)), np.vdot(a, b), rtol=1e-5)


# --- structures ------------------------------------------------------------------------------------------------------

SQUARE = {
    structures.Symmetric(): (15, lambda w: w - w.T),
    structures.Skew(): (10, lambda w: w + w.T),
    structures.Toeplitz(): (9, lambda w: w[1:, 1:] - w[:-1, :-1]),
    structures.Circulant(): (5, lambda w: w - np.roll(w, (1, 1), (0, 1))),
    structures.Banded(1, 2): (5 + 4 + 4 + 3, lambda w: np.tril(w, -2) + np.triu(w, 3)),
    structures.BlockDiagonal(5): (5, lambda w: w - np.diag(np.diag(w))),
    structures.Sparse(((0, 1), (4, 2))): (2, lambda w: w - w * np.isin(np.arange(25), (1, 22)).reshape(5, 5)),
    structures.LowRank(2): (20, lambda w: np.linalg.svd(w)[1][2:]),
    structures.Kronecker(1, 5): (10, lambda w: 0 * w),
    structures.PositiveDefinite(): (15, lambda w: np.minimum(np.linalg.eigvalsh(w), 0)),
    structures.Cayley(): (10, lambda w: w @ w.T - np.eye(5)),
}


@pytest.mark.parametrize("structure", SQUARE, ids=lambda s: type(s).__name__)
def test_a_structure_has_its_parameters_and_its_law(structure):
    count, law = SQUARE[structure]
    params = structure.init(jax.random.key(0), 5, 5, jaxbp.inits.initializer("lecun_normal"))
    w = np.asarray(structure.matrix(params, 5, 5))
    assert w.shape == (5, 5)
    assert sum(p.size for p in params.values()) == count
    np.testing.assert_allclose(law(w), 0, atol=1e-6)
    assert 0.3 < np.sqrt(np.mean(np.sum(w * w, 1))) < 3 or count == 2
    dw = np.random.default_rng(0).normal(size=(5, 5)).astype(np.float32)
    expected = jax.vjp(lambda params: structure.matrix(params, 5, 5), params)[1](jnp.asarray(dw))[0]
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), structure.pull(params, jnp.asarray(dw)), expected
    )


@pytest.mark.parametrize(
    ("structure", "text"),
    [
        (structures.Symmetric(), "Symmetric: needs as many outputs as inputs, got 4 outputs and 6 inputs"),
        (structures.BlockDiagonal(3), "BlockDiagonal: needs multiples of 3 blocks, got 4 outputs and 6 inputs"),
        (
            structures.Kronecker(3, 2),
            "Kronecker: needs multiples of 3 outputs and 2 inputs, got 4 outputs and 6 inputs",
        ),
        (structures.Sparse(((4, 0),)), "Sparse: needs 5 outputs and 1 inputs, got 4 outputs and 6 inputs"),
    ],
    ids=lambda s: type(s).__name__,
)
def test_sizes_that_do_not_fit_a_structure(structure, text):
    with pytest.raises(jaxbp.InputError, match=text):
        jaxbp.Structured(4, structure).init(jax.random.key(0), jaxbp.shaped(2, 6))


def test_an_orthogonal_matrix_of_bfloat16_parameters():
    params = {"w": jnp.asarray([0.5, -1, 0.25], jnp.bfloat16)}
    wide = jaxbp.core.cast(params, jnp.float32)
    dw = jnp.arange(9.0).reshape(3, 3)
    cayley = structures.Cayley()
    results = [(cayley.matrix(p, 3, 3), cayley.pull(p, dw.astype(p["w"].dtype))["w"]) for p in (params, wide)]
    for narrow, exact in zip(*results, strict=True):
        assert narrow.dtype == jnp.bfloat16
        np.testing.assert_allclose(narrow.astype(jnp.float32), exact, rtol=2**-8, atol=2**-4)
