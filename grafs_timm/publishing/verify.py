"""Verify that a zoo says what its evidence gives: all that can be recomputed is recomputed and compared."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from ..activations import facts
from ..activations.genotype import Genotype
from ..comparison import contenders
from ..comparison.campaign import Campaign
from ..comparison.campaign_files import ACTIVATIONS, COST, FURTHER, RECIPE
from ..comparison.ledger import Ledger
from ..errors import GrafsError, RunError, UnknownNameError
from ..utils.suggest import nearest
from ..zoo import entry_file, lookup
from ..zoo.entry import Batch, Contents
from . import card_plots, claims, evidence, pages
from . import requirements as publishable

_CLOSE = 2e-6  # relative: numbers are rounded to six decimals, and other versions of a library differ in their last bits
_SHOWN = 8  # disagreements of one entry


@dataclass(frozen=True)
class Checked:
    """One entry, or the zoo as a whole.

    Args:
        name: of the entry.
        values: how many were compared.
        lines: of the ledger that they come from.
        wrong: what is.
        notes: further sentences.
    """

    name: str
    values: int = 0
    lines: int = 0
    wrong: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        return not self.wrong

    def __str__(self) -> str:
        if self.ok:
            compared = f"{self.values} values from {self.lines} ledger lines" if self.lines else f"{self.values} made pages"
            return "\n  ".join([f"ok     {self.name}: {compared}", *self.notes])
        more = [f"and {len(self.wrong) - _SHOWN} more"] if len(self.wrong) > _SHOWN else []
        return "\n  ".join([f"WRONG  {self.name}", *self.wrong[:_SHOWN], *more])


def verify(folder: str | Path, names: Sequence[str] = ()) -> list[Checked]:
    """Check entries, and with all of them what they have in common.

    Args:
        folder: the zoo.
        names: of entries, by default all.

    Raises:
        UnknownNameError: with the nearest, for a name that no entry has.
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
    wrong, made = [*_together(list(read.values())), *_strays(folder)], dict[Path, str]()
    if complete:
        made = pages.made(folder, list(read.values()))
        wrong += [each for each in _pages(made) if each not in wrong]
    return Checked("the zoo as a whole", len(made), 0, tuple(wrong))


def _entry(contents: Contents, folder: Path) -> Checked:
    """Facts and every batch, anew; the card and the pictures."""
    genotype = Genotype.from_dict(contents.genotype, contents.name, derived=True)
    count, wrong = _compared(contents.facts, facts.of(genotype), "facts")
    lines, notes = 0, list[str]()
    for number, batch in enumerate(contents.batches):
        where = f"batches[{number}]"
        try:
            again, more = _again(contents, batch, genotype, folder)
        except RunError as error:
            wrong.append(f"{where}: {error}")
            continue
        values, differing = _compared(batch, again, where)
        count, lines, wrong = count + values, lines + len(batch.evidence.lines), wrong + differing
        if more:
            notes.append(f"{batch.evidence.folder} has {more} more lines: grafs-timm publish adds them")
    if usual := lookup.known_as(genotype, lookup.USUAL):
        wrong.append(f"genotype: it is {usual} up to scales")
    if contents.recommended != claims.recommended(contents):
        shown = "is" if claims.recommended(contents) else "is not"
        wrong.append(f"recommended: the file says {contents.recommended}, and by its evidence it {shown} shown to be better")
    pictures = card_plots.paths(contents, folder / contents.family)
    wrong += [f"{path}: the picture is missing" for path in pictures if not path.is_file()]
    card = folder / contents.family / f"{contents.name}.md"
    wrong += _pages({card: pages.made(folder, [contents])[card]})
    return Checked(contents.name, count, lines, tuple(wrong), tuple(notes))


def _again(contents: Contents, batch: Batch, genotype: Genotype, folder: Path) -> tuple[Batch, int]:
    """The batch from the lines that it names, and how many more its ledger has. RunError where they are of another function."""
    place = folder / contents.family / "evidence" / batch.evidence.folder
    campaign = evidence.restored(batch.evidence, place)
    if not contenders.same_function(publishable.genotype_of(campaign, batch.label), genotype):
        raise RunError(f"{place}: {batch.label} is another function")
    more = len(Ledger.read(place).lines) - len(batch.evidence.lines)
    return publishable.batch(campaign, batch.evidence, batch.label), more


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
    """What is wrong between entries: two that a family's name loads, none, one function twice."""
    for family in sorted({each.family for each in entries}):
        own = [each for each in entries if each.family == family]
        alias = [each.name for each in own if each.alias]
        if len(alias) != 1:
            yield f"{family}: one entry a family has its alias grafs_{family}, got {', '.join(alias) or 'none'}"
        genotypes = {each.name: Genotype.from_dict(each.genotype, derived=False) for each in own}
        for a, b in combinations(genotypes, 2):
            if contenders.same_function(genotypes[a], genotypes[b]):
                yield f"{a} and {b} are the same function, up to scales: one of them is further evidence of the other"


def _strays(folder: Path) -> Iterator[str]:
    """Evidence that is no ledger, and files in ledgers that nothing reads."""
    for place in sorted(path for path in folder.glob("*/evidence/*") if not path.name.startswith(".")):
        try:
            Campaign.read(place)
        except RunError as error:
            yield str(error)
            continue
        for path in sorted(place.glob("**/*")):
            known = path.parent == place and (path.name in (RECIPE, ACTIVATIONS, COST) or path.suffix == ".jsonl")
            further = path.parent == place / FURTHER and path.suffix == ".yaml"
            if path.is_file() and not (known or further or path.name.startswith(".")):
                yield f"{path}: not part of a ledger"


def _pages(made: dict[Path, str]) -> list[str]:
    wrong = []
    for path, text in made.items():
        try:
            if path.read_bytes() != text.encode():
                wrong.append(f"{path} differs from its entries; grafs-timm publish generates it again")
        except OSError as error:
            wrong.append(f"{path} cannot be read: {error.strerror}")
    return wrong
