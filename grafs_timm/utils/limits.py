"""How much is taken of what comes from outside: every limit, and the environment variable that raises it, in one place.

A few bytes from a server, in an archive or in an image's header can ask for any amount of memory. What goes past a limit is a
DataError that says which limit it was. The limits are far above what real data need.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ..errors import DataError

_MB = 1 << 20


@dataclass(frozen=True)
class Limit:
    """``usual`` units of ``scale`` (bytes, pixels ...) each, or what the environment's ``variable`` says."""

    variable: str
    unit: str
    usual: int | Callable[[], int]
    scale: int = 1

    @property
    def value(self) -> int:
        """In single bytes, pixels ... DataError where the variable holds no number above 0."""
        return self._units() * self.scale

    def _units(self) -> int:
        told = os.environ.get(self.variable, "").strip()
        if not told:
            return self.usual() if callable(self.usual) else self.usual
        if not (told.isascii() and told.isdecimal() and 0 < len(told) < 16 and int(told)):
            raise DataError(f"{self.variable}={told}: expected a whole number of {self.unit} above 0, such as {self.example}")
        return int(told)

    @property
    def example(self) -> int:
        return self.usual() if callable(self.usual) else self.usual

    @property
    def raised(self) -> bool:
        """Whether the environment says how much."""
        return bool(os.environ.get(self.variable, "").strip())

    def check(self, amount: int, what: str) -> None:
        """DataError where ``amount`` (of single bytes, pixels ...) is past the limit; ``what`` says whose and where."""
        if amount > self.value:
            raise self.error(what, amount)

    def error(self, what: str, amount: int | None = None) -> DataError:
        """What to raise; ``amount`` where it is known how much it would be."""
        most = self._units()
        enough = max(2 * most, math.ceil((amount or 0) / self.scale))
        return DataError(
            f"{what}: more than the {most} {self.unit} that are taken from outside; if it is right so, raise the limit, such "
            f"as {self.variable}={enough}"
        )


@cache
def _half_of_memory() -> int:
    """MB, of the machine's memory or of the container's."""
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for file in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):
            found.append(int(Path(file).read_text(encoding="ascii")))
    return max(min(found) // 2 // _MB, 1)


INFO = Limit("GRAFS_TIMM_MAX_INFO_MB", "MB", 32, _MB)  # a JSON file; 100,000 shards with their sha256 take 17
FILE = Limit("GRAFS_TIMM_MAX_FILE_MB", "MB", 4096, _MB)  # a shard or text, as it is fetched and as it is unpacked
SAMPLE = Limit("GRAFS_TIMM_MAX_SAMPLE_MB", "MB", 256, _MB)  # the files of one sample, or one image file
SAMPLE_FILES = Limit("GRAFS_TIMM_MAX_SAMPLE_FILES", "files", 1000)
IMAGE = Limit("GRAFS_TIMM_MAX_IMAGE_MEGAPIXELS", "megapixels", 90, 10**6)  # about where Pillow begins to warn
RESIDENT = Limit("GRAFS_TIMM_MAX_RESIDENT_MB", "MB", _half_of_memory, _MB)  # a split that is loaded whole; a shuffle buffer
SAMPLES = Limit("GRAFS_TIMM_MAX_SAMPLES", "samples", 2**31 - 1)  # of a split
CLASSES = Limit("GRAFS_TIMM_MAX_CLASSES", "classes", 1_000_000)  # where labels alone tell how many there are

HEADER = 1 << 16  # bytes of a long name within a tar; no file system takes one as long
XZ_MEMORY = 1 << 29  # bytes that unpacking xz may ask for; `xz -9` asks for 65 MiB


class Budget:
    """What of a limit is left, for what is read piece by piece, in several threads too."""

    def __init__(self, limit: Limit, what: str) -> None:
        self.limit, self.what, self._taken, self._lock = limit, what, 0, threading.Lock()

    def take(self, amount: int, where: str) -> None:
        """DataError beginning with ``where`` once more than the limit was taken in all."""
        with self._lock:
            self._taken += amount
        if self._taken > self.limit.value:
            raise self.limit.error(f"{where}: {self.what}")


class Bounded(io.RawIOBase):
    """A stream read through, with a DataError beginning with ``where`` once more than the limit has come."""

    def __init__(self, source: Any, limit: Limit, where: str) -> None:
        self._source, self._limit, self._where, self._left = source, limit, where, limit.value

    def readable(self) -> bool:
        return True

    def readinto(self, target: Any) -> int:
        data = self._source.read(min(len(target), self._left + 1))
        self._left -= len(data)
        if self._left < 0:
            raise self._limit.error(self._where)
        target[: len(data)] = data
        return len(data)
