"""Checkpoints that survive a kill at any instant, and files that rot.

orbax writes the arrays into a folder aside. Then come the facts, the run and the step among them, then a manifest with
the sha256 of every file. What was written is read again, and only then it gets its name, by one rename, and the oldest
checkpoint goes. A checkpoint counts if its name is exact, its manifest verifies, and it is of this run and of this
step. Any other is refused with a message and never deleted, and the one before it is used.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import re
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxbp.core import PyTree
from jaxbp.files import check_held, naming, set_aside, sync_folder
from jaxbp.training.lock import PATIENCE, alone


def reached(point: str) -> None:
    """Called between the stages of a write. Tests put a kill in its place."""


class Damaged(ValueError):
    """A file is not what was written. The text says what is wrong with it."""


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of a run, one folder a step; the newest `keep` stay."""

    folder: Path
    runs: tuple[str, ...] = ("",)  # the run's name, and names that it had
    keep: int = 2

    def save(self, step: int, tree: PyTree, facts: dict[str, Any]) -> None:
        """Writes the arrays of `tree` and the `facts` (plain data) as the checkpoint of `step`, whole or not at all.

        Raises OSError where it cannot be written, or reads back as something else.
        """
        check_held(self.folder)
        final = self.folder / f"{step:010d}"
        aside = self._leftover("writing", final)
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        reached("begun")
        save_arrays(aside / "arrays", tree)
        reached("arrays")
        with naming(aside):
            (aside / "facts.json").write_text(json.dumps(facts | {"run": self.runs[0], "step": step}))
            write_manifest(aside)
        problem = verify(aside)
        if problem or not same_bits(load_arrays(aside / "arrays", tree), tree):
            raise OSError(
                errno.EIO, f"the checkpoint reads back as something else ({problem or 'other numbers'})", str(aside)
            )
        reached("manifest")
        check_held(self.folder)
        self._make_room(final)
        aside.rename(final)
        sync_folder(self.folder)
        reached("renamed")
        self._prune(step)

    def _leftover(self, kind: str, path: Path) -> Path:
        """Where a checkpoint is written or deleted: the name has the run's, so that no other run's is touched."""
        return self.folder / ".".join(filter(None, (kind, self.runs[0], path.name)))

    def _make_room(self, final: Path) -> None:
        """Takes away what has the name of a checkpoint that is to come."""
        if self.owns(final):
            with alone(self.folder, PATIENCE):
                self._set_deleting(final)
        elif os.path.lexists(final):
            set_aside(final)

    def _set_deleting(self, path: Path) -> None:
        target = self._leftover("deleting", path)
        shutil.rmtree(target, ignore_errors=True)
        path.rename(target)

    def _prune(self, step: int) -> None:
        """Deletes this run's checkpoints, except the newest `keep` until `step`, unless somebody reads.

        What comes after `step` is of a session that another has gone back behind. Each is renamed first: what is half
        deleted is in no list.
        """
        check_held(self.folder)
        with alone(self.folder, 0) as free:
            if not free:
                return
            own = [path for path in self.paths() if self.owns(path)]
            until = [path for path in own if int(path.name) <= step]
            for path in own:
                if path not in until[: self.keep]:
                    self._set_deleting(path)
        self.sweep()

    def sweep(self) -> None:
        """Deletes what this run has half written or half deleted."""
        names = "|".join(f"{run}." if run else "" for run in self.runs)
        for path in self.folder.glob("*"):
            if re.fullmatch(rf"(writing|deleting)\.({names})[0-9]{{10}}", path.name):
                shutil.rmtree(path)

    def clear(self) -> None:
        """Deletes every checkpoint of this run, when nobody reads any more."""
        with alone(self.folder, PATIENCE):
            for path in [path for path in self.paths() if self.owns(path)]:
                self._set_deleting(path)
        self.sweep()

    def paths(self) -> list[Path]:
        """Every folder that has the name of a checkpoint, newest first, whoever wrote it."""
        if not self.folder.is_dir():
            return []
        exact = [path for path in self.folder.iterdir() if re.fullmatch("[0-9]{10}", path.name) and path.is_dir()]
        return sorted(exact, reverse=True)

    def owns(self, path: Path) -> bool:
        """Whether the checkpoint is this run's, by its facts; its arrays may be damaged."""
        try:
            self.facts(path)
        except Damaged:
            return False
        return True

    def facts(self, path: Path) -> dict[str, Any]:
        """The facts of a checkpoint. Raises Damaged where they are not what was written, or of another run or step."""
        facts = read_facts(path)
        if facts.get("run", "") not in self.runs:
            raise Damaged("it is of another run")
        if facts.get("step", int(path.name)) != int(path.name):
            raise Damaged(f"it is of step {facts['step']}")
        return facts

    def read(self) -> Iterator[tuple[Path, dict[str, Any] | Damaged]]:
        """(folder, facts) of every checkpoint, newest first; in place of the facts what is wrong with it."""
        for path in self.paths():
            try:
                facts = self.facts(path)
                if problem := verify(path):
                    raise Damaged(problem)
            except Damaged as error:
                yield path, error
            else:
                yield path, facts


def read_json(path: Path) -> Any:
    """The plain data in a JSON file. Raises Damaged where there is none."""
    try:
        refuse_devices(path)
        return json.loads(path.read_bytes())
    except OSError as error:
        raise Damaged(f"{path.name} cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise Damaged(f"{path.name} is no JSON ({error})") from error


def refuse_devices(path: Path) -> None:
    """Raises OSError for a pipe or a device, which may never end."""
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):  # opening a folder says what it is
        raise OSError(errno.EINVAL, "is a pipe or a device", str(path))


def read_facts(path: Path) -> dict[str, Any]:
    """The facts of a checkpoint, of whatever run. Raises Damaged where they are not what its manifest says."""
    manifest = read_json(path / "manifest.json")
    try:
        if not isinstance(manifest, dict) or digest(path / "facts.json") != manifest.get("facts.json"):
            raise Damaged("facts.json is not what was written")
    except OSError as error:
        raise Damaged(f"facts.json cannot be read ({error.strerror})") from error
    facts = read_json(path / "facts.json")
    if not isinstance(facts, dict):
        raise Damaged("facts.json has no facts")
    return facts


def save_arrays(path: Path, tree: PyTree) -> None:
    """A tree of arrays, random keys among them, by orbax. Raises OSError, which names `path`, where it cannot write.

    orbax gets and gives NumPy's arrays: with JAX's, its measures of throughput keep some 40 kB of memory a checkpoint.
    """
    with checkpointer_of(path, "written") as (checkpointer, plainly):
        checkpointer.save(plainly, jax.tree.map(np.asarray, plain(tree)))


def load_arrays(path: Path, like: PyTree) -> PyTree:
    """The tree that save_arrays wrote, with the structure, shapes and dtypes of `like` (arrays or their specs).

    Raises ValueError where it has another structure, or other shapes.
    """
    empty = jax.tree.map(lambda spec: np.empty(spec.shape, spec.dtype), jax.eval_shape(plain, like))
    with checkpointer_of(path, "read") as (checkpointer, plainly):
        stored = jax.tree.map(jnp.array, checkpointer.restore(plainly, empty))
    if jax.tree.map(np.shape, stored) != jax.tree.map(np.shape, empty):
        raise ValueError(f"the arrays in {path} have other shapes")
    return jax.tree.map(lambda leaf, like: jax.random.wrap_key_data(leaf) if is_key(like) else leaf, stored, like)


@contextmanager
def checkpointer_of(path: Path, done: str) -> Iterator[tuple[Any, Path]]:
    """orbax's checkpointer and its name for `path`. An error of the system names `path`, which cannot be `done`."""
    import orbax.checkpoint as ocp

    logging.getLogger("absl").addFilter(is_not_of_orbax)
    own = jax.process_index()  # each process reads and writes for itself, and waits for no other
    alone = ocp.options.MultiprocessingOptions(own, {own}, str(own)) if jax.process_count() > 1 else None
    options = {} if alone is None else {"multiprocessing_options": alone}
    try:
        with (
            naming(path, done),
            plainly_named(path.absolute()) as plainly,
            ocp.StandardCheckpointer(**options) as checkpointer,
        ):
            yield checkpointer, plainly
    except (ValueError, RuntimeError) as error:  # TensorStore's; it has the system's error number in its text
        number = re.search(r"os_error_code='(\d+)'", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), f"cannot be {done}: {os.strerror(int(number[1]))}", str(path)) from error


def is_not_of_orbax(record: logging.LogRecord) -> bool:
    """Whether a line of a log is shown: of an error that it also raises, orbax logs hundreds, from several threads."""
    return "orbax" not in record.pathname


@contextmanager
def plainly_named(path: Path) -> Iterator[Path]:
    """`path`, or a link to it where orbax would take its signs for a pattern, or refuse what is not Unicode."""
    if str(path).isprintable() and not re.search(r"[*?\[\]\\]", str(path)):
        yield path
        return
    with TemporaryDirectory() as folder:
        link = Path(folder) / "link"
        link.symlink_to(path.parent)
        yield link / path.name


def plain(tree: PyTree) -> PyTree:
    """The tree with random keys as their numbers."""
    return jax.tree.map(lambda leaf: jax.random.key_data(leaf) if is_key(leaf) else leaf, tree)


def is_key(leaf: jax.Array | jax.ShapeDtypeStruct) -> bool:
    """Whether an array (or its spec) holds random keys."""
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def same_bits(stored: PyTree, tree: PyTree) -> bool:
    """Whether two trees of one structure hold the same bits."""
    pairs = zip(jax.tree.leaves(plain(stored)), jax.tree.leaves(plain(tree)), strict=True)
    return all(np.asarray(a).tobytes() == np.asarray(b).tobytes() for a, b in pairs)


def write_manifest(folder: Path) -> None:
    """Writes manifest.json, the last file: the sha256 of every other file, once all of them are on the disk."""
    digests = {str(path.relative_to(folder)): digest(path, sync=True) for path in files(folder)}
    with (folder / "manifest.json").open("w") as manifest:
        json.dump(digests, manifest, indent=0)
        manifest.flush()
        os.fsync(manifest.fileno())
    for path in [*folder.rglob("*/"), folder]:
        sync_folder(path)


def delete_bundle(folder: Path) -> None:
    """Deletes arrays, facts and manifest, and the folder where nothing else is in it. A link is not followed."""
    if folder.is_symlink() or not folder.is_dir():
        return
    shutil.rmtree(folder / "arrays", ignore_errors=True)
    for name in ("facts.json", "manifest.json"):
        (folder / name).unlink(missing_ok=True)
    with suppress(OSError):
        folder.rmdir()


def verify(folder: Path) -> str | None:
    """What is wrong with the checkpoint; None where every file is as its manifest says."""
    try:
        digests = read_json(folder / "manifest.json")
        present = {str(path.relative_to(folder)) for path in files(folder)}
        if not isinstance(digests, dict) or present != digests.keys():
            others = sorted(present ^ digests.keys()) if isinstance(digests, dict) else ["manifest.json"]
            return f"its files are not those of its manifest, see {others[0]}"
        wrong = [name for name, sha256 in digests.items() if digest(folder / name) != sha256]
    except (OSError, Damaged) as error:
        return f"it has no readable manifest ({error})"
    return f"{wrong[0]} is not what was written" if wrong else None


def files(folder: Path) -> list[Path]:
    """Every file below the folder except the manifest."""
    manifest = folder / "manifest.json"
    return sorted(path for path in folder.rglob("*") if path.is_file() and path != manifest)


def digest(path: Path, sync: bool = False, size: int | None = None) -> str:
    """sha256 of a file, or of its first `size` bytes; with `sync` the file is flushed to the disk first."""
    refuse_devices(path)
    with path.open("rb+") if sync else path.open("rb") as file:
        if sync:
            os.fsync(file.fileno())
        if size is not None:
            return hashlib.sha256(file.read(size)).hexdigest()
        return hashlib.file_digest(file, "sha256").hexdigest()
