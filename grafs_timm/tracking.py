"""A run's own log, the record of truth, and its mirror in Weights & Biases.

The log is `log.jsonl` in the run's folder: one JSON object a line with its `kind` and `time`, written at once. The
mirror is optional and never stops a run: its first error is reported once, and from there on only the log is kept.

    with RunLog(folder, "offline", config=recipe.model_dump(mode="json")) as log:
        log.log("epoch", epoch=1, loss=0.7)
        position = log.sync()            # goes into the checkpoint
        ...
        log.truncate_to(position)        # a resumed run takes back the lines after its checkpoint
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import secrets
import time
import warnings
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, get_args

from .errors import RunError
from .files import write_whole

Mode = Literal["disabled", "offline", "online"]
LOG_NAME = "log.jsonl"


class RunLog:
    """The log of the run in ``folder``, opened for appending; a last line that a kill left half-written is dropped.

    ``wandb_mode`` other than «disabled» mirrors numbers to W&B under ``project`` with the run's ``config``, ``name``
    and ``group``; the run's id is kept in `wandb_id`, so that a resumed run goes on as the same one there.

    RunError where the log can't be written, or W&B is asked for and not installed. ValueError for another mode.
    """

    def __init__(
        self,
        folder: str | Path,
        wandb_mode: Mode = "disabled",
        config: dict[str, Any] | None = None,
        name: str | None = None,
        group: str | None = None,
        project: str = "grafs-timm",
    ) -> None:
        if wandb_mode not in get_args(Mode):
            raise ValueError(f"wandb_mode is one of {', '.join(get_args(Mode))}, got {wandb_mode!r}")
        wandb = None if wandb_mode == "disabled" else _import_wandb()
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
        self._mirror = _Mirror(wandb, self.folder, wandb_mode, config, name, group, project) if wandb else None

    def log(self, kind: str, /, **values: Any) -> None:
        """Append one line. Scalars of torch and NumPy become numbers; NaN and ±inf the texts «nan», «inf», «-inf».

        RunError where it can't be written, with the log as it was. TypeError for a value that JSON has no form for,
        ValueError for a value named kind or time.
        """
        if not {"kind", "time"}.isdisjoint(values):
            raise ValueError("kind and time are the log's own")
        values = {key: _plain(value) for key, value in values.items()}
        line = {"kind": kind, "time": round(time.time(), 3), **without_nan(values)}
        self._append(json.dumps(line, ensure_ascii=False, allow_nan=False).encode() + b"\n")
        if self._mirror:
            self._mirror.log({f"{kind}/{key}": value for key, value in values.items() if _is_number(value)})

    @property
    def position(self) -> int:
        """Bytes written so far; ``truncate_to`` takes it."""
        return self._end

    def sync(self) -> int:
        """Have every line on disk, then return the position. RunError where the disk refuses."""
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            raise RunError(f"cannot write {self.path}: {error.strerror}") from error
        return self._end

    def truncate_to(self, position: int) -> None:
        """Take back every line after ``position``. RunError where the log is shorter, or no line ends there."""
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

    def summary(self, **values: Any) -> None:
        """Put values into W&B's summary of the run; without the mirror, nothing."""
        if self._mirror:
            self._mirror.summary({key: _plain(value) for key, value in values.items()})

    def image(self, key: str, path: str | Path) -> None:
        """Show an image file in W&B under ``key``; without the mirror, nothing."""
        if self._mirror:
            self._mirror.image(key, Path(path))

    def close(self, failed: bool = False) -> None:
        """Close the log and finish the W&B run; a second time does nothing."""
        self._file.close()
        mirror, self._mirror = self._mirror, None
        if mirror:
            mirror.finish(failed)

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close(failed=kind is not None)

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
    """The lines of the log in ``folder``; none where there is no log. A half-written last line is left out.

    RunError naming the line where another one is no JSON object.
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
    """The length of the file up to the end of its last whole line."""
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
    """Torch's and NumPy's scalars and arrays, and paths, as JSON has them; anything else as it is."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    return value.tolist() if hasattr(value, "tolist") else value


def without_nan(value: Any) -> Any:
    """NaN and ±inf, which JSON lacks, as the texts «nan», «inf», «-inf»: float() reads them."""
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_nan(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _import_wandb() -> Any:
    try:
        import wandb
    except ImportError as error:
        raise RunError("tracking with W&B needs its package: pip install grafs-timm[wandb]") from error
    return wandb


class _Mirror:
    """A W&B run whose every failure is swallowed: the first is warned about and ends the mirroring."""

    def __init__(
        self,
        wandb: Any,
        folder: Path,
        mode: str,
        config: dict[str, Any] | None,
        name: str | None,
        group: str | None,
        project: str,
    ) -> None:
        self._wandb = wandb
        self._run: Any = None
        with self._kept_from_harm():
            self._run = wandb.init(
                project=project,
                dir=str(folder),
                id=_run_id(folder),
                resume="allow",
                mode=mode,
                config=config,
                name=name,
                group=group,
                # its capture of the terminal garbles progress bars
                settings=wandb.Settings(console="off", silent=mode == "offline"),
            )

    def log(self, values: dict[str, float]) -> None:
        # no step is passed: W&B drops steps that lie behind its own, and a resumed run repeats some
        if values:
            self._do(lambda run: run.log(values))

    def summary(self, values: dict[str, Any]) -> None:
        self._do(lambda run: run.summary.update(values))

    def image(self, key: str, path: Path) -> None:
        self._do(lambda run: run.log({key: self._wandb.Image(str(path))}))

    def finish(self, failed: bool) -> None:
        self._do(lambda run: run.finish(exit_code=int(failed)))
        self._run = None

    def _do(self, action: Any) -> None:
        if self._run is not None:
            with self._kept_from_harm():
                action(self._run)

    @contextlib.contextmanager
    def _kept_from_harm(self) -> Any:
        try:
            yield
        except Exception as error:
            self._run = None
            what = f"{type(error).__name__}: {error}".splitlines()[0]
            warnings.warn(f"W&B is off for the rest of this run, {LOG_NAME} goes on ({what})", RuntimeWarning, stacklevel=6)


def _run_id(folder: Path) -> str:
    """The id under which W&B knows the run in ``folder``: made once, then kept there."""
    path = folder / "wandb_id"
    if path.exists():
        kept = path.read_text().strip()
        if re.fullmatch(r"[A-Za-z0-9_-]{1,64}", kept):
            return kept
    made = secrets.token_hex(4)
    write_whole(path, made + "\n")
    return made
