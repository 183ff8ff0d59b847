"""Files that may lie behind a URL: joined, and opened as a local file that can be read twice.

http and https are fetched by Python itself, the others by the programs that webdataset calls for them. Nothing here runs a
command that a URL spells out: webdataset's ``pipe:`` is refused.
"""

from __future__ import annotations

import http.client
import shutil
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from .errors import DataError

SCHEMES = ("http", "https", "ftps", "sftp", "scp", "gs", "hf", "ais")
_WAITS = (0.5, 2.0)  # seconds before the second and the third attempt
_TIMEOUT = 60.0  # seconds without a byte


def is_url(text: str | Path) -> bool:
    """Whether ``text`` is a URL rather than a path. DataError for one that is not opened here, such as ``pipe:``."""
    scheme, found, _ = str(text).partition(":")
    if not found or len(scheme) < 2 or not scheme.isalnum():  # one letter: a Windows drive
        return False
    if scheme.lower() in SCHEMES and str(text)[len(scheme) :].startswith("://"):
        return True
    if "://" in str(text) or scheme.lower() == "pipe":
        raise DataError(f"{text}: URLs that are opened begin with {', '.join(f'{name}://' for name in SCHEMES)}")
    return False


def join(url: str, filename: str) -> str:
    """The URL of ``filename`` in the folder ``url``; a query, such as a signature, stays."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(path=f"{parts.path.rstrip('/')}/{quote(filename)}", fragment=""))


def split_url(url: str) -> tuple[str, str]:
    """(URL of the folder, file name): what `join` puts together."""
    parts = urlsplit(url)
    folder, _, filename = parts.path.rstrip("/").rpartition("/")
    return urlunsplit(parts._replace(path=folder)), unquote(filename)


def open_file(location: str | Path) -> BinaryIO:
    """A path opened for reading, or a URL's content in a temporary file. DataError where it can't be read."""
    try:
        if not is_url(location):
            return open(location, "rb")
        return _fetched(str(location))
    except FileNotFoundError:
        raise DataError(f"{location}: no such file") from None
    except OSError as error:
        raise DataError(f"{location}: cannot be read: {_reason(error)}") from error


def _fetched(url: str) -> BinaryIO:
    file = tempfile.TemporaryFile()  # noqa: SIM115  it is the caller's
    try:
        for wait in (*_WAITS, None):
            file.seek(0)
            file.truncate()
            try:
                (_by_http if urlsplit(url).scheme.lower() in ("http", "https") else _by_webdataset)(url, file)
                break
            except (OSError, http.client.HTTPException) as error:
                for_good = isinstance(error, urllib.error.HTTPError) and error.code < 500
                if wait is None or for_good:
                    raise error if isinstance(error, OSError) else OSError(repr(error)) from error
                time.sleep(wait)
        file.seek(0)
    except BaseException:
        file.close()
        raise
    return file


def _by_http(url: str, file: BinaryIO) -> None:
    with urllib.request.urlopen(url, timeout=_TIMEOUT) as answer:
        shutil.copyfileobj(answer, file, 1 << 20)
        promised = answer.headers.get("Content-Length")
    if promised is not None and file.tell() != int(promised):
        raise OSError(f"the connection ended after {file.tell()} of {promised} bytes")


def _by_webdataset(url: str, file: BinaryIO) -> None:
    from webdataset import gopen

    with gopen(url, "rb") as stream:
        shutil.copyfileobj(stream, file, 1 << 20)


def _reason(error: OSError) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return str(error)
    return str(getattr(error, "reason", None) or error.strerror or error)
