"""Pictures: a function with its usual rivals, and how the survivors of a search shrank. matplotlib, loaded when drawing."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .errors import RunError
from .files import write_whole
from .ops import SLOTS
from .tracking import read_log

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RIVALS: dict[str, Callable[[Tensor], Tensor]] = {"ReLU": F.relu, "GELU": F.gelu, "SiLU": F.silu}
_GREYS = ("#9aa5b1", "#c3a15a", "#7fa98f")
_COLOURS = ("#c0392b", "#2c6fbb", "#6b3fa0", "#1e8449", "#d68910", "#117a8b")


def _figure(**settings: Any) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(layout="constrained", **settings)
    FigureCanvasAgg(figure)  # draws without a display and without pyplot's global state
    return figure


def _save(figure: Figure, path: str | Path) -> Path:
    kind, known = Path(path).suffix[1:].lower() or "png", figure.canvas.get_supported_filetypes()
    if kind not in known:
        raise RunError(f"cannot draw {path}: a picture ends in .png, .svg or .pdf (or {', '.join(sorted(known))})")
    return write_whole(path, lambda file: figure.savefig(file, format=kind, dpi=144))


def plot_functions(found: Mapping[str, Callable[[Tensor], Tensor]], path: str | Path, reach: float = 5.0) -> Path:
    """The functions of ``found`` and their slopes beside ReLU, GELU and SiLU on [−reach, reach]; written to ``path``."""
    figure = _figure(figsize=(9, 3.8))
    value, slope = figure.subplots(1, 2)
    x = torch.linspace(-reach, reach, 2001, dtype=torch.float64)
    rows = [(name, f, colour, 1.3, "--") for (name, f), colour in zip(RIVALS.items(), _GREYS, strict=True)]
    rows += [(name, f, _COLOURS[i % len(_COLOURS)], 2.4, "-") for i, (name, f) in enumerate(found.items())]
    low, high = -1.0, 1.0
    for name, f, colour, width, style in rows:
        if isinstance(f, nn.Module):  # one with parameters, such as PReLU, takes no other dtype than theirs
            f = copy.deepcopy(f).double()
        y = f(x).detach()
        value.plot(x, y, style, color=colour, lw=width, label=name)
        slope.plot(x[1:] - (x[1] - x[0]) / 2, y.diff() / (x[1] - x[0]), style, color=colour, lw=width)
        low, high = min(low, float(y.min())), max(high, float(y.max()))
    text = [f.text for f in found.values() if hasattr(f, "text")]
    value.set_title(f"f(x) = {text[0]}" if len(text) == 1 and len(text[0]) < 60 else "f(x)", fontsize=10)
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
    return _save(figure, path)


def plot_shrinking(run: str | Path, path: str | Path) -> Path:
    """How many candidates each slot of a search had left after each epoch, and which one stayed; from its log.jsonl."""
    rows = [row for row in read_log(run) if row["kind"] in ("start", "epoch")]
    if not rows:
        raise RunError(f"{run}: its log has no epoch of a search yet")
    epochs = [row.get("epoch", 0) for row in rows]
    figure = _figure(figsize=(9, 3.4))
    axes = figure.subplots()
    for slot, colour in zip(SLOTS, _COLOURS, strict=True):
        left = [len(row["survivors"][slot]) for row in rows]
        style = "-" if SLOTS[slot] == 1 else "--"
        axes.step(epochs, left, style, where="post", color=colour, lw=1.8, label=f"{slot}: {rows[-1]['survivors'][slot][0]}")
    axes.set_yscale("log")
    axes.set_yticks([1, 2, 4, 9, 23], ["1", "2", "4", "9", "23"])
    axes.minorticks_off()
    axes.set_xlabel("epoch")
    axes.set_ylabel("survivors in the slot")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9, ncols=2, title="slot: what stayed", title_fontsize=9)
    return _save(figure, path)
