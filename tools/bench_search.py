"""What a search step costs: time and peak memory of a bilevel step over a plain training step, table and exact cell.

    python tools/bench_search.py [--model cifar_resnet20] [--batch 128] [--exact-batch 8] [--steps 9]

Each side runs in a process of its own (peak memory is a process's), rounds of the sides alternate, and what is printed are
medians and their ratios: a machine's mood cancels. The exact cell keeps every candidate's output and runs at a smaller
batch, compared with the plain step at that same batch.
"""

from __future__ import annotations

import gc
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import click
import torch
import torch.nn.functional as F


def _status(field: str) -> int:
    """A line of this process's memory account, in bytes (Linux)."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field + ":"))
    return int(line.split()[1]) * 1024


def _start_of_peak(device: str) -> int:
    """Forget earlier peaks, those of compiling among them, and return what is in use now."""
    gc.collect()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _peak(device: str) -> int:
    return torch.cuda.max_memory_allocated() if device == "cuda" else _status("VmHWM")


def _measure(side: str, model_name: str, batch: int, steps: int, device: str) -> dict[str, float]:
    """Median seconds of one step of ``side`` (plain, table, exact) and the bytes a step adds to the process's peak."""
    import timm

    import grafs_timm
    from grafs_timm import models  # noqa: F401

    torch.manual_seed(0)
    model = timm.create_model(model_name, num_classes=10).to(device)
    size = 224 if "224" in model_name else 32
    x, y = torch.randn(batch, 3, size, size, device=device), torch.randint(10, (batch,), device=device)
    search = None
    if side != "plain":
        search = grafs_timm.ActivationSearch(model, 50, warm_start=0, exact=side == "exact")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(x[:2])  # imports, threads and allocators settle before the base line is read
    if side == "table":  # the kernels are compiled here, outside of what is measured
        from grafs_timm.table import Grid, lookup

        grid = Grid()
        rows = grid.rows(grid.points(device)[None])[0].requires_grad_()
        for needs in (True, False):
            probe = torch.randn(2**15, device=device, requires_grad=needs)
            lookup(probe, rows, grid).sum().backward()
        lookup(torch.randn(2**15, device=device, requires_grad=True), rows.detach(), grid).sum().backward()
    base, times = _start_of_peak(device), []
    for _ in range(steps + 2):
        begin = time.perf_counter()
        if search is not None:
            search.architecture_step(lambda: F.cross_entropy(model(x), y))
        loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - begin)
    return {"seconds": statistics.median(times[2:]), "bytes": _peak(device) - base}


@click.command()
@click.option("--model", default="cifar_resnet20", show_default=True)
@click.option("--batch", default=128, show_default=True)
@click.option("--exact-batch", default=8, show_default=True, help="Batch of the exact cell; 0 leaves it out.")
@click.option("--steps", default=9, show_default=True, help="Timed steps of each side and round.")
@click.option("--rounds", default=3, show_default=True)
@click.option("--device", default="cuda" if torch.cuda.is_available() else "cpu", show_default=True)
@click.option("--side", hidden=True)
def main(model: str, batch: int, exact_batch: int, steps: int, rounds: int, device: str, side: str | None) -> None:
    """Print the cost of a search step in plain steps, and its peak memory in a plain step's."""
    if side:
        click.echo(json.dumps(_measure(side, model, batch, steps, device)))
        return

    def run(side: str, batch: int, steps: int) -> dict[str, float]:
        command = [
            sys.executable,
            __file__,
            "--side",
            side,
            "--model",
            model,
            "--batch",
            str(batch),
            "--steps",
            str(steps),
        ]
        done = subprocess.run([*command, "--device", device], capture_output=True, text=True, env={**os.environ})
        if done.returncode:
            raise click.ClickException(f"{side} at batch {batch}: {done.stderr.strip().splitlines()[-1:]}")
        result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
        return result

    click.echo(f"{model} on {device}, torch {torch.__version__}, {torch.get_num_threads()} threads; medians")
    pairs = [("table", batch, steps, rounds)] + ([("exact", exact_batch, 2, 1)] if exact_batch else [])
    for side, size, count, turns in pairs:
        ratios, memories, both = [], [], []
        for _ in range(turns):
            plain, searching = run("plain", size, max(count, 5)), run(side, size, count)
            both.append((plain["seconds"], searching["seconds"]))
            ratios.append(searching["seconds"] / plain["seconds"])
            memories.append(searching["bytes"] / plain["bytes"])
        p, s = (statistics.median(t) for t in zip(*both, strict=True))
        click.echo(
            f"{side:5s} batch {size:3d}: plain step {p:.3f} s, search step {s:.3f} s = {statistics.median(ratios):.2f} "
            f"plain steps (rounds {min(ratios):.2f}–{max(ratios):.2f}); "
            f"peak memory {statistics.median(memories):.2f} × plain"
        )


if __name__ == "__main__":
    main()
