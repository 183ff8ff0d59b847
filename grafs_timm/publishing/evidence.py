"""Name the evidence of a batch, the files and lines of a campaign's ledger that it was computed from, and restore it."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Mapping
from pathlib import Path

from ..comparison.campaign import Campaign
from ..comparison.campaign_files import ACTIVATIONS, COST, FURTHER, RECIPE
from ..errors import RunError
from ..zoo.entry import Evidence

_MOST_BYTES = 16 * 2**20


def named(campaign: Campaign) -> Evidence:
    """Return what an entry says of the evidence that ``campaign`` is now."""
    folder = campaign.folder
    files = [RECIPE, ACTIVATIONS, *(f"{FURTHER}/{path.name}" for path in sorted((folder / FURTHER).glob("*.yaml")))]
    files += [COST] if (folder / COST).exists() else []
    hashes = {name: file_sha256(folder / name) for name in files}
    return Evidence(folder=folder.name, files=hashes, lines=campaign.ledger.ids())


def restored(evidence: Evidence, folder: Path) -> Campaign:
    """Read the campaign with only the lines that ``evidence`` names.

    Args:
        evidence: of a batch.
        folder: the ledger.

    Raises:
        RunError: for a file or a line that is missing or was changed.
    """
    for name, sha256 in evidence.files.items():
        path = folder / name
        if not path.is_file():
            raise RunError(f"{path}: the evidence is missing")
        if (there := file_sha256(path)) != sha256:
            raise RunError(f"{path}: the evidence was changed: its sha256 is {there}, the entry says {sha256}")
    for name in (RECIPE, ACTIVATIONS):
        if name not in evidence.files:
            raise RunError(f"{folder / name}: the entry names no such evidence, and without it nothing can be recomputed")
    return Campaign.read(folder, evidence.lines)


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file's bytes."""
    return hashlib.sha256(_bytes(path)).hexdigest()


def _bytes(path: Path) -> bytes:
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise RunError(f"{path} is larger than {_MOST_BYTES // 2**20} MB: no evidence")
        return path.read_bytes()
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror}") from error


def timings(folder: Path) -> tuple[Mapping[str, str], ...]:
    """Read the rows of cost.csv by column, as tools/bench_activation.py writes them; empty without such a file.

    Raises:
        RunError: where it is no such table.
    """
    path = folder / COST
    if not path.exists():
        return ()
    try:
        rows = list(csv.DictReader(io.StringIO(_bytes(path).decode(), newline=""), strict=True))
        for row in rows:
            float(row["median_ms"])
            if None in row or not all(row[key] for key in ("subject", "what", "device", "dtype")):
                raise ValueError("a row of other length than the header, or one without subject, what, device or dtype")
    except (csv.Error, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path} is not a table of timings: {error!r}") from error
    return tuple(rows)
