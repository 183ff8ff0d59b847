"""Draw small charts as SVG inside a page: its style sheet colours them, in light and in dark, and scales them.

A colour is a class of ``templates/report.css``: "found", "default", "out" or "c1" to "c7". Drawings have no ids, so that any
number of them fits one page. Coordinates are rounded to a tenth of a pixel, which makes the same text of the same numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

TONES = ("found", "c1", "c2", "c3", "c4", "c5", "c6", "c7")
MOST_POINTS = 400  # of a line; longer ones are drawn with fewer
_Scale = Callable[[float], float]
_WIDTH, _HEIGHT = 420.0, 250.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 54.0, 10.0, 10.0, 38.0


@dataclass(frozen=True)
class Line:
    """One line of a chart.

    Args:
        name: shown where the mouse rests on it.
        x: as y.
        y: None, NaN and infinities leave a gap.
        tone: its colour.
        style: further classes: "dashed", "thin", "frame".
        low: lower edge of a band around it, of y's length, or empty.
        high: upper edge.
        frame: its name on the slider that shows lines one after another; "" for a line that stays.
        text: beside the slider.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float | None]
    tone: str = "found"
    style: str = ""
    low: Sequence[float | None] = ()
    high: Sequence[float | None] = ()
    frame: str = ""
    text: str = ""


def tones(names: Sequence[str], among: Sequence[str], usual: str | None) -> dict[str, str]:
    """Give names colours: the same in every chart while there are enough for all, else different ones within a chart.

    Args:
        names: of one chart.
        among: all names of the page.
        usual: the default activation, which has a colour of its own.

    >>> tones(["relu", "b"], ["a", "b", "relu"], "relu")
    {'relu': 'default', 'b': 'c1'}
    """
    others = [name for name in among if name != usual]
    others = others if len(others) <= len(TONES) else [name for name in names if name != usual]
    own = {name: TONES[i % len(TONES)] for i, name in enumerate(others)}
    return {name: "default" if name == usual else own[name] for name in names}


def without_outliers(values: Iterable[float | None]) -> tuple[tuple[float, float] | None, int]:
    """Return ends of a y axis that leave outliers above out, such as those of a diverged epoch, and how many those are.

    >>> without_outliers([1.0, 2.0, 3.0, 1e9])[1], without_outliers([1.0, 2.0])
    (1, (None, 0))
    """
    known = sorted(value for value in values if value is not None)
    if not known:
        return None, 0
    most = known[0] + 4 * max(known[(3 * (len(known) - 1)) // 4] - known[0], 1e-9)
    above = sum(value > most for value in known)
    if not above or known[-1] < 2 * most:
        return None, 0
    low, high = _ends([value for value in known if value <= most], 0.06)
    return (low, high), above


def finite(value: object) -> float | None:
    """Return a number of a log as a float; None for what is none, NaN, infinite, or missing.

    >>> finite(2), finite("nan"), finite(None), finite([1])
    (2.0, None, None, None)
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def line_chart(
    lines: Sequence[Line], alt: str, x_label: str, *, y_limits: tuple[float, float] | None = None,
    marks: Sequence[tuple[float, str]] = (), zero: bool = False,
) -> Markup:  # fmt: skip
    """Draw lines over one another, the last on top.

    Args:
        lines: to draw; each with more than `MOST_POINTS` points is thinned.
        alt: the picture in words.
        x_label: below.
        y_limits: ends of the y axis. Default: those of the lines and bands.
        marks: (x, name) of vertical lines.
        zero: whether the axes through 0 are drawn strongly.

    Returns:
        The svg element.

    >>> svg = line_chart([Line("loss", [1, 2], [0.5, None])], "the loss", "epoch")
    >>> svg.count("<path"), svg.count("<circle"), 'aria-label="the loss"' in svg
    (0, 1, True)
    """
    lines = [_thinned(line) for line in lines]
    low_x, high_x = _ends([x for line in lines for x in line.x], 0.0)
    low_y, high_y = y_limits or _ends([v for line in lines for part in (line.y, line.low, line.high) for v in part], 0.06)
    inner_w, inner_h = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM

    def at_x(x: float) -> float:
        return (x - low_x) / (high_x - low_x) * inner_w

    def at_y(y: float) -> float:
        return max(-4 * _HEIGHT, min(4 * _HEIGHT, (high_y - y) / (high_y - low_y) * inner_h))

    parts = [f'<svg viewBox="0 0 {_WIDTH:g} {_HEIGHT:g}" role="img" aria-label="{escape(alt)}">']
    whole = all(isinstance(x, int) for line in lines for x in line.x)
    for x in _ticks(low_x, high_x, 6, least=1.0 if whole else 0.0):
        kind, place = ("axis" if zero and x == 0 else "grid"), _LEFT + at_x(x)
        parts.append(f'<line class="{kind}" x1="{place:.1f}" x2="{place:.1f}" y1="{_TOP:g}" y2="{_HEIGHT - _BOTTOM:g}"/>')
        parts.append(f'<text x="{place:.1f}" y="{_HEIGHT - _BOTTOM + 15:g}" text-anchor="middle">{tick(x)}</text>')
    for y in _ticks(low_y, high_y, 5):
        kind, place = ("axis" if zero and y == 0 else "grid"), _TOP + at_y(y)
        parts.append(f'<line class="{kind}" x1="{_LEFT:g}" x2="{_WIDTH - _RIGHT:g}" y1="{place:.1f}" y2="{place:.1f}"/>')
        parts.append(f'<text x="{_LEFT - 5:g}" y="{place + 4:.1f}" text-anchor="end">{tick(y)}</text>')
    parts.append(f'<text x="{_LEFT + inner_w / 2:g}" y="{_HEIGHT - 5:g}" text-anchor="middle">{escape(x_label)}</text>')
    # an inner svg cuts off what leaves it, without the id that a clip path needs
    parts.append(f'<svg x="{_LEFT:g}" y="{_TOP:g}" width="{inner_w:g}" height="{inner_h:g}">')
    for x, name in marks:
        parts.append(f'<line class="mark" x1="{at_x(x):.1f}" x2="{at_x(x):.1f}" y1="0" y2="{inner_h:g}"/>')
        side = "end" if at_x(x) > inner_w / 2 else "start"
        parts.append(
            f'<text x="{at_x(x) + (-4 if side == "end" else 4):.1f}" y="12" text-anchor="{side}">{escape(name)}</text>'
        )
    for line in lines:
        parts.append(_band(line, at_x, at_y))
        parts.append(_curve(line, at_x, at_y))
    return Markup("".join([*parts, "</svg></svg>"]))


def _curve(line: Line, at_x: _Scale, at_y: _Scale) -> str:
    about = f"<title>{escape(line.name)}</title>"
    runs = _runs(line.x, line.y)
    if line.frame:
        about = f"<title>{escape(line.frame)}</title>"
    frame = f' data-frame="{escape(line.frame)}" data-text="{escape(line.text)}"' if line.frame else ""
    dots = [run[0] for run in runs if len(run) == 1]
    made = "".join(
        f'<circle class="dot {line.tone}" cx="{at_x(x):.1f}" cy="{at_y(y):.1f}" r="2.6">{about}</circle>' for x, y in dots
    )
    path = "".join(
        "M" + "L".join(f"{at_x(x):.1f} {at_y(y):.1f}" for x, y in run) for run in runs if len(run) > 1
    )  # fmt: skip
    style = f"curve {line.tone} {line.style}".rstrip()
    return made + (f'<path class="{style}" d="{path}"{frame}>{about}</path>' if path else "")


def _band(line: Line, at_x: _Scale, at_y: _Scale) -> str:
    both = [
        (x, low, high)
        for x, low, high in zip(line.x, line.low, line.high, strict=False)
        if low is not None and high is not None
    ]
    if len(both) < 2:
        return ""
    points = [f"{at_x(x):.1f},{at_y(high):.1f}" for x, _, high in both]
    points += [f"{at_x(x):.1f},{at_y(low):.1f}" for x, low, _ in reversed(both)]
    return f'<polygon class="band {line.tone}" points="{" ".join(points)}"/>'


def _runs(x: Sequence[float], y: Sequence[float | None]) -> list[list[tuple[float, float]]]:
    """The points between gaps."""
    found: list[list[tuple[float, float]]] = [[]]
    for at, value in zip(x, y, strict=True):
        if value is None or not math.isfinite(value):
            found.append([])
        else:
            found[-1].append((at, value))
    return [run for run in found if run]


def _thinned(line: Line) -> Line:
    count = len(line.x)
    if count <= MOST_POINTS:
        return line
    keep = [round(i * (count - 1) / (MOST_POINTS - 1)) for i in range(MOST_POINTS)]
    low, high = ([part[i] for i in keep] if part else () for part in (line.low, line.high))
    x, y = [line.x[i] for i in keep], [line.y[i] for i in keep]
    return Line(line.name, x, y, line.tone, line.style, low, high, line.frame, line.text)


def bar_chart(bars: Sequence[tuple[str, float, str]], most: float, alt: str, x_label: str) -> Markup:
    """Draw bars from 0 below one another, each with its name.

    Args:
        bars: (name, length, tone).
        most: the longest that a bar can be.
        alt: the picture in words.
        x_label: below.
    """
    step, left, width = 15.0, 82.0, 300.0
    height = step * len(bars) + 34
    inner = width - left - 10
    parts = [f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(alt)}">']
    for x in _ticks(0.0, most or 1.0, 4):
        place = left + inner * x / (most or 1.0)
        parts.append(f'<line class="grid" x1="{place:.1f}" x2="{place:.1f}" y1="2" y2="{height - 32:g}"/>')
        parts.append(f'<text x="{place:.1f}" y="{height - 18:g}" text-anchor="middle">{tick(x)}</text>')
    for i, (name, length, tone) in enumerate(bars):
        y, size = 3 + step * i, max(inner * length / (most or 1.0), 1.0)
        parts.append(f'<text class="name" x="{left - 5:g}" y="{y + 10:g}" text-anchor="end">{escape(name[:14])}</text>')
        parts.append(f'<rect class="bar {tone}" x="{left:g}" y="{y:g}" width="{size:.1f}" height="{step - 4:g}"/>')
    parts.append(f'<text x="{left + inner / 2:g}" y="{height - 3:g}" text-anchor="middle">{escape(x_label)}</text>')
    return Markup("".join([*parts, "</svg>"]))


def interval(mean: float, low: float | None, high: float | None, limits: tuple[float, float], tone: str) -> Markup:
    """Draw one line of a forest plot, as wide as its cell. What lies outside ``limits`` ends in an arrow head.

    Args:
        mean: the dot; hollow without an interval.
        low, high: ends of the interval, or None.
        limits: ends of the cell.
        tone: its colour.
    """

    def at(value: float) -> float:
        return 100 * (value - limits[0]) / (limits[1] - limits[0])

    parts = ['<svg aria-hidden="true">', f'<line class="axis" x1="{at(0):.1f}%" x2="{at(0):.1f}%" y1="0" y2="24"/>']
    if low is not None and high is not None and at(low) < 100 and at(high) > 0:
        ends = max(at(low), 0.0), min(at(high), 100.0)
        parts.append(f'<line class="curve {tone}" x1="{ends[0]:.1f}%" x2="{ends[1]:.1f}%" y1="12" y2="12"/>')
        for place, outside in ((ends[0], at(low) < 0), (ends[1], at(high) > 100)):
            if not outside:
                parts.append(f'<line class="curve {tone}" x1="{place:.1f}%" x2="{place:.1f}%" y1="8" y2="16"/>')
    parts += [_arrow(0, tone)] if low is not None and at(low) < 0 else []
    parts += [_arrow(100, tone)] if high is not None and at(high) > 100 else []
    if 0 <= at(mean) <= 100:
        parts.append(f'<circle class="dot {tone}" cx="{at(mean):.1f}%" cy="12" r="4.2"/>')
    elif low is None:
        parts.append(_arrow(0 if at(mean) < 0 else 100, tone))
    return Markup("".join([*parts, "</svg>"]))


def _arrow(at: int, tone: str) -> str:
    points = "0,12 8,7 8,17" if at == 0 else "0,12 -8,7 -8,17"
    return f'<svg x="{at}%" overflow="visible"><polygon class="dot {tone}" points="{points}"/></svg>'


def axis_of(limits: tuple[float, float]) -> Markup:
    """Draw the scale of a forest plot's column, for its head: 0, and the ends where they are apart from it."""
    share = -100 * limits[0] / (limits[1] - limits[0])
    places = [(share, 0.0, "middle")] if 0 <= share <= 100 else []
    places += [(0.0, limits[0], "start")] if share > 30 else []
    places += [(100.0, limits[1], "end")] if share < 70 else []
    texts = [f'<text x="{at:.1f}%" y="14" text-anchor="{side}">{tick(_rounded(value))}</text>' for at, value, side in places]
    return Markup(f'<svg aria-hidden="true">{"".join(texts)}</svg>')


def _rounded(value: float) -> float:
    return float(f"{value:.2g}")


def tick(value: float) -> str:
    """Write a number at an axis.

    >>> tick(-0.5), tick(20000.0), tick(1e-7)
    ('−0.5', '20000', '1e−07')
    """
    return (f"{value:g}" if abs(value) < 1e5 or value == 0 else f"{value:.0e}").replace("-", "−").replace("e+0", "e")


def _ticks(low: float, high: float, about: int, least: float = 0.0) -> list[float]:
    """Round numbers from low to high, some ``about`` of them, ``least`` apart."""
    rough = max((high - low) / about, least)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(i * step, 12) + 0.0 for i in range(first, last + 1)]


def _ends(values: Iterable[float | None], edge: float) -> tuple[float, float]:
    """The least and the largest, apart from one another, with an edge on both sides."""
    known = [value for value in values if value is not None and math.isfinite(value)]
    low, high = (min(known), max(known)) if known else (0.0, 1.0)
    if high - low <= 1e-12 * max(abs(low), abs(high), 1e-300):
        half = 0.5 if edge == 0 else max(abs(low) * 0.05, 1e-3)
        return low - half, high + half
    return low - edge * (high - low), high + edge * (high - low)
