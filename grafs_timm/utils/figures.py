"""Make and save matplotlib figures without a display; matplotlib is imported when the first one is figure."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import RunError
from .files import write_whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def new_figure(**settings: Any) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(layout="constrained", **settings)
    FigureCanvasAgg(figure)  # draws without a display and without pyplot's global state
    return figure


def save_figure(figure: Figure, path: str | Path) -> Path:
    kind, known = Path(path).suffix[1:].lower() or "png", figure.canvas.get_supported_filetypes()
    if kind not in known:
        raise RunError(f"cannot draw {path}: a picture ends in .png, .svg or .pdf (or {', '.join(sorted(known))})")
    return write_whole(path, lambda file: figure.savefig(file, format=kind, dpi=144))
