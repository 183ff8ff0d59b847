"""Write the zoo's own page, ``zoo/README.md``: a row for each entry with its effect and interval, from the entries alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from ..activations.genotype import Genotype
from ..comparison.statistics import LEVEL, holm
from ..comparison.verdict import Side, Verdict
from ..utils.markdown import code, many, plain, table
from ..zoo.entry import Contents
from . import claims
from .card_evidence import multiplicity

_INTRO = """\
# The zoo

Activation functions that searches found: `zoo/<family>/<name>.json` is the function as data, with where it came from and what
was measured; `<name>.md` is its card, `evidence/` holds the ledgers that every number comes from. Importing `grafs_timm`
registers each with timm under its name, and `grafs_<family>` for one of each family:
`timm.create_model("resnet50", act_layer="grafs_resnet")`. `grafs-timm zoo show NAME` prints an entry, `grafs-timm zoo verify`
recomputes all of them."""
_NOTES = """\
**Effect**: how much better than the default activation of the model, in percentage points of accuracy or in nats of a
language model's loss, paired by training seed (n of them), with the 95 % t interval; on the model and data set where it was
searched, at the highest budget with at least 3 paired seeds. **Adjusted**: the same, adjusted for all comparisons of this
page (Holm 1979, at 5 %). **Elsewhere**: for how many other pairs of model and data set it is better, worse, or no difference
is shown (adjusted in brackets). **Cost**: forward and backward ÷ GELU's in the same run. "No difference shown" does not mean
that there is none: this many trainings at that budget do not show one. *Recommended* is an entry whose effect shows it to be
better than the default."""


def ordered(entries: Sequence[Contents]) -> list[Contents]:
    """Sort entries by family, the one with the alias first."""
    return sorted(entries, key=lambda each: (each.family, not each.alias, each.name))


def text(entries: Sequence[Contents]) -> str:
    """Write the whole page; pictures and cards are linked relative to the zoo folder."""
    parts = [[_INTRO]]
    if entries:
        adjusted = _adjusted(entries)
        heads = ["", "name", "f(x)", "family", "effect", "n", "adjusted", "elsewhere", "cost", "budget", "card"]
        parts += [
            table(heads, [_row(each, adjusted) for each in ordered(entries)]),
            [_NOTES],
            [_multiplicity(entries, adjusted)],
        ]
    else:
        parts.append(["There is no entry yet."])
    parts.append(["This page is generated from the entries by `grafs-timm publish`; do not edit it."])
    return "\n\n".join("\n".join(lines) for lines in parts) + "\n"


def _compared(each: Contents) -> Iterator[tuple[str, Verdict]]:
    """(entry and place, what is shown beside the default) of the entry's headline, home first."""
    batch = claims.headline(each)
    for place in batch.places:
        row = claims.found_at(batch, place)
        if row is not None and row.difference is not None:
            yield f"{each.name} {place[0]} {place[1]}", claims.verdict(batch, row)


def _adjusted(entries: Sequence[Contents]) -> dict[str, Side]:
    """{entry and place: the side that its Holm-adjusted p allows} over all comparisons of the page."""
    found = {name: own for each in entries for name, own in _compared(each)}
    p = holm({name: own.difference.p for name, own in found.items()})
    return {
        name: own.side if (value := p[name]) is not None and value < 1 - LEVEL else Side.NOT_SHOWN
        for name, own in found.items()
    }


def _row(each: Contents, adjusted: Mapping[str, Side]) -> list[str]:
    batch = claims.headline(each)
    link, own = f"{each.family}/{each.name}", claims.at_home(batch)
    alias = f" (= {code(f'grafs_{each.family}')}{', recommended' if each.recommended else ''})" if each.alias else ""
    where = plain(f"{batch.provenance.model} on {batch.provenance.data}")
    measured = own.difference.mean is not None
    effect = f"{where}: " + (f"{own.measured}, {_word(own.side, own.to)}" if measured else "not measured")
    home, cost = f"{each.name} {batch.provenance.model} {batch.provenance.data}", claims.timed(each)
    return [
        f'<a href="{link}.md"><img src="{link}.png" width="180" alt="{each.name}"></a>', code(each.name) + alias,
        code(Genotype.from_dict(each.genotype, derived=False).text), each.family, effect, str(own.difference.n),
        _word(adjusted[home], own.to) if measured else "–", _elsewhere(each, adjusted, home),
        "not timed" if cost is None else f"{cost.ratio:.2f} × GELU", batch.budget, f"[card]({link}.md)",
    ]  # fmt: skip


def _elsewhere(each: Contents, adjusted: Mapping[str, Side], home: str) -> str:
    counted = claims.elsewhere(claims.headline(each))
    if not counted.places:
        return "not measured"
    words = [adjusted[name] for name, _ in _compared(each) if name != home]
    return (
        f"better {counted.better} ({words.count(Side.BETTER)}), worse {counted.worse} ({words.count(Side.WORSE)}), "
        f"no difference shown {counted.not_shown} of {counted.places}"
    )


def _word(side: Side, usual: str) -> str:
    return side if side is Side.NOT_SHOWN else f"{side} than {usual}"


def _multiplicity(entries: Sequence[Contents], adjusted: Mapping[str, Side]) -> str:
    campaigns = {(each.family, batch.evidence.folder): len(batch.searches) for each in entries for batch in each.batches}
    shown = sum(claims.intervals(batch) for each in entries for batch in each.batches)
    return (
        f"**Multiple comparisons.** {many(len(entries), 'entry', 'entries')} of "
        f"{many(sum(campaigns.values()), 'search', 'searches')}, all of which are on the cards, selected or not. This page "
        f"holds {many(len(adjusted), 'comparison')} with a default activation. On all cards together: {multiplicity(shown)} An "
        "entry was selected among its searches on data held out of the training split, never by the test figures above; the "
        "best of a table is partly luck."
    )
