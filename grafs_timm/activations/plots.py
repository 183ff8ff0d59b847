"""Pictures: a function with its usual rivals, and how the survivors of a search shrank. matplotlib, loaded when drawing."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import RunError
from ..runs.tracking import read_log
from ..utils.files import write_whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RIVALS: dict[str, Callable[[Tensor], Tensor]] = {"ReLU": F.relu, "GELU": F.gelu, "SiLU": F.silu}
_GREYS = ("#9aa5b1", "#c3a15a", "#7fa98f")
_PANELS = ("u1", "u2", "u3", "u4", "b1", "b2")  # drawn two by two, from left to right
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
    figure = _figure(figsize=(9, 4))
    value, slope = figure.subplots(1, 2)
    x = torch.linspace(-reach, reach, 2001, dtype=torch.float64, device="cpu")
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
    return _save(figure, path)


def plot_shrinking(run: str | Path, path: str | Path) -> Path:
    """Until which epoch each candidate of a search was alive, slot by slot, and the one that stayed; from its log.jsonl."""
    rows = [row for row in read_log(run) if row["kind"] in ("start", "epoch")]
    if not rows:
        raise RunError(f"{run}: its log has no epoch of a search yet")
    last = int(rows[-1].get("epoch", 0))
    figure = _figure(figsize=(12, 7.2))
    panels = figure.subplots(2, 3, sharex=True).T.ravel()
    for slot, axes in zip(_PANELS, panels, strict=True):
        names = rows[0]["survivors"][slot]
        # a candidate is alive up to the first epoch whose line misses it
        ends = {n: next((r["epoch"] for r in rows if n not in r["survivors"][slot]), last + 1) for n in names}
        order = sorted(names, key=lambda name: (ends[name], -names.index(name)))
        stays = [ends[name] > last for name in order]
        axes.barh(order, [min(ends[name], last) for name in order], color=[_COLOURS[0] if s else "#c5ccd4" for s in stays])
        axes.set_title(f"{slot}: " + " ".join(name for name, s in zip(order, stays, strict=True) if s)[:40], fontsize=10)
        axes.tick_params(axis="y", labelsize=7, length=0)
        axes.set_ylim(-0.6, len(order) - 0.4)
        axes.spines[["top", "right", "left"]].set_visible(False)
    for axes in panels[1::2]:
        axes.set_xlabel("alive until epoch")
    return _save(figure, path)
