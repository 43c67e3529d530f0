"""Checkpoints that survive a kill at any instant, and files that rot.

orbax writes the arrays into a folder aside. Then come the facts, then a manifest with the sha256 of every file, then
one rename. A checkpoint counts only if it has its final name and its manifest verifies. Any other is skipped with a
message, and the one before it is used.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import jax
import jax.numpy as jnp

from jaxbp.core import PyTree
from jaxbp.files import naming


def reached(point: str) -> None:
    """Called between the stages of a write. Tests put a kill in its place."""


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of a run, one folder a step; the newest `keep` stay."""

    folder: Path
    keep: int = 2

    def save(self, step: int, tree: PyTree, facts: dict[str, Any]) -> None:
        """Writes the arrays of `tree` and the `facts` (plain data) as the checkpoint of `step`, whole or not at all."""
        final = self.folder / f"{step:010d}"
        aside = self.folder / f"writing.{step:010d}"
        old = self.folder / f"deleting.{step:010d}"
        for leftover in (aside, old):
            shutil.rmtree(leftover, ignore_errors=True)
        aside.mkdir(parents=True)
        reached("begun")
        save_arrays(aside / "arrays", tree)
        reached("arrays")
        (aside / "facts.json").write_text(json.dumps(facts))
        write_manifest(aside)
        reached("manifest")
        if final.exists():
            final.rename(old)
        aside.rename(final)
        reached("renamed")
        self._prune()

    def _prune(self) -> None:
        """Deletes all but the newest `keep`, after a rename: what is half deleted is in no list."""
        for path in self._newest_first()[self.keep :]:
            path.rename(path.with_name(f"deleting.{path.name}"))
        for path in [*self.folder.glob("deleting.*"), *self.folder.glob("writing.*")]:
            shutil.rmtree(path)

    def _newest_first(self) -> list[Path]:
        return sorted((path for path in self.folder.glob("[0-9]*") if path.is_dir()), reverse=True)

    def valid(self) -> Iterator[tuple[Path, dict[str, Any]]]:
        """(folder, facts) of the checkpoints that verify, newest first; a line is printed for each that does not."""
        for path in self._newest_first():
            if problem := verify(path):
                print(f"checkpoint {path.name} is skipped: {problem}", flush=True)
            else:
                yield path, json.loads((path / "facts.json").read_text())


def save_arrays(path: Path, tree: PyTree) -> None:
    """A tree of arrays, random keys among them, by orbax. Raises OSError, which names `path`, where it cannot write."""
    with checkpointer_of(path, "written") as (checkpointer, plainly):
        checkpointer.save(plainly, plain(tree))


def load_arrays(path: Path, like: PyTree) -> PyTree:
    """The tree that save_arrays wrote, with the structure, shapes and dtypes of `like` (arrays or their specs)."""
    abstract = jax.eval_shape(plain, like)
    with checkpointer_of(path, "read") as (checkpointer, plainly):
        stored = checkpointer.restore(plainly, jax.tree.map(on_device, abstract))
    return jax.tree.map(lambda leaf, like: jax.random.wrap_key_data(leaf) if is_key(like) else leaf, stored, like)


@contextmanager
def checkpointer_of(path: Path, done: str) -> Iterator[tuple[Any, Path]]:
    """orbax's checkpointer and its name for `path`. An error of the system names `path`, which cannot be `done`."""
    import orbax.checkpoint as ocp

    logging.getLogger("absl").addFilter(is_not_of_orbax)
    try:
        with naming(path, done), plainly_named(path.absolute()) as plainly, ocp.StandardCheckpointer() as checkpointer:
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


def on_device(spec: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    """The spec with the device on which it is to be restored."""
    return jax.ShapeDtypeStruct(spec.shape, spec.dtype, sharding=jax.sharding.SingleDeviceSharding(jax.devices()[0]))


def write_manifest(folder: Path) -> None:
    """Writes manifest.json, the last file: the sha256 of every other file, once all of them are on the disk."""
    digests = {str(path.relative_to(folder)): digest(path, sync=True) for path in files(folder)}
    with (folder / "manifest.json").open("w") as manifest:
        json.dump(digests, manifest, indent=0)
        manifest.flush()
        os.fsync(manifest.fileno())


def verify(folder: Path) -> str | None:
    """What is wrong with the checkpoint; None where every file is as its manifest says."""
    try:
        digests = json.loads((folder / "manifest.json").read_text())
        present = {str(path.relative_to(folder)) for path in files(folder)}
        if not isinstance(digests, dict) or present != digests.keys():
            return "its files are not those of its manifest"
        wrong = [name for name, sha256 in digests.items() if digest(folder / name) != sha256]
    except (OSError, ValueError) as error:
        return f"it has no readable manifest ({error})"
    return f"{wrong[0]} is not what was written" if wrong else None


def files(folder: Path) -> list[Path]:
    """Every file below the folder except the manifest."""
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "manifest.json")


def digest(path: Path, sync: bool = False) -> str:
    """sha256 of a file; with `sync` the file is flushed to the disk first."""
    with path.open("rb+") if sync else path.open("rb") as file:
        if sync:
            os.fsync(file.fileno())
        return hashlib.file_digest(file, "sha256").hexdigest()
