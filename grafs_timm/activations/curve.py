"""Evaluate a function on a CPU by polynomials on intervals, as exactly as float32 computes the formula, at GELU's cost.

On a CPU a formula of five operations costs several times a GELU however it is compiled: each exp, atan or erf takes about
fifteen instructions per element. A polynomial costs the same for any formula. There are 32 wide intervals around 0 of degree 7,
whose coefficients a processor picks from its registers, and 2,048 narrow ones on [−16, 16] with a cubic each, from a table.
Each is used where its value and slope are within ``TOLERANCE`` of the formula's in float64: the narrow ones where a wide one is
not exact enough or x lies beyond, with a cubic on either side of a kink. Elsewhere the formula itself is evaluated.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..kernels import cpu
from ..kernels.cpu import Curve
from ..utils.layout import undisturbed
from .genotype import Genotype
from .published import Published

Formula = Genotype | Published  # functions of one number as data: hashable, and callable on tensors

LOW, HIGH, INTERVALS, WIDE = -16.0, 16.0, 2048, 32
# |error of the value| ≤ TOLERANCE·(1 + |f(x)| + |x·f′(x)|): half a unit of float32 at 1, plus the effect of rounding x.
# |error of the slope|: 64 times that, 4e-6, with |f′(x)| added in the bracket; on almost all intervals it is far less.
TOLERANCE = 2.0**-24
_NOISE = 1e-10  # relative size of a term below which it is rounding
_JUMP = 1e-3  # relative jump of a slope below which it is rounding or curvature
with undisturbed():
    _SEVENTHS = torch.linspace(0, 1, 8, dtype=torch.float64, device="cpu")


def gradient(function: Callable[[Tensor], Tensor], x: Tensor, g: Tensor) -> Tensor:
    """Compute g·f′(x) by the formula."""
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        y = function(x)
    # a cell that is constant in x has no gradient at all
    return torch.autograd.grad(y, x, g, materialize_grads=True)[0] if y.requires_grad else torch.zeros_like(x)


def recorded_gradient(function: Callable[[Tensor], Tensor], x: Tensor, g: Tensor) -> Tensor:
    """Compute g·f′(x) by the formula, differentiable in x (which must require a gradient) and in g."""
    y = function(x)
    if not y.requires_grad:
        return torch.zeros_like(x)
    return torch.autograd.grad(y, x, g, create_graph=True, materialize_grads=True)[0]


def jumps(function: Callable[[Tensor], Tensor], low: float, high: float) -> tuple[tuple[float, ...], Tensor]:
    """Find where f′ jumps within [low, high], by bisection.

    Every interval at whose ends f′ differs is halved, on the side with the larger difference. At a kink the difference stays;
    where f is only curved it shrinks with the width.

    Args:
        function: Maps float64 tensors elementwise.
        low, high: Whole numbers.

    Returns:
        The kinks in rising order; and the slopes on both sides of each, [2 × kinks].
    """
    # so that kinks at round numbers lie between two knots
    x = torch.arange(low - 5e-4, high + 1e-3, 1e-3, dtype=torch.float64, device="cpu")

    def slope_of(at: Tensor) -> Tensor:
        return gradient(function, at, torch.ones_like(at))

    slope = slope_of(x)
    suspects = torch.nonzero((slope[1:] - slope[:-1]).abs() > _JUMP * (1 + slope[1:].abs())).flatten()
    start, end, left, right = x[:-1][suspects], x[1:][suspects], slope[:-1][suspects], slope[1:][suspects]
    for _ in range(36 if len(suspects) else 0):  # down to 1e-3 / 2**36, about the distance of neighbouring numbers
        middle = (start + end) / 2
        own = slope_of(middle)
        first = (own - left).abs() >= (right - own).abs()
        end, right = torch.where(first, middle, end), torch.where(first, own, right)
        start, left = torch.where(first, start, middle), torch.where(first, left, own)
    stays = (right - left).abs() > _JUMP * (1 + right.abs())
    found: list[float] = []
    for place in ((start + end) / 2)[stays].tolist():
        if not found or place - found[-1] > 1e-5:
            found.append(place)
    return tuple(found), torch.cat([left[stays], right[stays]])


@functools.lru_cache(maxsize=256)
def curve_of(formula: Formula, dtype: torch.dtype = torch.float32) -> Curve:
    """Compute the polynomials of a function.

    Args:
        formula: The function.
        dtype: Of the tensors to evaluate; its largest number bounds the formula's growing operations.
    """
    with undisturbed():
        function = formula.within(torch.finfo(dtype).max)
        kinks = _kinks(function)
        rows, split = _narrow(function, kinks)
        coefficients, knots, width = _wide(function, kinks)
        powers = torch.arange(1, 8, dtype=torch.float64, device="cpu")[:, None]
        steep = torch.cat([knots[None], coefficients[1:] * powers])
        return Curve(
            wide=torch.cat([knots[None], coefficients]).float().contiguous(), steep=steep.float().contiguous(),
            low=float(knots[0]), inverse=1 / width, span=width * (1 - 2.0**-18), rows=rows, first=LOW, last=HIGH, kinks=split,
            at_zero=slope_at_zero(formula),
        )  # fmt: skip


def _kinks(function: Callable[[Tensor], Tensor]) -> list[float]:
    """Find where f′ jumps on [−16, 16], but for 0, to float64's precision."""
    places, _ = jumps(function, LOW, HIGH)
    return [place for place in places if abs(place) > 1e-9]


def _inside(low: Tensor, high: Tensor, at: Tensor) -> Tensor:
    """Return x [n, k] at the parts ``at`` [k] of intervals [n], inside them by 1e-9: f may have a kink at either end."""
    return low[:, None] + at.clamp(1e-9, 1 - 1e-9) * (high - low)[:, None]


def _sides(function: Callable[[Tensor], Tensor], low: Tensor, high: Tensor, at: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return x as `_inside`, f and f′ there."""
    x = _inside(low, high, at)
    return x, function(x), gradient(function, x, torch.ones_like(x))


def _exact_enough(value: Tensor, slope: Tensor, x: Tensor, f: Tensor, s: Tensor) -> Tensor:
    scale = 1 + f.abs() + (x * s).abs()
    good = ((value - f).abs() <= TOLERANCE * scale) & ((slope - s).abs() <= 64 * TOLERANCE * (scale + s.abs()))
    return good.all(1)


def _cubics(function: Callable[[Tensor], Tensor], low: Tensor, high: Tensor, origin: Tensor) -> tuple[Tensor, Tensor]:
    """Interpolate value and slope at both ends of each interval by a cubic in x − origin.

    Returns:
        float64 [n, 4], and whether each is exact enough.
    """
    x, f, s = _sides(function, low, high, torch.linspace(0, 1, 5, dtype=torch.float64, device="cpu"))
    width, f0, f1, s0, s1 = high - low, f[:, 0], f[:, -1], s[:, 0], s[:, -1]
    rise = (f1 - f0) / width
    c2, c3, shift = (3 * rise - 2 * s0 - s1) / width, (s0 + s1 - 2 * rise) / width**2, low - origin
    rows = torch.stack([  # in x − low, then in x − origin
        f0 - shift * (s0 - shift * (c2 - shift * c3)), s0 - shift * (2 * c2 - 3 * shift * c3), c2 - 3 * shift * c3, c3,
    ], dim=1)  # fmt: skip
    t = x - origin[:, None]
    c0, c1, c2, c3 = rows.float().double()[:, :, None].unbind(1)
    value, slope = c0 + t * (c1 + t * (c2 + t * c3)), c1 + t * (2 * c2 + t * 3 * c3)
    return rows, _exact_enough(value, slope, x, f, s)


def _narrow(function: Callable[[Tensor], Tensor], kinks: Sequence[float]) -> tuple[Tensor, Tensor]:
    """Return the cubics float32 [INTERVALS + 1, 4], and those beside kinks within an interval, float32 [m, 10]."""
    width = (HIGH - LOW) / INTERVALS
    left = LOW + width * torch.arange(INTERVALS, dtype=torch.float64, device="cpu")
    rows, good = _cubics(function, left, left + width, left)
    rows = torch.where(good[:, None], rows, torch.nan)
    split = []
    for place in kinks:
        row = int((place - LOW) / width)
        own = [other for other in kinks if int((other - LOW) / width) == row]
        if not 0 <= row < INTERVALS or len(own) > 1 or good[row]:
            continue
        ends = left.new_tensor([LOW + row * width, place, LOW + (row + 1) * width])
        sides, both = _cubics(function, ends[:2], ends[1:], ends[:1].expand(2))
        if both.all():
            split.append(torch.cat([ends.new_tensor([row, place]), sides.flatten()]))
    beyond = torch.full((1, 4), torch.nan, dtype=torch.float64, device="cpu")
    none = torch.empty(0, 10, dtype=torch.float64, device="cpu")
    return torch.cat([rows, beyond]).float(), (torch.stack(split) if split else none).float()


def _wide(function: Callable[[Tensor], Tensor], kinks: Sequence[float]) -> tuple[Tensor, Tensor, float]:
    """Choose the width of the wide intervals, and interpolate at Lobatto's points of each.

    Widths are tried that put a knot on a kink or are round; the one taken leaves out the least of N(0, 2²).

    Returns:
        float64 [8, WIDE], NaN where it is not exact enough; knots float64 [WIDE], as float32 has them; and the width.
    """
    widths = [0.5, 0.375, 0.25]
    for place in kinks:
        widths += [abs(place) / count for count in range(1, WIDE // 2) if 0.2 <= abs(place) / count <= 0.6]
    best: tuple[float, Tensor, Tensor, float] | None = None
    for width in dict.fromkeys(widths):
        edges = width * torch.arange(-WIDE // 2, WIDE // 2 + 1, dtype=torch.float64, device="cpu")
        knots = edges[:-1].float().double()
        coefficients = _polynomials(function, edges, knots, width)
        x, f, s = _sides(function, edges[:-1], edges[1:], torch.linspace(0, 1, 129, dtype=torch.float64, device="cpu"))
        value = slope = torch.zeros_like(x)
        for power in reversed(range(8)):
            slope = slope * (x - knots[:, None]) + value
            value = value * (x - knots[:, None]) + coefficients[:, power, None]
        good = _exact_enough(value, slope, x, f, s)
        for place in kinks:
            good &= ~((edges[:-1] < place - 1e-9) & (place + 1e-9 < edges[1:]))
        covered = float(((torch.erf(edges[1:] / 8**0.5) - torch.erf(edges[:-1] / 8**0.5)) * good).sum())
        if best is None or covered > best[0] + 1e-9:
            best = covered, torch.where(good[:, None], coefficients, torch.nan).T, knots, width
    assert best is not None
    return best[1:]


def _polynomials(function: Callable[[Tensor], Tensor], edges: Tensor, knots: Tensor, width: float) -> Tensor:
    """Interpolate at Lobatto's eight points of each interval: float64 [WIDE, 8], rounded to float32."""
    x = _inside(edges[:-1], edges[1:], (1 - torch.cos(torch.pi * _SEVENTHS)) / 2)
    f = function(x)
    parts = torch.linalg.solve(torch.linalg.vander((x - knots[:, None]) / width), f)
    # what is rounding is 0: a straight line stays one, and f(0) = 0 stays
    parts = torch.where(parts.abs() < _NOISE * (1 + f.abs().amax(1, keepdim=True)), 0.0, parts)
    return (parts / width ** torch.arange(8, dtype=torch.float64, device="cpu")).float().double()


@functools.lru_cache(maxsize=256)
def slope_at_zero(formula: Formula) -> float:
    """Compute f′(0) by the formula; at a kink it is the slope that torch's own operations choose, such as 0 for ReLU."""
    with undisturbed():
        zero = torch.zeros(1, dtype=torch.float32, device="cpu")
        return gradient(formula, zero, torch.ones_like(zero)).item()


def evaluate(formula: Formula, x: Tensor, g: Tensor | None) -> Tensor:
    """Compute f(x), or g·f′(x) where g is given.

    Args:
        formula: The function.
        x, g: [N] on the CPU, of one dtype: float32, bfloat16 or float16.

    Returns:
        [N] of x's dtype.
    """
    y, left = cpu.curve(x, g, curve_of(formula, x.dtype))
    if len(left):
        rest = x[left]
        y[left] = formula(rest) if g is None else gradient(formula, rest, g[left])
    return y
