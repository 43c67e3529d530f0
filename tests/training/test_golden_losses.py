"""The first losses of a config, kept as numbers: what changes training by accident changes them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxbp.config import load, override
from jaxbp.training.feeds import make_feeds
from jaxbp.training.fit import batch_spec
from jaxbp.training.step import initial_state, make_step
from tests.support.paths import ROOT

LINES = (
    "To be, or not to be, that is the question:",
    "Whether 'tis nobler in the mind to suffer",
    "The slings and arrows of outrageous fortune,",
    "Or to take arms against a sea of troubles",
    "And by opposing end them. To die, to sleep;",
)
FIRST_TEN = [5.10381, 4.97243, 4.00356, 3.54623, 3.21122, 3.03578, 3.01853, 2.80096, 2.75226, 2.63103]


@pytest.mark.slow
def test_the_first_ten_losses_of_a_gpt(tmp_path):
    text = tmp_path / "hamlet.txt"
    text.write_text("\n".join(LINES[i * i % 5][i % 7 :] for i in range(400)))
    config = override(load(ROOT / "configs/shakespeare_gpt.py"), [f"--config.data.path={text}"])
    train = config.load_data().train
    model = config.build_model()
    optimizer = config.build_optimizer(100, batch_spec(config.load_data(), 12))
    state = initial_state(model, optimizer, batch_spec(config.load_data(), 12), seed=0)
    step = jax.jit(make_step(config.optimizer.gradient(model, config.loss), optimizer))
    feed = make_feeds(train, 0, True, 12)(0, 1)
    sums = [0.0]
    for i in range(10):
        state = step(state, feed.batch(jnp.int32(i)))
        sums.append(float(state.loss_sum / state.examples) * (i + 1))  # every batch has as many characters
    np.testing.assert_allclose(np.diff(sums), FIRST_TEN, rtol=1e-3)
