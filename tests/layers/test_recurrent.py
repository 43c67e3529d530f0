"""Recurrent networks: backpropagation through time against jax.grad of a Python loop, its options, its program."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbp
from jaxbp import (
    Chain,
    Context,
    ContinuousCell,
    Dense,
    GRUCell,
    InputError,
    LSTMCell,
    Recurrent,
    SimpleCell,
    SpikingCell,
    bidirectional,
)
from jaxbp.check import worst
from jaxbp.credit import RealTimeRecurrentLearning
from tests.support.programs import compiled

N, T, D, H = 3, 5, 2, 4
CELLS = {
    "tanh": SimpleCell(H),
    "relu": SimpleCell(H, activation="relu", wh_init="identity"),
    "sigmoid": SimpleCell(H, activation="sigmoid"),
    "identity": SimpleCell(H, activation="identity"),
    "lstm": LSTMCell(H),
    "peephole": LSTMCell(H, peephole=True),
    "gru": GRUCell(H),
    "gru_before": GRUCell(H, reset="before"),
}
LENGTHS = np.array([5, 3, 4])
quick = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def drawn(layer, seed=0, dtype=jnp.float64, shape=(N, T, D)):
    """Random (params, x, delta of an output sequence)."""
    keys = iter(jax.random.split(jax.random.key(seed), 9))
    params = jaxbp.cast(layer.init(next(keys), jaxbp.shaped(*shape)), dtype)
    params = {name: p + 0.2 * jax.random.normal(next(keys), p.shape, dtype) for name, p in params.items()}
    return params, jax.random.normal(next(keys), shape, dtype), jax.random.normal(next(keys), (*shape[:2], H), dtype)


def unrolled(layer, params, x, valid=None, state=None):
    """The same network as a Python loop over the cell's steps."""
    steps = list(range(x.shape[1]))
    state = layer.cell.start(len(x), x.dtype) if state is None else state
    if layer.initial == "learned":
        state = tuple(jnp.broadcast_to(s, z.shape) for s, z in zip(params["initial"], state, strict=True))
    ys = {}
    for count, t in enumerate(reversed(steps) if layer.reverse else steps):
        if layer.truncate and count and count % layer.truncate == 0:
            state = jax.lax.stop_gradient(state)
        after = layer.cell.forward(params, (x[:, t], state), Context())[0]
        if valid is not None:
            after = tuple(jnp.where(valid[:, t, None], new, old) for new, old in zip(after, state, strict=True))
        state, ys[t] = after, after[0]
    return state[0] if layer.output == "last" else jnp.stack([ys[t] for t in steps], 1)


def pair(layer, valid=None):
    """((y, dx, grads) by hand, the same by jax.grad of the Python loop) as functions of what `drawn` gives."""
    flags = None
    if valid is not None:
        flags = jnp.asarray(valid if valid.ndim == 2 else np.arange(T)[None] < valid[:, None])

    def both(params, x, dy):
        dy = dy[:, 0] if layer.output == "last" else dy
        y, cache = layer.forward(params, x if valid is None else (x, jnp.asarray(valid)), Context())
        dx, grads = layer.backward(params, cache, dy)
        y_loop, back = jax.vjp(lambda p, x: unrolled(layer, p, x, flags), params, x)
        return (y, dx if valid is None else dx[0], grads), (y_loop, *back(dy)[::-1])

    return both


def check(settings):
    """Every (layer, valid) against the loop, in one program."""
    arguments = [drawn(layer) for layer, _ in settings]
    run = quick(lambda arguments: [pair(*s)(*a) for s, a in zip(settings, arguments, strict=True)])
    for (layer, _), (hand, loop) in zip(settings, run(arguments), strict=True):
        assert worst(hand, loop) <= 1e-12, layer


@pytest.mark.slow
def test_equals_jax_grad_of_the_loop(strict):
    flags = np.random.default_rng(1).random((N, T)) < 0.6
    check(
        [
            (Recurrent(SimpleCell(H), truncate=3), None),
            (Recurrent(LSTMCell(H, peephole=True), reverse=True, truncate=2, initial="learned"), flags),
            (Recurrent(GRUCell(H), keep="sqrt"), LENGTHS),
            (Recurrent(GRUCell(H, reset="before"), keep="states", output="last", truncate=1), None),
        ]
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "cell",
    [
        *(pytest.param(cell, id=name) for name, cell in CELLS.items()),
        pytest.param(SimpleCell(H, delays=(1, 3)), id="delays", marks=pytest.mark.nightly),
        pytest.param(jaxbp.ContinuousCell(H), id="continuous", marks=pytest.mark.nightly),
        pytest.param(jaxbp.SpikingCell(H), id="spiking", marks=pytest.mark.nightly),
    ],
)
def test_every_option_equals_jax_grad_of_the_loop(strict, cell):
    """Each option with a keep and a mask, in turn."""
    flags = np.random.default_rng(1).random((N, T)) < 0.6
    options = [
        {},
        {"reverse": True},
        {"truncate": 1},
        {"truncate": 3, "reverse": True},
        {"output": "last"},
        {"output": "last", "initial": "learned", "truncate": 4},
        {"initial": "learned", "reverse": True},
    ]
    check(
        [
            (
                Recurrent(cell, keep=("all", "states", "sqrt")[i % 3], **option),
                (None, flags, None, LENGTHS, None)[i % 5],
            )
            for i, option in enumerate(options)
        ]
    )


@pytest.mark.slow
@pytest.mark.parametrize("time", [1, 2, 11, 12])
def test_keep_changes_no_bit_of_the_output_and_no_gradient(strict, time):
    """Lengths that divide into windows and lengths that do not."""
    layers = [Recurrent(LSTMCell(H), keep=keep) for keep in ("all", "states", "sqrt")]
    params, x, dy = drawn(layers[0], shape=(N, time, D))

    @quick
    def run(params, x, dy):
        outputs = [layer.forward(params, x, Context()) for layer in layers]
        return [(y, layer.backward(params, cache, dy)) for layer, (y, cache) in zip(layers, outputs, strict=True)]

    first, *others = run(params, x, dy)
    assert all(worst(other, first) <= 1e-13 for other in others)


@pytest.mark.slow
def test_truncation_at_the_length_is_none_and_at_one_is_the_one_step_gradient(strict):
    whole, long, short = (Recurrent(SimpleCell(H), truncate=k) for k in (None, T, 1))
    params, x, dy = drawn(whole)
    run = quick(lambda layer: layer.backward(params, layer.forward(params, x, Context())[1], dy), static_argnums=0)
    assert worst(run(long), run(whole)) == 0
    y, _ = whole.forward(params, x, Context())
    dz = dy * (1 - y * y)
    before = jnp.concatenate([jnp.zeros_like(y[:, :1]), y[:, :-1]], 1)
    contract = lambda a: jnp.einsum("nto,nti->oi", dz, a)
    assert worst(run(short)[1], {"wx": contract(x), "wh": contract(before), "b": dz.sum((0, 1))}) <= 1e-12


@pytest.mark.slow
def test_masked_steps_repeat_the_state_and_get_nothing(strict):
    layer = Recurrent(LSTMCell(H))
    params, x, dy = drawn(layer)

    @quick
    def run(x):
        y, cache = layer.forward(params, (x, jnp.asarray(LENGTHS)), Context())
        return y, layer.backward(params, cache, dy)

    y, ((dx, dlengths), grads) = run(x)
    assert dlengths is None
    for n, length in enumerate(LENGTHS):
        np.testing.assert_array_equal(y[n, length:], np.broadcast_to(y[n, length - 1], y[n, length:].shape))
        assert not dx[n, length:].any()
    padding = np.arange(T)[None, :, None] >= LENGTHS[:, None, None]
    again = run(jnp.where(padding, 1e3, x))
    assert worst(again, (y, ((dx, None), grads))) == 0
    unpadded = layer.forward(params, x[1:2, :3], Context())[0]
    assert worst(y[1:2, :3], unpadded) <= 1e-14


@pytest.mark.slow
def test_carry_goes_on_and_sends_no_delta_back(strict):
    """Two windows of T give the outputs of one of 2 T, and the second one's gradient holds the state fixed."""
    layer = Recurrent(LSTMCell(H), carry=True)
    params, x, dy = drawn(layer, shape=(N, 2 * T, D))
    state = jaxbp.cast(layer.init_state(jaxbp.shaped(N, T, D)), jnp.float64)
    whole, _ = Recurrent(LSTMCell(H)).forward(params, x, Context())
    y, cache = layer.forward(params, x[:, :T], Context(state=state))
    state = layer.next_state(state, cache)
    y_next, cache = layer.forward(params, x[:, T:], Context(state=state))
    assert worst((y, y_next), (whole[:, :T], whole[:, T:])) <= 1e-13
    grads = quick(layer.backward)(params, cache, dy[:, T:])[1]
    autodiff = quick(jax.grad(lambda p: jnp.vdot(unrolled(layer, p, x[:, T:], state=state), dy[:, T:])))(params)
    assert worst(grads, autodiff) <= 1e-12


@pytest.mark.slow
def test_a_cell_alone_is_what_recurrent_runs(strict):
    """Step by step, as for sampling."""
    layer = Recurrent(GRUCell(H))
    params, x, _ = drawn(layer)
    assert worst(layer.forward(params, x, Context())[0], unrolled(layer, params, x)) <= 1e-14


@pytest.mark.slow
def test_bidirectional_and_stacked(strict):
    model = Chain((bidirectional(LSTMCell(H)), Recurrent(SimpleCell(5), output="last"), Dense(2)))
    params = jaxbp.cast(model.init(jax.random.key(0), jaxbp.shaped(N, T, D)), jnp.float64)
    _, x, _ = drawn(Recurrent(SimpleCell(H)))

    @quick
    def both(params, x):
        y, cache = model.forward(params, x, Context())
        back = jax.vjp(lambda p, x: model.forward(p, x, Context())[0], params, x)[1]
        return model.backward(params, cache, y), back(y)

    hand, oracle = both(params, x)
    assert worst(hand, oracle[::-1]) <= 1e-12
    both_ways = bidirectional(SimpleCell(H))
    params, masked = both_ways.init(jax.random.key(0), jaxbp.shaped(N, T, D)), jnp.asarray(LENGTHS)
    y, cache = both_ways.forward(params, (x.astype(jnp.float32), masked), Context())
    assert y.shape == (N, T, 2 * H)
    dx, dmask = both_ways.backward(params, cache, y)[0]
    assert (dx.shape, dmask) == (x.shape, None)


@pytest.mark.parametrize(
    "cell", [SimpleCell(H), LSTMCell(H), GRUCell(H, reset="before")], ids=["simple", "lstm", "gru"]
)
def test_real_time_recurrent_learning_is_backpropagation_through_time(strict, cell):
    layer, learning = Recurrent(cell), RealTimeRecurrentLearning(cell)
    params, x, dy = drawn(layer)

    @quick
    def run(params, x, dy):
        def step(carry, now):
            moment, total = carry
            moment = learning.step(params, moment, now[0])
            return (moment, jax.tree.map(jnp.add, total, learning.gradient(moment, now[1]))), moment.state[0]

        first = learning.start(params, N), jax.tree.map(jnp.zeros_like, params)
        (_, total), y = jax.lax.scan(step, first, (jnp.swapaxes(x, 0, 1), jnp.swapaxes(dy, 0, 1)))
        y_through_time, cache = layer.forward(params, x, Context())
        return (total, y), (layer.backward(params, cache, dy)[1], jnp.swapaxes(y_through_time, 0, 1))

    assert worst(*run(params, x, dy)) <= 1e-10


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: SimpleCell(0), "features must be at least 1, got 0"),
        (lambda: SimpleCell(2, activation="tan"), "unknown SimpleCell activation 'tan'; did you mean 'tanh'"),
        (lambda: SimpleCell(2, delays=(1.5,)), r"delays must be a tuple of one or more whole .*, got \(1.5,\)"),
        (lambda: SimpleCell(2, delays=2), "delays must be a tuple of one or more whole .*, got 2"),
        (lambda: ContinuousCell(2, time_constants=(1.0,)), "time_constants must be two finite numbers"),
        (lambda: ContinuousCell(2, time_constants=(1.0, np.inf)), "time_constants must be two finite numbers"),
        (lambda: ContinuousCell(2, dt=np.inf), "dt must be a finite number above 0, got inf"),
        (lambda: SpikingCell(2, threshold=np.inf), "threshold must be a finite number above 0, got inf"),
        (lambda: GRUCell(2, reset="befor"), "unknown GRUCell reset 'befor'; did you mean 'before'"),
        (lambda: LSTMCell(2, wh_init="ortogonal"), "did you mean 'orthogonal'"),
        (
            lambda: LSTMCell(2, b_init="identity").init(jax.random.key(0), (jaxbp.shaped(2, 3),)),
            "'identity' is for matr",
        ),
        (lambda: Recurrent(SimpleCell(2), keep="none"), "unknown Recurrent keep 'none'"),
        (lambda: Recurrent(SimpleCell(2), output="lost"), "did you mean 'last'"),
        (lambda: Recurrent(SimpleCell(2), truncate=0), "truncate must be at least 1, got 0"),
        (lambda: Recurrent(SimpleCell(2), carry=True, reverse=True), "carry goes neither with reverse"),
        (lambda: Recurrent(SimpleCell(2)).init(jax.random.key(0), jaxbp.shaped(2, 3)), r"\[N, T, D\], got \[2, 3\]"),
    ],
)
def test_bad_input_is_one_line(make, words):
    with pytest.raises(InputError, match=words):
        make()


def test_orthogonal_and_identity_weights():
    w = LSTMCell(H, wh_init="orthogonal").init(jax.random.key(0), (jaxbp.shaped(N, D),))["wh"].reshape(4, H, H)
    np.testing.assert_allclose(jnp.einsum("goi,gpi->gop", w, w), np.broadcast_to(np.eye(H), (4, H, H)), atol=1e-5)
    w = SimpleCell(H, wh_init="identity").init(jax.random.key(0), (jaxbp.shaped(N, D),))["wh"]
    np.testing.assert_array_equal(w, np.eye(H))


def test_the_forget_gate_starts_open():
    b = LSTMCell(H).init(jax.random.key(0), (jaxbp.shaped(N, D),))["b"]
    np.testing.assert_array_equal(b, np.repeat([0, 1, 0, 0], H))


# --- The compiled program --------------------------------------------------------------------------------------------


def programs(layer, n=8, t=60, d=3, h=None):
    """Compiled (hand, autodiff) of output, gradient and dx."""
    params = layer.init(jax.random.key(0), jaxbp.shaped(n, t, d))
    x = jnp.ones((n, t, d))

    def hand(params, x):
        y, cache = layer.forward(params, x, Context())
        return jnp.vdot(y, y) / 2, *layer.backward(params, cache, y)

    def autodiff(params, x):
        return jax.value_and_grad(lambda p, x: jnp.sum(layer.forward(p, x, Context())[0] ** 2) / 2, (0, 1))(params, x)

    return [compiled(jax.jit(f).lower(params, x)) for f in (hand, autodiff)]


def loop_bodies(program):
    """The text of every while loop's body."""
    text = program.as_text()
    names = re.findall(r"while\(.*body=%?([\w.\-]+)", text)
    return [re.search(rf"^%?{re.escape(name)} .*?^}}", text, re.S | re.M).group() for name in names]


def weight_shaped_results(program, rows, features):
    """Instructions in loop bodies that make an array of a recurrent weight's shape, either way round."""
    shapes = rf"\w+\[(?:{rows},{features}|{features},{rows})\]"
    results = rf"= {shapes}\S* (?!get-tuple-element|parameter)\w+"
    return [line for body in loop_bodies(program) for line in body.splitlines() if re.search(results, line)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cell", "gates", "products"),
    [(SimpleCell(13), 1, 1), (LSTMCell(13), 4, 1), (GRUCell(13), 3, 1), (GRUCell(13, reset="before"), 2, 2)],
    ids=["simple", "lstm", "gru", "gru_before"],
)
def test_the_loop_back_has_one_product_a_recurrent_matrix_and_no_weight(cell, gates, products):
    layer = Recurrent(cell)
    hand, autodiff = programs(layer)
    assert not weight_shaped_results(hand, gates * 13, 13)
    assert weight_shaped_results(autodiff, gates * 13, 13)

    params = layer.init(jax.random.key(0), jaxbp.shaped(8, 60, 3))
    cache = jax.eval_shape(lambda: layer.forward(params, jnp.ones((8, 60, 3)), Context()))[1]
    backward = jax.make_jaxpr(layer.backward)(params, cache, jnp.ones((8, 60, 13)))
    (loop,) = [eqn for eqn in backward.eqns if eqn.primitive.name == "scan"]
    body = str(loop.params["jaxpr"])
    assert body.count("dot_general") == products
    carried = loop.params["jaxpr"].out_avals[: loop.params["num_carry"]]
    assert {a.shape for a in carried} == {(8, 13)}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cell", "share"),
    [(SimpleCell(64), 0.86), (LSTMCell(64), 0.78), (GRUCell(64), 0.85)],
    ids=["simple", "lstm", "gru"],
)
def test_temporary_bytes_beside_autodiff(cell, share):
    hand, autodiff = (p.memory_analysis().temp_size_in_bytes for p in programs(Recurrent(cell), d=16))
    assert hand <= share * autodiff


@pytest.mark.slow
def test_square_root_memory():
    """10,000 steps in an eighth of the memory, the arrays that come in and go out included."""
    size = lambda keep: programs(Recurrent(LSTMCell(16), keep=keep, output="last"), n=2, t=10_000)[0].memory_analysis()
    everything, root = size("all").temp_size_in_bytes, size("sqrt").temp_size_in_bytes
    assert root <= everything / 8, (root, everything)


# --- PyTorch ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tanh", "relu", "lstm", "gru"])
def test_torch(name):
    torch = pytest.importorskip("torch")
    kinds = {"tanh": torch.nn.RNN, "lstm": torch.nn.LSTM, "gru": torch.nn.GRU}
    net = (
        torch.nn.RNN(D, H, nonlinearity="relu", batch_first=True)
        if name == "relu"
        else kinds[name](D, H, batch_first=True)
    )
    layer = Recurrent(CELLS[name])
    params, x, dy = drawn(layer, dtype=jnp.float32)
    bh = np.zeros(len(params["b"]), np.float32)
    if name == "gru":
        bh[2 * H :] = params["bh"]
    for leaf, value in {
        "weight_ih_l0": params["wx"],
        "weight_hh_l0": params["wh"],
        "bias_ih_l0": params["b"],
        "bias_hh_l0": bh,
    }.items():
        getattr(net, leaf).data = torch.tensor(np.asarray(value))
    inputs = torch.tensor(np.asarray(x), requires_grad=True)
    out = net(inputs)[0]
    out.backward(torch.tensor(np.asarray(dy)))
    y, cache = layer.forward(params, x, Context())
    dx, grads = layer.backward(params, cache, dy)
    theirs = {"wx": net.weight_ih_l0.grad, "wh": net.weight_hh_l0.grad, "b": net.bias_ih_l0.grad}
    if name == "gru":
        theirs["bh"] = net.bias_hh_l0.grad[2 * H :]
    numbers = jax.tree.map(lambda a: a.detach().numpy(), (out, inputs.grad, theirs))
    assert worst((y, dx, grads), numbers) <= 1e-5
