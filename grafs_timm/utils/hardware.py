"""Describe the hardware of a run, since results differ in their last bits between machines."""

from __future__ import annotations

import functools
import os
import platform
import re
import subprocess
from pathlib import Path

from . import version

# of glibc's allocator, in the environment: it keeps the memory of large tensors instead of returning it in each step
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "1073741824", "MALLOC_TRIM_THRESHOLD_": "4294967296"}
_QUOTA = ("/sys/fs/cgroup/cpu.max",), ("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "/sys/fs/cgroup/cpu/cpu.cfs_period_us")
_INSTRUCTIONS = {"avx2": "AVX2", "avx512f": "AVX-512", "avx512_bf16": "bf16", "amx_bf16": "AMX"}  # flag: label


def describe(device: str = "cpu") -> dict[str, str]:
    """Describe the hardware that a run on ``device`` uses.

    Args:
        device: ``cpu`` or a CUDA device such as ``cuda:0``.

    Returns:
        ``processor`` (name, family and model, instruction sets that matter) and ``threads`` of torch; on a GPU also ``gpu``.

    >>> sorted(describe())
    ['processor', 'threads']
    """
    import torch

    found = {"processor": processor(), "threads": str(torch.get_num_threads())}
    if device.startswith("cuda"):
        found["gpu"] = torch.cuda.get_device_name(device)
    return found


@functools.cache
def processor() -> str:
    """Return the CPU's name with family, model and the instruction sets that decide its speed and rounding.

    >>> isinstance(processor(), str)
    True
    """
    text = _cpuinfo()
    if not text:
        return platform.processor() or platform.machine() or "unknown"
    fields = _fields(text)
    name = fields.get("model name") or platform.machine() or "unknown"
    if "cpu family" in fields:
        name += f" (family {fields['cpu family']}, model {fields.get('model', '?')})"
    there = set(fields.get("flags", "").split())
    return ", ".join([name, *(shown for flag, shown in _INSTRUCTIONS.items() if flag in there)])


@functools.cache
def has_bf16() -> bool:
    """Return whether the CPU multiplies in bfloat16 (AVX-512 BF16, AMX, or Arm's bf16); others emulate it, many times slower.

    >>> has_bf16() in (True, False)
    True
    """
    fields = _fields(_cpuinfo())
    return bool({"avx512_bf16", "amx_bf16", "bf16"} & set(f"{fields.get('flags', '')} {fields.get('Features', '')}".split()))


def processors() -> float:
    """Return how many processors this process may keep busy: those it may run on, or its share where a container limits that.

    >>> processors() > 0
    True
    """
    here = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min([here, *(share for files in _QUOTA if (share := _share(files)))])


def _share(files: tuple[str, ...]) -> float | None:
    """Return quota ÷ period of a control group, version 2 or 1; None without a quota."""
    try:
        quota, period = " ".join(Path(file).read_text(encoding="ascii") for file in files).split()
        return max(int(quota) / int(period), 0.0) or None  # "max" and −1: no quota
    except (OSError, ValueError, ZeroDivisionError):
        return None


def keeps_pages() -> str | None:
    """Return which allocator keeps the memory of large tensors between steps; None for glibc's with its default settings.

    >>> keeps_pages() is None or isinstance(keeps_pages(), str)
    True
    """
    if loaded := re.search(r"jemalloc|tcmalloc|mimalloc", os.environ.get("LD_PRELOAD", "")):
        return loaded[0]
    if platform.libc_ver()[0] != "glibc":
        return f"the one of {platform.system()}"
    return "glibc's, set to keep pages" if all(map(os.environ.get, ALLOCATOR)) else None


def _cpuinfo() -> str:
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _fields(text: str) -> dict[str, str]:
    return dict(re.findall(r"^(model name|cpu family|model|flags|Features)\s*:\s*(.*)$", text, re.MULTILINE))


@functools.cache
def commit() -> str:
    """Return the commit of the checkout that this package runs from, with ``-changed`` if files differ; else its version.

    >>> commit() == commit()
    True
    """
    folder = Path(__file__).resolve().parents[1]
    quiet = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "encoding": "utf-8", "errors": "replace", "timeout": 20}
    try:
        git = ("git", "-C", str(folder))
        where = subprocess.run([*git, "ls-files", "--error-unmatch", __file__], **quiet)  # type: ignore[call-overload]
        if where.returncode:
            return f"version {version.own()}"
        head = subprocess.run([*git, "rev-parse", "--short=10", "HEAD"], **quiet).stdout.strip()  # type: ignore[call-overload]
        clean = not subprocess.run([*git, "status", "--porcelain", "--", str(folder)], **quiet).stdout  # type: ignore[call-overload]
    except (OSError, subprocess.SubprocessError):
        return f"version {version.own()}"
    return (head if clean else f"{head}-changed") if head else f"version {version.own()}"
