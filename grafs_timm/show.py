"""What `grafs-timm zoo show` tells of an entry, in lines of plain text."""

from __future__ import annotations

from collections.abc import Iterator

from . import ranking, statistics
from .entry import Batch, Contents, Difference, Facts, Metric


def lines(contents: Contents) -> Iterator[str]:
    """Facts, then each batch: where it comes from, how it was chosen, what was measured."""
    yield f"family  {contents.family}{', its recommended one' if contents.recommended else ''}"
    yield from _facts(contents.facts)
    for number, batch in enumerate(contents.batches):
        yield ""
        yield from _batch(batch, "found by" if number == 0 else "found again by")
    for again in contents.verified:
        place = f"{again.model} on {again.data}, seed {again.seed}"
        yield f"trained again: {place}: {again.reported:.2f} %, now {again.again:.2f} %"


def _facts(facts: Facts) -> Iterator[str]:
    kinks = ", ".join(f"{place:g}" for place in facts.kinks) or "none"
    shape = "not monotone" if facts.monotone == "no" else facts.monotone
    yield f"on [−10, 10]: from {facts.low:.4g} to {facts.high:.4g}, slope at most {facts.lipschitz:.4g}, kinks {kinks}, {shape}"
    halves = [name for name, finite in (("float16", facts.fp16), ("bfloat16", facts.bf16)) if finite]
    yield f"gain {facts.gain:.4f}; finite in {' and '.join(halves) or 'no 16-bit format'}"


def _batch(batch: Batch, how: str) -> Iterator[str]:
    own = batch.provenance
    yield f"{how} search seed {own.search_seed} on {own.model}, {own.data}: {own.budget}"
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
    spread = f" ± {row.sd:.2f}" if row.sd is not None else ""
    beside = f"   {difference(row.difference)}" if row.difference else ""
    return f"{name:14s} {row.mean:.2f}{spread} % (n = {row.n}){beside}"


def difference(own: Difference) -> str:
    """«beside relu +0.30 [−0.90, +1.50]»."""
    of = statistics.Difference(own.mean, own.low, own.high, own.p, own.n, unpaired=0)
    return f"beside {own.to} {ranking.signed(of)}"
