"""Describe the hardware of a run, since results differ in their last bits between machines."""

from __future__ import annotations

import functools
import platform
import re
import subprocess
from pathlib import Path

from . import version

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
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return platform.processor() or platform.machine() or "unknown"
    fields = dict(re.findall(r"^(model name|cpu family|model|flags)\s*:\s*(.*)$", text, re.MULTILINE))
    name = fields.get("model name") or platform.machine() or "unknown"
    if "cpu family" in fields:
        name += f" (family {fields['cpu family']}, model {fields.get('model', '?')})"
    there = set(fields.get("flags", "").split())
    return ", ".join([name, *(shown for flag, shown in _INSTRUCTIONS.items() if flag in there)])


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
