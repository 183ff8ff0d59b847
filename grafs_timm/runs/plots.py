"""Plot how a search shrinks, how α moves, and how the function forms."""

from __future__ import annotations

from pathlib import Path

import torch

from ..activations.genotype import Genotype
from ..activations.plots import COLOURS
from ..errors import RunError
from ..utils.figures import new_figure, save_figure
from .tracking import read_log

_PANELS = ("u1", "u2", "u3", "u4", "b1", "b2")  # drawn two by two, from left to right


def plot_shrinking(run: str | Path, path: str | Path) -> Path:
    """Plot the epochs in which each candidate of a search was alive, slot by slot, from its log.jsonl."""
    rows = [row for row in read_log(run) if row["kind"] in ("start", "epoch") and "survivors" in row]
    if not rows:
        raise RunError(f"{run}: its log has no epoch of a search yet")
    last = int(rows[-1].get("epoch", 0))
    figure = new_figure(figsize=(12, 7.2))
    panels = figure.subplots(2, 3, sharex=True).T.ravel()
    for slot, axes in zip(_PANELS, panels, strict=True):
        names = rows[0]["survivors"][slot]
        # a candidate is alive up to the first epoch whose line misses it
        ends = {n: next((r["epoch"] for r in rows if n not in r["survivors"][slot]), last + 1) for n in names}
        order = sorted(names, key=lambda name: (ends[name], -names.index(name)))
        stays = [ends[name] > last for name in order]
        axes.barh(order, [min(ends[name], last) for name in order], color=[COLOURS[0] if s else "#c5ccd4" for s in stays])
        axes.set_title(f"{slot}: " + " ".join(name for name, s in zip(order, stays, strict=True) if s)[:40], fontsize=10)
        axes.tick_params(axis="y", labelsize=7, length=0)
        axes.set_ylim(-0.6, len(order) - 0.4)
        axes.spines[["top", "right", "left"]].set_visible(False)
    for axes in panels[1::2]:
        axes.set_xlabel("alive until epoch")
        axes.locator_params(axis="x", integer=True)
    return save_figure(figure, path)


def plot_forming(run: str | Path, path: str | Path, reach: float = 4.0) -> Path:
    """Plot the function of the largest α after every epoch of a search that logs it, and how many candidates were left."""
    rows = [row for row in read_log(run) if "genotype" in row]
    if not rows:
        raise RunError(f"{run}: its log has no epoch of a search yet")
    figure = new_figure(figsize=(9, 4))
    function, left = figure.subplots(1, 2)
    x = torch.linspace(-reach, reach, 801, dtype=torch.float64, device="cpu")
    for number, row in enumerate(rows):
        done = (number + 1) / len(rows)
        y = Genotype.from_dict(row["genotype"])(x)
        latest = number == len(rows) - 1
        colour = COLOURS[0] if latest else (0.75 - 0.55 * done, 0.78 - 0.35 * done, 0.85)
        label = f"epoch {row['epoch']}" if number in (0, len(rows) - 1) else None
        function.plot(x, y, color=colour, lw=2.4 if latest else 1.2, label=label)
    function.set_title("f(x) of the largest α, epoch by epoch", fontsize=10)
    function.set_xlabel("x")
    function.set_ylim(-reach, reach)
    function.legend(frameon=False, fontsize=9)
    left.step([row["epoch"] for row in rows], [row["alive"] for row in rows], where="post", color=COLOURS[1])
    left.set_title("candidates left", fontsize=10)
    left.set_xlabel("epoch")
    left.set_ylim(0, None)
    left.xaxis.get_major_locator().set_params(integer=True)
    for axes in (function, left):
        axes.spines[["top", "right"]].set_visible(False)
    return save_figure(figure, path)


def plot_alpha(run: str | Path, path: str | Path) -> Path:
    """Plot α of every survivor after every epoch of a search that logs it, slot by slot; what is left at the end is named."""
    rows = [row for row in read_log(run) if "alpha" in row]
    if not rows:
        raise RunError(f"{run}: its log has no epoch of a search yet")
    figure = new_figure(figsize=(12, 6))
    panels = figure.subplots(2, 3, sharex=True).T.ravel()
    for slot, axes in zip(_PANELS, panels, strict=True):
        values: dict[str, list[tuple[int, float]]] = {}
        for row in rows:
            for name, alpha in zip(row["survivors"][slot], row["alpha"][slot], strict=True):
                values.setdefault(name, []).append((row["epoch"], alpha))
        left = rows[-1]["survivors"][slot]
        for name, points in sorted(values.items(), key=lambda each: each[0] in left):
            stays = name in left
            axes.plot(*zip(*points, strict=True), color=COLOURS[0] if stays else "#c5ccd4", lw=2 if stays else 0.9)
        axes.set_title(f"{slot}: " + " ".join(left)[:40], fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
        axes.xaxis.get_major_locator().set_params(integer=True)
    for axes in panels[1::2]:
        axes.set_xlabel("epoch")
    panels[0].set_ylabel("α")
    panels[1].set_ylabel("α")
    return save_figure(figure, path)
