"""The memory of a check grows with the model by a bounded number of bytes for each parameter."""

import subprocess
import sys

import pytest

from tests.support.marks import but_at_night

CHECKS = """
import resource, sys
import jax, jax.numpy as jnp, numpy as np
from jaxbp import Chain, Dense, Tanh
from jaxbp.check import check_function, check_gradient, check_model
from jaxbp.losses import SoftmaxCrossEntropy

rng = np.random.default_rng(0)

def model(size):
    chain = Chain(Dense(size), Tanh(), Dense(size), Tanh(), Dense(4))
    params = chain.init(jax.random.key(0), jax.ShapeDtypeStruct((4, size), jnp.float32))
    batch = {"x": rng.normal(size=(4, size)), "y": np.array([0, 3, 1, 2]), "weight": np.ones(4)}
    return check_model(chain, SoftmaxCrossEntropy(), params, batch).passed

def forward(params, x):
    h = jnp.tanh(x @ params["u"])
    return jnp.tanh(h @ params["v"]), h

def back(params, x, dy, wrong=False):
    y, h = forward(params, x)
    dz = dy * (1 - y**2)
    du = x.T @ (dz @ params["v"].T * (1 - h**2))
    return {"u": 2 * du if wrong else du, "v": h.T @ dz}

def arrays(size):
    return {k: rng.normal(size=(size, size)) / size**0.5 for k in ("u", "v")}, rng.normal(size=(4, size))

def function(size):
    rule = jax.custom_vjp(lambda params, x: forward(params, x)[0])
    dx = lambda params, x, dy: jax.vjp(lambda x: forward(params, x)[0], x)[1](dy)[0]
    backward = lambda kept, dy: (back(*kept, dy), dx(*kept, dy))
    rule.defvjp(lambda params, x: (forward(params, x)[0], (params, x)), backward)
    return check_function(rule, *arrays(size)).passed

def gradient(size, wrong=False):
    loss = lambda params, x: jnp.sum(forward(params, x)[0] ** 2)
    slope = lambda params, x: back(params, x, 2 * forward(params, x)[0], wrong)
    return check_gradient(slope, loss, *arrays(size)).passed

def failing(size):
    return not gradient(size, wrong=True)

peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
kind, size = globals()[sys.argv[1]], int(sys.argv[2])
assert kind(40)
before = peak()
assert kind(size)
print(peak() - before, peak())
"""


def peaks(kind, size, timeout):
    """(bytes above those of a small check, bytes of the whole process at its largest)."""
    command = [sys.executable, "-c", CHECKS, kind, str(size)]
    run = subprocess.run(command, capture_output=True, text=True, check=True, timeout=timeout)
    return map(int, run.stdout.split())


@pytest.mark.slow
@pytest.mark.parametrize("kind", but_at_night(["model", "function"], "function"))
def test_bytes_for_each_parameter(kind):
    size = 700
    more, _ = peaks(kind, size, timeout=300)
    assert more / (2 * size**2) < 240


@pytest.mark.nightly
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["model", "function", "gradient", "failing"])
@pytest.mark.parametrize("size", [316, 2240], ids=["200 thousand parameters", "10 million"])
def test_four_gigabytes_are_enough(kind, size):
    _, whole = peaks(kind, size, timeout=3600)
    assert whole < 4e9
