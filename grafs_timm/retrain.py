"""One training of an entry once more: does what the entry reports come out again?"""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from . import claims, entry_file, pages, publishable, runs
from .entry import Contents, Verified
from .errors import RunError, UnknownNameError
from .evidence import Records
from .files import write_whole
from .matrix import Cell
from .ops import nearest
from .run_evaluate import run_evaluate
from .statistics import Measure


@dataclass(frozen=True)
class Again:
    """A training that was repeated, and what the first one's versions were."""

    name: str
    verified: Verified
    first: dict[str, str]
    measure: Measure

    @property
    def equal(self) -> bool:
        return abs(self.verified.again - self.verified.reported) < 1e-6

    def __str__(self) -> str:
        own = self.verified
        first, now = (f"{value:.{self.measure.digits}f}{self.measure.suffix}" for value in (own.reported, own.again))
        of = f"{self.name}, {own.model} on {own.data}, seed {own.seed}: reported {first}, now {now}"
        if self.equal:
            return f"equal  {of}"
        changed = [f"{key} {self.first.get(key)} -> {now}" for key, now in own.versions.items() if self.first.get(key) != now]
        apart = f"{own.again - own.reported:+.{self.measure.digits}f} {self.measure.unit}"
        return f"apart  {of}: {apart}; {', '.join(changed) or 'the same versions'}"


def retrain(
    folder: str | Path, name: str, *, seed: int | None = None, data: str | None = None, device: str = "cpu",
    record: bool = False, hardware: str | None = None,
) -> Again:  # fmt: skip
    """Train the entry's function once more where it was searched, by the recipe in its evidence.

    ``seed``: one of the training seeds that the entry reports, by default the lowest; ``data``: where that data set lies now.
    With ``record`` both numbers go into the entry, beside those of earlier repetitions, and its pages are made anew. Errors as
    `Records.read` and `run_evaluate`; UnknownNameError for a name or a seed that the zoo does not have.
    """
    folder = Path(folder)
    files = {path.stem: path for path in sorted(folder.glob("*/grafs_*.json"))}
    if name not in files:
        raise UnknownNameError(f"no entry {name!r} in {folder}{nearest(name, files)}")
    contents = entry_file.read(files[name])
    batch = contents.batches[0]
    home = batch.metric(batch.provenance.model, batch.provenance.data, batch.label)
    if home is None:
        raise RunError(f"{name}: {batch.label} was not trained on {batch.provenance.model}, {batch.provenance.data}")
    seed = min(map(int, home.each)) if seed is None else seed
    if str(seed) not in home.each:
        raise UnknownNameError(f"{name} reports no training seed {seed}; there are: {', '.join(home.each)}")
    records = Records.read(folder / contents.family / "evidence" / batch.evidence.folder, batch.evidence.files)
    recipe = records.matrix.cell_recipe(home.model, home.data)
    if data:
        recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"name": data})})
    genotype = publishable.search_of(records, batch.label).genotype
    with tempfile.TemporaryDirectory() as beside:
        place = Path(beside) / Cell(name, home.model, home.data, seed).name
        summary = run_evaluate(recipe, genotype, place, seed=seed, device=device)
    verified = Verified(
        model=home.model, data=home.data, activation=batch.label, seed=seed, reported=home.each[str(seed)],
        again=float(summary[f"{summary['measured_on']}_{batch.measure}"]), versions=runs.versions(),
        hardware=hardware or ("CPU" if device == "cpu" else _gpu()), date=time.strftime("%Y-%m-%d", time.gmtime()),
    )  # fmt: skip
    if record:
        _record(folder, files[name], contents, verified)
    return Again(name, verified, batch.provenance.versions, claims.of(batch))


def _gpu() -> str:
    import torch

    return torch.cuda.get_device_name()


def _record(folder: Path, file: Path, contents: Contents, verified: Verified) -> None:
    new = contents.model_copy(update={"verified": (*contents.verified, verified)}).sealed()
    write_whole(file, entry_file.text(new))
    pages.write(folder, pictures=False)
