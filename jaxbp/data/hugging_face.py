"""Data sets of the library `datasets` (Hugging Face), which stay on the disk: pip install 'jaxbp[datasets]'."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from jaxbp.data.from_map import MapSource
from jaxbp.data.moved import Movable
from jaxbp.data.outside import located
from jaxbp.data.preparation import Numbers
from jaxbp.data.sources import Streamed
from jaxbp.errors import InputError, unknown


@dataclass(frozen=True)
class HuggingFace(Streamed, Movable):
    """Two columns of a data set that `save_to_disk` wrote, or that `load_dataset` knows by its name or folder. Images
    and arrays of unsigned bytes become 0..1. Labels are a column of the library's type ClassLabel, or of booleans;
    a column of other numbers holds the targets of a regression.

    Args:
        path: folder, or name
        x: column of the inputs: images, numbers, or arrays of them, all of one shape
        y: column of the targets
        train: name of the training part
        test: name of the test part; None: it is drawn
    """

    path: str
    x: str = "image"
    y: str = "label"
    train: str = "train"
    test: str | None = "test"

    def source(self) -> tuple[MapSource, tuple[str, ...] | None, Numbers]:
        part = self._part(self.train)
        feature = part.features[self.y]
        names = getattr(feature, "names", None)
        if names is None and getattr(feature, "dtype", None) == "bool":
            names = ["False", "True"]
        source = MapSource.of(Columns(part, self.x, self.y), len(names) if names else None)
        return source, tuple(names) if names else None, source.raw

    def test_source(self) -> MapSource | None:
        if self.test is None:
            return None
        return MapSource.of(Columns(self._part(self.test), self.x, self.y), self.source()[0].class_count)

    def _part(self, name: str) -> Any:
        """A part of the data set. Raises InputError where there is none, or it lacks a column."""
        parts = self._parts
        if name not in parts:
            raise unknown(f"part of {self.path}", name, parts)
        for column in (self.x, self.y):
            if column not in parts[name].features:
                raise unknown(f"column of {self.path}", column, parts[name].features)
        return parts[name]

    @cached_property
    def _parts(self) -> dict[str, Any]:
        """All parts by their names; a data set of one part is its training part."""
        import datasets

        folder = located(self.path)
        saved = any((folder / name).is_file() for name in ("dataset_dict.json", "state.json"))
        try:
            whole = datasets.load_from_disk(str(folder)) if saved else datasets.load_dataset(self.path)
        except Exception as error:
            raise InputError(f"datasets cannot load {self.path} ({type(error).__name__}: {error})") from error
        return dict(whole) if isinstance(whole, dict) else {self.train: whole}


@dataclass(frozen=True)
class Columns:
    """Two columns of a data set as examples (x, y)."""

    part: Any
    x: str
    y: str

    def __len__(self) -> int:
        return len(self.part)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        row = self.part[index]
        y = row[self.y]
        return row[self.x], int(y) if isinstance(y, bool) else y
