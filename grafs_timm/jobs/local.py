"""Run jobs on this machine, a fixed number at once on each device."""

from __future__ import annotations

import os
import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, replace

from ..errors import RunError
from .job import Job, Outcome, Process, may_go_on
from .worker import Worker

_POLL = 0.05  # seconds


@dataclass(frozen=True)
class _Place:
    """One device, or one for each process, and the environment of the job that has them."""

    name: str
    environment: Mapping[str, str]
    worker: Worker | None = None


def places(groups: Sequence[tuple[str, ...]], workers: int) -> list[_Place]:
    """Return a place for each job that may run at the same time."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = str(max(cores // (workers * sum(map(len, groups))), 1))
    visible = [each for each in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if each]
    places = []
    for devices in groups:
        environment = {} if os.environ.get("OMP_NUM_THREADS") else {"OMP_NUM_THREADS": threads}
        numbers = [int(index or 0) for kind, _, index in (each.partition(":") for each in devices) if kind == "cuda"]
        if numbers:
            own = [visible[number] if number < len(visible) else str(number) for number in numbers]
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(own)
        places.append(_Place(",".join(dict.fromkeys(devices)), environment))
    return places * workers  # each device has its first job before any has a second


def locally(
    jobs: Sequence[Job], places: Sequence[_Place], retries: int, warm: bool = False
) -> Generator[Outcome, None, None]:  # fmt: skip
    """Run the jobs; yield their outcomes as they end."""
    waiting, running = [(job, 1, time.monotonic()) for job in jobs], list[tuple[Process, _Place]]()
    free = [replace(place, worker=Worker(place.environment)) for place in places] if warm else list(places)
    workers = [place.worker for place in free if place.worker]
    try:
        while waiting or running:
            while waiting and free:
                (job, attempt, begun), place = waiting.pop(0), free.pop(0)
                try:
                    begun = begun if attempt > 1 else time.monotonic()
                    worker = place.worker if job.processes == 1 else None
                    running.append((Process(job, place.name, place.environment, attempt, begun, worker), place))
                except RunError as error:
                    free.append(place)
                    yield Outcome(job, "failed", str(error), where=place.name)
            for process, place in [each for each in running if each[0].ended]:
                running.remove((process, place))
                free.append(place)
                outcome = process.outcome()
                if may_go_on(outcome) and process.attempt <= retries:
                    waiting.insert(0, (process.job, process.attempt + 1, process.begun))
                else:
                    yield outcome
            time.sleep(_POLL)
    finally:
        for process, _ in running:
            process.ask_to_end()
        for process, _ in running:
            process.end()
        for each in workers:
            each.end()
