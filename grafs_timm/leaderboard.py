"""The zoo's own page, ``zoo/README.md``: a row an entry, with its effect and how sure it is. Made of the entries alone."""

from __future__ import annotations

from collections.abc import Sequence

from . import claims
from .card_evidence import multiplicity
from .entry import Contents
from .formula import Genotype
from .markdown import code, many, plain, table

_INTRO = """\
# The zoo

Activation functions that searches found: `zoo/<family>/<name>.json` is the function as data, with where it came from and what
was measured; `<name>.md` is its card, `evidence/` holds the logs that every number comes from. Importing `grafs_timm` registers
each with timm under its name, and `grafs_<family>` for the family's recommended one:
`timm.create_model("resnet50", act_layer="grafs_resnet")`. `grafs-timm zoo show NAME` prints an entry, `grafs-timm zoo verify`
recomputes all of them."""
_NOTES = """\
**Effect**: how much better than the usual activation of the model, in points of accuracy or in nats of a language model's loss,
paired by training seed, with the 95 % t interval; at the model and data where it was searched. **Elsewhere**: at how many other
models and data sets it is better, worse, or no difference is shown. **Cost**: forward and backward ÷ GELU's in the same run. No
difference shown does not mean that there is none, only that so many trainings of that budget do not tell."""


def ordered(entries: Sequence[Contents]) -> list[Contents]:
    """By family, the recommended one first."""
    return sorted(entries, key=lambda each: (each.family, not each.recommended, each.name))


def text(entries: Sequence[Contents]) -> str:
    """The whole page; thumbnails and cards are linked relative to the zoo folder."""
    parts = [[_INTRO]]
    if entries:
        heads = ["", "name", "f(x)", "family", "effect", "elsewhere", "cost", "budget", "card"]
        parts += [table(heads, map(_row, ordered(entries))), [_NOTES], [_multiplicity(entries)]]
    else:
        parts.append(["There is no entry yet."])
    parts.append(["This page is made by `grafs-timm publish` from the entries."])
    return "\n\n".join("\n".join(lines) for lines in parts) + "\n"


def _row(each: Contents) -> list[str]:
    batch, row = each.batches[0], claims.home(each.batches[0])
    link = f"{each.family}/{each.name}"
    name = code(each.name) + (f" (= {code(f'grafs_{each.family}')}, recommended)" if each.recommended else "")
    where = plain(f"{batch.provenance.model} on {batch.provenance.data}")
    own = row.difference if row else None
    effect = (
        f"{where}: not measured"
        if own is None
        else f"{where}: {claims.interval(own, claims.of(batch))} {claims.of(batch).unit}, {_word(claims.side(own), own.to)}"
    )
    counted = claims.elsewhere(batch)
    elsewhere = (
        f"better {counted.better}, worse {counted.worse}, no difference shown {counted.not_shown} of {counted.places}"
        if counted.places
        else "not measured"
    )
    return [
        f'<a href="{link}.md"><img src="{link}.png" width="180" alt="{each.name}"></a>', name,
        code(Genotype.from_dict(each.genotype, derived=False).text), each.family, effect, elsewhere,
        "not timed" if batch.cost is None else f"{batch.cost.ratio:.2f} × GELU",
        "reduced" if claims.is_reduced(batch) else "full", f"[card]({link}.md)",
    ]  # fmt: skip


def _word(side: str, usual: str) -> str:
    return side if side == claims.NOT_SHOWN else f"{side} than {usual}"


def _multiplicity(entries: Sequence[Contents]) -> str:
    batches = [batch for each in entries for batch in each.batches]
    searches = sum(len(batch.searches) for batch in batches)
    shown = sum(claims.intervals(batch) for batch in batches)
    return (
        f"**Many were looked at.** {many(len(entries), 'entry', 'entries')} of {many(searches, 'search', 'searches')}, all of "
        f"which are on the cards, losers too. On all cards together: {multiplicity(shown)} An entry was chosen among its "
        "searches on data held out of the training split, never by the test figures above; the best of a table is lucky as "
        "well as good."
    )
