"""Plot the shrinking of a search."""

from __future__ import annotations

from pathlib import Path

from ..activations.plots import COLOURS
from ..errors import RunError
from ..utils.figures import new_figure, save_figure
from .tracking import read_log

_PANELS = ("u1", "u2", "u3", "u4", "b1", "b2")  # drawn two by two, from left to right


def plot_shrinking(run: str | Path, path: str | Path) -> Path:
    """Plot the epochs in which each candidate of a search was alive, slot by slot, from its log.jsonl."""
    rows = [row for row in read_log(run) if row["kind"] in ("start", "epoch")]
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
    return save_figure(figure, path)
