"""Write an entry or a published function as lines of plain text, for `grafs-timm zoo show`."""

from __future__ import annotations

from collections.abc import Iterator

from ..activations import published
from ..activations.facts import of as compute_facts
from ..activations.published_cells import CELLS
from ..publishing import claims
from ..zoo import facts_file
from ..zoo.entry import Batch, Contents, Facts, Metric
from ..zoo.lookup import is_stock


def lines(contents: Contents) -> Iterator[str]:
    """Yield the facts, then each batch: its origin, its selection, its measurements."""
    yield f"family  {contents.family}{f', what grafs_{contents.family} loads' if contents.alias else ''}"
    warned = claims.not_shown(contents)
    yield f"        {warned or 'recommended'}"
    yield from _facts(contents.facts)
    for batch in contents.batches:
        yield ""
        yield from _batch(batch)
    for again in contents.verified:
        place = f"{again.model} on {again.data}, seed {again.seed}"
        measure = claims.of(contents.batches[0])
        reported, now = (measure.text(value) + measure.suffix for value in (again.reported, again.again))
        yield f"trained again: {place}: {reported}, now {now}"


def _facts(facts: Facts) -> Iterator[str]:
    kinks = ", ".join(f"{place:g}" for place in facts.kinks) or "none"
    shape = "not monotone" if facts.monotone == "no" else facts.monotone
    yield f"on [−10, 10]: from {facts.low:.4g} to {facts.high:.4g}, slope at most {facts.lipschitz:.4g}, kinks {kinks}, {shape}"
    halves = [name for name, finite in (("float16", facts.fp16), ("bfloat16", facts.bf16)) if finite]
    yield f"gain {facts.gain:.4f}; finite in {' and '.join(halves) or 'no 16-bit format'}"


def _batch(batch: Batch) -> Iterator[str]:
    own = batch.provenance
    how = "measured on" if own.search_seed is None else f"found by search seed {own.search_seed} on"
    yield f"{how} {own.model}, {own.data}: {own.budget}"
    yield f"on {own.hardware}, torch {own.versions.get('torch', 'unknown')}, {own.date}, commit {own.commit}"
    yield f"choice: {batch.choice.why}"
    yield f"choice: {batch.choice.searched_against_random}"
    if batch.cost:
        yield f"cost: {batch.cost.ratio:.2f} × GELU, forward and backward; {batch.cost.device}"
    for model, data in batch.places:
        yield f"{model} on {data}"
        for row in batch.metrics:
            if (row.model, row.data) == (model, data):
                yield f"  {_row(row, batch)}"


def _row(row: Metric, batch: Batch) -> str:
    name = "this" if row.activation == batch.label else row.activation
    measure = claims.of(batch)
    beside = f"   beside {row.difference.to} {claims.verdict(batch, row).interval}" if row.difference else ""
    return f"{name:14s} {measure.text(row.mean, row.sd)}{measure.suffix} (n = {row.n}){beside}"


def published_lines(name: str) -> Iterator[str]:
    """Yield formula, source, claim, constants and facts of a published function."""
    function, stored = published.get_published(name), facts_file.read().get(name.lower())
    yield f"{name}\n  f(x)    {function.text}\n  LaTeX   {function.latex}"
    bare = published.split(name)[0]
    yield f"  source  {published.source(bare)}"
    if bare in CELLS:
        yield f"  run     {CELLS[bare].run}"
    elif isinstance(function, published.Published):
        yield f"  claim   {function.row.claim}"
        if function.values:
            yield f"  with    {', '.join(f'{key} = {value:g}' for key, value in function.values.items())}"
    facts = Facts.model_validate(stored["facts"]) if stored else compute_facts(function)
    for line in _facts(facts):
        yield f"  {line}"
    if is_stock(bare):
        yield "  timm has it under this name, and timm's own is used"
    elif stored and stored["cost"]:
        yield f"  cost: {stored['cost']:.2f} × GELU, forward and backward in float32 on a CPU"
    layer = f'"{name}"' if bare == name.lower() else f'grafs_timm.act_layer("{name}")'
    yield f"  use     timm.create_model(..., act_layer={layer})   after   import grafs_timm"
