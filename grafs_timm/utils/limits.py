"""Limit how much is read from outside; each limit can be raised by an environment variable.

A few bytes from a server, in an archive or in an image's header can ask for any amount of memory. Exceeding a limit is a
DataError that names the limit. The limits are far above what real data need.
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
    """Hold one limit.

    Args:
        variable: Environment variable that changes it.
        unit: Name of its unit, such as "MB".
        default: The default, in units.
        scale: Bytes, pixels ... of a unit.
    """

    variable: str
    unit: str
    default: int | Callable[[], int]
    scale: int = 1

    @property
    def value(self) -> int:
        """Return the limit in bytes, pixels ... Raises DataError where the variable is not a number above 0."""
        return self._units() * self.scale

    def _units(self) -> int:
        told = os.environ.get(self.variable, "").strip()
        if not told:
            return self.example
        if not (told.isascii() and told.isdecimal() and 0 < len(told) < 16 and int(told)):
            raise DataError(f"{self.variable}={told}: expected a whole number of {self.unit} above 0, such as {self.example}")
        return int(told)

    @property
    def example(self) -> int:
        """Return the default, in units."""
        return self.default() if callable(self.default) else self.default

    @property
    def raised(self) -> bool:
        """Return whether the environment sets the limit."""
        return bool(os.environ.get(self.variable, "").strip())

    def check(self, amount: int, what: str) -> None:
        """Raise DataError, beginning with ``what``, if ``amount`` (bytes, pixels ...) exceeds the limit."""
        if amount > self.value:
            raise self.error(what, amount)

    def error(self, what: str, amount: int | None = None) -> DataError:
        """Make the error; ``amount`` is how much it would be, if known."""
        most = self._units()
        enough = max(2 * most, math.ceil((amount or 0) / self.scale))
        return DataError(
            f"{what}: more than the limit of {most} {self.unit}; if that is intended, raise the limit, such as "
            f"{self.variable}={enough}"
        )


@cache
def _half_of_memory() -> int:
    """Return half of the memory of the machine or container, in MB."""
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for file in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):
            found.append(int(Path(file).read_text(encoding="ascii")))
    return max(min(found) // 2 // _MB, 1)


INFO = Limit("GRAFS_TIMM_MAX_INFO_MB", "MB", 32, _MB)  # a JSON file; 100,000 shards with their sha256 take 17
FILE = Limit("GRAFS_TIMM_MAX_FILE_MB", "MB", 4096, _MB)  # a shard or text, both as fetched and unpacked
SAMPLE = Limit("GRAFS_TIMM_MAX_SAMPLE_MB", "MB", 256, _MB)  # the files of one sample, or one image file
SAMPLE_FILES = Limit("GRAFS_TIMM_MAX_SAMPLE_FILES", "files", 1000)
IMAGE = Limit("GRAFS_TIMM_MAX_IMAGE_MEGAPIXELS", "megapixels", 90, 10**6)  # about where Pillow warns
RESIDENT = Limit("GRAFS_TIMM_MAX_RESIDENT_MB", "MB", _half_of_memory, _MB)  # a resident split; a shuffle buffer
SAMPLES = Limit("GRAFS_TIMM_MAX_SAMPLES", "samples", 2**31 - 1)  # of a split
CLASSES = Limit("GRAFS_TIMM_MAX_CLASSES", "classes", 1_000_000)  # where only labels tell the number

HEADER = 1 << 16  # bytes of a long name in a tar; no file system allows so many
XZ_MEMORY = 1 << 29  # bytes that unpacking xz may use; `xz -9` needs 65 MiB


class Budget:
    """Count what is read piece by piece, possibly in several threads, against a limit."""

    def __init__(self, limit: Limit, what: str) -> None:
        self.limit, self.what, self._taken, self._lock = limit, what, 0, threading.Lock()

    def take(self, amount: int, where: str) -> None:
        """Count ``amount``. Raises DataError, beginning with ``where``, once the total exceeds the limit."""
        with self._lock:
            self._taken += amount
        if self._taken > self.limit.value:
            raise self.limit.error(f"{where}: {self.what}")


class Bounded(io.RawIOBase):
    """Wrap a stream; reading raises DataError, beginning with ``where``, once the total exceeds the limit."""

    def __init__(self, source: Any, limit: Limit, where: str) -> None:
        self._source, self._limit, self._where, self._left = source, limit, where, limit.value

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, target: Any) -> int:
        """Read into a buffer, as io.RawIOBase does."""
        data = self._source.read(min(len(target), self._left + 1))
        self._left -= len(data)
        if self._left < 0:
            raise self._limit.error(self._where)
        target[: len(data)] = data
        return len(data)
