"""The commands as a user types them."""

import subprocess
import sys

from tests.support.paths import ROOT


def command(script, *words, status=0, cwd=ROOT):
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / script, *map(str, words)],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done


def refused(script, *words):
    """The one line that a command with exit status 2 prints."""
    done = command(script, *words, status=2)
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert "Traceback" not in done.stdout
    return lines[0]
