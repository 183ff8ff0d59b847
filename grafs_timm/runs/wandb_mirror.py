"""Mirror a run's log in W&B without ever waiting for W&B, or failing, while the run lasts.

W&B runs in a process of its own (`wandb_child`), where it can hang, crash, prompt, be killed or fill a disk; the run only
holds a pipe to it. Where that process fails, another one writes everything sent so far as an offline run, for `wandb sync`.
All of it costs one warning.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import secrets
import selectors
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any, Literal, cast, get_args

from ..errors import DOCTOR, MirrorWarning, RunError, shortened
from ..utils.files import write_whole
from ..utils.suggest import nearest

Mode = Literal["auto", "disabled", "offline", "online"]
_CHILD = Path(__file__).with_name("wandb_child.py")
_START = 15.0  # seconds beyond W&B's own limits, for starting and ending a process
_OFFLINE = 30.0  # seconds that writing a file may take
_ROOM = 2**20  # bytes that a disk must take before it is tried again
_TRUE = ("1", "true", "yes", "on")
_MODES: dict[str, Mode] = {
    "online": "online", "offline": "offline", "disabled": "disabled",
    "dryrun": "offline", "run": "online", "shared": "online",
}  # fmt: skip
_BACKLOG = 64 * 2**20  # bytes that a process may leave unread


class Mirror:
    """A W&B run that mirrors the run in ``folder``.

    W&B has WANDB_INIT_TIMEOUT seconds (30) to begin while the run trains. At the run's end it has what is left of them and
    WANDB_FINISH_TIMEOUT seconds (30) more; then the run is written offline, which takes seconds.

    Args:
        mode: "online" or "offline".
        about: Project, config, name, group and job_type.
    """

    def __init__(self, folder: Path, mode: Mode, about: dict[str, Any]) -> None:
        self.folder, self.about = folder, about
        self._init, self._finish = _seconds("WANDB_INIT_TIMEOUT", 30.0), _seconds("WANDB_FINISH_TIMEOUT", 30.0)
        self._said: list[bytes] = []
        self._process: _Process | None = None
        self._reason = ""  # why the first process failed
        self._ready = self._finishing = self._warned = False
        self._deadline = math.inf
        self._begin(mode)

    def send(self, do: str, **values: Any) -> None:
        """Send one message: a method of `wandb_child.Session` and its arguments."""
        if self._process is not None:
            line = _line({"do": do, **values})
            self._said.append(line)
            self._process.unsent += line
            self._turn(0)

    def close(self, failed: bool = False, wait: bool = True) -> None:
        """Finish the W&B run; without ``wait``, leave that to its process."""
        self._finishing = True
        if self._ready:
            self._deadline = time.monotonic() + self._finish + _START
        self.send("finish", failed=failed)
        while wait and self._process is not None:
            self._turn(0.2)
        if self._process is not None:
            self._process.leave()

    def _begin(self, mode: Mode) -> None:
        """Start W&B's process and send it everything sent so far."""
        if mode == "offline":  # nothing to wait for but this machine, however busy it is
            self._init, self._finish = max(self._init, _OFFLINE), max(self._finish, _OFFLINE)
        self._ready, self._deadline = False, time.monotonic() + self._init + _START
        about = {**self.about, "dir": str(_folder_for(self.folder)), "mode": mode, "pid": os.getpid()}
        about |= {"init_timeout": self._init, "finish_timeout": self._finish}
        try:
            (self.folder / "wandb").mkdir(exist_ok=True)
            if self._reason:  # only a file that will be there is promised
                write_whole(self.folder / "wandb" / "probe", bytes(_ROOM)).unlink()
            self._process = _Process({**about, "id": _run_id(self.folder)}, self.folder / "wandb" / "mirror.log")
            self._process.unsent += b"".join(self._said)
        except Exception as error:
            self._fail(error)

    def _turn(self, wait: float) -> None:
        """Write what the pipe takes and read what came back; wait at most ``wait`` seconds."""
        assert self._process is not None
        try:
            for report in self._process.exchange(wait):
                self._hear(report)
            if time.monotonic() > self._deadline:
                raise TimeoutError("no answer in time")
        except Exception as error:
            self._fail(error)

    def _hear(self, report: dict[str, Any]) -> None:
        if report["event"] == "failed":
            raise RuntimeError(report["why"])
        if report["event"] == "finished":
            self._stop()
            return
        self._ready, self._deadline = True, time.monotonic() + self._finish + _START if self._finishing else math.inf
        if self._reason:
            later = f"the run is kept for later: wandb sync {report['folder']}"
            warnings.warn(f"W&B failed ({self._reason}); {DOCTOR} shows its settings; {later}", MirrorWarning, stacklevel=6)
            self._warned = True
        elif report["url"]:
            print(f"W&B shows this run at {report['url']}", file=sys.stderr)

    def _fail(self, error: Exception) -> None:
        """Begin again offline the first time; give up the second time."""
        self._stop()
        why = (str(error).strip() or type(error).__name__).splitlines()[0]
        if not self._reason:
            self._reason = why
            self._begin("offline")
        elif not self._warned:
            off = "W&B is off for the rest of this run; log.jsonl is still written"
            said = f"{off} ({self._reason}; then, offline: {why}); {DOCTOR} shows its settings"
            warnings.warn(said, MirrorWarning, stacklevel=6)

    def _stop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.stop()


class _Process:
    """W&B's process and the pipes to and from it. ``unsent``: the bytes that it has not taken yet."""

    def __init__(self, about: dict[str, Any], log: Path) -> None:
        self.unsent, self._heard, self._log = bytearray(_line(about)), b"", log
        with log.open("ab") as stderr:
            self._process = subprocess.Popen(
                # -P: the modules beside the script are this package's, not Python's
                [sys.executable, "-P", str(_CHILD)], start_new_session=True, bufsize=0,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr,
            )  # fmt: skip
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._in, self._out = self._process.stdin, self._process.stdout
        os.set_blocking(self._in.fileno(), False)
        os.set_blocking(self._out.fileno(), False)

    def exchange(self, wait: float) -> list[dict[str, Any]]:
        """Return its reports. EOFError where it died, BufferError where it takes nothing any more."""
        if wait:
            with selectors.DefaultSelector() as ready:
                ready.register(self._out, selectors.EVENT_READ)
                if self.unsent:
                    ready.register(self._in, selectors.EVENT_WRITE)
                ready.select(wait)
        with contextlib.suppress(BlockingIOError, BrokenPipeError):  # why it died, it says itself
            while self.unsent:
                del self.unsent[: os.write(self._in.fileno(), self.unsent[:65536])]
        ended = False
        with contextlib.suppress(BlockingIOError):
            while heard := os.read(self._out.fileno(), 65536):
                self._heard += heard
            ended = True
        *lines, self._heard = self._heard.split(b"\n")
        if ended and not lines:
            raise EOFError(f"its process ended, see {self._log}")
        if len(self.unsent) > _BACKLOG:
            raise BufferError("its process takes nothing any more")
        return [json.loads(line) for line in lines]

    def leave(self) -> None:
        """Let it end by itself."""
        self._in.close()
        self._out.close()

    def stop(self) -> None:
        self._process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):  # one that a dead disk holds
            self._process.wait(5)
        self.leave()


def _line(message: dict[str, Any]) -> bytes:
    return json.dumps(message, default=str).encode() + b"\n"


def check_mode(mode: str) -> Mode:
    """Return ``mode``, "auto" resolved by W&B's own variables. ValueError for another mode, RunError for a wrong variable."""
    if mode not in get_args(Mode):
        raise ValueError(f"wandb_mode is one of {', '.join(get_args(Mode))}, got {mode!r}")
    if mode != "auto":
        return cast(Mode, mode)
    if not installed() or told("WANDB_DISABLED").lower() in _TRUE:
        return "disabled"
    named = told("WANDB_MODE").lower()
    if named and named not in _MODES:
        raise RunError(
            f"WANDB_MODE={shortened(named)}: W&B's modes are {', '.join(_MODES)}{nearest(named, _MODES)}; --wandb disabled, "
            "offline or online wins over it"
        )
    found = _MODES.get(named) or _MODES.get(_settings_file().get("mode", "").lower())
    return found or ("online" if key_from() else "offline")


def told(name: str, default: str = "") -> str:
    """Return the value of an environment variable, ``default`` where it is unset or empty."""
    return os.environ.get(name, "").strip() or default


def installed() -> bool:
    from importlib.util import find_spec

    return find_spec("wandb") is not None


def server() -> str | None:
    """Return the name of W&B's server, without what else its address may have; None for an address without a name."""
    from urllib.parse import urlsplit

    with contextlib.suppress(ValueError):
        return urlsplit(told("WANDB_BASE_URL") or _settings_file().get("base_url") or "https://api.wandb.ai").hostname
    return None


def key_from() -> str | None:
    """Return where W&B finds an API key without asking, a variable or the netrc file with its server; None if nowhere."""
    import netrc

    for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE"):
        if os.environ.get(name):
            return name
    unreadable = (netrc.NetrcParseError, OSError, ValueError, RuntimeError)
    for name in [os.environ["NETRC"]] if os.environ.get("NETRC") else ["~/.netrc", "~/_netrc"]:
        with contextlib.suppress(*unreadable):
            if server() in netrc.netrc(Path(name).expanduser()).hosts:
                return name
    return None


def _settings_file() -> dict[str, str]:
    """Read what `wandb login`, `wandb offline` and `wandb disabled` wrote for this user and for this folder."""
    import configparser

    settings = configparser.ConfigParser(interpolation=None)
    for folder in (Path(told("WANDB_CONFIG_DIR", "~/.config/wandb")), Path(told("WANDB_DIR", "."), "wandb")):
        with contextlib.suppress(configparser.Error, OSError, ValueError, RuntimeError):
            settings.read(folder.expanduser() / "settings", encoding="utf-8")
    return dict(settings["default"]) if settings.has_section("default") else {}


def _folder_for(run: Path) -> Path:
    """Return the folder for W&B's files of a run: WANDB_DIR where it is writable, else the run's folder."""
    if named := told("WANDB_DIR"):
        with contextlib.suppress(OSError, RuntimeError):
            place = Path(named).expanduser().absolute()
            (place / "wandb").mkdir(parents=True, exist_ok=True)
            if os.access(place / "wandb", os.W_OK):
                return place
    return run


def _run_id(folder: Path) -> str:
    """Return W&B's id of the run in ``folder``; it is made once and kept there."""
    path = folder / "wandb_id"
    if path.exists():
        kept = path.read_text(encoding="utf-8", errors="replace").strip()
        if re.fullmatch(r"[A-Za-z0-9_-]{1,64}", kept):
            return kept
    made = secrets.token_hex(4)
    write_whole(path, made + "\n")
    return made


def _seconds(name: str, default: float) -> float:
    """Return a number of seconds from an environment variable."""
    with contextlib.suppress(KeyError, ValueError):
        if 0 < float(os.environ[name]) < 1e6:
            return float(os.environ[name])
    return default
