"""``python -m grafs_timm.cli.warm``: fork runs, one after another, from a process that has imported everything.

Standard input has one JSON line for each run, {"arguments": [...], "output": path}. Standard output answers {"pid": ...} at its
start and {"code": ...} at its end, minus the signal number if a signal ended it. The process ends when its input ends.

A fork starts with the imported modules and no state of an earlier run: threads, seeds, warnings, compiled functions and memory
end with the run. So a run gives the same result as in a process of its own. Only decoded images are kept, as bytes, which a
fork copies on write. Nothing here may compute with torch or use CUDA: threads and devices do not survive a fork.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import sys
import tempfile
from collections.abc import Callable
from typing import IO, Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..data import images as data
from ..data.images import ImageSet
from ..jobs.job import ENDS_WITH_STDIN

_POLL = 0.02  # seconds
_SPLITS = 4  # kept at once: training and test images of two data sets
_LARGEST = 1 << 30  # bytes of a split that is kept


class Images:
    """The last splits that runs decoded, by a key of all that they depend on.

    A run writes the splits that it decodes to a file, which this process reads after the run.
    """

    def __init__(self) -> None:
        self._kept: dict[str, tuple[dict[str, Any], NDArray[np.uint8], NDArray[np.int64]]] = {}
        self._written: IO[bytes] | None = None

    def before(self) -> None:
        """Open the file for the next run."""
        self._written = tempfile.TemporaryFile()  # noqa: SIM115  it is a run's and this process's

    def load(self, key: str | None, read: Callable[[], ImageSet]) -> ImageSet:
        """Return, in a run, the split of an earlier run with the same key, or the result of ``read``."""
        if key in self._kept:
            about, images, labels = self._kept[key]
            return ImageSet(
                torch.from_numpy(images), torch.from_numpy(labels), tuple(about["classes"]), tuple(about["notices"])
            )
        found = read()
        if key is not None and found.images.numel() <= _LARGEST:
            self._write(key, found)
        return found

    def _write(self, key: str, found: ImageSet) -> None:
        assert self._written
        begin = self._written.tell()
        about = json.dumps({"key": key, "classes": found.classes, "notices": found.notices})
        try:
            for part in (np.array(about), found.images.numpy(), found.labels.numpy()):
                np.save(self._written, part, allow_pickle=False)
            self._written.flush()
        except OSError:  # full disk: the next run decodes them again
            with contextlib.suppress(OSError):
                self._written.seek(begin)
                self._written.truncate()

    def after(self) -> None:
        """Read what the run wrote, except a split that it was writing when it was killed."""
        assert self._written
        with self._written as file, contextlib.suppress(ValueError, EOFError):
            file.seek(0)
            while file.peek(1):  # type: ignore[attr-defined]
                about, images, labels = (np.load(file, allow_pickle=False) for _ in range(3))
                found = json.loads(str(about))
                self._kept[found["key"]] = (found, images, labels)
        while len(self._kept) > _SPLITS:
            del self._kept[next(iter(self._kept))]


def _import_all() -> bytes:
    """Import what runs import, and return what that printed, which each run prints again."""
    with tempfile.TemporaryFile() as said:
        real = os.dup(2)
        os.dup2(said.fileno(), 2)
        try:
            if not torch.backends.cuda.is_built():  # there its import may ask for devices
                from torch._inductor import codecache  # noqa: F401  for the compiled loops of found functions

            from ..models import small_models, weights  # noqa: F401
            from ..runs import run_search, run_training  # noqa: F401
            from . import main  # noqa: F401
        finally:
            sys.stderr.flush()
            os.dup2(real, 2)
            os.close(real)
        said.seek(0)
        return said.read()


class _Requests:
    """Lines of standard input, with a check for its end."""

    def __init__(self) -> None:
        self._heard = b""

    def next(self) -> dict[str, Any] | None:
        """Wait for the next line; None at the end of the input."""
        while b"\n" not in self._heard:
            if not (part := os.read(0, 4096)):
                return None
            self._heard += part
        line, _, self._heard = self._heard.partition(b"\n")
        request: dict[str, Any] = json.loads(line)
        return request

    def closed(self, seconds: float) -> bool:
        """Return whether the input ends within that time."""
        if not select.select([0], [], [], seconds)[0]:
            return False
        part = os.read(0, 4096)
        self._heard += part
        return not part


def _serve(answers: int) -> list[str] | None:
    """Fork a run for each request. Returns in a run its arguments, in this process None at the end."""
    said, images, requests = _import_all(), Images(), _Requests()
    while request := requests.next():
        images.before()
        inside, held = os.pipe()  # the run ends when this process does, as it ends when the launcher does
        pid = os.fork()
        if pid == 0:
            os.setpgid(0, 0)
            os.close(held)
            os.close(answers)
            _redirect(inside, request["output"], said)
            os.environ[ENDS_WITH_STDIN] = "1"
            data.keeper = images.load
            return list(request["arguments"])
        with contextlib.suppress(OSError):  # it has done so, or has ended
            os.setpgid(pid, pid)
        os.close(inside)
        _answer(answers, pid=pid)
        while (ended := os.waitpid(pid, os.WNOHANG))[0] == 0:
            if requests.closed(_POLL):
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(pid, signal.SIGKILL)
                return None
        os.close(held)
        images.after()
        _answer(answers, code=os.waitstatus_to_exitcode(ended[1]))
    return None


def _redirect(inside: int, output: str, said: bytes) -> None:
    printed = os.open(output, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    for number, target in enumerate((inside, printed, printed)):
        os.dup2(target, number)
    os.close(inside)
    os.close(printed)
    os.write(2, said)


def _answer(answers: int, **values: int) -> None:
    os.write(answers, json.dumps(values).encode() + b"\n")


def _main() -> None:
    answers = os.dup(1)
    os.dup2(2, 1)
    arguments = _serve(answers)
    if arguments is None:
        return
    from .main import main

    sys.argv[1:] = arguments
    main(arguments, prog_name="grafs-timm")  # its exit, or its error with the traceback, is this process's


if __name__ == "__main__":
    _main()
