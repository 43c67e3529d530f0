"""Small runs, and what they leave."""

from dataclasses import replace
from pathlib import Path

import jax
import numpy as np

from jaxbp import config as configuration
from jaxbp.training.run import load
from tests.support.paths import ROOT


def weights(folder: Path) -> bytes:
    """Every bit of the parameters of a run."""
    return b"".join(np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(load(folder).params))


def small(**run) -> configuration.Config:
    config = configuration.load(ROOT / "configs/iris.py")
    return replace(config, run=replace(config.run, **({"epochs": 3, "evaluate_every": 1} | run)))
