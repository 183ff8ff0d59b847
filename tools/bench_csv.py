"""One schema for what the benchmarks measure, and one way to time things: side by side, in alternating rounds."""

from __future__ import annotations

import csv
import datetime
import platform
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

# One row a measurement. ``ratio`` is the median over that of ``baseline`` in the same run; ``floor_ratio`` the median over
# the time that the memory's bandwidth, measured by a copy in the same run, needs for the passes this work cannot avoid.
COLUMNS = (
    "tool", "device", "hardware", "torch", "triton", "threads", "dtype", "subject", "baseline", "shape", "what",
    "median_ms", "q25_ms", "q75_ms", "repeats", "bytes_saved", "ratio", "floor_ratio", "date", "command",
)  # fmt: skip


def environment(device: str) -> dict[str, Any]:
    """The columns that are the same in every row of a run."""
    try:
        import triton

        version = triton.__version__
    except ImportError:
        version = ""
    return {
        "tool": Path(sys.argv[0]).stem,
        "device": device,
        "hardware": torch.cuda.get_device_name() if device == "cuda" else f"{_processor()}, {_vectors()}",
        "torch": torch.__version__,
        "triton": version,
        "threads": torch.get_num_threads(),
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%MZ"),
        "command": "python " + shlex.join([f"tools/{Path(sys.argv[0]).name}", *sys.argv[1:]]),
    }


def _vectors() -> str:
    """The vectors that torch and the loops use: less than the processor's where ATEN_CPU_CAPABILITY says so."""
    return torch.backends.cpu.get_cpu_capability()


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def append(path: str | Path, rows: list[dict[str, Any]]) -> None:
    """Add rows to a CSV file, with the header where the file is new. ValueError for a column not in the schema."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    new = not path.exists() or path.stat().st_size == 0
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, restval="")
        if new:
            writer.writeheader()
        writer.writerows(rows)


def alternate(
    sides: Mapping[str, Callable[[], Any]], rounds: int, device: str = "cpu", warmup: int = 2
) -> dict[str, dict[str, float]]:
    """Time each side once a round, in turn, so that a machine's mood meets all of them; each round begins with another.

    Returns for each side median_ms, q25_ms, q75_ms and repeats. On CUDA each timing waits for the device.
    """
    wait = torch.cuda.synchronize if device == "cuda" else (lambda: None)
    times: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(warmup + rounds):
        names = list(sides)
        for name in names[turn % len(names) :] + names[: turn % len(names)]:  # none is always behind the same other
            wait()
            begin = time.perf_counter()
            sides[name]()
            wait()
            if turn >= warmup:
                times[name].append((time.perf_counter() - begin) * 1e3)
    return {name: summary(values) for name, values in times.items()}


def summary(values: list[float]) -> dict[str, float]:
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
    return {"median_ms": middle, "q25_ms": low, "q75_ms": high, "repeats": len(values)}


def repeated(side: Callable[[], Any], times: int) -> Callable[[], None]:
    """``side``, ``times`` in a row, for what is too short to time alone."""

    def run() -> None:
        for _ in range(times):
            side()

    return run
