"""The facts behind a run or a figure: machine, versions, commit, command."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import jax

from jaxbp.core import PyTree


def machine() -> dict[str, Any]:
    """Device, threads, Python and package versions: all that a figure or a bit-exact run depends on."""
    device = jax.devices()[0]
    return {
        "device": device.device_kind if device.platform != "cpu" else processor(),
        "platform": device.platform,
        "devices": jax.device_count(),
        "threads": threads(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: installed(name) for name in ("jaxbp", "jax", "jaxlib", "numpy", "optax")},
    }


def provenance() -> dict[str, Any]:
    """machine(), and the date, the command and the commit."""
    date = datetime.now(UTC).isoformat(timespec="seconds")
    return {"date": date, "command": sys.argv, "commit": commit(), **machine()}


def header(params: PyTree) -> str:
    """The first line of a run: device, threads, precision and number of parameters."""
    leaves = jax.tree.leaves(params)
    dtypes = ", ".join(sorted({str(leaf.dtype) for leaf in leaves}))
    precision = jax.config.values["jax_default_matmul_precision"] or "default"
    facts = machine()
    return (
        f"{facts['platform']} ({facts['device']}), {facts['threads']} threads, {dtypes}, matrix products in "
        f"{precision} precision, {sum(leaf.size for leaf in leaves):,} parameters"
    )


def processor() -> str:
    """The processor's name from Linux's /proc/cpuinfo; elsewhere the kind of machine."""
    info = Path("/proc/cpuinfo")
    for line in info.read_text().splitlines() if info.exists() else ():
        if line.startswith("model name"):
            return line.split(":")[1].strip()
    return platform.machine()


def memory() -> int:
    """Bytes of the machine's memory, or of the part of it that the process's container may have."""
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text().strip() if limit.is_file() else "max"
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min(whole, int(text)) if text.isdigit() else whole


def device_memory() -> int:
    """Bytes that the device can hold; on the CPU the machine's memory."""
    statistics = jax.devices()[0].memory_stats() or {}
    return int(statistics.get("bytes_limit", memory()))


def threads() -> int:
    """The number of threads that XLA computes with on the CPU."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return int(os.environ.get("PJRT_NPROC") or os.environ.get("NPROC") or cores)


def installed(name: str) -> str:
    """The version of an installed package, 'none' where it is not."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "none"


def commit() -> str:
    """The commit of the code that runs, with '+changes' where the tree is not clean; 'none' outside a repository."""

    def git(*words: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return "none"
