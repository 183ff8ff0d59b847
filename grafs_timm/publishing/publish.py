"""Publish a campaign: new zoo entries for what its searches found, further evidence for existing ones."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..activations import facts
from ..activations.genotype import Genotype
from ..comparison import contenders
from ..comparison.campaign import Campaign
from ..comparison.campaign_files import COST, RECIPE
from ..errors import RunError
from ..utils import resources
from ..utils.files import write_whole
from ..zoo import entry_file, lookup, outside
from ..zoo.entry import Batch, Contents
from . import card_plots, claims, evidence, pages
from . import requirements as publishable

LICENCE = "Apache-2.0"
_SHORT = {"cifar10": "c10", "cifar100": "c100", "imagenet": "in1k"}
_SHOWN = 5  # reasons in one message


@dataclass(frozen=True)
class Published:
    """What was published.

    Args:
        entries: that were written.
        said: what a user should know of it, a sentence each.
    """

    entries: tuple[Contents, ...]
    said: tuple[str, ...]


def _require_ledger(what: str | Path) -> None:
    """RunError, with what was probably meant, where there is no folder of a ledger."""
    if (Path(what) / RECIPE).is_file():
        return
    if str(what) in lookup.names() or outside.is_entry(what):
        raise RunError(f"{what} is an entry of the zoo, not a ledger; --hub-dir DIR makes a folder for the hub of it")
    there = {os.path.relpath(path) for path in resources.ledgers()}
    known = f"; ledgers: {', '.join(sorted(there))}" if there else ""
    raise RunError(f"{what} is not a ledger: it has no {RECIPE}{known}; grafs-timm campaign run FAMILY begins one")


def publish(folder: str | Path, *, name: str | None = None, label: str | None = None, alias: bool = False) -> Published:
    """Update the zoo with the campaign whose ledger is ``folder``, ``ZOO/<family>/evidence/<campaign>``.

    Every entry of the family whose function was trained there gets its figures. What the searches found becomes an entry, or
    further evidence of the one that is the same function up to scales. Then cards, leaderboard and gallery are generated, and
    the pictures of the entries that changed are drawn.

    Args:
        folder: the ledger.
        name: of a new entry, by default after data and search seed.
        label: the search to publish, such as ``searches_s3``; by default the best on held-out data.
        alias: make it what ``grafs_<family>`` loads, which the family's first entry is anyway.

    Raises:
        RunError: where there is nothing to publish (the reasons are named), for a baseline, and for a name that another
            function has; nothing was written then.
    """
    _require_ledger(folder)
    folder = Path(folder).absolute()
    campaign = Campaign.read(folder)
    zoo, family = folder.parents[2], campaign.family
    there = {path.stem: entry_file.read(path) for path in sorted((zoo / family).glob("grafs_*.json"))}
    lacks = publishable.lacking(campaign)
    if label is None and not lacks:
        label = publishable.best(campaign)
    made = {each.name: each for each in _measured(campaign, there)}
    said = [f"{each} got the figures of {folder.name}" for each in made]
    if label:
        own, how = _of_search(campaign, label, name, {**there, **made})
        made[own.name], said = own, [*said, how]
    elif not made:
        more = f"\n  and {len(lacks) - _SHOWN} more" if len(lacks) > _SHOWN else ""
        raise RunError(f"{folder} is not enough for an entry:\n  " + "\n  ".join(lacks[:_SHOWN]) + more)
    else:
        said.append(f"no new entry: {lacks[0]}" + (f", and {len(lacks) - 1} more reasons" if len(lacks) > 1 else ""))
    everything = _with_alias({**there, **made}, own.name if label and alias else None)
    changed = [each for each in everything if there.get(each.name) != each]
    for each in changed:
        write_whole(zoo / family / f"{each.name}.json", entry_file.text(each))
        card_plots.draw(each, zoo / family)
    pages.write(zoo, pictures=False)
    return Published(tuple(each for each in everything if each.name in made), tuple(said))


def _measured(campaign: Campaign, there: Mapping[str, Contents]) -> list[Contents]:
    """The entries whose functions the campaign trained where it searched, with its figures."""
    trained = {row.activation for row in campaign.results("test") if row.place == campaign.home}
    found = []
    for contents in there.values():
        genotype = _genotype(contents)
        for label, each in campaign.activations.items():
            if label in trained and each.genotype and contenders.same_function(each.genotype, genotype):
                found.append(_with(contents, _batch(campaign, label)))
                break
    return found


def _batch(campaign: Campaign, label: str) -> Batch:
    return publishable.batch(campaign, evidence.named(campaign), label)


def _of_search(campaign: Campaign, label: str, name: str | None, there: Mapping[str, Contents]) -> tuple[Contents, str]:
    """The entry of the function that the search ``label`` found, new or with further evidence; and what to say of it."""
    genotype, family = publishable.genotype_of(campaign, label), campaign.family
    usual = lookup.known_as(genotype, lookup.USUAL)
    if usual:
        raise RunError(f"{label} is {usual} up to scales: a baseline needs no entry")
    batch = _batch(campaign, label)
    if batch.cost is None and (timed := evidence.timings(campaign.folder)):
        there_are = ", ".join(dict.fromkeys(row["subject"] for row in timed))
        raise RunError(f"{campaign.folder / COST} has no timing of {label!r}; it has {there_are}")
    known = next((each for each in there.values() if contenders.same_function(_genotype(each), genotype)), None)
    if known:
        same = f"{label} is the same function as {known.name}, up to scales: the evidence is added to that entry"
        return _with(known, batch), same
    own = _free_name(name or _default_name(campaign, label), family, there)
    new = Contents(
        format="grafs-zoo/2", name=own, family=family, alias=False, recommended=False, licence=LICENCE,
        genotype=genotype.to_dict(derived=True), facts=facts.of(genotype), batches=(batch,), verified=(), sha256="0" * 64,
    )  # fmt: skip
    return new, f"{label} is the new entry {own}"


def _with(contents: Contents, batch: Batch) -> Contents:
    """The entry with the batch in place of an earlier one of the same campaign, or behind the others.

    Raises:
        RunError: where the earlier one had timings that this one lacks.
    """
    before = next((each for each in contents.batches if each.evidence.folder == batch.evidence.folder), None)
    if before is None:
        return contents.model_copy(update={"batches": (*contents.batches, batch)})
    if before.cost and not batch.cost:
        raise RunError(
            f"{contents.name} has timings, this campaign no cost.csv: tools/bench_activation.py --activation writes it"
        )
    batches = tuple(batch if each is before else each for each in contents.batches)
    return contents.model_copy(update={"batches": batches})


def _with_alias(entries: Mapping[str, Contents], wanted: str | None) -> list[Contents]:
    """The family's entries, one of them with the alias, that one recommended where its evidence shows it; sealed."""
    chosen = wanted or next((each.name for each in entries.values() if each.alias), None) or next(iter(entries))
    aliased = [each.model_copy(update={"alias": each.name == chosen}) for each in entries.values()]
    return [each.model_copy(update={"recommended": claims.recommended(each)}).sealed() for each in aliased]


def _genotype(contents: Contents) -> Genotype:
    return Genotype.from_dict(contents.genotype, contents.name, derived=False)


def _default_name(campaign: Campaign, label: str) -> str:
    data = Path(campaign.recipe.data.name).name.lower()
    short = re.sub(r"[^a-z0-9]+", "", _SHORT.get(data, data.split("-")[0])) or "data"
    number = re.search(r"\d+$", label)
    budget = "" if campaign.settings.budget == "reduced" else f"_{campaign.settings.budget}"
    return f"grafs_{campaign.family}_{short}{budget}_s{number[0] if number else 0}"


def _free_name(name: str, family: str, there: Mapping[str, Contents]) -> str:
    if not re.fullmatch(rf"grafs_{family}_[a-z0-9_]{{1,60}}", name):
        raise RunError(f"an entry of this family is called grafs_{family}_<id>, lower case letters, digits and _; got {name!r}")
    if name in there:
        number = 2
        while f"{name}_{number}" in there:
            number += 1
        raise RunError(f"{name} is taken by another function; give --name, such as {name}_{number}")
    return name
