"""Run a Python script as `python script.py` would, with the zoo's names known to timm.

The script, such as timm's own train.py or validate.py, needs no change. Processes that it forks know the names too. A process
that it spawns knows them once it unpickles an object of the zoo, which imports this package.
"""

from __future__ import annotations

import runpy
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from ..errors import GrafsError, UnknownNameError
from ..utils.suggest import nearest
from ..zoo import lookup as zoo


def run_script(script: Path, arguments: Sequence[str]) -> None:
    """Run a script as ``__main__``, with its arguments in sys.argv and its folder first on sys.path.

    Args:
        script: Path of the Python file.
        arguments: The script's own arguments.

    Raises:
        SystemExit: The script's own exit code; 1 for an exception that it does not catch, which is printed as Python does, from
            the script on; 130 after Ctrl-C.
        GrafsError: There is no such script.
    """
    _require(script)
    sys.argv = [str(script), *arguments]
    sys.path.insert(0, str(script.resolve().parent))
    try:
        runpy.run_path(str(script), run_name="__main__")
    except (Exception, KeyboardInterrupt) as error:  # click, further out, would take some of them for its own
        _explain(error)
        error = error.with_traceback(_from_script(error.__traceback__, str(script)))
        sys.excepthook(type(error), error, error.__traceback__)
        sys.exit(128 + signal.SIGINT if isinstance(error, KeyboardInterrupt) else 1)


def _require(script: Path) -> None:
    if script.is_file():
        return
    if script.is_dir():
        raise GrafsError(f"{script} is a folder; exec takes a Python script: grafs-timm exec {script / 'train.py'} ARGS...")
    folder = script.parent
    scripts = [path.name for path in folder.glob("*.py")] if folder.is_dir() else []
    where = nearest(script.name, scripts) if folder.is_dir() else f": there is no folder {folder}"
    raise GrafsError(f"no script {script}{where}. Exec runs a file; timm's own are in its repository, not in its package")


def _explain(error: BaseException) -> None:
    """Add the nearest names to the bare KeyError that timm's factories raise for an unknown name."""
    name = error.args[0] if isinstance(error, KeyError) and error.args else None
    if isinstance(name, str) and name.startswith("grafs_"):
        try:
            zoo.get_activation(name)
        except UnknownNameError as unknown:
            error.add_note(str(unknown))


def _from_script(traceback: TracebackType | None, script: str) -> TracebackType | None:
    """Return the traceback from the script on; all of it if the script did not start (a syntax error)."""
    there = traceback
    while there is not None and there.tb_frame.f_code.co_filename != script:
        there = there.tb_next
    return there or traceback
