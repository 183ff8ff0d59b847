"""Make the parts that pages of runs, matrices and selections share: functions with their slopes, and settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor

from ..activations.plots import sampled
from ..errors import UnknownNameError
from ..models import families
from ..utils import charts, html
from ..utils.charts import Line, line_chart
from ..utils.html import Fact, Facts, Figure, Figures, Paragraph, Section
from ..zoo.lookup import resolve

Function = Callable[[Tensor], Tensor]


def functions_section(
    title: str, functions: Mapping[str, Function], usual: Mapping[str, Function], among: Sequence[str] = ()
) -> Section:
    """Draw functions and their slopes, beside the default activations.

    Args:
        title: Of the section.
        functions: By name; as many are drawn as there are colours, the first on top.
        usual: Default activations by name.
        among: Names that have colours on the page.
    """
    lines: dict[str, list[Line]] = {"f": [], "slope": []}
    legend = []
    few = list(functions)[: len(charts.TONES)]
    tones = charts.tones(few, among or few, None)
    shown = [(name, functions[name], tones[name], "") for name in few]
    shown += [(name, f, "default", "dashed") for name, f in usual.items()]
    for name, f, tone, style in shown:
        own = sampled(f)
        for key in lines:
            lines[key].insert(0, Line(name, own.x, getattr(own, key), tone, style))
        legend.append(html.Entry(name, tone, bool(style)))
    names = ", ".join(functions) + (f", beside {', '.join(usual)}" if usual else "")
    figures = [
        Figure(
            head,
            line_chart(lines[key], f"{head} of {names}, for x from −5 to 5", "x", y_limits=limits, zero=True),
            legend=legend,
        )
        for key, head, limits in (("f", "f(x)", within(lines["f"], 5.0)), ("slope", "f′(x)", within(lines["slope"], 2.5)))
    ]
    said = [Paragraph(f"The first {len(few)} of {len(functions)}.")] if len(few) < len(functions) else []
    return Section(title, [*said, Figures(figures)])


def recipe_section(text: str, facts: Sequence[Fact] = ()) -> Section:
    """Show the settings of a run: its recipe as it was resolved, and what else is known of it."""
    return Section("Settings", [Facts(facts), html.Folded("the whole recipe", [html.Source(text)])])


def default_of(model: str) -> dict[str, Function]:
    """Return the default activation of a model's family by its name; {} where the family is unknown."""
    try:
        name = families.default_activation(model)
        return {name: resolve(name).layer()}
    except UnknownNameError:
        return {}


def within(lines: Sequence[Line], most: float) -> tuple[float, float]:
    """Return the ends of a y axis for functions: theirs, but at most ``most`` away from 0."""
    values = [value for line in lines for value in line.y if value is not None]
    low, high = max(min(values, default=0), -most), min(max(values, default=1), most)
    return min(low, -0.2) - 0.15, max(high, 1.0) + 0.15
