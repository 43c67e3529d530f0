"""Strict settings for every test: simulated devices, highest precision, and a clean failure for anything implicit."""

import atexit
import gc
import os
import shutil
import tempfile

os.environ["JAX_PLATFORMS"] = os.environ.get("JAX_PLATFORMS", "cpu")
# Nearly all of the suite's time is compilation. What LLVM does last takes a third of it and changes no result here;
# splitting a small module for many threads costs more than it gains; the newer emitters of fusions take three times as
# long as the older ones. Tests of a program's form turn them on: tests/support/programs.py.
os.environ["XLA_FLAGS"] = os.environ.get(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1 --xla_cpu_use_fusion_emitters=false",
)
if "PYTEST_XDIST_WORKER" not in os.environ:  # commands keep programs in the user's cache: here in one of the session
    os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="jaxbp-tests-")
    atexit.register(shutil.rmtree, os.environ["XDG_CACHE_HOME"], ignore_errors=True)

import jax
import matplotlib
import pytest

from jaxbp.check import guard
from jaxbp.training.report import curves
from tests.support.pictures import drawn_once
from tests.support.programs import forget_modules

matplotlib.use("agg")
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_default_matmul_precision", "highest")
guard.RAISES = True  # a defect of the diagnosis is a line for users, and an error here
gc.set_threshold(20_000)  # tracing makes many objects that live briefly: looking at every 700 takes 6% of the time


def pytest_itemcollected(item):
    """Tests of one case, or else of one file, share a worker: they share compiled programs and fixtures."""
    case = getattr(item, "callspec", None) and item.callspec.params.get("case")
    item.add_marker(pytest.mark.xdist_group(f"{item.path.name} {case or ''}"))


def pytest_collection_modifyitems(config, items):
    """Nightly tests run where -m names them. The files whose one group of tests takes longest begin first."""
    if "nightly" not in config.option.markexpr:
        config.hook.pytest_deselected(items=[item for item in items if item.get_closest_marker("nightly")])
        items[:] = [item for item in items if not item.get_closest_marker("nightly")]
    items.sort(key=lambda item: item.path.name not in ("test_resume.py", "test_commands.py"))


def pytest_runtest_teardown():
    forget_modules()


@pytest.fixture(scope="session", autouse=True)
def curves_once():
    """Runs of one kind share their picture."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(curves, "draw_curves", drawn_once(curves.draw_curves))
        yield


@pytest.fixture
def float64():
    """float64 available."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def strict():
    """float64 available, no implicit promotion of dtypes or ranks (optax fails them, so not everywhere)."""
    with jax.enable_x64(True), jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        yield
