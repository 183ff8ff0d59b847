"""Show what a campaign has and what it lacks, as text and as rows."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ..activations.genotype import Genotype
from ..errors import UnknownNameError
from ..utils.suggest import nearest
from ..zoo.nearest import nearest_known
from . import campaign_run
from .campaign import RECIPES, Campaign, search_label
from .campaign_files import ACTIVATIONS
from .ledger import Job
from .results import Place, Result
from .statistics import difference, mean
from .verdict import Verdict


def plan_text(campaign: Campaign, workers: int, device: str = "cpu") -> str:
    """Write what is left, by model and data set, with an estimate of the time.

    Args:
        campaign: whose plan it is.
        workers: how many jobs run at once.
        device: to time on what never ran.
    """
    waiting = campaign.left(campaign.jobs())
    groups: dict[str, list[Job]] = {}
    for job in waiting:
        groups.setdefault("searches" if job.kind == "search" else f"trainings of {job.place}", []).append(job)
    lines = [f"{campaign.family}, {campaign.settings.budget}: {len(waiting)} runs are known to be wanted and not done"]
    timed: dict[str, float | None] = {}
    total = 0.0
    for what, jobs in groups.items():
        seconds = [campaign_run.seconds_of(campaign, job, device, timed) for job in jobs]
        known = math.fsum(each for each in seconds if each)
        total += known
        about = f"about {known / 3600 / workers:.1f} h" if all(seconds) else "not timed yet"
        shown = ", ".join(str(job) if job.kind == "search" else f"{job.label} s{job.seed}" for job in jobs[:8])
        lines.append(f"  {len(jobs):3d} {what}: {about}\n      {shown}{' ...' if len(jobs) > 8 else ''}")
    if waiting:
        lines.append(f"  together about {total / 3600 / workers:.1f} h with {workers} workers, of what could be timed")
    if not _complete(campaign):
        lines.append("  what comes after these depends on their results")
    return "\n".join(lines)


def _complete(campaign: Campaign) -> bool:
    """Whether everything to come is known: the last stage was yielded."""
    stages = list(campaign.stages())
    return len(stages) > 3


def rows(campaign: Campaign) -> Iterator[dict[str, Any]]:
    """Yield a plain object for each line of the ledger, repetitions too."""
    labels = {each.sha256 or label: label for label, each in campaign.activations.items()}
    first = {line.sha256 for line in campaign.ledger.first().values()}
    for line in campaign.ledger.lines:
        last = line.log[-1]
        about: dict[str, Any] = {
            "family": campaign.family, "budget": campaign.settings.budget, "campaign": campaign.folder.name, "kind": line.kind,
            "model": line.model, "data": line.data, "seed": line.seed, "repetition": line.sha256 not in first,
        }  # fmt: skip
        if line.kind == "search":
            about |= {
                "activation": Genotype.from_dict(line.genotype, derived=False).text,
                "figure": _figure(campaign, line.held_out, ""),
            }
        else:
            split = "test" if "test_loss" in last else "validation"
            about |= {"activation": labels.get(line.function, line.function), "split": split}
            about |= {"figure": _figure(campaign, last, f"{split}_")}
            if split == "test" and "validation_loss" in last:
                about["held_out"] = _figure(campaign, last, "validation_")
        yield about | {
            "epochs": len(line.log), "seconds": round(campaign_run.line_seconds(line), 1), "hardware": line.hardware,
            "commit": line.commit, "date": line.date, "key": line.key,
        }  # fmt: skip


def _figure(campaign: Campaign, figures: Any, prefix: str) -> float:
    return float(figures[f"{prefix}{campaign.measure.name}"])


def status_text(campaign: Campaign) -> str:
    """Write the figures of every activation by model and data set, searches, repetitions, and the hours spent."""
    own = campaign.settings
    lines = [f"{campaign.family}, {own.budget} ({campaign.folder.name}): {len(campaign.ledger.lines)} lines"]
    for place in campaign.trainings_by:
        lines += _table(campaign, place)
    lines += [f"  {text}" for text in _searches(campaign)]
    retired = campaign.retired()
    for each in retired.values():
        lines.append(f"  retired after {each.after} seeds: {each.label}, held-out difference {each.verdict.interval}")
    for again in campaign.ledger.repetitions().values():
        for line in again:
            same = "equal bits" if line.result == campaign.ledger.first()[line.key].result else "another figure"
            lines.append(f"  repeated, {same}: {line.file_name} on {line.hardware.get('processor')}")
    left = campaign.left(campaign.jobs())
    lines.append(f"  next: {', '.join(map(str, left[:3]))}{' ...' if len(left) > 3 else ''}" if left else "  nothing is left")
    spent = ", ".join(f"{hours:.1f} h on {name}" for name, hours in campaign_run.hours(campaign).items())
    lines.append(f"  spent, a core each: {spent or 'nothing'}")
    return "\n".join(lines)


def _table(campaign: Campaign, place: Place) -> list[str]:
    test = [row for row in campaign.results("test") if row.place == place]
    if not test:
        return []
    held = [row for row in campaign.results("validation") if row.place == place]
    measure = campaign.measure
    lines = [f"  {place}: {measure.noun}, mean ± sd over n training seeds, and the paired difference to {campaign.default}"]
    theirs = _seeds(test, campaign.default)
    for label in dict.fromkeys(row.activation for row in test):
        own, chosen_by = mean(_seeds(test, label)), mean(_seeds(held, label))
        apart = Verdict(difference(_seeds(test, label), theirs, measure), campaign.default, measure)
        figure = measure.text(own.mean, own.sd) if own.mean is not None else "no figure"
        beside = apart.interval if apart.difference.mean is not None and label != campaign.default else ""
        held_out = f"held-out {measure.text(chosen_by.mean)}" if chosen_by.mean is not None else ""
        lines.append(f"    {label:22s} n={own.n}  {figure:18s} {beside:28s} {held_out}".rstrip())
    return lines


def _seeds(rows: list[Result], label: str) -> dict[int, float]:
    return {row.seed: row.value for row in rows if row.activation == label}


def _searches(campaign: Campaign) -> Iterator[str]:
    for batch, lines in campaign.searched.items():
        for seed, line in lines.items():
            genotype = Genotype.from_dict(line.genotype, derived=False)
            same = campaign.same_as.get(campaign.label_of(batch, seed) or "")
            what = f"{genotype.text}{f' (is {same})' if same else ''}"
            figure = f"{_figure(campaign, line.held_out, ''):.4g}"
            yield f"search {search_label(batch, seed)}: {what}, held-out {figure}; {nearest_known(genotype)}"


def all_campaigns(zoo: Path, families: Sequence[str] = ()) -> list[Campaign]:
    """Read every campaign with a ledger in the zoo folder, ordered by family.

    Args:
        zoo: the zoo folder.
        families: only these, if given.

    Raises:
        UnknownNameError: for a family without a campaign.
        RunError: as `Campaign.read`.
    """
    found = sorted(path.parent for path in zoo.glob(f"*/evidence/*/{ACTIVATIONS}"))
    there = {path.parent.parent.name for path in found}
    for family in families:
        if family not in there | set(RECIPES):
            raise UnknownNameError(f"no campaign for the family {family!r}{nearest(family, [*there, *RECIPES])}")
    return [Campaign.read(path) for path in found if not families or path.parent.parent.name in families]
