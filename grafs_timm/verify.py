"""Whether a zoo says what its evidence gives: everything that can be recomputed is recomputed and compared."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from . import card_plots, entry_file, facts, pages, publishable
from .entry import Batch, Contents
from .errors import GrafsError, RunError, UnknownNameError
from .evidence import Records
from .formula import Genotype
from .ops import nearest

_CLOSE = 2e-6  # relative: numbers are rounded to six decimals, and other versions of a library differ in their last bits
_SHOWN = 8  # disagreements of one entry


@dataclass(frozen=True)
class Checked:
    """One entry, or the zoo as a whole: how many values and evidence files were compared, and what is wrong."""

    name: str
    values: int = 0
    files: int = 0
    wrong: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        return not self.wrong

    def __str__(self) -> str:
        if self.ok:
            compared = f"{self.values} values from {self.files} evidence files" if self.files else f"{self.values} made pages"
            return f"ok     {self.name}: {compared}"
        more = [f"and {len(self.wrong) - _SHOWN} more"] if len(self.wrong) > _SHOWN else []
        return "\n  ".join([f"WRONG  {self.name}", *self.wrong[:_SHOWN], *more])


def verify(folder: str | Path, names: Sequence[str] = ()) -> list[Checked]:
    """Check the entries called ``names``, by default all, of the zoo in ``folder``; then, with all, what they have in common.

    UnknownNameError, with the nearest, for a name that no entry has.
    """
    folder = Path(folder)
    files = {path.stem: path for path in sorted(folder.glob("*/grafs_*.json"))}
    for name in names:
        if name not in files:
            raise UnknownNameError(f"no entry {name!r} in {folder}{nearest(name, files)}")
    read: dict[str, Contents] = {}
    checked = []
    for name in names or files:
        try:
            read[name] = entry_file.read(files[name])
            checked.append(_entry(read[name], folder))
        except GrafsError as error:
            checked.append(Checked(name, wrong=(str(error),)))
    return checked if names else [*checked, _all(folder, read, complete=len(read) == len(files))]


def _all(folder: Path, read: dict[str, Contents], complete: bool) -> Checked:
    """What entries have in common, and with all of them read the pages that are made of all."""
    wrong, made = [*_together(list(read.values())), *_strays(folder, list(read.values()))], dict[Path, str]()
    if complete:
        made = pages.made(folder, list(read.values()))
        wrong += [each for each in _pages(made) if each not in wrong]
    return Checked("the zoo as a whole", len(made), 0, tuple(wrong))


def _entry(contents: Contents, folder: Path) -> Checked:
    """Facts and every batch, anew; the card and the pictures."""
    genotype = Genotype.from_dict(contents.genotype, contents.name)
    count, wrong = _compared(contents.facts, facts.of(genotype), "facts")
    files = 0
    for number, batch in enumerate(contents.batches):
        where = f"batches[{number}]"
        try:
            again = _again(contents, batch, genotype, folder)
        except RunError as error:
            wrong.append(f"{where}: {error}")
            continue
        values, differing = _compared(batch, again, where)
        count, files, wrong = count + values, files + len(batch.evidence.files), wrong + differing
    if contents.recommended and (usual := publishable.usual_as(genotype)):
        wrong.append(f"recommended: it is {usual} up to scales")
    pictures = card_plots.paths(contents, folder / contents.family)
    wrong += [f"{path}: the picture is missing" for path in pictures if not path.is_file()]
    card = folder / contents.family / f"{contents.name}.md"
    wrong += _pages({card: pages.made(folder, [contents])[card]})
    return Checked(contents.name, count, files, tuple(wrong))


def _again(contents: Contents, batch: Batch, genotype: Genotype, folder: Path) -> Batch:
    """The batch from its evidence. RunError where that does not hold what an entry needs, or found another function."""
    place = folder / contents.family / "evidence" / batch.evidence.folder
    records = Records.read(place, batch.evidence.files)
    lacks = publishable.lacking(records)
    if lacks:
        raise RunError(f"{place}: {lacks[0]}")
    if not publishable.same_function(publishable.search_of(records, batch.label).genotype, genotype):
        raise RunError(f"{place}: the search {batch.label} found another function")
    return publishable.batch(records, batch.evidence, batch.label)


def _compared(there: Any, again: Any, where: str) -> tuple[int, list[str]]:
    """(values compared, disagreements by field) of two of the schema's objects; floats to six decimals."""
    if isinstance(there, BaseModel) and isinstance(again, BaseModel):
        there, again = dict(there), dict(again)
    if isinstance(there, dict) and isinstance(again, dict):
        return _summed(_compared(there.get(key), again.get(key), f"{where}.{key}") for key in {**there, **again})
    if isinstance(there, tuple | list) and isinstance(again, tuple | list):
        if len(there) != len(again):
            return 1, [f"{where}: the file has {len(there)}, the evidence gives {len(again)}"]
        return _summed(_compared(a, b, f"{where}[{i}]") for i, (a, b) in enumerate(zip(there, again, strict=True)))
    same = there == again
    if isinstance(there, float) and isinstance(again, float):
        same = math.isclose(there, again, rel_tol=_CLOSE, abs_tol=_CLOSE)
    return 1, [] if same else [f"{where}: the file says {there!r}, the evidence gives {again!r}"]


def _summed(parts: Iterator[tuple[int, list[str]]]) -> tuple[int, list[str]]:
    count, wrong = 0, list[str]()
    for values, differing in parts:
        count, wrong = count + values, wrong + differing
    return count, wrong


def _together(entries: Sequence[Contents]) -> Iterator[str]:
    """What is wrong between entries: two that are recommended, none, one function twice, evidence that two share."""
    for family in sorted({each.family for each in entries}):
        own = [each for each in entries if each.family == family]
        recommended = [each.name for each in own if each.recommended]
        if len(recommended) != 1:
            yield f"{family}: one entry a family is recommended, got {', '.join(recommended) or 'none'}"
        genotypes = {each.name: Genotype.from_dict(each.genotype, derived=False) for each in own}
        for a, b in combinations(genotypes, 2):
            if publishable.same_function(genotypes[a], genotypes[b]):
                yield f"{a} and {b} are the same function, up to scales: one of them is further evidence of the other"
        folders = [batch.evidence.folder for each in own for batch in each.batches]
        twice = sorted({name for name in folders if folders.count(name) > 1})
        yield from (f"{family}/evidence/{name}: two entries name it" for name in twice)


def _strays(folder: Path, entries: Sequence[Contents]) -> Iterator[str]:
    """Evidence that no entry names."""
    named = {
        folder / each.family / "evidence" / batch.evidence.folder / file
        for each in entries for batch in each.batches for file in batch.evidence.files
    }  # fmt: skip
    for path in sorted(folder.glob("*/evidence/**/*")):
        if path.is_file() and path not in named and not path.name.startswith("."):
            yield f"{path}: no entry names this file"


def _pages(made: dict[Path, str]) -> list[str]:
    wrong = []
    for path, text in made.items():
        try:
            if path.read_bytes() != text.encode():
                wrong.append(f"{path} is not what the entries give; grafs-timm publish makes it anew")
        except OSError as error:
            wrong.append(f"{path} cannot be read: {error.strerror}")
    return wrong
