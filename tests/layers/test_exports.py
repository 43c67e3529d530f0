"""What `import jaxbp` gives: every layer by name, the submodules on demand, and no more than JAX and NumPy at first."""

import subprocess
import sys

import pytest

import jaxbp
from tests.support.conformance import concrete_layers

LAYERS = [cls for cls in concrete_layers() if cls.__module__.startswith("jaxbp.layers.")]


@pytest.mark.parametrize("cls", LAYERS, ids=lambda cls: cls.__name__)
def test_every_layer_is_exported(cls):
    line = f"from {cls.__module__} import {cls.__name__}"
    assert cls.__name__ in jaxbp.layers.__all__, f"jaxbp/layers/__init__.py needs '{line}', and the name in __all__"
    assert getattr(jaxbp.layers, cls.__name__) is getattr(jaxbp, cls.__name__) is cls
    assert cls.__name__ in jaxbp.__all__


def in_a_fresh_process(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr


def test_every_name_is_there():
    in_a_fresh_process(
        "import jaxbp\n"
        "assert len(set(jaxbp.__all__)) == len(jaxbp.__all__)\n"
        "assert set(jaxbp.__all__) <= set(dir(jaxbp))\n"
        "assert all(getattr(jaxbp, name) is not None for name in jaxbp.__all__)\n"
        "assert jaxbp.check.check_layer and jaxbp.optim.Adam and jaxbp.models.MLP and callable(jaxbp.load)\n"
    )


def test_no_name_is_made_up():
    with pytest.raises(AttributeError, match="module 'jaxbp' has no attribute 'Desne'"):
        jaxbp.Desne  # noqa: B018


def test_the_import_alone_is_light():
    heavy = {"matplotlib", "optax", "orbax", "scipy.stats", "sklearn", "tqdm", "tyro"}
    in_a_fresh_process(f"import sys, jaxbp\nheavy = {heavy} & set(sys.modules)\nassert not heavy, heavy\n")
