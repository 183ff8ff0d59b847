"""The command that shows the report of a run, a selection or a matrix in the browser."""

from __future__ import annotations

import webbrowser
from pathlib import Path

import click

from ..errors import RunError
from . import options

_SHOWN = 5  # runs below a folder that are named


@click.command("open", cls=options.Command)
@click.argument("run", type=options.PATH)
@click.option("--print", "only_print", is_flag=True, help="Print the path of the page, and open no browser.")
def open_report(run: Path, only_print: bool) -> None:
    """Show the report of RUN, the folder of a search, training, selection or matrix, in the browser.

    The page is report.html in that folder: one file, which needs no network and can be sent on. It is made of the run's logs
    where it is missing or older than they are, so also while a run is under way.

    \b
    Examples:
      grafs-timm open runs/train_resnet_digits_relu_s0
      # on a machine without a browser: the path, to copy the file from
      grafs-timm open runs/mine --print
    """
    page = _page(run).resolve()
    click.echo(str(page))
    if not only_print and not webbrowser.open(page.as_uri()):
        click.echo("no browser was found here; open the file with one, on any machine", err=True)


def _page(run: Path) -> Path:
    """The page of RUN, made where it is missing or out of date."""
    if not run.is_dir():
        what = "is a file; name the folder that it is in" if run.exists() else "there is no such folder"
        raise RunError(f"{run}: {what}")
    page = run / "report.html"
    if (run / "run.json").exists():
        if not _is_current(page, [run / "log.jsonl"]) or not (run / "summary.json").exists():
            from ..runs.report import write_report

            return write_report(run)
        return page
    if (run / "matrix.json").exists():
        if not _is_current(page, [run / "matrix.json", *run.glob("jobs/*/*/*/*/summary.json")]):
            from ..comparison.transfer import write_page

            return write_page(run)
        return page
    if (run / "selection.json").exists():
        if not (run / "summary.json").exists():
            raise RunError(
                f"{run}: a selection under way, whose report comes with its end; the command resumes it{_below(run)}"
            )
        if not page.exists():
            from ..comparison.report import write_selection

            return write_selection(run)
        return page
    if page.exists():  # such as that of the final trainings of a selection
        return page
    raise RunError(f"{run} is no run: it has no run.json, selection.json or matrix.json{_below(run)}")


def _is_current(page: Path, sources: list[Path]) -> bool:
    return page.exists() and all(page.stat().st_mtime >= each.stat().st_mtime for each in sources if each.exists())


def _below(folder: Path) -> str:
    """Name what can be opened below a folder."""
    names = ("run.json", "selection.json", "matrix.json")
    found = sorted({file.parent for depth in ("*", "*/*") for name in names for file in folder.glob(f"{depth}/{name}")})
    if not found:
        return ""
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return f"; below it: {', '.join(map(str, found[:_SHOWN]))}{more}"
