"""Run a Python script as `python script.py` would, with the zoo's names known to timm.

For scripts that know nothing of this package, such as timm's own train.py and validate.py. A process that such a script forks
knows the names; one that it spawns does where it is given something of the zoo's, for unpickling that imports this package.
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
    """Run ``script`` as ``__main__`` with ``arguments`` in sys.argv and its folder first on sys.path, to its end.

    SystemExit carries the script's own exit code; what it does not catch is reported as Python does, from the script on, and
    exits with 1 (130 after Ctrl-C). GrafsError where there is no such script.
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
    """timm's factories answer an unknown name with a bare KeyError."""
    name = error.args[0] if isinstance(error, KeyError) and error.args else None
    if isinstance(name, str) and name.startswith("grafs_"):
        try:
            zoo.get_activation(name)
        except UnknownNameError as unknown:
            error.add_note(str(unknown))


def _from_script(traceback: TracebackType | None, script: str) -> TracebackType | None:
    """The traceback without the frames that lead to the script; all of it where the script never began (a syntax error)."""
    there = traceback
    while there is not None and there.tb_frame.f_code.co_filename != script:
        there = there.tb_next
    return there or traceback
