"""Many runs at once: each a ``grafs-timm`` process with a folder of its own, on this machine or on a Ray cluster.

A job is done when its folder has a summary.json. Done ones are passed over, half-done ones go on, one that fails is reported
and stops no other. So a launcher may be stopped or killed whenever: started again it does what is left.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO, Literal

from tqdm import tqdm

from ..errors import RunError
from .worker import Task, Worker

State = Literal["done", "skipped", "failed"]
_LINES, _WIDTH = 5, 2000  # of a failed job's last words
_TORCHRUN, _LONG = re.compile(r"[WE]\d{4} .*(?:closing signal|failed \(exitcode: (-?\d+))"), 20_000  # its account, characters
_GRACE = 5.0  # seconds between asking a job to end and ending it
_POLL = 0.05  # seconds
ENDS_WITH_STDIN = "GRAFS_TIMM_ENDS_WITH_STDIN"


@dataclass(frozen=True)
class Job:
    """One run: the ``arguments`` of ``grafs-timm``, --resume among them, and the ``folder`` they name.

    ``cost`` is what it takes relative to the others; the longest begin first. ``processes`` train together, by torchrun.
    """

    name: str
    arguments: tuple[str, ...]
    folder: Path
    cost: float = 1.0
    processes: int = 1

    @property
    def done(self) -> bool:
        return (self.folder / "summary.json").exists()

    @property
    def output(self) -> Path:
        """What it printed; beside the folder, as a run begins in an empty one."""
        return self.folder.with_name(f"{self.folder.name}.txt")

    @property
    def command(self) -> list[str]:
        together = ["torch.distributed.run", "--standalone", "--nproc_per_node", str(self.processes), "-m"]
        return [sys.executable, "-m", *(together if self.processes > 1 else []), "grafs_timm", *self.arguments]


@dataclass(frozen=True)
class Outcome:
    """How a job ended: ``message`` is the end of what a failed one printed, ``where`` the device or the node it ran on."""

    job: Job
    state: State
    message: str = ""
    seconds: float = 0.0
    where: str = ""


def run_jobs(
    jobs: Sequence[Job], *, launcher: Literal["local", "ray"] = "local", workers: int | None = None,
    devices: Sequence[str] = ("cpu",), address: str | None = None, gpus_per_job: float | None = None,
    cpus_per_job: float | None = None, retries: int = 1, on_outcome: Callable[[Outcome], None] | None = None,
    quiet: bool = False, warm: bool = False,
) -> list[Outcome]:  # fmt: skip
    """Run what of ``jobs`` isn't done; returns their outcomes in the order of ``jobs``.

    Locally ``workers`` (default 1) run on each of ``devices`` (cpu, cuda:0, ...); a CUDA job sees only its own, as cuda:0. Jobs
    of several processes, the same number for all, have as many GPUs each; those left over are not used.
    On Ray each is a task that asks for ``cpus_per_job`` and ``gpus_per_job``, which may be a fraction (default one of each for
    every process, no GPU where the cluster has none or ``devices`` is ("cpu",)). The nodes must have the jobs' folders and the
    working directory in common with this machine. ``address`` as Ray takes it, default the cluster this machine is part of.
    ``retries``: how often a job goes on that a crash, a kill or the loss of its node ended; what the job itself called an error
    isn't tried again.

    ``warm``: locally, jobs of one process each are forked from a process of their place in which everything is imported and
    that keeps the images they decoded (`grafs_timm.warm`): the same results, several seconds sooner each.

    ``on_outcome`` is called as each ends. Ctrl-C and SIGTERM end the jobs and then this; its death ends them too. RunError
    where two jobs have one folder, one needs more GPUs than there are, Ray isn't there or can't be reached, or has no node for
    such a job.
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
    if launcher == "ray":
        from .ray_launch import on_ray

        ended = on_ray(left, address, gpus_per_job, cpus_per_job, retries, devices)
    else:
        ended = _locally(left, _places(groups(devices, left[0].processes), workers or 1), retries, warm)
    with (
        _stoppable(),
        contextlib.closing(ended),
        tqdm(total=len(jobs), initial=len(outcomes), disable=quiet or None, unit="job") as bar,
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
    """``cpu``, ``cuda`` (every GPU of this machine), ``cuda:0,cuda:2``, or ``auto``. RunError for what isn't there."""
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
    """The device of each process of the jobs that run on ``devices`` at once. RunError where not one job has enough of them."""
    if devices[0] == "cpu":
        return [("cpu",) * processes]
    whole = [tuple(devices[at : at + processes]) for at in range(0, len(devices) - processes + 1, processes)]
    if not whole:
        raise RunError(f"a job of {processes} processes needs {processes} GPUs, here are {len(devices)}: {', '.join(devices)}")
    return whole


@contextlib.contextmanager
def _stoppable() -> Iterator[None]:
    """SIGTERM ends the block as Ctrl-C does, its ``finally`` clauses run; only where this thread may say so."""
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


# --------------------------------------------------------------------------------------------------- one process


@dataclass
class Process:
    """A job's process, in a session of its own and with a pipe for standard input: when that closes, the process ends.

    Whoever starts it holds the other end, so a launcher that dies, however, leaves none behind.
    """

    job: Job
    where: str
    environment: Mapping[str, str] = field(default_factory=dict)
    attempt: int = 1
    begun: float = field(default_factory=time.monotonic)
    worker: Worker | None = None  # which forks it

    def __post_init__(self) -> None:
        try:
            self.job.output.parent.mkdir(parents=True, exist_ok=True)
            with open(self.job.output, "ab") as output:
                self._from = output.tell()
                self._popen = self._started(output)
        except OSError as error:
            raise RunError(f"{self.job.name} cannot be started: {error}") from error

    def _started(self, output: BinaryIO) -> subprocess.Popen[bytes] | Task:
        if self.worker:
            return self.worker.start(self.job.arguments, self.job.output)
        return subprocess.Popen(
            self.job.command, stdin=subprocess.PIPE, stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
            env={**os.environ, **self.environment, ENDS_WITH_STDIN: "1"},
        )  # fmt: skip

    @property
    def ended(self) -> bool:
        return self._popen.poll() is not None

    def ask_to_end(self, number: int = signal.SIGTERM) -> None:
        if not self.ended:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._popen.pid, number)

    def end(self) -> None:
        """Wait a little, then don't ask any more."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._popen.wait(_GRACE)
        self.ask_to_end(signal.SIGKILL)
        self._popen.wait()
        self._let_go()

    def _let_go(self) -> None:
        """Of standard input: what torchrun started is in sessions of its own, and ends now at the latest."""
        if self._popen.stdin:
            self._popen.stdin.close()

    def outcome(self) -> Outcome:
        """Of an ended process."""
        self._let_go()
        seconds, code = time.monotonic() - self.begun, self._popen.wait()
        if self.job.done:  # what came after the result, such as an error of W&B's at exit, doesn't matter
            return Outcome(self.job, "done", "", seconds, self.where)
        return Outcome(self.job, "failed", self._last_words(code), seconds, self.where)

    def _last_words(self, code: int) -> str:
        with open(self.job.output, "rb") as output:
            width = _WIDTH if self.job.processes == 1 else _LONG
            output.seek(max(self._from, os.path.getsize(self.job.output) - width))
            lines = output.read().decode(errors="replace").strip().splitlines()
        account = [(number, found[1]) for number, line in enumerate(lines) if (found := _TORCHRUN.match(line))]
        lines = lines[: account[0][0]] if account else lines
        code = next((int(exit_code) for _, exit_code in account if exit_code), code)
        said = next((number for number, line in enumerate(lines) if line.lower().startswith("error: ")), None)
        text = "\n".join(lines[-_LINES:] if said is None else lines[said : said + _LINES])[:_WIDTH]
        if code < 0:
            ended = f"ended by signal {-code} ({signal.Signals(-code).name})"
            hint = ": perhaps the machine is out of memory; fewer --workers need less" if code == -signal.SIGKILL else ""
            return "\n".join(filter(None, (text, ended + hint)))
        return text or f"ended with exit code {code}, and printed nothing"


def may_go_on(outcome: Outcome) -> bool:
    """Whether another attempt could end otherwise: not where the job itself said what is wrong."""
    return outcome.state == "failed" and not outcome.message.startswith(("error: ", "Error: "))


# --------------------------------------------------------------------------------------------------- this machine


@dataclass(frozen=True)
class _Place:
    """One device, or one for each process, and the environment of the job that has them."""

    name: str
    environment: Mapping[str, str]
    worker: Worker | None = None


def _places(groups: Sequence[tuple[str, ...]], workers: int) -> list[_Place]:
    """One for each job that may run at the same time."""
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


def _locally(
    jobs: Sequence[Job], places: Sequence[_Place], retries: int, warm: bool = False
) -> Generator[Outcome, None, None]:  # fmt: skip
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


def end_with_stdin() -> None:
    """In a job's process: end at once when the launcher's end of standard input closes."""
    if os.environ.pop(ENDS_WITH_STDIN, "") != "1":
        return

    def watch() -> None:
        with contextlib.suppress(OSError):
            while os.read(0, 1024):
                pass
        if os.getpgid(0) == os.getpid():
            os.killpg(os.getpid(), signal.SIGKILL)  # with the processes that load its images
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
