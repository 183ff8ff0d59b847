"""Keep a warm process for one place, from the launcher's side, and fork jobs from it; see `cli.warm`."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

_POLL = 0.02  # seconds


class Worker:
    """A warm process in a session of its own, started when the first job needs it and restarted when it died.

    It ends when its standard input closes, and so does its job: a launcher that dies leaves neither behind.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment
        self._popen: subprocess.Popen[bytes] | None = None

    def start(self, arguments: Sequence[str], output: Path) -> Task:
        """Run ``grafs-timm ARGUMENTS``, appending what it prints to ``output``. OSError where that can't be."""
        request = json.dumps({"arguments": list(arguments), "output": str(output)}).encode() + b"\n"
        if self._popen and self._popen.poll() is None:
            with contextlib.suppress(BrokenPipeError):
                return Task(self._popen, request)
        self.end()
        with open(output, "ab") as said:  # why it could not start, if so
            self._popen = subprocess.Popen(
                [sys.executable, "-m", "grafs_timm.cli.warm"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said,
                start_new_session=True, env={**os.environ, **self._environment},
            )  # fmt: skip
        return Task(self._popen, request)

    def end(self) -> None:
        """End it at once, with the job that runs."""
        if self._popen:
            assert self._popen.stdin
            assert self._popen.stdout
            with contextlib.suppress(BrokenPipeError):
                self._popen.stdin.close()
            if self._popen.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self._popen.pid, signal.SIGKILL)
            self._popen.wait()
            self._popen.stdout.close()
            self._popen = None


class Task:
    """One job of a warm process, with the ``pid``, ``poll`` and ``wait`` of `subprocess.Popen`."""

    stdin: IO[bytes] | None = None  # the warm process holds it

    def __init__(self, worker: subprocess.Popen[bytes], request: bytes) -> None:
        assert worker.stdin
        assert worker.stdout
        self._worker, self._heard, self._answers = worker, b"", worker.stdout.fileno()
        os.set_blocking(self._answers, False)
        self._pid: int | None = None
        self._code: int | None = None
        worker.stdin.write(request)
        worker.stdin.flush()

    @property
    def pid(self) -> int:
        """Return the pid of the job, which leads a process group; that of the warm process until the job begins."""
        self.poll()
        return self._worker.pid if self._pid is None else self._pid

    def poll(self) -> int | None:
        """Return the exit code, or minus the signal, None while it runs; the warm process's where that died."""
        while self._code is None:
            try:
                part = os.read(self._answers, 4096)
            except BlockingIOError:
                return None
            self._heard += part
            if not part:
                if self._pid is not None:  # it is about to end by itself, and another attempt must not meet it
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(self._pid, signal.SIGKILL)
                self._code = self._worker.wait()
            *lines, self._heard = self._heard.split(b"\n")
            for line in lines:
                answer = json.loads(line)
                self._pid, self._code = answer.get("pid", self._pid), answer.get("code", self._code)
        return self._code

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit code; `subprocess.TimeoutExpired` where it still runs after ``timeout`` seconds."""
        until = None if timeout is None else time.monotonic() + timeout
        while (code := self.poll()) is None:
            if until is not None and time.monotonic() > until:
                raise subprocess.TimeoutExpired("grafs_timm.cli.warm", timeout or 0.0)
            time.sleep(_POLL)
        return code
