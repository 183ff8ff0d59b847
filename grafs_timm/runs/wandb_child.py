"""The process that talks to W&B for a run, so that nothing that happens here stops the run.

`wandb_mirror.Mirror` starts this file as a script, which imports neither this package nor torch. Standard input takes one
JSON object a line: the settings first, then messages with their ``do``, at last ``finish``; input that ends before that
means that the run was killed. Standard output takes reports back: ``ready``, ``failed``, ``finished``.
"""

from __future__ import annotations

import contextlib
import html
import json
import os
import queue
import re
import signal
import sys
import threading
from typing import Any, BinaryIO


class Session:
    """One W&B run, and what each message does to it."""

    def __init__(self, wandb: Any, about: dict[str, Any]) -> None:
        offline = about["mode"] == "offline"
        settings = {
            "console": "off", "x_stats_pid": about["pid"], "program": "grafs-timm", "save_code": False,
            "init_timeout": about["init_timeout"], "finish_timeout": about["finish_timeout"], "finish_timeout_raises": True,
        }  # fmt: skip
        # an older W&B refuses the names it lacks
        known = {name for part in wandb.Settings.__mro__ for name in getattr(part, "__annotations__", ())}
        self.wandb = wandb
        self.run = wandb.init(
            project=about["project"], dir=about["dir"], id=about["id"], mode=about["mode"], config=about["config"],
            name=about["name"], group=about["group"], job_type=about["job_type"],
            # W&B takes an offline run for a new one in any case, and says so aloud where it was asked for more
            resume=None if offline else "allow",
            settings=wandb.Settings(**{key: value for key, value in settings.items() if key in known}),
        )  # fmt: skip
        # W&B's step is the number of the line in the log; those of a resumed run that W&B has are not sent twice
        self.first = self.next = self.run.step
        self.run.define_metric("epoch/*", step_metric="epoch/epoch")

    def line(self, step: int, values: dict[str, float]) -> None:
        if step >= self.first:
            self.run.log(values, step=step, commit=True)
            self.next = max(self.next, step + 1)

    def summary(self, values: dict[str, Any]) -> None:
        self.run.summary.update(values)

    def image(self, key: str, path: str) -> None:
        self._show(key, self.wandb.Image(path))

    def formula(self, key: str, text: str, latex: str) -> None:
        shown = f"<p><big>f(x) = {html.escape(text)}</big></p><pre>{html.escape(latex)}</pre>"
        self._show(key, self.wandb.Html(shown, inject=False))

    def table(self, key: str, columns: list[str], rows: list[list[Any]]) -> None:
        self._show(key, self.wandb.Table(columns=columns, data=rows, allow_mixed_types=True))

    def artifact(self, name: str, kind: str, path: str) -> None:
        artifact = self.wandb.Artifact(re.sub(r"[^\w.-]", "_", name, flags=re.ASCII)[:128], type=kind)
        # as it lies there: W&B's own copy would go to the user's home, which another machine's sync can't see
        artifact.add_file(path, policy="immutable", skip_cache=True)
        self.run.log_artifact(artifact)

    def _show(self, key: str, medium: Any) -> None:
        self.run.log({key: medium}, step=self.next)


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the run's to answer
    os.environ.pop("WANDB_SERVICE", None)  # another run's, which may go at any time
    reports = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # what W&B prints goes to this process's own log
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # of the locale's encoding
    about = json.loads(sys.stdin.buffer.readline())
    # what waits for a sync belongs to the run, not to this machine's user
    os.environ.setdefault("WANDB_DATA_DIR", os.path.join(about["dir"], "wandb"))
    messages: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(messages, about["finish_timeout"] + about["init_timeout"]), daemon=True).start()
    try:
        _keep_to(about)
        import wandb

        _drop_wrong(wandb, complain=about["mode"] == "online")
        session = Session(wandb, about)
        _report(reports, "ready", url=session.run.url, folder=os.path.dirname(session.run.dir))
        while (message := messages.get())["do"] != "finish":
            getattr(session, message.pop("do"))(**message)
        session.run.finish(exit_code=int(message["failed"]))
        folder = os.path.dirname(session.run.dir)
        wandb.teardown()  # returns once W&B's service has written everything
        if about["mode"] == "offline" and not _is_whole(os.path.join(folder, f"run-{about['id']}.wandb")):
            raise OSError(f"{folder} is not whole: a full disk?")  # W&B's service keeps that to itself
        _report(reports, "finished")
    except BaseException as error:
        _report(reports, "failed", why=f"{type(error).__name__}: {error}".strip().splitlines()[0])
    os._exit(0)  # no atexit: W&B's waits for its service without end


def _keep_to(about: dict[str, Any]) -> None:
    """What the run decides is not W&B's to read from the environment, in which other spellings are errors to it."""
    os.environ["WANDB_MODE"] = about["mode"]
    for name in ("WANDB_RUN_ID", "WANDB_RESUME", "WANDB_DISABLED"):
        os.environ.pop(name, None)


def _drop_wrong(wandb: Any, complain: bool) -> None:
    """Leave out W&B's variables that it cannot read, or ``complain``: it says which setting that is, and not which variable."""
    for name, value in list(os.environ.items()):
        if not name.startswith("WANDB_"):
            continue
        try:
            wandb.Settings().update_from_env_vars({name: value})
        except AttributeError:  # another W&B, which says it in its own words
            return
        except Exception as error:
            why = str(error).strip().splitlines()
            reason = next((line.strip() for line in why[2:3]), why[0] if why else type(error).__name__)
            reason = f"{name}={value[:100]}: {reason.partition(' [type=')[0]}"
            if complain:
                raise ValueError(reason) from error
            print(f"left out: {reason}", file=sys.stderr)
            del os.environ[name]


def _read(messages: queue.SimpleQueue[dict[str, Any]], patience: float) -> None:
    """Hand on what the run says, and end this process when W&B takes too long over its end."""
    with contextlib.suppress(ValueError):  # half a line: the run was killed while it wrote
        for line in sys.stdin.buffer:
            messages.put(json.loads(line))
    messages.put({"do": "finish", "failed": True})
    threading.Event().wait(patience)
    os._exit(1)


def _is_whole(path: str) -> bool:
    """Return whether W&B's file reaches the record of the run's end.

    LevelDB's log format (github.com/google/leveldb, doc/log_format.md): a header of 7 bytes, then blocks of 32 KiB with pieces
    of records. Each piece begins with a checksum (4 bytes), its length (2) and its type (1): whole, first, middle, last.
    """
    from wandb.proto.wandb_internal_pb2 import Record

    with open(path, "rb") as file:
        data = file.read()
    at, record = 7, b""
    while at + 7 <= len(data):
        if (left := 32768 - at % 32768) < 7:
            at += left
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        piece = data[at + 7 : at + 7 + length]
        if len(piece) < length or kind not in (1, 2, 3, 4):
            return False
        record = piece if kind in (1, 2) else record + piece
        if kind in (1, 4) and Record.FromString(record).HasField("exit"):
            return True
        at += 7 + length
    return False


def _report(reports: BinaryIO, event: str, **values: Any) -> None:
    with contextlib.suppress(OSError):  # the run is gone: nobody needs to know
        reports.write(json.dumps({"event": event, **values}).encode() + b"\n")


if __name__ == "__main__":
    main()
