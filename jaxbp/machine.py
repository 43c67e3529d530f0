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
from jaxbp.errors import InputError

OPTIONS = (  # of jax.config: those that change numbers
    "jax_enable_x64",
    "jax_explicit_x64_dtypes",
    "jax_default_matmul_precision",
    "jax_numpy_dtype_promotion",
    "jax_default_prng_impl",
    "jax_threefry_partitionable",
    "jax_threefry_gpu_kernel_lowering",
    "jax_random_seed_offset",
    "jax_high_dynamic_range_gumbel",
    "jax_disable_jit",
    "jax_disable_most_optimizations",
    "jax_optimization_level",
    "jax_exec_time_optimization_effort",
    "jax_compiler_enable_remat_pass",
    "jax_allow_f16_reductions",
)
VARIABLES = ("XLA_FLAGS", "LIBTPU_INIT_ARGS", "TF_ENABLE_ONEDNN_OPTS", "NVIDIA_TF32_OVERRIDE")  # of the environment


def machine() -> dict[str, Any]:
    """Device, threads, versions and settings: all that a figure or a bit-exact run depends on."""
    device = jax.local_devices()[0]
    return {
        "device": device.device_kind if device.platform != "cpu" else processor(),
        "platform": device.platform,
        "devices": jax.device_count(),
        "threads": threads(),
        "settings": settings(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: installed(name) for name in ("jaxbp", "jax", "jaxlib", "numpy", "optax")},
    }


def check_devices() -> None:
    """Raises InputError where this machine has no device of the kind, or not the number, that JAX is asked for."""
    devices = jax.config.values["jax_num_cpu_devices"]  # negative: not asked for
    if devices == 0 or devices >= 2**31:
        raise InputError(f"JAX_NUM_CPU_DEVICES={devices}: it must be at least 1, and no more than the memory holds")
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:  # the latter for a kind whose plug-in is not installed
        asked = jax.config.values["jax_platforms"]
        raise InputError(f"JAX_PLATFORMS={asked}: this machine has no such device; JAX_PLATFORMS=cpu works") from error


def settings() -> dict[str, Any]:
    """The options of JAX, and the variables of the environment, that change numbers."""
    options = {name: getattr(jax.config, name, None) for name in OPTIONS}  # None: this JAX does not have it
    variables = {name: os.environ[name] for name in VARIABLES if os.environ.get(name)}
    plain = {
        name: value if isinstance(value, bool | int | float | None) else str(value) for name, value in options.items()
    }
    return plain | variables


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
    statistics = jax.local_devices()[0].memory_stats() or {}
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
        command = ["git", "--no-optional-locks", "-C", str(Path(__file__).parent), *words]  # nothing is written
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return "none"
