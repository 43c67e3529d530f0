"""Small runs, and what they leave."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np

from jaxbp import config as configuration
from jaxbp.training.checkpoint import write_manifest
from jaxbp.training.run import load
from tests.support.paths import ROOT


def weights(folder: Path) -> bytes:
    """Every bit of the parameters of a run."""
    return b"".join(np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(load(folder).params))


def small(**run) -> configuration.Config:
    config = configuration.load(ROOT / "configs/iris.py")
    return replace(config, run=replace(config.run, **({"epochs": 3, "evaluate_every": 1} | run)))


def rewrite(folder: Path, change: Callable[[dict], dict]) -> None:
    """Changes the facts of every checkpoint of a run, as if it had been written so."""
    for file in sorted(folder.glob("checkpoints/[0-9]*/facts.json")):
        file.write_text(json.dumps(change(json.loads(file.read_text()))))
        write_manifest(file.parent)


def make_old(folder: Path, preparation: bool = True) -> None:
    """Turns a run into one of a version that did not name runs, or of one that did not keep its preparation either."""
    digest = hashlib.sha256((folder / "preparation.json").read_bytes()).hexdigest()

    new = ("run", "step", "config", "preparation", "provenance", "logs")

    def older(facts: dict) -> dict:
        old = {name: value for name, value in facts.items() if name not in new}
        old["metrics_bytes"] = facts["logs"]["metrics.jsonl"][0]
        return old | {"preparation": digest} if preparation else old

    rewrite(folder, older)
    (folder / "run.json").unlink()
    if not preparation:
        (folder / "preparation.json").unlink()
