"""Parameters in one file of the safetensors format, which other frameworks read too, and which runs no code."""

from __future__ import annotations

import os
from pathlib import Path
from types import ModuleType

import jax

from jaxbp.core import PyTree, path_name
from jaxbp.errors import InputError, unknown

COPIES = 3  # times the size of a file: its arrays, and what a loader makes of them, of twice their width at most


def save_parameters(file: str | Path, params: PyTree) -> None:
    """Writes a tree of arrays to `file`, each under its path ("00_dense/w"). An older file is replaced in one step."""
    arrays = {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(params)}
    if len(arrays) < len(jax.tree.leaves(params)):
        raise InputError("save_parameters: two arrays have the same path; names must not contain '/'")
    temporary = Path(f"{file}.{os.getpid()}.part")
    if not temporary.parent.is_dir():
        raise InputError(f"cannot write {file}: there is no folder {temporary.parent}")
    try:
        library().save_file(arrays, str(temporary))
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)


def load_parameters(file: str | Path, like: PyTree) -> PyTree:
    """The parameters in `file`, in the tree of `like`: parameters, or their specs as jax.eval_shape gives them.

    Raises InputError for a file that cannot be read, and where its names, shapes or types are not those of `like`.
    """
    arrays = read_arrays(file)
    leaves, tree = jax.tree_util.tree_flatten_with_path(like)
    wanted = {path_name(path): leaf for path, leaf in leaves}
    for name in sorted(arrays.keys() - wanted.keys()):
        raise unknown(f"parameter in {file}:", name, wanted)
    for name, leaf in wanted.items():
        if name not in arrays:
            raise InputError(f"{file} has no parameter '{name}'")
        kind, expected = ((list(array.shape), str(array.dtype)) for array in (arrays[name], leaf))
        if kind != expected:
            raise InputError(f"{file}: '{name}' is {kind[1]} {kind[0]}, and {expected[1]} {expected[0]} is needed")
    return jax.tree.unflatten(tree, [arrays[name] for name in wanted])


def read_arrays(file: str | Path) -> dict[str, jax.Array]:
    """The arrays in a file of the safetensors format, by their names.

    Raises InputError for a file that cannot be read, is none of that format, or needs more than half of the memory.
    """
    from jaxbp.data.outside import Allowance, reading  # all data sets come with it

    load_file = library().load_file
    if not Path(file).exists():
        raise InputError(f"there is no file {file}")
    with reading(file) as content:
        size = os.fstat(content.fileno()).st_size
        Allowance().check(file, COPIES * size, f"the file has {size:,} bytes")
        try:
            return load_file(os.fspath(content.name))
        except Exception as error:  # the package raises nothing narrower
            raise InputError(f"{file} cannot be read as safetensors: {error}") from error


def library() -> ModuleType:
    """safetensors for JAX's arrays."""
    try:
        import safetensors.flax
    except ImportError as error:
        raise InputError("parameters in a file need safetensors: pip install 'jaxbp[safetensors]'") from error
    return safetensors.flax
