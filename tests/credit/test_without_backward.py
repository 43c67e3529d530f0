"""What learns without a backward pass: searches, one-layer rules, Hopfield nets; and the inversion of a net."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

import jaxbp
from bench import small_tasks
from jaxbp import credit, optim
from jaxbp.credit import hebbian, hopfield
from jaxbp.credit.inversion import inverse
from jaxbp.data import Embedded
from jaxbp.errors import InputError
from jaxbp.optim import Objective
from jaxbp.training.step import initial_state, make_step
from tests.support.marks import but_at_night

pytestmark = pytest.mark.slow
KEY = jax.random.key(0)


# --- one layer -------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("float64")
def test_sangers_rows_are_the_leading_eigenvectors_in_the_order_of_pca():
    random = np.random.default_rng(0)
    x = random.normal(size=(500, 6)) * [3, 2, 1.4, 0.7, 0.4, 0.2] @ np.linalg.qr(random.normal(size=(6, 6)))[0]
    x -= x.mean(0)
    w = jax.lax.fori_loop(0, 3000, lambda i, w: w + 0.02 * hebbian.sanger(w, x), random.normal(size=(3, 6)) / 10)
    leading = np.linalg.eigh(x.T @ x)[1][:, ::-1].T[:3]
    cosines = jnp.abs(jnp.einsum("ki,ki->k", w, leading)) / jnp.linalg.norm(w, axis=1)
    assert jnp.all(cosines > 0.99)
    np.testing.assert_allclose(jnp.linalg.norm(w, axis=1), 1, rtol=1e-3)


def test_sangers_rule_takes_mixed_factors_apart():
    """Independent factors of different variance, turned: each output follows one of them and none of the others."""
    random = np.random.default_rng(1)
    factors = random.uniform(-1, 1, size=(5000, 3)) * [3, 2, 1]
    x = factors @ np.linalg.qr(random.normal(size=(3, 3)))[0]
    x -= x.mean(0)
    w = jax.lax.fori_loop(0, 300, lambda i, w: w + 0.1 * hebbian.sanger(w, x), random.normal(size=(3, 3)) / 10)
    correlations = np.corrcoef(factors.T, w @ x.T)[:3, 3:]
    np.testing.assert_allclose(abs(correlations), np.eye(3), atol=0.1)


UNIT = jaxbp.Chain(jaxbp.Flatten(), jaxbp.Dense(1))


def passes(rule, loss, x, target, count, batch_size=1):
    """-> (weights, how many steps changed them in each pass) of so many passes from zero, in order."""
    optimizer = rule.build(1, None)
    gradient = rule.gradient(UNIT, loss)
    cut = lambda a: a.reshape(-1, batch_size, *a.shape[1:])

    def step(carry, batch):
        params, state = carry
        grads = gradient(params, jaxbp.batch(*batch)).grads
        updates, state = optimizer.update(grads, state, params)
        changed = jnp.any(jnp.array([jnp.any(u != 0) for u in jax.tree.leaves(updates)]))
        return (optax.apply_updates(params, updates), state), changed

    def one_pass(carry, _):
        carry, changed = jax.lax.scan(step, carry, (cut(x), cut(target)))
        return carry, changed.sum()

    params = {"00_flatten": {}, "01_dense": {"w": jnp.zeros((1, x.shape[1])), "b": jnp.zeros(1)}}
    (params, _), changes = jax.jit(lambda c: jax.lax.scan(one_pass, c, None, count))((params, optimizer.init(params)))
    return params["01_dense"], changes


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.nightly) for seed in (1, 2))])
def test_the_perceptron_converges_within_novikoffs_bound(seed):
    random = np.random.default_rng(seed)
    u = random.normal(size=5)
    u /= np.linalg.norm(u)
    x = random.normal(size=(200, 4))
    x = x[np.abs(x @ u[:4] + u[4]) > 0.3][:100]
    margin = np.abs(x @ u[:4] + u[4]).min()
    target = (x @ u[:4] + u[4] > 0).astype(float)[:, None]
    unit, mistakes = passes(optim.Perceptron(0.7), jaxbp.BinaryCrossEntropy(), x, target, 100)
    assert jnp.all((x @ unit["w"].T + unit["b"] > 0) == target)
    assert 0 < mistakes.sum() <= ((x * x).sum(1).max() + 1) / margin**2
    assert mistakes[-1] == 0


@pytest.mark.usefixtures("float64")
def test_the_perceptron_learns_two_kinds_of_iris_in_the_published_number_of_passes():
    """Raschka's example: length of sepal and petal of 50 setosa and 50 versicolor, rate 0.1; no mistake in the 6th.

    He takes a sum of zero, that of the first row, for versicolor. The rule here takes it for class 0.
    """
    flowers = Embedded("iris").table()[0].take(slice(100))
    x, setosa = flowers.x[:, [0, 2]].astype(float), (flowers.y[:, None] == 0).astype(float)
    unit, mistakes = passes(optim.Perceptron(0.1), jaxbp.BinaryCrossEntropy(), x, setosa, 6)
    np.testing.assert_array_equal(mistakes, [2, 2, 3, 2, 1, 0])
    np.testing.assert_array_equal(x @ unit["w"].T + unit["b"] > 0, setosa)


@pytest.mark.usefixtures("float64")
def test_the_delta_rule_is_the_gradient_and_finds_least_squares_below_its_bound():
    random = np.random.default_rng(0)
    x, target = random.normal(size=(60, 4)), random.normal(size=(60, 1))
    batch, loss = jaxbp.batch(x, target), jaxbp.SquaredError()
    params = {"00_flatten": {}, "01_dense": {"w": random.normal(size=(1, 4)), "b": random.normal(size=1)}}
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12),
        optim.DeltaRule().gradient(UNIT, loss)(params, batch).grads,
        jaxbp.value_and_grad(UNIT, loss)(params, batch).grads,
    )
    with_one = np.c_[x, np.ones(60)]
    best = np.linalg.lstsq(with_one, target[:, 0])[0]
    bound = 2 / np.linalg.eigvalsh(with_one.T @ with_one / 60).max()
    distance = lambda unit: np.abs(np.append(unit["w"], unit["b"]) - best).max()
    assert distance(passes(optim.DeltaRule(0.9 * bound), loss, x, target, 300, 60)[0]) < 1e-8
    assert distance(passes(optim.DeltaRule(1.1 * bound), loss, x, target, 300, 60)[0]) > 1e3
    with pytest.raises(InputError, match="DeltaRule needs loss=SquaredError, got BinaryCrossEntropy"):
        optim.DeltaRule().gradient(UNIT, jaxbp.BinaryCrossEntropy())
    with pytest.raises(InputError, match=r"Perceptron trains one Dense and nothing else, got Dense\(2\), Tanh\(\)"):
        optim.Perceptron().gradient(jaxbp.Chain(jaxbp.Dense(2), jaxbp.Tanh()), loss)


@pytest.mark.usefixtures("float64")
def test_adaline_takes_the_same_share_of_every_error_away():
    random = np.random.default_rng(0)
    for size in (0.1, 10):
        x, target = size * random.normal(size=(1, 4)), random.normal(size=(1, 1))
        unit, _ = passes(optim.Adaline(0.3), jaxbp.SquaredError(), x, target, 3)
        np.testing.assert_allclose(target - x @ unit["w"].T - unit["b"], 0.7**3 * target, rtol=1e-12)


@pytest.mark.usefixtures("float64")
def test_a_linear_unit_on_iris_falls_at_every_step_or_diverges():
    """Setosa and versicolor by two standardised lengths, all flowers a step: the limit is 2 / 181 = 0.0110."""
    flowers = Embedded("iris").table()[0]
    x = flowers.x[:100, [0, 2]]
    batch = jaxbp.batch((x - x.mean(0)) / x.std(0), 2.0 * flowers.y[:100, None] - 1)
    gradient = jax.jit(optim.DeltaRule().gradient(UNIT, jaxbp.SquaredError()))

    def errors(rate):
        """The sum of squared errors before each of 50 steps, at a rate for the gradient of half the sum."""
        params = {"00_flatten": {}, "01_dense": {"w": jnp.zeros((1, 2)), "b": jnp.zeros(1)}}
        sums = []
        for _ in range(50):
            result = gradient(params, batch)
            sums.append(2 * 100 * float(result.value))
            params = jax.tree.map(lambda p, g: p - rate * 100 * g, params, result.grads)
        return np.array(sums)

    falling = errors(0.01)
    assert np.all(np.diff(falling) < 0)
    np.testing.assert_allclose(falling[[0, -1]], [100, 4.86], rtol=1e-3)
    assert errors(0.02)[-1] > 1e20


@pytest.mark.usefixtures("float64")
def test_a_matrix_gain_is_recursive_least_squares_in_one_linear_layer():
    """After one pass, however the rows lie in batches; a small start is the ridge around the first weights."""
    random = np.random.default_rng(0)
    x, target = random.normal(size=(60, 4)), random.normal(size=(60, 2))
    model, loss, with_one = jaxbp.Dense(2), jaxbp.SquaredError(), np.c_[x, np.ones(60)]
    first = {"w": random.normal(size=(2, 4)), "b": random.normal(size=2)}

    def one_pass(start, size):
        optimizer = optim.GainBackpropagation(start=start).build(1, Objective(model, loss))

        def step(carry, rows):
            params, state = carry
            batch = {"x": rows[0], "y": rows[1], "weight": jnp.ones(size)}
            grads = jaxbp.value_and_grad(model, loss)(params, batch).grads
            updates, state = optimizer.update(grads, state, params, batch=batch, ctx=jaxbp.Context())
            return (optax.apply_updates(params, updates), state), None

        rows = x.reshape(-1, size, 4), target.reshape(-1, size, 2)
        (params, _), _ = jax.lax.scan(step, (first, optimizer.init(first)), rows)
        return jnp.c_[params["w"], params["b"]]

    singly, in_tens, ridge = jax.jit(lambda: (one_pass(1e10, 1), one_pass(1e10, 10), one_pass(0.1, 10)))()
    best = np.linalg.lstsq(with_one, target)[0].T
    np.testing.assert_allclose(singly, best, atol=1e-8)
    np.testing.assert_allclose(in_tens, best, atol=1e-8)
    before = np.c_[first["w"], first["b"]].T
    curved = with_one.T @ with_one + 10 * np.eye(5)
    np.testing.assert_allclose(ridge.T, np.linalg.solve(curved, with_one.T @ target + 10 * before), atol=1e-10)


# --- Hopfield nets ---------------------------------------------------------------------------------------------------


def patterns(count, size=200):
    return jnp.sign(jax.random.normal(KEY, (count, size)))


def test_a_binary_net_recalls_and_its_energy_never_rises():
    stored = patterns(10)
    w = hopfield.stored(stored)
    np.testing.assert_array_equal(w, w.T)
    start = stored[0] * jnp.where(jnp.arange(200) < 30, -1, 1)  # 15 % are flipped
    s, energies = jax.jit(hopfield.recalled)(w, start, KEY)
    assert jnp.mean(s == stored[0]) > 0.99
    assert jnp.max(jnp.diff(energies)) <= 1e-4
    assert energies[0] > energies[-1]
    many = patterns(60)  # 0.3 N, beyond the capacity of 0.138 N
    s, _ = jax.jit(hopfield.recalled)(hopfield.stored(many), many[0], KEY)
    assert jnp.mean(s == many[0]) < 0.99


@pytest.mark.usefixtures("float64")
def test_a_graded_net_recalls_and_its_energy_falls():
    stored = patterns(5)
    w = hopfield.stored(stored)
    start = 0.5 * stored[0] * jnp.where(jnp.arange(200) < 30, -1, 1)
    settled = hopfield.graded_recall(w, start, gain=3.0)
    assert jnp.mean(jnp.sign(settled.required()) == stored[0]) == 1
    step = lambda u, _: (u + 0.01 * (w @ jnp.tanh(3 * u) - u), hopfield.graded_energy(w, jnp.tanh(3 * u), 3.0))
    _, energies = jax.lax.scan(step, jnp.arctanh(start) / 3, None, 400)
    assert jnp.max(jnp.diff(energies)) <= 0


# --- inversion -------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("float64")
def test_inversion_returns_an_input_and_the_directions_without_a_trace():
    layers = (jaxbp.Dense(4), jaxbp.LeakyReLU(), jaxbp.Dense(3), jaxbp.Tanh(), jaxbp.Dense(2), jaxbp.Sigmoid())
    model = jaxbp.Chain(layers)
    x = jax.random.normal(KEY, (7, 6)) / 5
    params = jaxbp.cast(model.init(KEY, x), jnp.float64)
    y, _ = model.forward(params, x)
    found, null_space = inverse(model, params, y)
    np.testing.assert_allclose(model.forward(params, found)[0], y, atol=1e-6)
    assert null_space.shape == (2, 6)
    np.testing.assert_allclose(model.forward(params, found + 3 * null_space[0])[0], y, atol=1e-6)
    np.testing.assert_allclose(null_space @ found.T, 0, atol=1e-9)  # the shortest of all
    square = jaxbp.Chain(jaxbp.Dense(6), *layers[1:2], jaxbp.Dense(6), jaxbp.Tanh())
    params = jaxbp.cast(square.init(KEY, x), jnp.float64)
    returned, null_space = inverse(square, params, square.forward(params, x)[0])
    np.testing.assert_allclose(returned, x, atol=1e-6)  # nothing is lost on the way
    assert null_space.shape == (0, 6)
    with pytest.raises(InputError, match="01_relu: inversion is not defined for ReLU, only for Dense, Identity"):
        inverse(jaxbp.Chain(jaxbp.Dense(2), jaxbp.ReLU()), {"00_dense": {}, "01_relu": {}}, y)


# --- searches --------------------------------------------------------------------------------------------------------

SEARCHES = small_tasks.SEARCHES["xor"]
EVALUATIONS = {  # of a step with the 17 weights of a 2-4-1 net
    "FiniteDifferences": 18,
    "SPSA": 3,
    "RandomSearch": 2,
    "SignSearch": 3,
    "Genetic": 51,
    "ParticleSwarm": 31,
}


@pytest.mark.parametrize("name", but_at_night(SEARCHES, *(SEARCHES.keys() - {"FiniteDifferences"})))
def test_a_search_solves_xor_and_counts_its_evaluations(name):
    figures = small_tasks.row("xor", name, 20)
    print(small_tasks.markdown(figures, "xor"))
    assert figures["mean"] >= 0.5
    assert figures["evaluations"] == 30_000 // EVALUATIONS[name] * EVALUATIONS[name]


@pytest.mark.parametrize("name", but_at_night(SEARCHES, *(SEARCHES.keys() - {"FiniteDifferences", "SPSA"})))
def test_a_search_asks_as_often_as_it_says(name):
    """Two steps of training; each forward pass of the net is counted while it runs."""
    search, calls = SEARCHES[name], []

    class Counted(jaxbp.Dense):
        def forward(self, params, x, ctx):
            jax.debug.callback(lambda: calls.append(1))
            return super().forward(params, x, ctx)

    model, loss, spec = Counted(1), jaxbp.SquaredError(), jax.ShapeDtypeStruct((4, 4), jnp.float32)
    optimizer = search.build(2, Objective(model, loss, (), spec))
    step = jax.jit(make_step(search.gradient(model, loss), optimizer))
    batch = {"x": jnp.eye(4), "y": jnp.ones((4, 1)), "mask": jnp.ones(4)}
    state = step(step(initial_state(model, optimizer, spec, 0), batch), batch)
    jax.effects_barrier()
    assert len(calls) == state.optimizer.evaluations == 2 * search.evaluations(5)


@pytest.mark.usefixtures("float64")
def test_small_moves_of_a_sign_search_go_against_the_gradient():
    """Each of 30 steps moves one of the 5 weights; the lowest loss along it is farther than that."""
    model, loss, draw = jaxbp.Dense(1), jaxbp.SquaredError(), np.random.default_rng(0).normal
    batch = jaxbp.batch(jnp.asarray(draw(size=(8, 4))), jnp.asarray(draw(size=(8, 1))))
    params = {"w": jnp.asarray(draw(size=(1, 4))), "b": jnp.ones(1)}
    optimizer = optim.SignSearch(size=1e-4).build(1, Objective(model, loss))

    @jax.jit
    def run(params, batch, keys):
        def move(key):
            ctx = jaxbp.Context(key)
            return optimizer.update(None, optimizer.init(params), params, value=result.value, batch=batch, ctx=ctx)[0]

        result = jaxbp.value_and_grad(model, loss)(params, batch)
        return jax.vmap(lambda key: ravel_pytree(move(key))[0])(keys), ravel_pytree(result.grads)[0]

    moves, gradient = map(np.sign, run(params, batch, jax.random.split(KEY, 30)))
    np.testing.assert_array_equal(np.abs(moves).sum(1), 1)
    np.testing.assert_array_equal(moves, -np.abs(moves) * gradient)


# --- both ways -------------------------------------------------------------------------------------------------------


@pytest.mark.nightly
def test_a_bidirectional_net_learns_a_permutation_and_its_inverse():
    net, loss = credit.Bidirectional((3, 8, 3)), jaxbp.BinaryCrossEntropy()
    x = jnp.array([[i >> bit & 1 for bit in range(3)] for i in range(8)], jnp.float32)
    batch = jaxbp.batch(x, x[jnp.array([3, 7, 0, 2, 6, 1, 5, 4])])
    gradient, params = net.value_and_grad(loss, loss), net.init(KEY)

    def joint(params):
        def way(a, links, transposed):
            for i, link in enumerate(links):
                z = a @ link["w"] + link["back"] if transposed else a @ link["w"].T + link["b"]
                a = jax.nn.sigmoid(z) if i + 1 < len(links) else z
            return a

        links = list(params.values())
        ways = ((batch["x"], links, False, batch["y"]), (batch["y"], links[::-1], True, batch["x"]))
        return sum(jnp.sum(jax.nn.softplus(y) - t * y) / 8 for *arguments, t in ways for y in [way(*arguments)])

    value, grads = jax.value_and_grad(joint)(params)
    result = gradient(params, batch)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), (result.value, result.grads), (value, grads))
    optimizer = optax.adam(0.05)

    def step(i, carry):
        params, state = carry
        updates, state = optimizer.update(gradient(params, batch).grads, state)
        return optax.apply_updates(params, updates), state

    params, _ = jax.jit(lambda p: jax.lax.fori_loop(0, 1000, step, (p, optimizer.init(p))))(params)
    y, back = gradient(params, batch).output
    assert jnp.all((y > 0) == (batch["y"] > 0.5))
    assert jnp.all((back > 0) == (batch["x"] > 0.5))
