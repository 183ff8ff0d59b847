"""From a campaign's folder to a zoo entry: evidence, entry, pictures, and the pages made from all entries."""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from . import card_plots, entry_file, evidence, facts, families, pages, publishable
from .entry import Batch, Contents, Evidence
from .errors import RunError
from .evidence import Records
from .evidence_collect import collect, write
from .files import write_whole
from .formula import Genotype
from .tracking import read_log

LICENCE = "Apache-2.0"
_SHORT = {"cifar10": "c10", "cifar100": "c100", "imagenet": "in1k"}
_SHOWN = 5  # reasons in one message


@dataclass(frozen=True)
class Published:
    """``path``: the entry's file; ``said``: what a user should know of what was done, a sentence each."""

    path: Path
    entry: Contents
    said: tuple[str, ...]


def publish(
    campaign: str | Path, zoo: str | Path, *, hardware: str, commit: str, name: str | None = None, label: str | None = None,
    recommend: bool = False,
) -> Published:  # fmt: skip
    """Make a zoo entry of ``campaign``, a folder with a finished choice and matrix, in the folder ``zoo``.

    ``hardware`` and ``commit``: what the runs ran on, and the code's commit. ``name``: of a new entry, by default after data
    and search seed; ``label``: of the search to publish, by default the one the choice ranks best. Where ``zoo`` has
    the function already, up to scales, the evidence is added to that entry; the same campaign once more replaces what it gave.
    The first entry of a family is its recommended one; ``recommend`` makes this one so.

    RunError for a campaign that lacks searches, baselines, random cells or seeds, for a usual activation, and for a name that
    another function has; nothing was written then.
    """
    campaign, zoo = Path(campaign), Path(zoo)
    files = collect(campaign, {"hardware": hardware, "commit": commit, "date": _date(campaign)})
    with tempfile.TemporaryDirectory() as beside:
        write(files, Path(beside))
        records = Records.read(beside)
        _refuse_lacking(campaign, records)
        label = label or publishable.best(records)
        genotype = publishable.search_of(records, label).genotype
        usual = publishable.usual_as(genotype)
        if usual:
            raise RunError(f"{label} is {usual} up to scales: a usual activation needs no entry")
        family = families.family_of(records.recipe.model)
        there = _entries(zoo, family)
        known = next((each for each in there.values() if publishable.same_function(_genotype(each), genotype)), None)
        own = known.name if known else _free_name(name or _default_name(family, records, label), family, there)
        folder = _evidence_folder(zoo / family / "evidence", own.removeprefix(f"grafs_{family}_"), files, known)
        named = Evidence(folder=folder, files={file: evidence.file_sha256(Path(beside) / file) for file in sorted(files)})
        batch = publishable.batch(records, named, label)
    made, said = _entry(own, family, genotype, batch, known, there, recommend)
    write(files, zoo / family / "evidence" / folder)
    for each in made:
        write_whole(zoo / family / f"{each.name}.json", entry_file.text(each))
    card_plots.draw(made[0], zoo / family)
    pages.write(zoo)
    return Published(zoo / family / f"{own}.json", made[0], said)


def _refuse_lacking(campaign: Path, records: Records) -> None:
    lacks = publishable.lacking(records)
    if lacks:
        more = f"\n  and {len(lacks) - _SHOWN} more" if len(lacks) > _SHOWN else ""
        raise RunError(f"{campaign} is not enough for an entry:\n  " + "\n  ".join(lacks[:_SHOWN]) + more)


def _entry(
    name: str, family: str, genotype: Genotype, batch: Batch, known: Contents | None, there: Mapping[str, Contents],
    recommend: bool,
) -> tuple[list[Contents], tuple[str, ...]]:  # fmt: skip
    """The entry, then those that are no longer recommended beside it; and what to say of it."""
    others = [each for each in there.values() if each.name != name and each.recommended]
    recommended = recommend or not others or bool(known and known.recommended)
    said = []
    if known is None:
        new = Contents(
            format="grafs-zoo/1", name=name, family=family, recommended=recommended, licence=LICENCE,
            genotype=genotype.to_dict(derived=True), facts=facts.of(genotype), batches=(batch,), verified=(), sha256="0" * 64,
        )  # fmt: skip
    else:
        before = [each for each in known.batches if each.evidence.folder == batch.evidence.folder]
        if before and before[0].cost and not batch.cost:
            raise RunError(f"{name} has timings, this campaign no cost.csv: tools/bench_activation.py --activation writes it")
        if before:
            batches = tuple(batch if each is before[0] else each for each in known.batches)
            said.append(f"{name} was published from this campaign before: its numbers are replaced")
        else:
            batches = (*known.batches, batch)
            said.append(f"{batch.label} is the same function as {name}, up to scales: the evidence is added to that entry")
        new = known.model_copy(update={"batches": batches, "recommended": recommended})
    if not recommended:
        said.append(f"grafs_{family} stays {others[0].name}; --recommend changes that")
    aside = [each.model_copy(update={"recommended": False}).sealed() for each in others if recommend]
    return [new.sealed(), *aside], tuple(said)


def _entries(zoo: Path, family: str) -> dict[str, Contents]:
    """The family's entries in that folder, by name."""
    return {path.stem: entry_file.read(path) for path in sorted((zoo / family).glob("grafs_*.json"))}


def _genotype(contents: Contents) -> Genotype:
    return Genotype.from_dict(contents.genotype, contents.name)


def _default_name(family: str, records: Records, label: str) -> str:
    data = Path(records.choosing.data.name).name.lower()
    short = re.sub(r"[^a-z0-9]+", "", _SHORT.get(data, data)) or "data"
    return f"grafs_{family}_{short}_s{publishable.search_of(records, label).seed}"


def _free_name(name: str, family: str, there: Mapping[str, Contents]) -> str:
    if not re.fullmatch(rf"grafs_{family}_[a-z0-9_]{{1,60}}", name):
        raise RunError(f"an entry of this family is called grafs_{family}_<id>, lower case letters, digits and _; got {name!r}")
    if name in there:
        number = 2
        while f"{name}_{number}" in there:
            number += 1
        raise RunError(f"{name} is taken by another function; give --name, such as {name}_{number}")
    return name


def _evidence_folder(parent: Path, own: str, files: Mapping[str, bytes], known: Contents | None) -> str:
    """The folder that this campaign has, if it was published before, else a new one."""
    for batch in known.batches if known else ():
        there = parent / batch.evidence.folder / evidence.SEARCHES
        if there.exists() and there.read_bytes() == files[evidence.SEARCHES]:
            return batch.evidence.folder
    number, name = 1, own
    while (parent / name).exists() and (known or any((parent / name).iterdir())):
        if not known and (parent / name / evidence.SEARCHES).read_bytes() == files[evidence.SEARCHES]:
            break  # a publishing that was stopped before its entry stood
        number += 1
        name = f"{own}_{number}"
    return name


def _date(campaign: Path) -> str:
    """The UTC day on which the last training of the campaign ended."""
    logs = (read_log(file.parent) for file in campaign.glob("matrix/jobs/**/log.jsonl"))
    last = max((float(lines[-1].get("time", 0.0)) for lines in logs if lines), default=0.0)
    return time.strftime("%Y-%m-%d", time.gmtime(last))
