"""What mypy and pyright say to a user of jaxbp: nothing to a right program, an error for each misspelt line."""

import re
import runpy
import subprocess
import sys

import pytest

from tests.support.paths import ROOT

USER, MISTYPED = (ROOT / "tests" / "core" / name for name in ("typed_user.py", "mistyped_user.py"))


@pytest.mark.slow
@pytest.mark.parametrize("checker", [["mypy"], ["pyright", "--pythonpath", sys.executable]], ids=lambda words: words[0])
def test_only_misspelt_lines_are_errors(checker):
    words = [sys.executable, "-m", *checker, USER, MISTYPED]
    output = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300).stdout
    errors = {(name, int(line)) for name, line in re.findall(r"(\w+\.py):(\d+):\S* .*?error", output)}
    lines = MISTYPED.read_text().splitlines()
    wrong = {(MISTYPED.name, number) for number, line in enumerate(lines, 1) if line.endswith("# wrong")}
    assert len(wrong) == 6
    assert errors == wrong, output


def test_the_right_program_runs():
    program = runpy.run_path(str(USER))
    assert program["train"](20) < program["train"](1)
    config, model = program["built"](ROOT / "configs" / "xor.py")
    assert config.run.epochs == 1000
    assert repr(model).startswith("Chain")
