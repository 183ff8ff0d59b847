"""Make and save matplotlib figures without a display; matplotlib is imported for the first one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import RunError
from .files import write_whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def new_figure(**settings: Any) -> Figure:
    """Make a figure; ``settings`` go to matplotlib's Figure."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(layout="constrained", **settings)
    FigureCanvasAgg(figure)  # needs no display and no global state of pyplot
    return figure


def save_figure(figure: Figure, path: str | Path) -> Path:
    """Write a figure as a whole file, in the format of the suffix. Raises RunError for an unknown one."""
    kind, known = Path(path).suffix[1:].lower() or "png", figure.canvas.get_supported_filetypes()
    if kind not in known:
        raise RunError(f"cannot draw {path}: a picture ends in .png, .svg or .pdf (or {', '.join(sorted(known))})")
    return write_whole(path, lambda file: figure.savefig(file, format=kind, dpi=144))
