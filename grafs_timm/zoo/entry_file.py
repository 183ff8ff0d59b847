"""Read and write an entry's file, checked as a whole; errors name the file and the field."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ..activations.genotype import Genotype
from ..errors import GenotypeError
from ..utils import strict_json
from ..utils.schema import explain
from .entry import FORMAT, Batch, Contents, canonical_sha256

_SHOWN = 3  # fields in one message


def read(path: str | Path) -> Contents:
    """Read the entry in the file ``path``, whose name and folder must be the entry's name and family. Errors as `parse`."""
    path = Path(path)
    try:
        with path.open("rb") as file:
            content = file.read(strict_json.LARGEST + 1)
    except OSError as error:
        raise GenotypeError(f"{path}: not a zoo entry: {error.strerror or error}") from error
    contents = parse(content, str(path))
    if (contents.family, contents.name) != (path.parent.name, path.stem):
        raise GenotypeError(
            f"{path}: name: {contents.name} of the family {contents.family} stands in {contents.family}/{contents.name}.json"
        )
    return contents


def parse(content: bytes | Mapping[str, Any], source: str) -> Contents:
    """Parse an entry.

    Args:
        content: A file's bytes, or its parsed object.
        source: Its name in errors.

    Raises:
        GenotypeError: The content does not fit the format, or a hash, formula or LaTeX does not fit the data; the field is
            named. Whether its numbers follow from the evidence is checked by `publishing.verify`.
    """
    try:
        data = strict_json.parse(content) if isinstance(content, bytes) else content
    except (ValueError, RecursionError) as error:
        raise GenotypeError(f"{source}: not a zoo entry: {error}") from None
    check_format(data, source)
    try:
        contents = Contents.model_validate(data)
    except ValidationError as error:
        raise GenotypeError(f"{source}: {_explained(error)}") from None
    _check(contents, source)
    return contents


def check_format(data: Any, source: str) -> None:
    """Raise a GenotypeError where ``data`` is no object of this version's format."""
    if not isinstance(data, Mapping):
        raise GenotypeError(f"{source}: not a zoo entry: expected an object, got {type(data).__name__}")
    own, there = FORMAT.rpartition("/"), data.get("format")
    if there == FORMAT:
        return
    number = re.fullmatch(re.escape(own[0]) + r"/(\d{1,4})", there) if isinstance(there, str) else None
    if number and int(number[1]) > int(own[2]):
        raise GenotypeError(f"{source}: format: {there} is of a newer grafs-timm, this one reads {FORMAT}: update it")
    said = repr(there)[:60] if "format" in data else "nothing"
    raise GenotypeError(f"{source}: not a zoo entry: format must be {FORMAT!r}, got {said}")


def text(contents: Contents) -> str:
    """Return what the entry's file holds; equal entries have equal texts."""
    return json.dumps(contents.to_dict(), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _check(contents: Contents, source: str) -> None:
    if not contents.name.startswith(f"grafs_{contents.family}_"):
        raise GenotypeError(f"{source}: name: must be grafs_{contents.family}_<id>, got {contents.name!r}")
    genotype = Genotype.from_dict(contents.genotype, f"{source}: genotype", derived=True)
    if not {"formula", "latex", "sha256"} <= contents.genotype.keys():
        raise GenotypeError(f"{source}: genotype: formula, latex and sha256 stand beside the cell")
    for number, batch in enumerate(contents.batches):
        _check_batch(batch, genotype, f"{source}: batches[{number}]", first=number == 0)
    folders = [batch.evidence.folder for batch in contents.batches]
    _each_once(folders, f"{source}: batches: evidence.folder")
    own = canonical_sha256(contents.to_dict())
    if own != contents.sha256:
        raise GenotypeError(f"{source}: sha256: the file says {contents.sha256}, its fields give {own}: file altered")


def _check_batch(batch: Batch, genotype: Genotype, source: str, first: bool) -> None:
    _each_once([each.seed for each in batch.searches], f"{source}.searches: seed")
    _each_once([(row.model, row.data, row.activation) for row in batch.metrics], f"{source}.metrics: a place and activation")
    chosen = [number for number, each in enumerate(batch.searches) if each.chosen]
    given = batch.provenance.search_seed is None  # measured here, found elsewhere
    if len(chosen) != (0 if given else 1) or any(batch.searches[number].label != batch.label for number in chosen):
        raise GenotypeError(f"{source}.searches: chosen is the one called {batch.label!r}, got {len(chosen)} that are")
    for number, each in enumerate(batch.searches):
        where = f"{source}.searches[{number}]"
        own = Genotype.from_dict(each.genotype, f"{where}.genotype", derived=False)
        if own.sha256 != each.sha256:
            raise GenotypeError(f"{where}.sha256: the file says {each.sha256}, the genotype's own is {own.sha256}")
        if own.text != each.formula:
            raise GenotypeError(f"{where}.formula: the file says {each.formula!r}, the genotype's own is {own.text!r}")
        if each.chosen and first and own.sha256 != genotype.sha256:
            raise GenotypeError(f"{where}.genotype: the chosen search of the first batch found another function than the entry")
    for number, row in enumerate(batch.metrics):
        if row.n != len(row.each):
            raise GenotypeError(f"{source}.metrics[{number}].n: {row.n}, and each has {len(row.each)} training seeds")
        middle = sum(row.each.values()) / max(len(row.each), 1)
        if abs(row.mean - middle) > 1e-5:
            raise GenotypeError(f"{source}.metrics[{number}].mean: {row.mean}, and each gives {middle:.6f}")


def _each_once(values: Sequence[Any], what: str) -> None:
    seen = set()
    for value in values:
        if value in seen:
            raise GenotypeError(f"{what} {value!r} is there twice")
        seen.add(value)


def _explained(error: ValidationError) -> str:
    """Explain the first few problems: "batches[0].metrics[3].mean: expected a number, got ..."."""
    said = [f"{_dotted(path)}: {what}" for path, what in explain(error, Contents)]
    more = f"; and {len(said) - _SHOWN} more" if len(said) > _SHOWN else ""
    return "; ".join(said[:_SHOWN]) + more


def _dotted(where: Iterable[int | str]) -> str:
    name = ""
    for part in where:
        name += f"[{part}]" if isinstance(part, int) else f".{str(part)[:60]}" if name else str(part)[:60]
    return name or "the entry"
