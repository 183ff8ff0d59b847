"""One job: a ``grafs-timm`` process with a folder of its own; how it is started, ended and reported."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Literal

from ..errors import RunError
from .worker import Task, Worker

State = Literal["done", "skipped", "failed"]
_LINES, _WIDTH = 5, 2000  # of a failed job's last words
_TORCHRUN, _LONG = re.compile(r"[WE]\d{4} .*(?:closing signal|failed \(exitcode: (-?\d+))"), 20_000  # its account, characters
_GRACE = 5.0  # seconds between asking a job to end and ending it
ENDS_WITH_STDIN = "GRAFS_TIMM_ENDS_WITH_STDIN"


@dataclass(frozen=True)
class Job:
    """One run of ``grafs-timm``.

    Args:
        name: For messages.
        arguments: Of the command, with --resume.
        folder: The run folder that they name.
        cost: Relative to the other jobs; the longest begin first.
        processes: How many train together, started by torchrun.
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
        """Return the file for what it prints: beside the folder, as a run begins in an empty one."""
        return self.folder.with_name(f"{self.folder.name}.txt")

    @property
    def command(self) -> list[str]:
        together = ["torch.distributed.run", "--standalone", "--nproc_per_node", str(self.processes), "-m"]
        return [sys.executable, "-m", *(together if self.processes > 1 else []), "grafs_timm", *self.arguments]


@dataclass(frozen=True)
class Outcome:
    """How a job ended. ``message``: the end of a failed job's output; ``where``: the device or node it ran on."""

    job: Job
    state: State
    message: str = ""
    seconds: float = 0.0
    where: str = ""


@dataclass
class Process:
    """The process of a job, in a session of its own and with a pipe as standard input; it ends when that closes.

    The launcher holds the other end, so that a launcher that dies leaves no process behind.
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
        """Wait briefly, then kill it."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._popen.wait(_GRACE)
        self.ask_to_end(signal.SIGKILL)
        self._popen.wait()
        self._let_go()

    def _let_go(self) -> None:
        """Close its standard input: what torchrun started runs in sessions of its own, and ends with that."""
        if self._popen.stdin:
            self._popen.stdin.close()

    def outcome(self) -> Outcome:
        """Return the outcome of an ended process."""
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
    """Return whether another attempt may end otherwise: not where the job itself reported an error."""
    return outcome.state == "failed" and not outcome.message.startswith(("error: ", "Error: "))


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
