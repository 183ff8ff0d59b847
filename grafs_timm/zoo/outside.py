"""Read zoo entries from outside the package: a file, a folder of the hub's layout, a zoo folder or an https URL.

A local file is as trusted as its folder; what comes from elsewhere is taken only with the hash that its publisher gave by
another way.
"""

from __future__ import annotations

import contextlib
import http.client
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ..errors import DataError, GenotypeError, GrafsError
from ..utils import strict_json
from . import entry_file
from .entry import Contents
from .model_config import read_config

ENTRY = "activation.json"  # in a folder of the hub's layout
_SCHEME = "https"
_LARGEST = strict_json.LARGEST
_TIMEOUT = 30.0  # seconds without a byte
_PATIENCE = 120.0  # seconds for all of it
_CHUNK = 1 << 16


def is_entry(path: str | Path) -> bool:
    """Return whether a file is a zoo entry's, by how it begins."""
    with contextlib.suppress(OSError, ValueError), open(path, encoding="utf-8") as file:
        return '"grafs-zoo/' in file.read(1000)
    return False


def read(source: str | Path) -> Contents:
    """Read and check the one entry that a local file or hub folder holds. Errors as `add_activation`."""
    found = files(Path(source))
    if len(found) > 1:
        raise GenotypeError(f"{source}: holds {len(found)} entries; name one file")
    return read_file(found[0])[0]


def files(source: Path) -> list[Path]:
    """Return the entry files of a file, hub folder or zoo folder. DataError where there is none."""
    if source.is_file():
        return [source]
    if not source.is_dir():
        raise DataError(
            f"{source}: no such file or folder; a source is an entry's JSON, a folder that holds one, or a URL of it"
        )
    if (source / ENTRY).is_file():
        if (source / "config.json").is_file():
            read_config(source)  # refuses one that names files of its own
        return [source / ENTRY]
    found = sorted([*source.glob("grafs_*.json"), *source.glob("*/grafs_*.json")])
    if not found:
        raise DataError(f"{source}: holds neither {ENTRY} nor an entry grafs_<family>_<id>.json, in it or in a family's folder")
    return found


def read_file(path: Path) -> tuple[Contents, str]:
    """Read and check one entry file; return it with the source that errors name."""
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST + 1)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    return _parsed(content, str(path)), str(path)


def fetched(url: str, sha256: str | None) -> tuple[Contents, str]:
    """Fetch and check one entry; GenotypeError without its sha256 or with another one."""
    contents = _parsed(_download(url), url)
    if sha256 is None:
        raise GenotypeError(
            f"{url}: give the sha256 that its publisher names, by a way other than this file: a file cannot vouch for itself, "
            f"and without a hash whoever can change it chooses the function you train. It claims sha256={contents.sha256!r}"
        )
    require_hash(contents, sha256, url)
    return contents, url


def _download(url: str) -> bytes:
    """At most ``_LARGEST`` bytes, never by another scheme, wherever the server sends one to."""
    if urlsplit(url).scheme.lower() != _SCHEME:
        raise DataError(f"{url}: entries are fetched by {_SCHEME} alone; download it, and give the path of the file")
    until, parts, size = time.monotonic() + _PATIENCE, [], 0
    try:
        with urllib.request.build_opener(_SameScheme).open(url, timeout=_TIMEOUT) as answer:
            while part := answer.read(_CHUNK):
                parts.append(part)
                size += len(part)
                if size > _LARGEST:
                    raise DataError(f"{url}: larger than {_LARGEST >> 20} MiB: no zoo entry")
                if time.monotonic() > until:
                    raise DataError(f"{url}: not there after {_PATIENCE:.0f} s")
    except (OSError, ValueError, http.client.HTTPException) as error:
        if isinstance(error, GrafsError):
            raise
        reason = error if isinstance(error, urllib.error.HTTPError) else getattr(error, "reason", None) or error
        raise DataError(f"{url}: cannot be fetched: {reason}") from error
    return b"".join(parts)


class _SameScheme(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        if urlsplit(newurl).scheme.lower() != _SCHEME:
            raise DataError(f"{req.full_url}: leads to {newurl}; entries are fetched by {_SCHEME} alone")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _parsed(content: bytes, source: str) -> Contents:
    if b'"grafs-zoo/' not in content and b'"grafs-cell/' in content:
        raise GenotypeError(f"{source}: a genotype, which has no name; give its path wherever an activation is asked for")
    return entry_file.parse(content, source)


def require_hash(contents: Contents, sha256: str | None, source: str) -> None:
    """Raise a GenotypeError where ``sha256`` is given and is not the entry's."""
    if sha256 is not None and contents.sha256 != sha256.strip().lower():
        raise GenotypeError(
            f"{source}: sha256 of {contents.name} is {contents.sha256}, asked for {sha256}: another version, or altered"
        )
