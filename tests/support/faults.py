"""A file system that fails, and processes that die, at the n-th event below a folder; all within one warm process.

An audit hook sees what Python is about to open, make, rename, cut and delete, orbax's threads included. Kinds:
"kill": the n-th event and all after it do not happen, whatever handlers and `finally` ask for.
"full" and "quota": from the n-th on nothing can be made or written.
"once": the n-th change fails, and those after it do not. "read": the n-th opening of a file fails.
A number is a signal at the n-th event.
"""

import errno
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jaxbp.config import Config
from jaxbp.files import write_whole
from jaxbp.training import loop
from jaxbp.training.checkpoint import load_arrays
from jaxbp.training.folder import RunFolder
from jaxbp.training.run import checkpointed

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
CHANGES = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate", "os.link", "os.symlink"}
NEEDS_SPACE = {"write", "os.mkdir", "os.symlink"}
ERRORS = {"full": errno.ENOSPC, "quota": errno.EDQUOT, "once": errno.EIO, "read": errno.EIO}


class Killed(BaseException):
    """Stands for SIGKILL: after it nothing more changes on the disk."""


@dataclass
class Plan:
    """What happens at which event below the folder."""

    folder: str
    kind: str | int = "none"
    at: int = 0
    events: list[str] = field(default_factory=list)  # so far: those that the kind counts
    struck: bool = False

    def meet(self, event: str, path: str) -> None:
        """Raises where the event is not to happen."""
        if event == "read" and self.kind != "read":
            return
        if self.kind == "read" and event != "read":
            return
        self.events.append(f"{event} {path[len(self.folder) :]}")
        now = len(self.events) == self.at
        after = self.at and len(self.events) > self.at
        if isinstance(self.kind, int):
            if now:
                self.struck = True
                os.kill(os.getpid(), self.kind)
        elif self.kind == "kill" and (now or after):
            self.struck = True
            if threading.current_thread() is threading.main_thread():
                raise Killed(event, path)
            raise OSError(errno.EIO, "killed", path)  # an executor's thread hands it on
        elif now or (after and self.kind in ("full", "quota")):
            if self.kind in ("full", "quota") and event not in NEEDS_SPACE:
                return
            self.struck = True
            raise OSError(ERRORS[self.kind], os.strerror(ERRORS[self.kind]), path)


current: list[Plan] = []


def watch(event: str, arguments: tuple) -> None:
    """The audit hook: it lives as long as the process, and does nothing without a plan."""
    if not current:
        return
    if event == "open":
        path, _, flags = arguments
        event = "write" if flags & WRITING else "read"
        directory = None
    elif event in CHANGES:
        path, directory = arguments[0], (arguments[-1] if event in ("os.remove", "os.rmdir") else None)
    else:
        return
    if not isinstance(path, str | bytes | os.PathLike):
        return
    path = os.fsdecode(path)
    if directory is not None and directory >= 0:
        path = os.path.join(os.readlink(f"/proc/self/fd/{directory}"), path)
    if path.startswith(current[-1].folder):
        current[-1].meet(event, path)


@contextmanager
def planned(folder: Path, kind: str | int = "none", at: int = 0) -> Iterator[Plan]:
    """The plan holds within."""
    if watch not in hooked:
        sys.addaudithook(watch)
        hooked.append(watch)
    plan = Plan(str(folder), kind, at)
    current.append(plan)
    try:
        yield plan
    finally:
        current.pop()


hooked: list[Callable] = []


class Warm:
    """The runs of one config, compiled once. Curves are a few bytes: their drawing takes longer than the run."""

    def __init__(self, config: Config, monkeypatch) -> None:
        self.config = config
        self.splits = config.data.load()
        self.session, self.state = loop.new_session(config, self.splits, RunFolder(Path("unused")))
        monkeypatch.setattr(loop, "new_session", self.new_session)
        monkeypatch.setattr("jaxbp.machine.commit", lambda: "none")
        monkeypatch.setattr(loop.curves, "draw_curves", lambda rows, path: write_whole(path, b"curves"))

    def new_session(
        self, config: Config, splits: object, folder: RunFolder, team: object
    ) -> tuple[loop.Session, loop.State]:
        copy = lambda tree: jax.tree.map(jnp.copy, tree)
        facts = {"best_loss": None, "waited": 0, "finished": False}
        clean = replace(self.session, folder=folder, best=copy(self.session.best), facts=facts)
        return clean, copy(self.state)

    def train(self, folder: Path) -> None:
        loop.train(self.config, folder, splits=self.splits)

    def bytes(self, folder: Path) -> bytes:
        """Every bit of what the run has kept: metrics, and the newest checkpoint's weights, moments and key."""
        run = RunFolder(folder)
        newest = next(path for path, facts in run.checkpoints.read() if isinstance(facts, dict))
        arrays = load_arrays(newest / "arrays", checkpointed(self.state, self.config))
        leaves = [
            jax.random.key_data(a) if jnp.issubdtype(a.dtype, jax.dtypes.prng_key) else a
            for a in jax.tree.leaves(arrays)
        ]
        return run.metrics.read_bytes() + b"".join(np.asarray(leaf).tobytes() for leaf in leaves)


@contextmanager
def as_usual_is_killed() -> Iterator[None]:
    """Outside of a run's own handlers a signal is a kill, not the end of all tests."""
    numbers = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)

    def kill(number: int, frame: object) -> None:
        raise Killed(number)

    handlers = {number: signal.signal(number, kill) for number in numbers}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
