"""Runs of several processes, each with some simulated devices."""

import os
import socket
import subprocess
import sys
from pathlib import Path

from tests.support.paths import ROOT

FAST = "--xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1 --xla_cpu_use_fusion_emitters=false"


def free_port() -> int:
    with socket.create_server(("localhost", 0)) as server:
        return server.getsockname()[1]


def start(folder: Path, process: int, port: int, *words: str, processes: int = 2) -> subprocess.Popen:
    """One process of a run of digits_mlp; it has the four devices, and keeps its programs beside the folder."""
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": "4",
        "XLA_FLAGS": FAST,
        "TMPDIR": str(folder.parent),
        "JAX_COMPILATION_CACHE_DIR": str(folder.parent / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    team = [f"--coordinator=localhost:{port}", f"--processes={processes}", f"--process={process}"]
    command = [sys.executable, "-m", "jaxbp", "train", "digits_mlp", f"--workdir={folder}", *team, *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def ended(process: subprocess.Popen, seconds: float = 240) -> tuple[int, str, str]:
    """(exit status, output, errors); the process is killed where it takes longer."""
    try:
        out, error = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    return process.returncode, out, error
