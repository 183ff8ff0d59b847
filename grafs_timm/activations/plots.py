"""Sample activation functions and their slopes, and plot them beside ReLU, GELU and SiLU."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..utils.figures import new_figure, save_figure

RIVALS: dict[str, Callable[[Tensor], Tensor]] = {"ReLU": F.relu, "GELU": F.gelu, "SiLU": F.silu}
_GREYS = ("#9aa5b1", "#c3a15a", "#7fa98f")
COLOURS = ("#c0392b", "#2c6fbb", "#6b3fa0", "#1e8449", "#d68910", "#117a8b")


@dataclass(frozen=True)
class Samples:
    """A function on evenly spaced x, as a page holds it: rounded to four decimals, None where it is not finite.

    Attributes:
        x: From −reach to reach.
        f: Values.
        slope: Derivatives.
    """

    x: list[float]
    f: list[float | None]
    slope: list[float | None]


def sampled(f: Callable[[Tensor], Tensor], reach: float = 5.0, count: int = 201) -> Samples:
    """Sample a function and its derivative in float64.

    Args:
        f: A function of float64 tensors, or a module.
        reach: x runs over [−reach, reach].
        count: How many x.

    >>> sampled(torch.relu, reach=1.0, count=3)
    Samples(x=[-1.0, 0.0, 1.0], f=[0.0, 0.0, 1.0], slope=[0.0, 0.0, 1.0])
    """
    if isinstance(f, nn.Module):  # parameters, such as PReLU's, must have x's dtype
        f = copy.deepcopy(f).double()
    x = torch.linspace(-reach, reach, count, dtype=torch.float64, device="cpu", requires_grad=True)
    y = f(x)
    # a constant function has no graph to differentiate
    slope = torch.autograd.grad(y.sum(), x)[0] if y.requires_grad else torch.zeros_like(x)
    return Samples([round(value, 4) for value in x.tolist()], _rounded(y.detach()), _rounded(slope))


def _rounded(values: Tensor) -> list[float | None]:
    return [round(value, 4) + 0.0 if math.isfinite(value) else None for value in values.tolist()]  # + 0.0: no −0


def plot_functions(found: Mapping[str, Callable[[Tensor], Tensor]], path: str | Path, reach: float = 5.0) -> Path:
    """Plot functions and their slopes beside ReLU, GELU and SiLU.

    Args:
        found: Label -> function of float64 tensors, or a module.
        path: Picture to write: .png, .svg or .pdf.
        reach: x runs over [−reach, reach].

    Returns:
        ``path``.
    """
    figure = new_figure(figsize=(9, 4))
    value, slope = figure.subplots(1, 2)
    x = torch.linspace(-reach, reach, 2001, dtype=torch.float64, device="cpu")
    rows = [(name, f, colour, 1.3, "--") for (name, f), colour in zip(RIVALS.items(), _GREYS, strict=True)]
    rows += [(name, f, COLOURS[i % len(COLOURS)], 2.4, "-") for i, (name, f) in enumerate(found.items())]
    low, high = -1.0, 1.0
    for name, f, colour, width, style in rows:
        if isinstance(f, nn.Module):  # parameters, such as PReLU's, must have x's dtype
            f = copy.deepcopy(f).double()
        y = f(x).detach()
        value.plot(x, y, style, color=colour, lw=width, label=name)
        slope.plot(x[1:] - (x[1] - x[0]) / 2, y.diff() / (x[1] - x[0]), style, color=colour, lw=width)
        low, high = min(low, float(y.min())), max(high, float(y.max()))
    text = [f.text for f in found.values() if hasattr(f, "text")]
    if len(text) == 1:
        figure.suptitle(f"f(x) = {text[0]}", fontsize=11)
    value.set_title("f(x)", fontsize=10)
    slope.set_title("f′(x)", fontsize=10)
    value.set_ylim(max(low, -reach) - 0.2, min(high, reach) + 0.2)
    slope.set_ylim(-1.6, 2.1)
    for axes in (value, slope):
        axes.axhline(0, color="#444", lw=0.6)
        axes.axvline(0, color="#444", lw=0.6)
        axes.set_xlim(-reach, reach)
        axes.set_xlabel("x")
        axes.spines[["top", "right"]].set_visible(False)
    value.legend(frameon=False, fontsize=9)
    return save_figure(figure, path)
