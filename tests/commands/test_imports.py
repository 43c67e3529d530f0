"""What takes long to import is imported where it is used."""

import subprocess
import sys

import pytest

from jaxbp.commands.__main__ import COMMANDS
from tests.support.paths import ROOT

HEAVY = {"matplotlib", "orbax", "pandas", "scipy.stats", "sklearn", "tyro"}


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "predict"])
def test_a_command_imports_nothing_heavy_before_it_knows_what_to_do(name):
    code = f"import sys, jaxbp.commands.{name}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert HEAVY & set(done.stdout.split()) == set()
