"""Modules of other libraries with a hand-written derivative inside: right ones pass, a wrong leaf is named."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbp
from jaxbp.check import assert_module, check_function, check_module

X = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)


def scaled_tanh(wrong):
    """tanh(x) * scale, with its rule; a wrong one takes the gradient of scale without tanh."""
    function = jax.custom_vjp(lambda x, scale: jnp.tanh(x) * scale)

    def backward(kept, dy):
        x, scale = kept
        return dy * scale * (1 - jnp.tanh(x) ** 2), jnp.sum(dy * (x if wrong else jnp.tanh(x)), 0)

    function.defvjp(lambda x, scale: (jnp.tanh(x) * scale, (x, scale)), backward)
    return function


def nnx_module(wrong):
    nnx = pytest.importorskip("flax.nnx")

    class Block(nnx.Module):
        def __init__(self):
            rngs = nnx.Rngs(0)
            self.dense = nnx.Linear(3, 4, rngs=rngs)
            self.norm = nnx.BatchNorm(4, rngs=rngs)
            self.drop = nnx.Dropout(0.5, rngs=rngs)
            self.scale = nnx.Param(jnp.ones(4))

        def __call__(self, x, train=True):
            y = scaled_tanh(wrong)(self.dense(x), self.scale[...])
            return self.drop(self.norm(y, use_running_average=not train), deterministic=not train)

    return Block()


def linen_module(wrong):
    linen = pytest.importorskip("flax.linen")

    class Block(linen.Module):
        @linen.compact
        def __call__(self, x, train=True):
            scale = self.param("scale", linen.initializers.ones, (4,))
            y = scaled_tanh(wrong)(linen.Dense(4, name="dense")(x), scale)
            y = linen.BatchNorm(use_running_average=not train, name="norm")(y)
            return linen.Dropout(0.5, deterministic=not train)(y)

    return Block()


def equinox_module(wrong):
    equinox = pytest.importorskip("equinox")

    class Block(equinox.Module):
        dense: equinox.nn.Linear
        scale: jax.Array
        activation: object = equinox.field(static=True)

        def __call__(self, x, train=True):
            y = self.activation(jax.vmap(self.dense)(x), self.scale)
            return y if train else 2 * y

    return Block(equinox.nn.Linear(3, 4, key=jax.random.key(0)), jnp.ones(4), scaled_tanh(wrong))


def torch_function(wrong, with_sum=False):
    torch = pytest.importorskip("torch")

    class ScaledTanh(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, scale):
            ctx.save_for_backward(x, scale)
            y = torch.tanh(x) * scale
            return (y, x.sum()) if with_sum else y

        @staticmethod
        def backward(ctx, dy, dsum=0.0):
            x, scale = ctx.saved_tensors
            dscale = dy * (x if wrong else torch.tanh(x))
            return dy * scale * (1 - torch.tanh(x) ** 2) + dsum, dscale.sum(0)

    return ScaledTanh


def torch_module(wrong):
    torch = pytest.importorskip("torch")

    class Block(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.dense = torch.nn.Linear(3, 4)
            self.scale = torch.nn.Parameter(torch.ones(4))

        def forward(self, x, train=True):
            y = torch_function(wrong).apply(self.dense(x), self.scale)
            return y if train else 2 * y

    return Block()


LIBRARIES = {"nnx": nnx_module, "linen": linen_module, "equinox": equinox_module, "torch": torch_module}
slow = pytest.mark.slow


@slow
@pytest.mark.parametrize("library", LIBRARIES)
def test_a_right_module_passes_and_stays_as_it_was(library):
    module = LIBRARIES[library](wrong=False)
    before = jax.tree.leaves(vars(module))
    report = assert_module(module, X)
    paths = {leaf.path for leaf in report.leaves}
    assert {"params/scale", "x"} < paths
    assert report["params/dense/kernel" if library in ("nnx", "linen") else "x"].dtype == "float32"
    assert report.name == "Block"
    assert all(a is b for a, b in zip(before, jax.tree.leaves(vars(module)), strict=True))


@slow
@pytest.mark.parametrize("library", LIBRARIES)
def test_the_leaf_of_a_wrong_module_is_named(library):
    report = check_module(LIBRARIES[library](wrong=True), X)
    assert [leaf.path for leaf in report.leaves if not leaf.passed] == ["params/scale"]


@slow
@pytest.mark.parametrize("library", LIBRARIES)
def test_keywords_of_a_module_are_options(library):
    report = check_module(LIBRARIES[library](wrong=True), X, options={"train": [True, False]})
    assert [setting.failed for setting in report.settings] == [True, True]
    assert [str(setting) for setting in report.settings if setting.shortest] == ["every option at its first value"]


@slow
def test_variables_of_a_linen_module():
    module = linen_module(wrong=False)
    variables = module.init(jax.random.key(3), X)
    assert check_module(module, X, variables=variables).passed
    pair = {"params": variables["params"] | {"scale": jnp.ones(3)}, "batch_stats": variables["batch_stats"]}
    with pytest.raises(jaxbp.InputError, match="Block raised ScopeParamShapeError"):
        check_module(module, X, variables=pair)


@slow
def test_the_full_level_of_a_module():
    report = check_module(equinox_module(wrong=False), X, level="full")
    assert report.passed
    assert {"float32", "bfloat16", "vmap"} <= {finding.method for finding in report.findings}


def test_what_is_no_module_is_refused():
    with pytest.raises(
        jaxbp.InputError, match="a module of Flax NNX, Flax Linen, Equinox or PyTorch is needed, got Dense"
    ):
        check_module(jaxbp.Dense(2), X)


# torch.autograd.Function


@slow
def test_a_torch_function_by_numpy_in_and_out():
    scale = np.array([1.0, -2.0, 0.5])
    assert check_function(torch_function(wrong=False, with_sum=True), X, scale).passed
    report = check_function(torch_function(wrong=True), X, scale)
    assert [(leaf.path, leaf.passed) for leaf in report.leaves] == [("scale", False), ("x", True)]
    assert report.name == "ScaledTanh"


@slow
def test_a_torch_function_against_its_reference():
    torch = pytest.importorskip("torch")
    scale = torch.tensor([1.0, -2.0, 0.5])
    right = lambda x, scale: torch.tanh(x) * scale
    assert check_function(torch_function(wrong=False), torch.tensor(X), scale, reference=right).passed
    other = lambda x, scale: torch.tanh(x) * scale * 1.01
    report = check_function(torch_function(wrong=False), torch.tensor(X), scale, reference=other)
    assert [finding.method for finding in report.findings if finding.passed is False] == ["same forward"]


@slow
def test_a_torch_function_that_fails_or_takes_no_options_is_one_line():
    with pytest.raises(jaxbp.InputError, match="ScaledTanh raised RuntimeError: The size of tensor a"):
        check_function(torch_function(wrong=False), X, np.ones(2))
    with pytest.raises(
        jaxbp.InputError, match=r"options are keywords, and ScaledTanh\.apply, as PyTorch's, takes none"
    ):
        check_function(torch_function(wrong=False), X, np.ones(3), options={"a": [1]})
