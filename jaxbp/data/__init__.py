"""Data sets, one file each: a frozen dataclass that loads its parts. A test prints the line that a new one needs here.

A data set derives from `DataConfig`, or from `Prepared` (which knows how to scale), and has `load`; or from `Tabular`
(which also splits, and makes folds), and has `table`; or from `Table` (which chooses among columns), and has `read`.
One of images derives from `Movable` too; one of files from `FromFiles`, before the others. One beyond memory derives
from `Streamed` and has `source` and `test_source`; or from `FromMap`, and has `examples`.
"""

from jaxbp.data.adding import Adding
from jaxbp.data.array_files import ArrayFiles
from jaxbp.data.characters import Characters
from jaxbp.data.csv_file import Csv
from jaxbp.data.curve import Curve
from jaxbp.data.embedded import Embedded
from jaxbp.data.frame import Frame
from jaxbp.data.from_files import FromFiles
from jaxbp.data.from_map import FromMap
from jaxbp.data.function import Function
from jaxbp.data.hugging_face import HuggingFace
from jaxbp.data.idx import Idx
from jaxbp.data.image_files import ImageFiles
from jaxbp.data.images import Images
from jaxbp.data.logic import Logic
from jaxbp.data.mnist import Mnist
from jaxbp.data.moved import Movable
from jaxbp.data.npz import Npz
from jaxbp.data.parquet import Parquet
from jaxbp.data.pipeline import DataConfig, Dataset, Splits, epoch_order
from jaxbp.data.plane import Plane
from jaxbp.data.preparation import Preparation
from jaxbp.data.prepare import Prepared, Tabular, cross_validation
from jaxbp.data.reber import Reber
from jaxbp.data.reconstruction import Encoder, Reconstruction
from jaxbp.data.rows import Rows
from jaxbp.data.sources import Streamed
from jaxbp.data.table import Table
from jaxbp.data.temporal_xor import TemporalXor
from jaxbp.data.text import Text
from jaxbp.data.tokens import Tokens
from jaxbp.data.tones import Tones
from jaxbp.data.wrong_labels import WrongLabels

__all__ = [
    "Adding",
    "ArrayFiles",
    "Characters",
    "Csv",
    "Curve",
    "DataConfig",
    "Dataset",
    "Embedded",
    "Encoder",
    "Frame",
    "FromFiles",
    "FromMap",
    "Function",
    "HuggingFace",
    "Idx",
    "ImageFiles",
    "Images",
    "Logic",
    "Mnist",
    "Movable",
    "Npz",
    "Parquet",
    "Plane",
    "Preparation",
    "Prepared",
    "Reber",
    "Reconstruction",
    "Rows",
    "Splits",
    "Streamed",
    "Table",
    "Tabular",
    "TemporalXor",
    "Text",
    "Tokens",
    "Tones",
    "WrongLabels",
    "cross_validation",
    "epoch_order",
]
