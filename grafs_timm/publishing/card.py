"""Write the card of a zoo entry, ``zoo/<family>/<name>.md``, in GitHub's Markdown, from the entry's fields alone.

In this order: what it is and its measured effect in one sentence, pictures, usage, the formula and its facts, the evidence,
every search, when not to use it, its provenance, how to reproduce it. Never edit a card by hand.
"""

from __future__ import annotations

from pathlib import Path

from ..activations.genotype import Genotype
from ..models.families import FAMILIES
from ..utils.markdown import code, duration, fenced, length, many, plain, table
from ..zoo.entry import Batch, Contents
from ..zoo.nearest import nearest_known
from . import card_evidence, claims

_TAKES_CLASSES_ONLY = {"mlp_mixer"}  # families whose models in timm call ``act_layer`` without looking a name up


def text(contents: Contents, zoo: Path) -> str:
    """Write the whole card.

    Args:
        contents: of the entry.
        zoo: the zoo folder, as it is called in the commands that reproduce the entry.
    """
    found, shown = contents.batches[0], claims.headline(contents)
    warned = claims.not_shown(contents)
    sections = [
        [f"# {contents.name}", "", sentence(contents), *(["", f"**It is {plain(warned)}.**"] if warned else [])],
        _pictures(contents),
        ["## How to use it", "", *_use(contents)],
        ["## The function", "", *_function(contents)],
        [f"## Evidence at the {shown.budget} budget", "", *card_evidence.evidence(shown)],
        ["### Reported and re-verified", "", *card_evidence.verified(contents)],
        [f"## Every search of {plain(shown.evidence.folder)}", "", *card_evidence.searches(shown)],
        *(_folded(batch) for batch in contents.batches if batch is not shown),
        ["## When not to use it", "", *_bullets(claims.warnings(contents))],
        ["## Where it came from", "", *_provenance(contents, found)],
        ["## How to reproduce it", "", *_reproduce(contents, shown, zoo)],
    ]
    return "\n\n".join("\n".join(lines) for lines in sections) + "\n"


def sentence(contents: Contents) -> str:
    """Write what it is, its measured effect at home and elsewhere, and its cost, in one sentence."""
    batch, genotype = claims.headline(contents), Genotype.from_dict(contents.genotype, derived=False)
    return (
        f"The activation f(x) = {code(genotype.text)}, found by a search for the family {plain(contents.family)}; at the "
        f"{batch.budget} budget (see below) {plain(claims.effect(batch))}; {claims.elsewhere(batch)}; {claims.cost(contents)}."
    )


def _pictures(contents: Contents) -> list[str]:
    return [
        f"![f and its derivative beside {contents.batches[0].usual} and other baselines]({contents.name}.png)",
        "",
        f"![Differences to the default activation by model and data set, with 95 % intervals]({contents.name}_effect.png)",
    ]


def models(family: str) -> tuple[str, str]:
    """Return (a model of timm's own, the small variant that the family is searched on); resnet18 for an unknown family."""
    if family not in FAMILIES:
        return "resnet18", "cifar_resnet20"
    row = FAMILIES[family]
    own = next((name for name in (row.small, *row.larger) if not name.startswith("cifar_")), row.small)
    return own, row.small


def use_line(contents: Contents) -> str:
    """Write the line that puts the activation into a model of its family."""
    layer = f'"{contents.name}"'
    if contents.family in _TAKES_CLASSES_ONLY:
        layer = f"grafs_timm.act_layer({layer})"
    return f'timm.create_model("{models(contents.family)[0]}", act_layer={layer})'


def _use(contents: Contents) -> list[str]:
    block = f"""\
import timm, grafs_timm  # the import makes the zoo's names known to timm

model = {use_line(contents)}
model = grafs_timm.create_model("{models(contents.family)[1]}", activation="{contents.name}")  # any architecture
print(model.activation_report)  # what was replaced, and every activation that was kept
layer = grafs_timm.act_layer("{contents.name}")  # the module class: layer() replaces nn.GELU()"""
    lines = fenced(block, "python")
    if contents.alias:
        alias, warned = code(f"grafs_{contents.family}"), claims.not_shown(contents)
        auto = (
            f'`activation="auto"` takes {claims.headline(contents).usual}, as this is {plain(warned)}'
            if warned
            else ('it is recommended for its family, and what `activation="auto"` takes')
        )
        lines += ["", f"{alias} loads it; {auto}."]
    return lines


def _function(contents: Contents) -> list[str]:
    genotype, facts = Genotype.from_dict(contents.genotype, derived=False), contents.facts
    constants = [f"{slot} ({gene.op}): γ = {gene.gamma!r}" for slot, gene in genotype.genes().items() if gene.gamma is not None]
    operations = ", ".join(f"{slot} {code(gene.op)}" for slot, gene in genotype.genes().items())
    monotone = {"rising": "yes, rising", "falling": "yes, falling", "no": "no"}[facts.monotone]
    finite = {True: "finite for every finite input", False: "**not finite for every finite input**"}
    rows = [
        ["gain, 1 ÷ std f(z) for z ~ N(0, 1)", f"{facts.gain:.4g}"],
        ["range on [−10, 10]", f"{_number(facts.low)} to {_number(facts.high)}"],
        ["largest |f′| on [−10, 10]", f"{facts.lipschitz:.4g}"],
        ["kinks, where f′ jumps", ", ".join(_number(x) for x in facts.kinks) or "none"],
        ["monotone on [−10, 10]", monotone],
        ["f and f′ in float16", finite[facts.fp16]],
        ["f and f′ in bfloat16", finite[facts.bf16]],
    ]
    rows.append(["nearest known functions, up to scales", plain(str(nearest_known(genotype)))])
    for batch in contents.batches:
        if batch.cost:
            rows.append([f"forward + backward ÷ GELU's, {plain(batch.cost.device)}", f"{batch.cost.ratio:.2f}"])
    return [
        f"f(x) = {code(genotype.text)}",
        "",
        "$$", f"f(x) = {genotype.latex}", "$$",
        "",
        f"The cell: {operations}. Constants: {'; '.join(constants) if constants else 'none'}.{_bound(genotype)}",
        "",
        *table(["fact", "value"], rows),
    ]  # fmt: skip


def _bound(genotype: Genotype) -> str:
    """What the formula leaves out: the search's limits, where the function leans on them and keeps them."""
    if genotype.bound is None:
        return ""
    return f" It keeps the bound of the search: growing operations saturate at ±{genotype.bound:g}."


def _folded(batch: Batch) -> list[str]:
    """Another campaign, folded away: its effect, tables and searches."""
    title = f"At the {batch.budget} budget: {plain(claims.effect(batch))}; {claims.elsewhere(batch)}"
    inside = [f"{plain(batch.provenance.budget)}.", "", *card_evidence.evidence(batch), "", *card_evidence.searches(batch)]
    heading = f"## Further evidence: {plain(batch.evidence.folder)}, {plain(batch.provenance.date)}"
    return [heading, "", f"<details><summary>{title}</summary>", "", *inside, "", "</details>"]


def _provenance(contents: Contents, batch: Batch) -> list[str]:
    own = batch.provenance
    folder = f"evidence/{batch.evidence.folder}"
    versions = ", ".join(f"{name} {version}" for name, version in own.versions.items())
    rows = [
        ["recipe", f"[{plain(own.recipe)}]({folder}/{own.recipe}), sha256 {code(own.recipe_sha256)}"],
        [
            "searched on",
            f"{plain(f'{own.model} on {own.data}')}, seed {own.search_seed}, {length(own.epochs or 0, own.steps_per_epoch)}",
        ],
        ["time of the search", duration(own.seconds or 0.0)],
        ["budget", plain(own.budget)],
        ["versions", plain(versions)],
        ["hardware, hours of all its runs", plain(own.hardware)],
        ["commit", code(own.commit)],
        ["date", plain(own.date)],
        ["evidence", f"[{plain(folder)}]({folder}/), {many(len(batch.evidence.lines), 'line')} of its ledger"],
        ["licence", plain(contents.licence)],
        ["sha256 of the function", code(Genotype.from_dict(contents.genotype, derived=False).sha256)],
        ["sha256 of the entry", code(contents.sha256)],
    ]
    return table(["what", "value"], rows)


def _reproduce(contents: Contents, batch: Batch, zoo: Path) -> list[str]:
    own, evidence = batch.provenance, f"{zoo.name}/{contents.family}/evidence/{batch.evidence.folder}"
    found = contents.batches[0]
    searched = f"{zoo.name}/{contents.family}/evidence/{found.evidence.folder}/{found.provenance.recipe}"
    block = f"""\
grafs-timm search {searched} --seed {found.provenance.search_seed}  # the search that found it
grafs-timm train {evidence}/{own.recipe} --activation {contents.name} --seed 0  # one training
grafs-timm campaign status {contents.family}  # every figure of the ledgers
grafs-timm campaign run {contents.family} --budget {batch.budget}  # resume: searches, then trainings in blocks by seed
grafs-timm zoo verify {contents.name}  # recompute every number here from the evidence
grafs-timm zoo verify {contents.name} --retrain  # repeat a training and compare"""
    return [*fenced(block), "", f"This page is generated from `{contents.name}.json` by `grafs-timm publish`; do not edit it."]


def _bullets(sentences: list[str]) -> list[str]:
    return [f"- {plain(each)}" for each in sentences] or ["Nothing measured here speaks against it."]


def _number(value: float) -> str:
    return f"{value + 0.0:.4g}".replace("-", "−")  # no negative zero
