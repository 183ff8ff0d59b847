"""Run many jobs at once: each a ``grafs-timm`` process with a folder of its own, on this machine or on a Ray cluster.

A job is done when its folder has a summary.json. Done jobs are skipped, half-done ones resume, and one that fails is reported
and stops no other. A launcher that was stopped or killed does what is left when it is started again.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from tqdm import tqdm

from ..errors import RunError
from .job import Job, Outcome
from .local import locally, places
from .options import HERE, Launch


def run_jobs(jobs: Sequence[Job], launch: Launch = HERE, on_outcome: Callable[[Outcome], None] | None = None) -> list[Outcome]:
    """Run what of ``jobs`` isn't done. Ctrl-C and SIGTERM end the jobs and then the launcher; so does its death.

    Args:
        jobs: All of the same number of processes, each with a folder of its own.
        launch: Where they run.
        on_outcome: Called as each ends.

    Returns:
        The outcomes in the order of ``jobs``.

    Raises:
        RunError: Two jobs have one folder, one needs more GPUs than there are, or Ray can't be reached or has no node for it.
    """
    if len({job.folder.absolute() for job in jobs}) < len(jobs):
        raise RunError("two jobs have one folder; each job needs its own")
    outcomes = {job.folder: Outcome(job, "skipped") for job in jobs if job.done}
    left = sorted((job for job in jobs if job.folder not in outcomes), key=lambda job: -job.cost)
    for outcome in outcomes.values():
        if on_outcome:
            on_outcome(outcome)
    if not left:
        return [outcomes[job.folder] for job in jobs]
    if launch.launcher == "ray":
        from .ray_launch import on_ray

        ended = on_ray(left, launch)
    else:
        here = places(groups(launch.devices, left[0].processes), launch.workers or 1)
        ended = locally(left, here, launch.retries, launch.warm)
    with (
        _stoppable(),
        contextlib.closing(ended),
        tqdm(total=len(jobs), initial=len(outcomes), disable=launch.quiet or None, unit="job") as bar,
    ):
        for outcome in ended:
            outcomes[outcome.job.folder] = outcome
            failed = sum(each.state == "failed" for each in outcomes.values())
            bar.set_postfix_str(f"{outcome.job.name} {outcome.state}" + (f", {failed} failed" if failed else ""))
            bar.update()
            if on_outcome:
                on_outcome(outcome)
    return [outcomes[job.folder] for job in jobs]


def devices(text: str) -> tuple[str, ...]:
    """Return the devices that a text names: "cpu", "cuda" (every GPU of this machine), "cuda:0,cuda:2", or "auto".

    Raises:
        RunError: One isn't there, or GPUs and the CPU are mixed.

    >>> devices("cpu")
    ('cpu',)
    """
    import torch

    there = ("cpu", *(f"cuda:{number}" for number in range(torch.cuda.device_count())))
    if text in ("auto", "cuda") and len(there) > 1:
        return there[1:]
    if text == "auto":
        return ("cpu",)
    asked = tuple(dict.fromkeys(each.strip() for each in text.split(",")))
    for each in asked:
        if each not in there:
            raise RunError(f"device {each!r} can't be used; this machine has {', '.join(there)}")
    if len({each.partition(":")[0] for each in asked}) > 1:
        raise RunError(f"devices {text}: jobs run on GPUs or on the CPU, not on both, as their results may differ")
    return asked


def groups(devices: Sequence[str], processes: int) -> list[tuple[str, ...]]:
    """Return the devices of each job that runs at the same time, one for each of its processes.

    Raises:
        RunError: There are not enough devices for one job.

    >>> groups(["cuda:0", "cuda:1", "cuda:2"], 2)
    [('cuda:0', 'cuda:1')]
    """
    if devices[0] == "cpu":
        return [("cpu",) * processes]
    whole = [tuple(devices[at : at + processes]) for at in range(0, len(devices) - processes + 1, processes)]
    if not whole:
        raise RunError(f"a job of {processes} processes needs {processes} GPUs, here are {len(devices)}: {', '.join(devices)}")
    return whole


@contextlib.contextmanager
def _stoppable() -> Iterator[None]:
    """Let SIGTERM end the block as Ctrl-C does, so that its ``finally`` clauses run; in the main thread only."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: Any) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
