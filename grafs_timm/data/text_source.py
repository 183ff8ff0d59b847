"""Read text files (.txt, .txt.gz) or shards of ``KEY.txt`` as UTF-8 bytes to train on, to choose by and to report.

The parts never overlap; what is held out is the tail.
"""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import DataError, UnknownNameError
from ..utils import limits, remote
from ..utils.suggest import nearest
from . import datasets, info, shards

SUFFIXES = (".txt", ".txt.gz")
VALIDATION = "validation"


@dataclass(frozen=True)
class Parts:
    """UTF-8 text to train on, to choose by, and to report; ``name`` is what messages call it."""

    name: str
    train: bytes
    validation: bytes
    test: bytes


def is_text(name: str | Path) -> bool:
    """Return whether a name is that of a text file, or of several joined by ``::``.

    >>> is_text("a.txt::b.txt.gz"), is_text("tinystories")
    (True, False)
    """
    return all(part.lower().endswith(SUFFIXES) for part in remote.listed(str(name)))


def read_parts(
    name: str | Path | Sequence[str | Path], held_out: float, train_split: str = "train", test_split: str = "test"
) -> Parts:
    """Read text files in order, or the shards of a data set, and hold out a tail.

    The first half of the tail is for validation, the second for testing; cuts fall between characters. Shards keep splits of
    their own: only those they lack are cut off the training split.

    Args:
        name: One or several text files, also joined by ``::``, or a data set as for `datasets.open_dataset`.
        held_out: A fraction of the last file's bytes below 1, or a number of bytes from 1 on.
        train_split: The split of a data set to train on.
        test_split: The split of a data set to report.

    Raises:
        UnknownNameError: There is no such file or data set; the message names the nearest.
        DataError: A text cannot be read, is empty or not UTF-8 (with the byte's offset), or nothing is left to train on. The
            message names file, shard and sample.
    """
    text = "::".join(map(str, name)) if isinstance(name, (list, tuple)) else str(name)
    if is_text(text):
        contents = [(part, read_file(find_file(part))) for part in remote.listed(text)]
        *before, (last, content) = contents
        keep, held = _cut(content, held_out, last)
        train = b"".join([*(each for _, each in before), keep])
        return Parts(text, train, *_cut(held, 0.5, f"what is held out of {last}"))
    return _of_shards(datasets.open_dataset(text), held_out, train_split, test_split)


def _of_shards(info: info.DatasetInfo, held_out: float, train_split: str, test_split: str) -> Parts:
    train = read_split(info, train_split)
    if train_split == test_split:
        raise DataError(f"{info.name}: train_split and test_split are both {train_split!r}; text must not be tested on itself")
    where = f"split {train_split} of {info.name}"
    if test_split not in info.splits:
        if test_split != "test":
            info.split(test_split)  # raises: it is not there
        train, held = _cut(train, held_out, where)
        return Parts(info.name, train, *_cut(held, 0.5, f"what is held out of {where}"))
    test = read_split(info, test_split)
    if VALIDATION in info.splits and VALIDATION not in (train_split, test_split):
        return Parts(info.name, train, read_split(info, VALIDATION), test)
    train, validation = _cut(train, held_out, where)
    return Parts(info.name, train, validation, test)


def read_split(info: info.DatasetInfo, split: str) -> bytes:
    """Return a split's samples joined in order; errors as `read_parts`, and for a shard's checksum and count."""
    spec, found = info.split(split), list[bytes]()
    budget = limits.Budget(limits.RESIDENT, f"split {split} of {info.name} is too large to load whole")
    for filename, length in zip(spec.filenames, spec.shard_lengths, strict=True):
        location = info.location(filename)
        for sample in shards.verified_samples(location, length, spec.sha256.get(filename)):
            found.append(text_of(sample.files, sample.where))
            budget.take(len(found[-1]), sample.where)
    return b"".join(found)


def text_of(sample: dict[str, bytes], where: str) -> bytes:
    """Return a sample's text. DataError if it has none, or it is not UTF-8."""
    if "txt" not in sample:
        raise DataError(f"{where}: no text (txt), only {', '.join(sample)}")
    _check_utf8(sample["txt"], where)
    return sample["txt"]


def read_file(location: str | Path) -> bytes:
    """Read a text file or URL, unpacked if it is gzip; errors as `read_parts`."""
    content = remote.read(location, limits.FILE)
    if content[:2] == b"\x1f\x8b":
        try:
            packed = gzip.GzipFile(fileobj=io.BytesIO(content))
            content = io.BufferedReader(limits.Bounded(packed, limits.FILE, f"{location}: unpacked")).read()
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"{location}: truncated or corrupt gzip: {error}") from error
    if not content:
        raise DataError(f"{location}: the file is empty")
    _check_utf8(content, str(location))
    return content


def _check_utf8(content: bytes, where: str) -> None:
    try:
        content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{where}: not UTF-8: byte 0x{content[error.start]:02x} at offset {error.start} (line {line}): {error.reason}; "
            "convert it, for example with iconv -f latin1 -t utf-8"
        ) from None


def find_file(text: str) -> Path | str:
    """Find a text file at that path, in $GRAFS_TIMM_DATA or in ./data; a URL is returned as it is. UnknownNameError if none."""
    if remote.is_url(text):
        return text
    path = Path(text).expanduser()
    candidates = [path] if path.is_absolute() else [path, *(place / path for place in datasets.places())]
    if found := next((each for each in candidates if each.is_file()), None):
        return found
    there = [file.name for each in candidates for file in sorted(each.parent.glob("*.txt*")) if is_text(file.name)]
    told = path.is_absolute() or datasets.is_told()
    unset = "" if told else f"; {datasets.VARIABLE}, which is not set, names the folder of your data"
    looked_for = ", ".join(map(str, candidates))
    raise UnknownNameError(f"no text file {text!r}{nearest(path.name, dict.fromkeys(there))}; looked for {looked_for}{unset}")


def _cut(content: bytes, held_out: float, where: str) -> tuple[bytes, bytes]:
    """Return what stays and the tail, cut between two characters."""
    size = round(held_out * len(content)) if held_out < 1 else int(held_out)
    at = len(content) - size
    while 0 < at < len(content) and content[at] & 0xC0 == 0x80:  # within a character
        at -= 1
    if held_out <= 0 or not 0 < at < len(content):
        amount = f"{held_out:.12g}" if held_out < 1 else f"{size} bytes"
        what = f"{len(content)} bytes of which {amount} are held out leave one part empty"
        raise DataError(f"{where}: {what}; see data.text.held_out")
    return content[:at], content[at:]
