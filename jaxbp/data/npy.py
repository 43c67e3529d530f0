"""Arrays in NumPy's .npy format. Pickled objects are never read: a data file must not be able to run code."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import IO

import numpy as np

from jaxbp.data.outside import PREPARED, Allowance, reading
from jaxbp.errors import InputError

HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def read_npy(path: Path) -> np.ndarray:
    """The array in a .npy file. Raises InputError for anything else."""
    with reading(path) as file:
        return read_array(file, str(path), os.fstat(file.fileno()).st_size, Allowance())


def read_array(file: IO[bytes], where: str, length: int, allowance: Allowance) -> np.ndarray:
    """The array at the beginning of a stream that claims `length` bytes. Its header is compared with these, and with
    what is allowed, before the array is read. Raises InputError, or what NumPy raises."""
    version = np.lib.format.read_magic(file)
    if version not in HEADERS:
        raise InputError(f"{where}: is in version {version[0]}.{version[1]} of NumPy's format, and numbers need 1.0")
    shape, _, dtype = HEADERS[version](file)
    if not all(type(size) is int and size >= 0 for size in shape):
        raise InputError(f"{where}: claims shape {shape}, and sizes are whole numbers from 0")
    count = math.prod(shape)
    claim = f"claims shape {shape} of {dtype}"
    left = length - file.tell()
    if not dtype.hasobject and count * dtype.itemsize > left:
        raise InputError(f"{where}: is truncated: {claim}, which needs {count * dtype.itemsize} bytes, and has {left}")
    allowance.take(where, count * (dtype.itemsize + PREPARED), f"it {claim}")
    file.seek(0)
    return np.lib.format.read_array(file, allow_pickle=False)
