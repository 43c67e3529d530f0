"""Data sets: every module in this folder is found by itself, and every data set's config is exported by its class name.

A new data set is one new file here: a frozen dataclass that derives from `DataConfig`, or from `Prepared` in prepare.py
(which knows how to scale), and has `load`; or from `Tabular` (which also splits, and makes folds), and has `table`. One
of images derives from `Movable` too.
"""
from __future__ import annotations

import importlib
import pkgutil

from jaxbp.data.moved import Movable
from jaxbp.data.pipeline import DataConfig, Dataset, Splits, epoch_order
from jaxbp.data.prepare import Prepared, Tabular, cross_validation

BASES = (DataConfig, Movable, Prepared, Tabular)  # of data sets


def _discover() -> dict[str, type[DataConfig]]:
    """Every data set's config in this package, by name."""
    modules = [importlib.import_module(f"{__name__}.{module.name}") for module in pkgutil.iter_modules(__path__)]
    classes = [value for module in modules for value in vars(module).values() if isinstance(value, type)]
    return {c.__name__: c for c in classes if issubclass(c, DataConfig) and c not in BASES}


CONFIGS = _discover()  # data set configs by name
globals().update(CONFIGS)
__all__ = ["CONFIGS", "DataConfig", "Dataset", "Splits", "cross_validation", "epoch_order", *CONFIGS]
