"""Code of a user's own behind a config: the run folder keeps the files that define it, for jaxbp.load(run, code=True).

A config names its classes. Those that jaxbp does not ship come from a config file, a script or an imported module.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from jaxbp.config import Config
from jaxbp.errors import InputError
from jaxbp.models import ModelConfig
from jaxbp.training.checkpoint import digest

CONFIG = "jaxbp_config_"  # before the names of modules that are config files


def own_files(config: Config) -> dict[str, Path]:
    """{name in the run folder: file} of the files that define what jaxbp does not ship of a config and its layers.

    Installed packages are left out, and what was typed into an interpreter, which has no file.
    """
    files = {}
    for name in sorted({cls.__module__ for cls in classes(config)}):
        file = getattr(sys.modules.get(name), "__file__", None)
        shipped = name.partition(".")[0] in {"jaxbp", *sys.stdlib_module_names}
        if file and not shipped and not Path(file).is_relative_to(sysconfig.get_path("purelib")):
            files[f"{name.removeprefix(CONFIG)}.py"] = Path(file)
    return files


def classes(value: Any) -> Iterator[type]:
    """The classes of all dataclasses in a config, and of the layers of its model, with their bases."""
    if isinstance(value, tuple):
        for item in value:
            yield from classes(item)
    elif dataclasses.is_dataclass(value):
        yield from inspect.getmro(type(value))
        for field in dataclasses.fields(value):
            yield from classes(getattr(value, field.name))
    if isinstance(value, ModelConfig):
        yield from classes(value.build())


def digests(files: Mapping[str, Path]) -> dict[str, str]:
    """{name: sha256}."""
    return {name: digest(file) for name, file in files.items()}


def run_kept(folder: Path, kept: Mapping[str, str]) -> None:
    """Runs the kept files, {name: sha256}, so that their classes are defined. A module of a package is imported.

    Raises InputError where a file is not as it was kept, or fails.
    """
    for name, sha256 in kept.items():
        if not (folder / name).is_file() or digest(folder / name) != sha256:
            raise InputError(f"{folder / name} is not the file that the run was made with")
    sys.path.insert(0, str(folder))  # a kept file may import another
    try:
        for name in kept:
            file = folder / name
            if "." in file.stem:
                importlib.import_module(file.stem)
                continue
            module = ModuleType(f"{CONFIG}{file.stem}")
            module.__file__ = str(file)
            sys.modules[module.__name__] = module  # where dataclasses of the file look their annotations up
            exec(compile(file.read_bytes(), file, "exec"), vars(module))
    except Exception as error:
        raise InputError(f"{file}: {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(str(folder))
