"""Collect the activations of a comparison: given by name, file or folder of searches, with baselines and random cells."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..activations import genotype as genotypes
from ..activations import published, screening, similarity, timm_maps
from ..activations.genotype import Genotype
from ..activations.named import Activation, Kind
from ..errors import GenotypeError, GrafsError, UnknownNameError
from ..models import families
from ..runs import folder as runs
from ..utils.suggest import nearest
from ..zoo import lookup as zoo


@dataclass(frozen=True)
class Contender:
    """One activation of a comparison; its name is its label in folders and reports.

    Args:
        activation: the function.
        batch: the folder of searches that ``search_seed`` belongs to.
        search_seed: of the search that found it.
        also: further seeds of the batch whose searches ended in the same function, up to scales.
    """

    activation: Activation
    batch: str | None = None
    search_seed: int | None = None
    also: tuple[int, ...] = ()

    @property
    def label(self) -> str:
        return self.activation.name

    @property
    def kind(self) -> Kind:
        assert self.activation.kind is not None
        return self.activation.kind

    @property
    def genotype(self) -> Genotype | None:
        return self.activation.genotype

    @property
    def sha256(self) -> str | None:
        return self.activation.sha256

    def called(self, label: str) -> Contender:
        """Return the same contender under another label."""
        return replace(self, activation=replace(self.activation, name=label))

    def duplicates(self) -> dict[str, int]:
        """The labels of the further searches that ended in this function, with their seeds."""
        return {safe(f"{self.batch}_s{seed}"): seed for seed in self.also}

    def same_as(self, other: Contender) -> bool:
        """Return whether one training serves both: the same genotype, or within a batch of searches the same function."""
        if (self.kind, self.batch) != (other.kind, other.batch):
            return False
        if self.genotype is None or other.genotype is None:
            return self.label == other.label and self.genotype is other.genotype
        if self.sha256 == other.sha256:
            return True
        return self.batch is not None and same_function(self.genotype, other.genotype)


def safe(text: str, taken: Collection[str] = ()) -> str:
    """Turn ``text`` into the name of one folder: letters, digits and ``._+-`` only, and not hidden.

    Args:
        text: any text.
        taken: names that it must differ from, in any case.

    >>> safe("my run/s0"), safe("relu", taken=["ReLU"])
    ('my_run_s0', 'relu_2')
    """
    plain = re.sub(r"[^A-Za-z0-9._+-]+", "_", text).strip("._")[:80] or "unnamed"
    used, number, name = {each.lower() for each in taken}, 1, plain
    while name.lower() in used:
        number += 1
        name = f"{plain}_{number}"
    return name


def gather(
    activations: Sequence[str], baselines: Sequence[str], models: Iterable[str], random: int, random_seed: int
) -> list[Contender]:
    """Collect baselines, what is given, and random cells; equal labels are not told apart yet.

    Args:
        activations: names, genotype files or folders of searches.
        baselines: names; the default activations of ``models`` are added.
        models: names of timm.
        random: how many random cells.
        random_seed: of their draw.

    Raises:
        UnknownNameError, GenotypeError: with the nearest right names, for what is no activation.
    """
    names = dict.fromkeys(
        [name.lower() for name in baselines] + [each for model in models if (each := default_activation(model))]
    )
    found = [_named(name, "baseline") for name in names]
    for text in activations:
        found += [each for each in given(text) if each.kind != "baseline" or each.label not in names]
    return found + [
        Contender(Activation(f"random{number}", cell, kind="random"))
        for number, cell in enumerate(random_cells(random, random_seed))
    ]


def merged(candidates: Iterable[Contender], known: Iterable[Contender] = ()) -> list[Contender]:
    """Return ``known``, then what is new in ``candidates`` under own labels; equal functions become one, with all seeds.

    Args:
        candidates: to add.
        known: keep their labels.
    """
    return list(labelled(candidates, {each.label: each for each in known})[0].values())


def labelled(candidates: Iterable[Contender], known: Mapping[str, Contender]) -> tuple[dict[str, Contender], list[str]]:
    """Do the same as `merged` by label.

    Args:
        candidates: to add.
        known: by label.

    Returns:
        All by label, and the labels that stand for ``candidates``, each once.
    """
    ours, labels = dict(known), []
    for candidate in candidates:
        same = next((each for each in ours.values() if each.same_as(candidate)), None)
        if same is None:
            same = candidate.called(safe(candidate.label, ours))
        elif candidate.search_seed is not None and candidate.search_seed not in (same.search_seed, *same.also):
            same = replace(same, also=(*same.also, candidate.search_seed))
        ours[same.label] = same
        labels.append(same.label)
    return ours, list(dict.fromkeys(labels))


def screened(found: Iterable[Contender], usual: str) -> tuple[list[Contender], dict[str, str]]:
    """Tell what is worth training from what is not, by the formulas alone.

    A function equal to the default activation up to scales needs no training, as it is trained anyway.

    Args:
        found: by searches.
        usual: the default activation.

    Returns:
        What is to be trained, and {label: the reason} of the others.

    >>> from grafs_timm.activations.genotype import Gene, Genotype
    >>> x, left = Gene("identity"), Gene("left")
    >>> cells = {op: Genotype(x, x, left, Gene(op), x, left) for op in ("relu", "gelu", "sigmoid")}
    >>> cells["flat"] = Genotype(x, x, left, Gene("const", 2.0), x, left)
    >>> kept, out = screened([Contender(Activation(op, cell)) for op, cell in cells.items()], "relu")
    >>> [each.label for each in kept], out
    (['gelu', 'sigmoid'], {'relu': 'the same function as relu, the default activation', 'flat': 'constant on [−5, 5]'})
    """
    kept, out = list[Contender](), dict[str, str]()
    for each in found:
        assert each.genotype
        if zoo.known_as(each.genotype, [usual]):
            out[each.label] = f"the same function as {usual}, the default activation"
        elif why := screening.reasons(each.genotype):
            out[each.label] = "; ".join(why)
        else:
            kept.append(each)
    return kept, out


def default_activation(model: str) -> str | None:
    """Return the default activation of a model's family by its timm name; None where the family is unknown."""
    from ..models import small_models as models  # noqa: F401  registers the small models of the paper

    families.check_name(model)
    try:
        return families.default_activation(model)
    except UnknownNameError:
        return None


def random_cells(count: int, seed: int) -> Iterator[Genotype]:
    """Draw cells as `genotypes.random_genotype` does and yield those that are not constant and finite on [−5, 5], in float64.

    A search can't end in another one either, because it would not train. Nothing else is left out.

    Args:
        count: how many.
        seed: of the draw.
    """
    rng, x = np.random.default_rng(seed), torch.linspace(-5, 5, 641, dtype=torch.float64, device="cpu")
    while count:
        cell = genotypes.random_genotype(rng)
        values = cell(x)
        if values.isfinite().all() and float(values.max() - values.min()) > 1e-9 * float(values.abs().max()):
            count -= 1
            yield cell


def given(text: str) -> list[Contender]:
    """Return what a name, a genotype file or a folder of searches stands for. Raises as `gather`."""
    path = Path(text).expanduser()
    if path.is_dir():
        return _searches(path)
    if text.endswith(".json") or "/" in text:
        label = _run_name(path.resolve().parent) if path.stem == "genotype" else path.stem
        return [Contender(Activation(label, genotypes.load(path, derived=True)), search_seed=_search_seed(path.parent))]
    return [_named(text.lower())]


def _run_name(folder: Path) -> str:
    """Of a run folder; one that is only called after its seed, as in a batch, takes the batch's name before it."""
    return f"{folder.parent.name}_{folder.name}" if re.fullmatch(r"s\d+", folder.name) else folder.name


def _named(name: str, kind: Kind | None = None) -> Contender:
    if name in zoo.names():
        return Contender(Activation(name, zoo.names()[name].genotype))
    if name in published.list_published():
        resolved = zoo.resolve(name)
        return Contender(replace(resolved, kind=kind) if kind and resolved.genotype is None else resolved)
    if timm_maps.layer(name) is None:
        known = [*zoo.names(), *published.list_published(), *timm_maps.own_names()]
        what = "" if kind else "; or give a genotype.json or a folder of searches"
        raise UnknownNameError(f"no activation {name!r}{nearest(name, dict.fromkeys(known))}{what}")
    return Contender(Activation(name))


def _searches(folder: Path) -> list[Contender]:
    """Every genotype.json below, in the order of search seeds; one that lies in the folder itself is a search on its own."""
    batch = folder.resolve().name
    if (folder / runs.GENOTYPE).is_file():
        return given(str(folder / runs.GENOTYPE))
    files = sorted(folder.rglob(runs.GENOTYPE))
    if not files:
        raise GenotypeError(f"{folder}: no genotype.json below; a search writes it when it ends")
    found = []
    for file in files:
        seed = _search_seed(file.parent)
        name = f"s{seed}" if seed is not None else "_".join(file.parent.relative_to(folder).parts)
        found.append(Contender(Activation(f"{batch}_{name}", genotypes.load(file)), batch, seed))
    return sorted(found, key=lambda each: (each.search_seed is None, each.search_seed or 0))


def _search_seed(folder: Path) -> int | None:
    """Of the search whose run folder this is; None where it is none."""
    for name in (runs.RUN, runs.SUMMARY):
        try:
            about: Any = json.loads((folder / name).read_bytes())
        except (OSError, ValueError, RecursionError):
            continue
        if isinstance(about, dict) and about.get("kind") == "search" and isinstance(about.get("seed"), int):
            return int(about["seed"])
    return None


@functools.cache
def same_function(a: Genotype, b: Genotype) -> bool:
    """Return whether two genotypes are one function up to an outer and an inner scale; by hash where one isn't finite."""
    try:
        return a.sha256 == b.sha256 or similarity.same_function(a, b)
    except (ValueError, GrafsError):
        return False
