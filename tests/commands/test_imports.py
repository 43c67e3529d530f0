"""What takes long to import is imported where it is used."""

import subprocess
import sys

import pytest

from jaxbp.commands.__main__ import COMMANDS
from tests.support.paths import ROOT

HEAVY = {"matplotlib", "orbax", "pandas", "scipy.stats", "sklearn", "tyro"}
IMPORT_ALL = """
import importlib, sys
for name in sys.argv[1:]:
    importlib.import_module(f"jaxbp.commands.{name}")
    print(name, *sys.modules)
"""


@pytest.mark.slow
def test_a_command_imports_nothing_heavy_before_it_knows_what_to_do():
    names = [name for name in COMMANDS if name != "predict"]
    words = [sys.executable, "-c", IMPORT_ALL, *names]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    for line in done.stdout.splitlines():
        name, *modules = line.split()
        assert HEAVY & set(modules) == set(), name  # the first command that is named brought them in
