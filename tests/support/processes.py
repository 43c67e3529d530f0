"""Runs of several processes, each with some simulated devices."""

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.support.paths import ROOT

FAST = "--xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1 --xla_cpu_use_fusion_emitters=false"


def free_port() -> int:
    with socket.create_server(("localhost", 0)) as server:
        return server.getsockname()[1]


def start(
    folder: Path,
    process: int,
    port: int,
    *words: str,
    config: str | Path = "digits_mlp",
    under: Sequence[str] = ("-m",),
) -> subprocess.Popen:
    """One of the two processes of a run; it has four devices, and keeps its programs beside the folder.

    under: the words that run a module.
    """
    team = [f"--coordinator=localhost:{port}", "--processes=2", f"--process={process}"]
    return python(folder.parent, *under, "jaxbp", "train", str(config), f"--workdir={folder}", *team, *words)


def start_both(folder: Path, *words: str, **keys: Any) -> list[subprocess.Popen]:
    """Both processes of a run."""
    port = free_port()
    return [start(folder, process, port, *words, **keys) for process in (0, 1)]


def python(folder: Path, *words: str, devices: int = 4) -> subprocess.Popen:
    """A Python process with simulated devices, whose files that pass are in the folder."""
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": str(devices),
        "XLA_FLAGS": FAST,
        "TMPDIR": str(folder),
        "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    command = [sys.executable, *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def ended(process: subprocess.Popen, seconds: float = 240) -> tuple[int, str, str]:
    """(exit status, output, errors); the process is killed where it takes longer."""
    try:
        out, error = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    return process.returncode, out, error
