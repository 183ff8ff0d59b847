"""Read tars of samples, undecoded: `samples` of an open file, `read_samples` of a shard wherever it lies, as its bytes come.

Headers are read here and not by ``tarfile``: with small images that alone costs as much as decoding them. URLs go through
webdataset's own openers (``gopen``), except ``pipe:``, which would run a command that stands in a data set's file.
"""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import itertools
import lzma
import re
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

from ..errors import DataError, shortened
from ..utils import limits
from .samples import extension_of, label_of

_ATTEMPTS = 3  # readings of a remote shard before it counts as damaged
_PAUSE = 0.5  # seconds before the second; longer before the next
_BUFFER = 1 << 20
_BLOCK = 512
_SAMPLE_FILE = re.compile(r"((?:.*/|)[^.]+)[.]([^/]*)$")  # key, extension: webdataset's base_plus_ext
_META = re.compile(r"__[^/]*__($|/)")  # webdataset's metadata within a shard


class RawSample(NamedTuple):
    """The files of one sample by their extension, in lower case."""

    shard: str
    key: str
    files: dict[str, bytes]

    @property
    def where(self) -> str:
        """Shard and sample, as messages begin."""
        return f"{self.shard}: sample {self.key!r}"


class Sample(NamedTuple):
    """One labelled image as its file's bytes."""

    shard: str
    key: str
    extension: str
    image: bytes
    label: int

    @property
    def where(self) -> str:
        """Shard and sample, as messages begin."""
        return f"{self.shard}: sample {self.key!r}"


class BrokenShard(DataError):
    """The rest of a shard cannot be read; over the network another attempt may."""


def read_samples(location: str, length: int, classes: int | None) -> Iterator[Sample | DataError]:
    """Stream the labelled images of a shard, undecoded.

    For a damaged sample its DataError is yielded, not raised. After a dropped connection reading is tried again twice.

    Args:
        location: A path or a URL.
        length: How many samples `_info.json` promises.
        classes: Labels must be below this; None where it is not known.

    Raises:
        DataError: The shard cannot be read or holds another number of samples. Raised before the last sample is yielded.
    """
    done, attempts = 0, _ATTEMPTS if "://" in location else 1
    for attempt in range(1, attempts + 1):
        try:
            with _opened(location) as stream:
                for raw in itertools.islice(counted(samples(stream, location), location, length), done, None):
                    yield _labelled(raw, classes)
                    done += 1
            return
        except BrokenShard:
            if attempt == attempts:
                raise
            time.sleep(_PAUSE * attempt)


def _labelled(raw: RawSample, classes: int | None) -> Sample | DataError:
    try:
        extension, label = extension_of(raw.files, raw.where), label_of(raw.files, raw.where, classes)
    except DataError as error:
        return error
    return Sample(raw.shard, raw.key, extension, raw.files[extension], label)


def counted(found: Iterator[RawSample], location: str, length: int) -> Iterator[RawSample]:
    """Yield the ``length`` samples of a shard, the last one only after checking that nothing follows it.

    Raises:
        DataError: There are more or fewer.
    """
    count, last = 0, None
    for count, last in enumerate(found, 1):
        if count > length:
            raise DataError(f"{last.where}: more samples than the {length} of _info.json's shard_lengths")
        if count < length:
            yield last
    if last is None or count < length:
        raise BrokenShard(f"{location}: {count} samples, _info.json's shard_lengths say {length}: truncated?")
    yield last


# ------------------------------------------------------------------------------------------------------- opening


# exit statuses of curl, which webdataset runs
_CURL = {
    6: "the host is unknown",
    7: "nothing answers there",
    18: "the connection broke off",
    22: "the server has no such file, or refuses it",
    28: "nothing came for too long",
    56: "the connection broke off",
}


class _TransferError(OSError):
    """A transfer by another process failed."""


class _Raw(limits.Bounded):
    """A raw stream over what webdataset opened, for a buffered reader."""

    def __init__(self, source: Any, location: str) -> None:
        super().__init__(source, limits.FILE, location)
        self.source = source

    def readinto(self, target: Any) -> int:
        try:
            count = super().readinto(target)
            if not count and hasattr(self.source, "wait_for_child"):
                self.source.wait_for_child()  # the end counts only if the process that reads ended well
        except OSError as error:
            status = getattr(self.source, "status", None)
            raise _TransferError(_CURL.get(status or 0, f"the transfer failed: {error}")) from error
        return count

    def close(self) -> None:
        if not self.closed:
            with contextlib.suppress(Exception):  # a reader that stops early is not a failed transfer
                if process := getattr(self.source, "proc", None):
                    process.terminate()
                self.source.close()
        super().close()


def _opened(location: str) -> Any:
    """Open a shard, buffered. DataError for a kind of address that is not supported, BrokenShard if it cannot be opened."""
    if location.startswith("pipe:"):
        raise DataError(f"{location}: commands named by a data set are not run; give a folder or a URL")
    scheme = location.partition("://")[0].lower() if "://" in location else None
    try:
        if scheme is None:
            return open(location, "rb", buffering=_BUFFER)
        from webdataset.gopen import gopen, gopen_schemes

        known = sorted(set(gopen_schemes) - {"__default__", "pipe", "file"})
        if scheme not in known:
            raise DataError(f"{location}: webdataset does not open {scheme}:// addresses, only {', '.join(known)}")
        return io.BufferedReader(_Raw(gopen(location, "rb", _BUFFER), location), _BUFFER)
    except FileNotFoundError as error:
        what = "no such shard, though _info.json lists it" if scheme is None else f"cannot be opened: {error}"
        raise BrokenShard(f"{location}: {what}") from None
    except (OSError, ValueError) as error:
        if isinstance(error, DataError):  # which is a ValueError too
            raise
        raise BrokenShard(f"{location}: cannot be read: {getattr(error, 'strerror', None) or error}") from error


# ------------------------------------------------------------------------------------------------------- reading


def samples(file: Any, location: str) -> Iterator[RawSample]:
    """Read the samples of an open tar, one after another, grouped as webdataset does: by all that precedes the first dot.

    Raises:
        DataError: A sample or the file is past a limit.
        BrokenShard: Anything else that goes wrong.
    """
    last, sample = None, RawSample(location, "", {})
    try:
        stream = unpacked(file, location)
        for name, key, extension, content in _files(stream, location):
            if key != sample.key:
                if sample.files:
                    yield sample
                    last = sample.key
                sample = RawSample(location, key, {})
            if extension in sample.files:
                raise ValueError(f"{name}: duplicate file name")
            sample.files[extension] = content
        if sample.files:
            yield sample
            last = sample.key
        while stream.read(_BUFFER):  # the checksum of what is packed stands at the very end
            pass
    except DataError:
        raise
    except Exception as error:  # zlib, lzma and the network raise a dozen kinds
        reason = str(error.args[0] if error.args else error) or type(error).__name__
        after = f" after sample {last!r}" if last else ""
        what = "cannot be read" if isinstance(error, _TransferError) else "truncated, corrupt or not a tar"
        raise BrokenShard(f"{location}: {what}{after}: {reason}") from error


def unpacked(file: Any, location: str) -> Any:
    """Return a stream of an open tar, unpacked if its content is gzip, bzip2 or xz.

    Unpacking more than `limits.FILE` raises DataError.
    """
    begins = file.peek(10)[:10]
    if begins[:2] == b"\x1f\x8b":
        source: Any = gzip.GzipFile(fileobj=file)
    elif begins[:3] == b"BZh" and begins[4:] == b"1AY&SY":
        source = bz2.BZ2File(file)
    elif begins[:6] == b"\xfd7zXZ\0":
        source = io.BufferedReader(_Xz(file))
    else:
        return file
    return io.BufferedReader(limits.Bounded(source, limits.FILE, f"{location}: unpacked"), _BUFFER)


class _Xz(io.RawIOBase):
    """Unpack xz in bounded memory: a file may ask for 4 GiB, and lzma.LZMAFile takes no limit."""

    def __init__(self, file: Any) -> None:
        self._file, self._rest = file, b""
        self._begin()

    def _begin(self) -> None:
        self._unpacking = lzma.LZMADecompressor(lzma.FORMAT_XZ, limits.XZ_MEMORY)

    def readable(self) -> bool:
        return True

    def readinto(self, target: Any) -> int:
        while True:
            if self._unpacking.eof:  # another stream may follow, after zeros
                self._rest = (self._unpacking.unused_data or self._file.read(_BUFFER)).lstrip(b"\0")
                if not self._rest and not self._file.peek(1):
                    return 0
                self._begin()
            elif self._unpacking.needs_input and not self._rest and not (new := self._file.read(_BUFFER)):
                raise EOFError("it ends within the packed data")
            elif self._unpacking.needs_input and not self._rest:
                self._rest = new
            data, self._rest = self._unpacking.decompress(self._rest, len(target)), b""
            if data:
                target[: len(data)] = data
                return len(data)


def _files(stream: Any, location: str) -> Iterator[tuple[str, str, str, bytes]]:
    """Yield name, sample key, extension and content of each file of a sample.

    A tar ends with an empty block or with its last byte: some writers omit that block, and `_info.json` tells whether all
    samples are there. ValueError if it ends within a file or a header is invalid; DataError for a sample past a limit.
    """
    long_name: str | None = None
    sample = _Extent(location)
    while (header := stream.read(_BLOCK)).count(0) < len(header):
        size, kind = _size(header), header[156:157]
        regular = kind in (b"0", b"\0", b"7")
        name = long_name or _name(header)
        key, extension = match.groups() if (match := _SAMPLE_FILE.match(name)) else ("", "")
        if regular:
            sample.add(key, name, size)
        elif size > limits.HEADER:
            raise ValueError(f"a header of {size} bytes, where {limits.HEADER} at most are read")
        padded = -(-size // _BLOCK) * _BLOCK
        data = stream.read(padded)
        if len(data) < size:
            raise ValueError("it ends within a file")
        content = data[:size]
        if kind == b"L":  # a long name for the next file, as GNU (L) and POSIX (x) write it
            long_name = content.rstrip(b"\0").decode(errors="surrogateescape")
        elif kind == b"x":
            long_name = _pax(content).get("path", long_name)
        elif regular:
            if key and not _META.match(name):
                yield name, key, extension.lower(), content
            long_name = None
        elif kind == b"S":
            raise ValueError("a sparse file, which is not read; make the tar without --sparse")
        elif kind != b"g":
            long_name = None
        if len(data) < padded:
            raise ValueError("it ends within a file")


class _Extent:
    """Count files and bytes of the sample being read, which is held in memory until the next one begins."""

    def __init__(self, location: str) -> None:
        self._location, self._key, self._count, self._bytes = location, "", 0, 0
        self._most, self._most_files = limits.SAMPLE.value, limits.SAMPLE_FILES.value

    def add(self, key: str, name: str, size: int) -> None:
        """Raise DataError if this file makes the sample larger than allowed."""
        if key != self._key:
            self._key, self._count, self._bytes = key, 0, 0
        self._count, self._bytes = self._count + (key != ""), self._bytes + size
        if self._bytes > self._most:
            raise limits.SAMPLE.error(f"{self._location}: sample {shortened(key)!r}, file {shortened(name)!r}", self._bytes)
        if self._count > self._most_files:
            raise limits.SAMPLE_FILES.error(f"{self._location}: sample {shortened(key)!r}")


def _size(header: bytes) -> int:
    """Return the bytes of content after a header. ValueError if it is invalid."""
    if len(header) < _BLOCK:
        raise ValueError("it ends within a header")
    try:
        expected = int(header[148:156].strip(b"\0 "), 8)
        size = int(header[124:136].strip(b"\0 ") or b"0", 8)
    except ValueError:
        raise ValueError("no tar header where one should be") from None
    if sum(header) - sum(header[148:156]) + 8 * ord(" ") != expected or size < 0:
        raise ValueError("no tar header where one should be")
    return size


def _name(header: bytes) -> str:
    name = header[:100].split(b"\0", 1)[0]
    if header[257:263] == b"ustar\0" and (prefix := header[345:500].split(b"\0", 1)[0]):
        name = prefix + b"/" + name
    return name.decode(errors="surrogateescape")


def _pax(content: bytes) -> dict[str, str]:
    """Return the records ``LENGTH KEY=VALUE\\n`` of an extended header. ValueError if they are invalid."""
    records = {}
    while content.strip(b"\0"):
        length = int(content.split(b" ", 1)[0])
        if not 0 < length <= len(content):
            raise ValueError("a damaged extended header")
        key, _, value = content[:length].split(b" ", 1)[1].rstrip(b"\n").partition(b"=")
        if key.startswith(b"GNU.sparse"):
            raise ValueError("a sparse file, which is not read; make the tar without --sparse")
        records[key.decode(errors="replace")] = value.decode(errors="surrogateescape")
        content = content[length:]
    return records
