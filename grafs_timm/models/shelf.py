"""Zoo entries from outside the package: a file, a folder of the hub's layout, a zoo folder or an https URL.

A local file is as trusted as its folder; what comes from elsewhere is taken only with the hash that its publisher gave by
another way. Afterwards an entry's name works wherever the zoo's own do, until the process ends.
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

from ..activations import timm_maps
from ..activations.formula import Genotype
from ..errors import DataError, GenotypeError, GrafsError
from ..utils import remote, strict_json
from ..zoo import entry_file
from ..zoo import lookup as zoo
from ..zoo.entry import Contents
from . import registry

ENTRY = "activation.json"  # in a folder of the hub's layout
_SCHEME = "https"
_LARGEST = strict_json.LARGEST
_TIMEOUT = 30.0  # seconds without a byte
_PATIENCE = 120.0  # seconds for all of it
_CHUNK = 1 << 16


def add_activation(source: str | Path, sha256: str | None = None) -> zoo.Entry:
    """Make a zoo entry from elsewhere known by its name, to timm too; returns it.

    ``source``: an entry's JSON file, a folder that holds one (as ``activation.json``, the hub's layout, or the only entry of a
    zoo folder), or an https URL of the file. ``sha256``: the entry's own, of its canonical form; a URL needs it, a local source
    is compared where it is given. An entry that is known already, by name and function, is returned as it is. GenotypeError
    names the file and field of what is wrong, both functions where the name is taken, and both hashes where they differ;
    DataError where the source cannot be read.
    """
    if remote.is_url(source):
        return _register([_fetched(str(source), sha256)])[0]
    read = [_read(path) for path in _files(Path(source))]
    if len(read) > 1:
        kept = [(contents, path) for contents, path in read if contents.sha256 == sha256]
        if not kept:
            have = ", ".join(contents.name for contents, _ in read)
            wanted = f"no entry with sha256 {sha256}" if sha256 else f"{len(read)} entries"
            raise GenotypeError(f"{source}: holds {wanted}: {have}; name one file, or say grafs_timm.add_activations(folder)")
        read = kept
    _require_hash(read[0][0], sha256, str(source))
    return _register(read)[0]


def add_activations(folder: str | Path) -> list[zoo.Entry]:
    """Every entry of a zoo folder (``<family>/<name>.json``) as `add_activation`; all of them or, where one is wrong, none."""
    return _register([_read(path) for path in _files(Path(folder))])


def is_entry(path: str | Path) -> bool:
    """Whether a file is a zoo entry's, by how it begins."""
    with contextlib.suppress(OSError, ValueError), open(path, encoding="utf-8") as file:
        return '"grafs-zoo/' in file.read(1000)
    return False


def read(source: str | Path) -> tuple[Contents, Genotype]:
    """The one entry that a local file or hub folder holds, checked and not made known. Errors as `add_activation`."""
    files = _files(Path(source))
    if len(files) > 1:
        raise GenotypeError(f"{source}: holds {len(files)} entries; name one file")
    contents, _ = _read(files[0])
    return contents, _genotype(contents)


def _files(source: Path) -> list[Path]:
    if source.is_file():
        return [source]
    if not source.is_dir():
        raise DataError(
            f"{source}: no such file or folder; a source is an entry's JSON, a folder that holds one, or a URL of it"
        )
    if (source / ENTRY).is_file():
        if (source / "config.json").is_file():
            from .model_config import read_config

            read_config(source)  # refuses one that names files of its own
        return [source / ENTRY]
    found = sorted([*source.glob("grafs_*.json"), *source.glob("*/grafs_*.json")])
    if not found:
        raise DataError(f"{source}: holds neither {ENTRY} nor an entry grafs_<family>_<id>.json, in it or in a family's folder")
    return found


def _read(path: Path) -> tuple[Contents, str]:
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST + 1)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    return _parsed(content, str(path)), str(path)


def _fetched(url: str, sha256: str | None) -> tuple[Contents, str]:
    contents = _parsed(_download(url), url)
    if sha256 is None:
        raise GenotypeError(
            f"{url}: give the sha256 that its publisher names, by a way other than this file: a file cannot vouch for itself, "
            f"and without a hash whoever can change it chooses the function you train. It claims sha256={contents.sha256!r}"
        )
    _require_hash(contents, sha256, url)
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


def _require_hash(contents: Contents, sha256: str | None, source: str) -> None:
    if sha256 is not None and contents.sha256 != sha256.strip().lower():
        raise GenotypeError(
            f"{source}: sha256 of {contents.name} is {contents.sha256}, asked for {sha256}: another version, or altered"
        )


def _genotype(contents: Contents) -> Genotype:
    return Genotype.from_dict(contents.genotype, source=f"{contents.name}: genotype", derived=False)


def _entry(contents: Contents, genotype: Genotype, source: str) -> zoo.Entry:
    default = contents.batches[0].usual
    return zoo.Entry(contents.name, contents.family, genotype, False, contents.recommended, default, Path(source))


def _register(read: list[tuple[Contents, str]]) -> list[zoo.Entry]:
    """Make all known, each with the source it has in errors; every name is looked at before the first is."""
    known, new = zoo.names(), dict[str, zoo.Entry]()
    for contents, source in read:
        name, genotype = contents.name, _genotype(contents)
        there = known.get(name) or new.get(name)
        if there is not None and there.genotype.sha256 != genotype.sha256:
            raise GenotypeError(
                f"{source}: name: {name} is taken by another function, {there.formula} ({there.genotype.sha256[:8]}) of "
                f"{there.path}; this one is {genotype.text} ({genotype.sha256[:8]}): publish it under another name"
            )
        if there is None and timm_maps.layer(name) is not None:
            raise GenotypeError(
                f"{source}: name: timm has an activation {name!r} of its own; publish this one under another name"
            )
        if there is None:
            new[name] = _entry(contents, genotype, source)
            new[name].__dict__["contents"] = contents  # what was checked now, not what the file holds when it is asked for
    if new:
        zoo._added.update(new)
        registry.register()
    return [zoo.names()[contents.name] for contents, _ in read]
