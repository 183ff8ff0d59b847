"""Open files by path or URL.

Python fetches http and https itself; webdataset calls programs for the other schemes. No command in a URL is run: webdataset's
``pipe:`` is refused.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import re
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import SplitResult, quote, unquote, urlsplit, urlunsplit

from ..errors import DataError, shortened
from . import limits
from .limits import Limit

SCHEMES = ("http", "https", "ftps", "sftp", "scp", "gs", "hf", "ais")
_WAITS = (0.5, 2.0)  # seconds before the second and the third attempt
_TIMEOUT = 60.0  # seconds without a byte
_CHUNK = 1 << 20


def is_url(text: str | Path) -> bool:
    """Check whether ``text`` is a URL rather than a path. Raises DataError for an invalid or unsupported one.

    >>> is_url("https://host/folder"), is_url("folder/file")
    (True, False)
    """
    scheme, found, _ = str(text).partition(":")
    if not found or len(scheme) < 2 or not scheme.isalnum():  # one letter: a Windows drive
        return False
    if scheme.lower() in SCHEMES and str(text)[len(scheme) :].startswith("://"):
        _parts(str(text))
        return True
    if "://" in str(text) or scheme.lower() == "pipe":
        raise DataError(f"{text}: URLs that are opened begin with {', '.join(f'{name}://' for name in SCHEMES)}")
    return False


def _parts(url: str) -> SplitResult:
    """Split a URL. Raises DataError where it is invalid."""
    try:
        parts = urlsplit(url)
        http = parts.scheme.lower() in ("http", "https")
        wrong = "no host" if http and not parts.hostname else ""
        if http and parts.hostname:
            parts.hostname.encode("idna")
            parts.port  # noqa: B018  which raises
        if found := re.search(r"[\x00-\x20\x7f]", url):
            wrong = f"the character {found[0]!r}, which is written %{ord(found[0]):02X}"
    except ValueError as error:  # UnicodeError, too
        wrong = str(error)
    if wrong:
        raise DataError(f"{shortened(url, 300)}: not an address: {wrong}; expected one such as https://host/folder")
    return parts


def listed(text: str) -> list[str]:
    """Split paths and URLs that are joined by ``::``, which may also be part of an address.

    >>> listed("a.txt::http://[::1]/b.txt")
    ['a.txt', 'http://[::1]/b.txt']
    """
    return re.split(r"(?<!//\[)::(?![0-9A-Fa-f:.]*\])", text)


def join(url: str, filename: str) -> str:
    """Return the URL of ``filename`` in the folder ``url``; a query, such as a signature, is kept."""
    parts = _parts(url)
    return urlunsplit(parts._replace(path=f"{parts.path.rstrip('/')}/{quote(filename)}", fragment=""))


def split_url(url: str) -> tuple[str, str]:
    """Return (URL of the folder, file name), the inverse of `join`."""
    parts = _parts(url)
    folder, _, filename = parts.path.rstrip("/").rpartition("/")
    return urlunsplit(parts._replace(path=folder)), unquote(filename)


def open_file(location: str | Path, most: Limit = limits.FILE) -> BinaryIO:
    """Open a path for reading, or a URL's content in a temporary file.

    Args:
        location: The path or URL.
        most: The largest content that is fetched.

    Raises:
        DataError: It cannot be read or is too large.
    """
    if not is_url(location):
        with _explained(location):
            return open(location, "rb")
    file = tempfile.TemporaryFile()  # noqa: SIM115  it is the caller's
    try:
        with _explained(location):
            _fetch(str(location), file, most)
    except BaseException:
        file.close()
        raise
    return file


def read(location: str | Path, most: Limit) -> bytes:
    """Read a path's or URL's content into memory. Raises DataError where it cannot be read or exceeds ``most``."""
    content = io.BytesIO()
    with _explained(location):
        if is_url(location):
            _fetch(str(location), content, most)
        else:
            with open(location, "rb") as file:
                _copy(file, content, str(location), most)
    return content.getvalue()


@contextlib.contextmanager
def _explained(location: str | Path) -> Iterator[None]:
    try:
        yield
    except DataError:
        raise
    except FileNotFoundError:
        raise DataError(f"{location}: no such file") from None
    except (OSError, ValueError, OverflowError) as error:  # ValueError: an invalid address in a redirect
        raise DataError(f"{location}: cannot be read: {_reason(error)}") from error


def _fetch(url: str, file: BinaryIO, most: Limit) -> None:
    """Fetch a URL's content into ``file`` and rewind it."""
    for wait in (*_WAITS, None):
        file.seek(0)
        file.truncate()
        try:
            (_by_http if urlsplit(url).scheme.lower() in ("http", "https") else _by_webdataset)(url, file, most)
            break
        except (OSError, http.client.HTTPException) as error:
            for_good = isinstance(error, urllib.error.HTTPError) and error.code < 500
            if wait is None or for_good:
                raise error if isinstance(error, OSError) else OSError(repr(error)) from error
            time.sleep(wait)
    file.seek(0)


def _by_http(url: str, file: BinaryIO, most: Limit) -> None:
    with urllib.request.urlopen(url, timeout=_TIMEOUT) as answer:
        promised = _promised(answer.headers.get_all("Content-Length"), url)
        most.check(promised or 0, url)
        _copy(answer, file, url, most)
    if promised is not None and file.tell() != promised:
        raise OSError(f"the connection ended after {file.tell()} of {promised} bytes")


def _promised(said: list[str] | None, url: str) -> int | None:
    """Parse a server's Content-Length. Raises DataError if it is not one number."""
    if not said:
        return None
    values = {part.strip() for each in said for part in each.split(",")}
    value = values.pop()
    if values or not (value.isascii() and value.isdecimal() and len(value) < 20):
        shown = shortened(", ".join(said))
        raise DataError(f"{url}: the server's Content-Length is {shown!r}, not a number of bytes; does it serve a file?")
    return int(value)


def _by_webdataset(url: str, file: BinaryIO, most: Limit) -> None:
    from webdataset import gopen

    with gopen(url, "rb") as stream:
        _copy(stream, file, url, most)


def _copy(source: Any, file: BinaryIO, where: str, most: Limit) -> None:
    left = most.value
    while part := source.read(min(_CHUNK, left + 1)):
        left -= len(part)
        if left < 0:
            raise most.error(where)
        file.write(part)


def _reason(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return str(error)
    return str(getattr(error, "reason", None) or getattr(error, "strerror", None) or error)
