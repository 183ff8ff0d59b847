"""Write samples into shards, tars that hold no time and no user, so that the same samples give the same bytes."""

from __future__ import annotations

import contextlib
import io
import os
import tarfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from ..errors import DataError
from .shards import checksum


def even(count: int, most: int) -> int:
    """Return the samples per shard, at most ``most``, that make the fewest shards of nearly equal length."""
    return -(-count // -(-count // most))


@dataclass
class Shards:
    """Write samples into tars of ``length`` each, named ``stem``-000000.tar and so on; leaving the context closes the last."""

    folder: Path
    stem: str
    length: int
    counts: list[int] = field(default_factory=list)
    total: int = 0
    labels: dict[int, int] = field(default_factory=dict)
    sha256: dict[str, str] = field(default_factory=dict)
    _tar: tarfile.TarFile | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._tar is not None:  # an error is under way, and what closing says of the same full disk would hide it
            with contextlib.suppress(OSError):
                self._tar.fileobj.close()
            self._tar = None

    def add(self, label: int | None, extension: str, content: bytes) -> None:
        """Add a sample, with or without a label."""
        if self._tar is None:
            self._tar = tarfile.open(self._path, "w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115
            self.counts.append(0)
        key = f"{self.total:08d}"
        files = [(extension, content)] if label is None else [(extension, content), ("cls", str(label).encode())]
        for end, data in files:
            member = tarfile.TarInfo(f"{key}.{end}")  # time, user and group are 0, mode 0644
            member.size = len(data)
            self._tar.addfile(member, io.BytesIO(data))
        self.total += 1
        self.counts[-1] += 1
        if label is not None:
            self.labels[label] = self.labels.get(label, 0) + 1
        if self.counts[-1] == self.length:
            self._finish()

    @property
    def _path(self) -> Path:
        return self.folder / f"{self.stem}-{len(self.sha256):06d}.tar"

    def _finish(self) -> None:
        if self._tar is None:
            return
        self._tar.close()
        self._tar = None
        with self._path.open("rb") as file:
            os.fsync(file.fileno())
            digest = checksum(file)
        self.sha256[self._path.name] = digest

    def close(self, split: str, classes: int | None = None) -> dict[str, Any]:
        """Finish the last tar and return the split's part of `_info.json`; ``classes`` is None for text."""
        self._finish()
        if not self.counts:
            raise DataError(f"{self.stem}: no image could be read")
        counts = {} if classes is None else {"class_counts": [self.labels.get(label, 0) for label in range(classes)]}
        return {
            "name": split,
            "num_samples": self.total,
            "filenames": list(self.sha256),
            "shard_lengths": self.counts,
            "alt_label": "",
            **counts,
            "sha256": self.sha256,
        }
