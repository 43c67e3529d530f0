"""What other libraries make of damaged checkpoints: python -m tests.support.damaged_peers orbax|lightning [TIMES]

Each time one thing is done to a folder with two checkpoints, as tests/support/damaged_runs.py does it to a run of
jaxbp, and the newest checkpoint is read. It can give its own numbers (right), an error, or other numbers without one.
Lightning needs only lightning and torch, in an environment of its own.
"""

from __future__ import annotations

import random
import shutil
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support.damaged_runs import FOLDER, ONE_FILE, files

STEPS = (15, 18)


def orbax(folder: Path, seed: int) -> Callable[[Path], bytes]:
    """Writes two checkpoints with orbax's manager; -> what reads the newest in a folder."""
    import numpy as np
    import orbax.checkpoint as ocp

    rng = np.random.default_rng(seed)
    like = {"w1": np.zeros((4, 16), np.float32), "w2": np.zeros((16, 3), np.float32)}
    with ocp.CheckpointManager((folder / "checkpoints").absolute()) as manager:
        for step in STEPS:
            tree = {name: rng.normal(size=leaf.shape).astype(np.float32) for name, leaf in like.items()}
            manager.save(step, args=ocp.args.StandardSave(tree))

    def read(folder: Path) -> bytes:
        with ocp.CheckpointManager((folder / "checkpoints").absolute()) as manager:
            tree = manager.restore(manager.latest_step(), args=ocp.args.StandardRestore(like))
        return b"".join(np.asarray(tree[name]).tobytes() for name in sorted(tree))

    return read


def lightning(folder: Path, seed: int) -> Callable[[Path], bytes]:
    """Trains with Lightning, which writes two checkpoints; -> what reads the newest in a folder."""
    import torch
    from lightning.pytorch import LightningModule, Trainer, callbacks, loggers, seed_everything

    class Module(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.Tanh(), torch.nn.Linear(16, 3))

        def training_step(self, batch: Any, _: int) -> Any:
            loss = torch.nn.functional.cross_entropy(self.net(batch[0]), batch[1])
            self.log("loss", loss)
            return loss

        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(self.parameters())

    seed_everything(seed, verbose=False)
    data = torch.utils.data.TensorDataset(torch.randn(60, 4), torch.randint(0, 3, (60,)))
    kept = callbacks.ModelCheckpoint(
        folder / "checkpoints", "{step:010d}", auto_insert_metric_name=False, save_top_k=-1, every_n_train_steps=3
    )
    trainer = Trainer(
        max_epochs=3,
        accelerator="cpu",
        callbacks=[kept],
        logger=loggers.CSVLogger(folder, name="", version=""),
        log_every_n_steps=1,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Module(), torch.utils.data.DataLoader(data, 10))
    for path in (folder / "checkpoints").iterdir():
        if int(path.stem) not in STEPS:
            path.unlink()

    def read(folder: Path) -> bytes:
        newest = folder / f"checkpoints/{STEPS[-1]:010d}.ckpt"
        module = Module.load_from_checkpoint(newest, map_location="cpu")
        return b"".join(leaf.detach().numpy().tobytes() for leaf in module.parameters())

    return read


def main(library: str, times: str = "1000") -> None:
    """Prints a line for each kind of damage: how often the newest checkpoint was right, an error, or other numbers."""
    folder = Path(tempfile.mkdtemp())
    write = {"orbax": orbax, "lightning": lightning}[library]
    (folder / "0").mkdir()
    (folder / "1").mkdir()
    read = write(folder / "0", 0)
    write(folder / "1", 1)
    right = read(folder / "0")
    signal.signal(signal.SIGALRM, lambda *_: (_ for _ in ()).throw(TimeoutError("no end in 10 seconds")))
    kinds = [*ONE_FILE, *ONE_FILE, *(kind for kind in FOLDER if kind != "rows repeated")]
    counts: Counter[tuple[str, str]] = Counter()
    for seed in range(int(times)):
        chance = random.Random(seed)
        run = Path(shutil.copytree(folder / "0", folder / "run"))
        kind = kinds[seed % len(kinds)]
        if kind in FOLDER:
            FOLDER[kind](run, folder / "1", chance)
        else:
            ONE_FILE[kind](chance.choice(files(run)), chance)
        signal.alarm(10)
        try:
            counts[kind, "right" if read(run) == right else "other numbers"] += 1
        except TimeoutError:
            counts[kind, "no end"] += 1
        except Exception:
            counts[kind, "error"] += 1
        finally:
            signal.alarm(0)
        shutil.rmtree(run)
    outcomes = ("right", "error", "other numbers", "no end")
    print("kind", *outcomes, sep=" | ")
    for kind in dict.fromkeys(kinds):
        print(kind, *(counts[kind, outcome] for outcome in outcomes), sep=" | ")
    print("all", *(sum(counts[kind, outcome] for kind in dict.fromkeys(kinds)) for outcome in outcomes), sep=" | ")


if __name__ == "__main__":
    main(*sys.argv[1:])
