"""Repeat one training of an entry: does what the entry reports come out again?"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..comparison.campaign import Campaign, function_of
from ..comparison.ledger import Line
from ..comparison.verdict import Measure
from ..errors import RunError, UnknownNameError
from ..runs import folder as runs
from ..runs.run_training import run_training
from ..utils.files import write_whole
from ..utils.suggest import nearest
from ..zoo import entry_file
from ..zoo.entry import Batch, Contents, Metric, Verified
from . import claims, evidence, pages
from . import requirements as publishable

_WITHIN = 2.0  # standard deviations over training seeds


@dataclass(frozen=True)
class Again:
    """A training that was repeated.

    Args:
        name: of the entry.
        verified: both figures.
        first: the ledger's line.
        measure: what counts.
        sd: over training seeds; None for one seed.
        hardware: of the repetition.
    """

    name: str
    verified: Verified
    first: Line
    measure: Measure
    sd: float | None
    hardware: Mapping[str, str]

    @property
    def verdict(self) -> str:
        """Write "equal bits", "within" or "outside the spread over seeds" (2 sd), or "apart" for one seed."""
        apart = abs(self.verified.again - self.verified.reported)
        if apart < 1e-6:
            return "equal bits"
        if self.sd is None:
            return "apart; one training seed tells no spread"
        side = "within" if apart <= _WITHIN * self.sd else "outside"
        return f"{side} the spread over seeds, {_WITHIN:g} sd = {self.measure.text(_WITHIN * self.sd)}"

    def __str__(self) -> str:
        own = self.verified
        first, now = (self.measure.text(value) + self.measure.suffix for value in (own.reported, own.again))
        of = f"{self.name}, {own.model} on {own.data}, seed {own.seed}: reported {first}, now {now}"
        return f"{of}: {self.verdict}{self._differs()}"

    def _differs(self) -> str:
        """Write what has changed: "; processor A -> B; torch 2.12 -> 2.13"."""
        was = {**self.first.hardware, **self.first.versions}
        now = {**self.hardware, **self.verified.versions}
        changed = [f"{key} {was[key]} -> {now[key]}" for key in now if key in was and was[key] != now[key]]
        return f"; {'; '.join(changed)}" if changed else "; the same hardware and versions"


def retrain(
    folder: str | Path, name: str, *, seed: int | None = None, data: str | None = None, device: str = "cpu",
    record: bool = False,
) -> Again:  # fmt: skip
    """Train an entry's function once more where its headline was measured, by the recipe in its evidence.

    Args:
        folder: the zoo.
        name: the entry.
        seed: one of the training seeds that the entry reports, by default the lowest.
        data: where that data set lies now.
        device: to train on.
        record: write both numbers into the entry, beside those of earlier repetitions, and make its pages anew.

    Raises:
        UnknownNameError: for a name or a seed that the zoo does not have.
        RunError: as `evidence.restored` and `run_training`.
    """
    folder = Path(folder)
    files = {path.stem: path for path in sorted(folder.glob("*/grafs_*.json"))}
    if name not in files:
        raise UnknownNameError(f"no entry {name!r} in {folder}{nearest(name, files)}")
    contents = entry_file.read(files[name])
    batch = claims.headline(contents)
    home = _home(name, batch)
    seed = min(map(int, home.each)) if seed is None else seed
    if str(seed) not in home.each:
        raise UnknownNameError(f"{name} reports no training seed {seed}; there are: {', '.join(home.each)}")
    campaign = evidence.restored(batch.evidence, folder / contents.family / "evidence" / batch.evidence.folder)
    first = _line(campaign, batch, home, seed)
    recipe = campaign.trainings_by[campaign.home]
    if data:
        recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"name": data})})
    genotype = publishable.genotype_of(campaign, batch.label)
    with tempfile.TemporaryDirectory() as beside:
        summary = run_training(recipe, genotype, Path(beside) / name / f"s{seed}", seed=seed, device=device)
    verified = Verified(
        model=home.model, data=home.data, activation=batch.label, seed=seed, reported=home.each[str(seed)],
        again=float(summary[f"{summary['measured_on']}_{batch.measure}"]), versions=runs.versions(),
        hardware=_named(summary["hardware"]), date=time.strftime("%Y-%m-%d", time.gmtime()),
    )  # fmt: skip
    if record:
        _record(folder, files[name], contents, verified)
    return Again(name, verified, first, claims.of(batch), home.sd, summary["hardware"])


def _home(name: str, batch: Batch) -> Metric:
    home = claims.home(batch)
    if home is None:
        raise RunError(f"{name}: {batch.label} was not trained on {batch.provenance.model}, {batch.provenance.data}")
    return home


def _line(campaign: Campaign, batch: Batch, home: Metric, seed: int) -> Line:
    """The ledger's line of that training."""
    genotype = publishable.genotype_of(campaign, batch.label)
    functions = {genotype.sha256}
    functions |= {
        function_of(each) for label, each in campaign.activations.items() if batch.label in (label, *each.duplicates())
    }
    wanted = (home.model, home.data, seed)
    for line in campaign.ledger.first().values():
        if line.function in functions and (line.model, line.data, line.seed) == wanted and "test_loss" in line.log[-1]:
            return line
    raise RunError(f"{campaign.folder}: no line of {batch.label}, seed {seed}")


def _named(found: Mapping[str, str]) -> str:
    return found.get("gpu") or found["processor"]


def _record(folder: Path, file: Path, contents: Contents, verified: Verified) -> None:
    new = contents.model_copy(update={"verified": (*contents.verified, verified)}).sealed()
    write_whole(file, entry_file.text(new))
    pages.write(folder, pictures=False)
