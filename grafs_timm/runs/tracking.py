"""Write a run's log, and mirror it in Weights & Biases.

The log is ``log.jsonl`` in the run's folder: one JSON object a line with its ``kind`` and ``time``, written at once. Results
are read from it. The mirror is optional, follows the log, and never stops or delays a run: see `wandb_mirror`.

    with RunLog(folder, "offline", config=recipe.model_dump(mode="json")) as log:
        log.log("epoch", epoch=1, loss=0.7)
        position = log.sync()            # goes into the checkpoint
        ...
        log.truncate_to(position)        # a resumed run drops the lines after its checkpoint
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from ..errors import DOCTOR, RunError
from .wandb_mirror import Mirror, Mode, check_mode, installed, told

LOG_NAME = "log.jsonl"


@dataclass(frozen=True)
class Wandb:
    """Options of the W&B mirror.

    Args:
        mode: "disabled", "offline", "online", or "auto", which is online where a key is configured.
        group: W&B's group of runs that belong together.

    >>> Wandb("offline", "matrix").arguments
    ['--wandb', 'offline', '--wandb-group', 'matrix']
    """

    mode: Mode = "disabled"
    group: str | None = None

    @property
    def arguments(self) -> list[str]:
        """Return the same as options of the command line, for a job."""
        return ["--wandb", self.mode, *(["--wandb-group", self.group] if self.group else [])]


DISABLED = Wandb()


class RunLog:
    """Append to the log of the run in ``folder``. A last line that a kill left half-written is dropped.

    Args:
        folder: The run's folder.
        wandb_mode: "disabled", "offline", "online", or "auto": what W&B's own variables say, else online where a key is
            configured and offline where none is.
        config: What W&B shows as the run's configuration.
        name: The run's name in W&B where WANDB_NAME sets none.
        group: Its group.
        project: Its project. Default: WANDB_PROJECT, else grafs-timm.
        job_type: Its job type where WANDB_JOB_TYPE sets none.

    Raises:
        RunError: The log can't be written, or W&B is asked for and not installed.
        ValueError: For another mode.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder, RunLog(folder) as log:
    ...     log.log("epoch", epoch=1, loss=0.5)
    ...     read_log(folder)[0]["loss"]
    0.5
    """

    def __init__(
        self,
        folder: str | Path,
        wandb_mode: Mode = "disabled",
        config: dict[str, Any] | None = None,
        name: str | None = None,
        group: str | None = None,
        project: str | None = None,
        job_type: str | None = None,
    ) -> None:
        mode = check_mode(wandb_mode)
        if mode != "disabled" and not installed():
            cure = f"pip install 'grafs-timm[wandb]'; {DOCTOR} lists what is installed"
            raise RunError(f"tracking with W&B needs its package: {cure}")
        self.folder = Path(folder)
        self.path = self.folder / LOG_NAME
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            # unbuffered: a line is the operating system's as soon as log() returns
            self._file = open(self.path, "ab", buffering=0)  # noqa: SIM115
            self._end = _whole_lines(self.path)
            if self._end < self._file.tell():
                self._file.truncate(self._end)
        except OSError as error:
            raise RunError(f"cannot write {self.path}: {error.strerror}") from error
        self._mirror: Mirror | None = None
        self._mirrored, self._step = 0, 0  # bytes of the log that the mirror has, and lines
        if mode != "disabled":
            about = {
                "project": project or told("WANDB_PROJECT", "grafs-timm"), "config": _plain(config), "group": group,
                "name": told("WANDB_NAME") or name, "job_type": told("WANDB_JOB_TYPE") or job_type,
            }  # fmt: skip
            self._mirror = Mirror(self.folder, mode, about)

    def log(self, kind: str, /, **values: Any) -> None:
        """Append one line.

        Scalars of torch and NumPy become numbers; NaN and ±inf become the texts "nan", "inf" and "-inf".

        Raises:
            RunError: The line can't be written; the log is as it was.
            TypeError: A value has no form in JSON.
            ValueError: A value is named kind or time.
        """
        if not {"kind", "time"}.isdisjoint(values):
            raise ValueError("kind and time are the log's own")
        values = {key: _plain(value) for key, value in values.items()}
        # the time is for the reader: it may jump with the machine's clock, the order of the lines is what counts
        line = {"kind": kind, "time": round(time.time(), 3), **without_nan(values)}
        self._append(json.dumps(line, ensure_ascii=False, allow_nan=False).encode() + b"\n")
        self._mirror_lines()

    def sync(self) -> int:
        """Flush every line to disk; return the size in bytes, for `truncate_to`. RunError where the disk refuses."""
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            raise RunError(f"cannot write {self.path}: {error.strerror}") from error
        return self._end

    def truncate_to(self, position: int) -> None:
        """Drop every line after byte ``position``. RunError where the log is shorter or no line ends there."""
        if position > self._end:
            raise RunError(f"{self.path} is shorter ({self._end} bytes) than its checkpoint says ({position}): lines are lost")
        try:
            with self.path.open("rb") as file:
                file.seek(max(position - 1, 0))
                if position < 0 or (position > 0 and file.read(1) != b"\n"):
                    raise RunError(f"{self.path} has no line that ends at byte {position}, where its checkpoint says")
            self._file.truncate(position)
        except OSError as error:
            raise RunError(f"cannot write {self.path}: {error.strerror}") from error
        self._end = position
        if position < self._mirrored:
            self._mirrored = self._step = 0  # W&B passes over the lines that it has

    @property
    def mirrored(self) -> bool:
        """Return whether the run is mirrored in W&B."""
        return self._mirror is not None

    def summary(self, **values: Any) -> None:
        """Put values into W&B's summary of the run. Like the methods below it does nothing without the mirror."""
        self._show("summary", values=_plain(values))

    def image(self, key: str, path: str | Path) -> None:
        """Show an image file in W&B under ``key``."""
        self._show("image", key=key, path=str(Path(path).absolute()))

    def formula(self, key: str, text: str, latex: str = "") -> None:
        """Show a formula in W&B under ``key``: its text, and its LaTeX below."""
        self._show("formula", key=key, text=text, latex=latex)

    def table(self, key: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Show a table in W&B under ``key``."""
        self._show("table", key=key, columns=list(columns), rows=_plain(rows))

    def artifact(self, name: str, kind: str, path: str | Path) -> None:
        """Keep a file in W&B as an artifact of type ``kind``. The file must stay until W&B has read it."""
        self._show("artifact", name=name, kind=kind, path=str(Path(path).absolute()))

    def close(self, failed: bool = False, wait: bool = True) -> None:
        """Close the log and finish the W&B run. Idempotent. ``wait``: until W&B has everything or gave up."""
        self._file.close()
        mirror, self._mirror = self._mirror, None
        if mirror:
            mirror.close(failed, wait)

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        # Ctrl-C and the like end the run now: W&B's process ends by itself
        self.close(failed=kind is not None, wait=kind is None or issubclass(kind, Exception))

    def _show(self, do: str, **values: Any) -> None:
        self._mirror_lines()
        if self._mirror:
            self._mirror.send(do, **values)

    def _mirror_lines(self) -> None:
        """Send W&B the lines it lacks, also those before a resume; a line's number in the log is its step."""
        if not self._mirror or self._mirrored == self._end:
            return
        with contextlib.suppress(OSError), self.path.open("rb") as file:
            file.seek(self._mirrored)
            for raw in file.read(self._end - self._mirrored).split(b"\n")[:-1]:
                if numbers := _numbers(raw):
                    self._mirror.send("line", step=self._step, values=numbers)
                self._step += 1
            self._mirrored = self._end

    def _append(self, line: bytes) -> None:
        rest = memoryview(line)
        try:
            while rest:
                rest = rest[self._file.write(rest) or 0 :]
        except OSError as error:
            with contextlib.suppress(OSError):
                self._file.truncate(self._end)
            raise RunError(f"cannot write {self.path}: {error.strerror}; the lines before are kept") from error
        self._end += len(line)


def read_log(folder: str | Path) -> list[dict[str, Any]]:
    """Read the lines of the log in ``folder``; [] where there is no log. A half-written last line is left out.

    Raises:
        RunError: A line is no JSON object; its number is named.
    """
    path = Path(folder) / LOG_NAME
    if not path.exists():
        return []
    lines = []
    for number, raw in enumerate(path.read_bytes().split(b"\n")[:-1], 1):
        try:
            line = json.loads(raw)
        except (ValueError, RecursionError) as error:
            raise RunError(f"{path}, line {number} is damaged: {error}") from error
        if not isinstance(line, dict):
            raise RunError(f"{path}, line {number} is damaged: expected an object")
        lines.append(line)
    return lines


def _whole_lines(path: Path) -> int:
    """Return the size of the file up to the end of its last whole line."""
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        while end > 0:
            begin = max(0, end - 65536)
            file.seek(begin)
            found = file.read(end - begin).rfind(b"\n")
            if found >= 0:
                return begin + found + 1
            end = begin
    return 0


def _plain(value: Any) -> Any:
    """Convert torch and NumPy scalars and arrays, and paths, to what JSON can hold."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    return value.tolist() if hasattr(value, "tolist") else value


def without_nan(value: Any) -> Any:
    """Replace NaN and ±inf, which JSON lacks, by the texts "nan", "inf" and "-inf"; float() reads them.

    >>> without_nan({"loss": float("nan"), "epoch": 1})
    {'loss': 'nan', 'epoch': 1}
    """
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_nan(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _numbers(raw: bytes) -> dict[str, float]:
    """Return the numbers of one line of the log under W&B's names; {} where the line is damaged."""
    found = {}
    with contextlib.suppress(ValueError, RecursionError, AttributeError):
        line = json.loads(raw)
        for key, value in line.items():
            if isinstance(value, str) and value in ("nan", "inf", "-inf"):
                value = float(value)
            if key != "time" and isinstance(value, int | float) and not isinstance(value, bool):
                found[f"{line.get('kind')}/{key}"] = value
    return found
