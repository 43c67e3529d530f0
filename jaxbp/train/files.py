"""Files of a run folder appear whole or not at all: written aside, then renamed."""
from __future__ import annotations

import io
import json
import os
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxbp.core import PyTree, path_name
from jaxbp.errors import InputError


def write_whole(path: Path, content: bytes) -> None:
    """Writes the file beside its place, then renames it."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.write_bytes(content)
    os.replace(aside, path)


def write_json(path: Path, data: Any) -> None:
    """Indented JSON."""
    write_whole(path, (json.dumps(data, indent=2) + "\n").encode())


def save_arrays(path: Path, tree: PyTree) -> None:
    """The arrays of a tree by path name, as .npz without pickle."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    buffer = io.BytesIO()
    np.savez(buffer, **{path_name(where): np.asarray(leaf) for where, leaf in leaves})
    write_whole(path, buffer.getvalue())


def load_arrays(path: Path, like: PyTree) -> PyTree:
    """The tree that save_arrays wrote, with the structure of `like`. Raises InputError where names or shapes differ."""
    if not path.is_file():
        raise InputError(f"there is no {path}: the run has not finished")
    with np.load(path, allow_pickle=False) as stored:
        def one(where: tuple, spec: jax.ShapeDtypeStruct) -> jax.Array:
            name = path_name(where)
            if name not in stored or stored[name].shape != spec.shape:
                found = f"the shape {list(stored[name].shape)}" if name in stored else "nothing"
                raise InputError(f"{path} has {found} for '{name}', and the model needs {list(spec.shape)}")
            return jax.numpy.asarray(stored[name])

        return jax.tree_util.tree_map_with_path(one, like)
