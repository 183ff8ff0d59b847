"""``python -m grafs_timm.warm``: many runs one after another, each forked from a process in which everything is imported.

Standard input brings one JSON line for each run, {"arguments": [...], "output": path}; standard output answers {"pid": ...}
when it has begun and {"code": ...} when it has ended, minus the signal where one ended it. Input that ends is the end of all.

A fork begins with the imported modules and none of what an earlier run set: its threads, seeds, warnings, compiled functions
and memory end with it. So a run is what it would be in a process started for it. The one thing that is kept are the images it
decoded, as bytes; of those a fork has its own copy as soon as it writes. Nothing here may compute with torch or ask for CUDA:
threads and devices don't survive a fork.
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
    """The last splits that runs decoded, by what determines them. A run writes down what it decodes, and is read afterwards."""

    def __init__(self) -> None:
        self._kept: dict[str, tuple[dict[str, Any], NDArray[np.uint8], NDArray[np.int64]]] = {}
        self._written: IO[bytes] | None = None

    def before(self) -> None:
        self._written = tempfile.TemporaryFile()  # noqa: SIM115  it is a run's and this process's

    def load(self, key: str | None, read: Callable[[], ImageSet]) -> ImageSet:
        """In a run: those of an earlier one, or what ``read`` returns. The settings' notices are said by the caller."""
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
        except OSError:  # a full disk: the next run decodes them again
            with contextlib.suppress(OSError):
                self._written.seek(begin)
                self._written.truncate()

    def after(self) -> None:
        """Take over what the run wrote; not a split in whose middle it was killed."""
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
    """What runs import at their beginning; returns what that printed, which each of them would have printed."""
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
    """Lines of standard input, which can also be looked at without waiting."""

    def __init__(self) -> None:
        self._heard = b""

    def next(self) -> dict[str, Any] | None:
        while b"\n" not in self._heard:
            if not (part := os.read(0, 4096)):
                return None
            self._heard += part
        line, _, self._heard = self._heard.partition(b"\n")
        request: dict[str, Any] = json.loads(line)
        return request

    def closed(self, seconds: float) -> bool:
        """Whether it closes within that time."""
        if not select.select([0], [], [], seconds)[0]:
            return False
        part = os.read(0, 4096)
        self._heard += part
        return not part


def _serve(answers: int) -> list[str] | None:
    """Fork a run for each request. In a run its arguments are returned, in this process None when no more come."""
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
