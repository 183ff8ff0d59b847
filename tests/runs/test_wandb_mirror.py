"""W&B can hang, refuse, crash or be killed: the run goes on, with one warning, and what it said can be synced later."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest
import torch
from PIL import Image
from wandb_file import files, read_offline
from wandb_server import Server

from grafs_timm.errors import RunError
from grafs_timm.runs import wandb_mirror
from grafs_timm.runs.tracking import RunLog, read_log
from grafs_timm.runs.wandb_mirror import _run_id, check_mode

pytest.importorskip("wandb")
ROOT = Path(__file__).parents[2]
KEY = "0" * 40


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """A home without a key, and no server but this machine's."""
    home = tmp_path / "home"
    home.mkdir()
    for name in ("HOME", "WANDB_CONFIG_DIR", "WANDB_CACHE_DIR"):
        monkeypatch.setenv(name, str(home))
    for name in ("WANDB_MODE", "WANDB_API_KEY", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")


@pytest.fixture
def server(monkeypatch):
    with Server() as there:
        monkeypatch.setenv("WANDB_BASE_URL", there.url)
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        yield there


@pytest.fixture
def impatient(monkeypatch):
    """W&B may take a second to begin and one to finish, and its process five on top."""
    monkeypatch.setenv("WANDB_INIT_TIMEOUT", "1")
    monkeypatch.setenv("WANDB_FINISH_TIMEOUT", "1")
    monkeypatch.setattr(wandb_mirror, "_START", 5.0)


def numbers(folder):
    """The rows W&B should have: the numbers of every line, under the line's kind."""
    return [
        {"_step": step} | {f"{line['kind']}/{key}": value for key, value in line.items() if key not in ("kind", "time")}
        for step, line in enumerate(read_log(folder))
    ]


def plain(rows):
    return [{key: value for key, value in row.items() if not key.startswith("_") or key == "_step"} for row in rows]


def warned(caught):
    return [str(warning.message) for warning in caught if issubclass(warning.category, RuntimeWarning)]


def ready(log):
    """Wait until W&B has begun."""
    begin = time.monotonic()
    while not log._mirror._ready:
        assert time.monotonic() < begin + 60
        log._mirror._turn(0.1)


def processes(text):
    """Ids of running processes whose command line holds ``text``."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
            if text in command:
                found.append(int(entry.name))
    return found


def child(log):
    return log._mirror._process._process.pid


def write_epochs(log, first, last):
    for epoch in range(first, last):
        log.log("epoch", epoch=epoch, loss=1 / (epoch + 1))


# -------------------------------------------------------------------------------------------------- a W&B that works


def test_an_offline_run_says_what_the_log_says(tmp_path):
    run = tmp_path / "run"
    Image.new("RGB", (2, 2)).save(tmp_path / "plot.png")
    (tmp_path / "genotype.json").write_text("{}", encoding="utf-8")
    about = {"config": {"search": {"epochs": 3}}, "name": "first", "group": "digits", "job_type": "search"}
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        with RunLog(run, "offline", **about) as log:
            log.log("start", sites=3, note="text", flag=True)
            log.log("epoch", epoch=1, loss=float("nan"))
            log.log("notice", text="a line without a number")
            log.log("epoch", epoch=2, loss=torch.tensor(0.5))
            log.image("result/plot", tmp_path / "plot.png")
            log.formula("result/formula", "x·σ(x) <b>", r"x\sigma(x)")
            log.table("result/rows", ["epoch", "loss"], [[1, None], [2, torch.tensor(0.5)], ["last", 3]])
            log.artifact("first genotype", "genotype", tmp_path / "genotype.json")
            log.summary(accuracy=0.75, path=tmp_path)
    (file,) = files(run)
    found = read_offline(file)
    known = (run / "wandb_id").read_text(encoding="utf-8").strip()
    shown = {key: found.run.get(key) for key in ("run_id", "display_name", "run_group", "job_type", "project")}
    assert shown == {"run_id": known, "display_name": "first", "run_group": "digits", "job_type": "search",
                     "project": "grafs-timm"}  # fmt: skip
    assert found.config["search"] == {"epochs": 3}
    *lines, media = plain(found.rows)
    assert lines[0] == {"_step": 0, "start/sites": 3}
    assert lines[1].keys() == {"_step", "epoch/epoch", "epoch/loss"}
    assert lines[2] == {"_step": 3, "epoch/epoch": 2, "epoch/loss": 0.5}
    kinds = {key.split(".")[0]: value for key, value in media.items() if key.endswith("._type")}
    assert kinds == {"result/plot": "image-file", "result/formula": "html-file", "result/rows": "table-file"}
    folder = file.parent / "files"
    assert (folder / media["result/plot.path"]).read_bytes() == (tmp_path / "plot.png").read_bytes()
    text = (folder / media["result/formula.path"]).read_text(encoding="utf-8")
    assert "x·σ(x) &lt;b&gt;" in text
    assert r"x\sigma(x)" in text
    table = json.loads((folder / media["result/rows.path"]).read_text(encoding="utf-8"))
    assert table == table | {"columns": ["epoch", "loss"], "data": [[1, None], [2, 0.5], ["last", 3]]}
    (artifact,) = (item for item in found.artifacts if item["type"] == "genotype")
    assert artifact["name"] == "first_genotype"
    assert [item["local_path"] for item in artifact["manifest"]["contents"]] == [str(tmp_path / "genotype.json")]
    assert found.summary["accuracy"] == 0.75
    assert found.exit.get("exit_code", 0) == 0
    assert not list((tmp_path / "home").rglob("*.wandb"))


def test_a_resumed_run_keeps_its_id_and_is_whole_in_its_last_file(tmp_path):
    with RunLog(tmp_path, "offline") as log:
        write_epochs(log, 0, 2)
        position = log.sync()
        write_epochs(log, 2, 4)
    with RunLog(tmp_path, "offline") as log:
        log.truncate_to(position)
        write_epochs(log, 2, 5)
    assert [line["epoch"] for line in read_log(tmp_path)] == [0, 1, 2, 3, 4]
    first, second = map(read_offline, files(tmp_path))
    assert first.run["run_id"] == second.run["run_id"] == log_id(tmp_path)
    assert plain(second.rows) == numbers(tmp_path)


def test_an_id_that_is_none_is_made_anew(tmp_path):
    made = _run_id(tmp_path)
    assert _run_id(tmp_path) == made == log_id(tmp_path)
    (tmp_path / "wandb_id").write_text("no such / id", encoding="utf-8")
    assert _run_id(tmp_path) == log_id(tmp_path) not in (made, "no such / id")


def test_a_run_that_fails_is_told_so_and_a_clock_that_jumps_is_not_believed(tmp_path, monkeypatch):
    times = iter([2e9, 1e9, 0.0, -5.0, 4e12])
    monkeypatch.setattr(time, "time", lambda: next(times))
    with contextlib.suppress(KeyError), RunLog(tmp_path, "offline") as log:
        write_epochs(log, 0, 5)
        raise KeyError
    (file,) = files(tmp_path)
    found = read_offline(file)
    assert plain(found.rows) == numbers(tmp_path)
    assert found.exit["exit_code"] == 1


def test_an_online_run_brings_the_log_to_the_server(tmp_path, server, capsys):
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        with RunLog(tmp_path, "online") as log:
            write_epochs(log, 0, 5)
    assert plain(server.rows()) == numbers(tmp_path)
    assert capsys.readouterr().err == f"W&B shows this run at {server.url}/tester/grafs-timm/runs/{log_id(tmp_path)}\n"


@pytest.mark.parametrize("first", ["online", pytest.param("offline", marks=pytest.mark.slow)])
def test_a_run_resumed_online_sends_what_the_server_lacks_and_nothing_twice(tmp_path, server, first):
    with RunLog(tmp_path, first) as log:
        write_epochs(log, 0, 2)
        position = log.sync()
        write_epochs(log, 2, 4)
    assert len(server.rows()) == (4 if first == "online" else 0)
    began = len(server.sent)
    with RunLog(tmp_path, "online") as log:
        log.truncate_to(position)
        write_epochs(log, 2, 6)
    assert plain(server.rows()) == numbers(tmp_path)
    again = [row["epoch/epoch"] for row in plain(server.sent[began:])]
    assert again == ([4, 5] if first == "online" else [0, 1, 2, 3, 4, 5])


def log_id(folder):
    return (folder / "wandb_id").read_text(encoding="utf-8").strip()


# --------------------------------------------------------------------------------------------- a W&B that does not


def survives(folder, caught, began, limit, epochs=6):
    """The log is whole, one warning came in time, and the file it names holds the whole run; returns the warning."""
    took = time.monotonic() - began
    assert [line["epoch"] for line in read_log(folder)] == list(range(epochs))
    (text,) = warned(caught)
    assert text.startswith("W&B failed (")
    path = Path(text.rsplit("wandb sync ", 1)[1])
    (file,) = path.glob("run-*.wandb")
    found = read_offline(file)
    assert plain(found.rows) == numbers(folder)
    assert found.exit.get("exit_code", 0) == 0
    assert found.run["run_id"] == log_id(folder)
    assert took < limit
    return text


@pytest.mark.parametrize(
    "mood", ["stalls", *(pytest.param(mood, marks=pytest.mark.slow) for mood in ("refused", "drops", "500"))]
)
def test_a_server_that_fails_from_the_start(tmp_path, server, mood, impatient, monkeypatch):
    monkeypatch.setattr(wandb_mirror, "_START", 1.0)
    server.mood = mood
    if mood == "refused":
        server.close()
    began = time.monotonic()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with RunLog(tmp_path, "online") as log:
            write_epochs(log, 0, 6)
            assert time.monotonic() - began < 2  # the run itself waits for nothing
    # 1 s to begin, 1 s around it and 1 s to finish, then offline: seconds on a machine that is not busy
    survives(tmp_path, caught, began, limit=30)


@pytest.mark.parametrize("mood", ["dies", *(pytest.param(mood, marks=pytest.mark.slow) for mood in ("stalls", "drops", "500"))])
def test_a_server_that_fails_in_the_middle(tmp_path, server, mood, monkeypatch):
    monkeypatch.setenv("WANDB_FINISH_TIMEOUT", "1")
    began = time.monotonic()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with RunLog(tmp_path, "online") as log:
            write_epochs(log, 0, 3)
            ready(log)
            server.mood = mood
            if mood == "dies":
                server.close()
            write_epochs(log, 3, 6)
    text = survives(tmp_path, caught, began, limit=40)
    # and later, with a server that works again, W&B's own command brings the whole run there
    with Server() as later:
        command = [sys.executable, "-P", "-m", "wandb", *text.split(": wandb ")[-1].split()]
        env = os.environ | {"WANDB_BASE_URL": later.url}
        subprocess.run(command, env=env, check=True, timeout=60, capture_output=True, stdin=subprocess.DEVNULL)
        assert plain(later.rows()) == numbers(tmp_path)


@pytest.mark.parametrize(
    ("mode", "victim"),
    [
        ("offline", "service"),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in (("online", "service"), ("online", "process"))),
    ],
)
def test_a_process_of_wandb_that_is_killed(tmp_path, server, mode, victim):
    began = time.monotonic()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with RunLog(tmp_path, mode) as log:
            write_epochs(log, 0, 3)
            ready(log)
            (service,) = processes(f"--pid {child(log)}")
            os.kill(service if victim == "service" else child(log), signal.SIGKILL)
            write_epochs(log, 3, 6)
    survives(tmp_path, caught, began, limit=40)


@pytest.mark.slow
def test_a_process_of_wandb_that_stops_dead(tmp_path, server, impatient, monkeypatch):
    monkeypatch.setattr(wandb_mirror, "_START", 1.0)
    began = time.monotonic()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with RunLog(tmp_path, "online") as log:
            os.kill(child(log), signal.SIGSTOP)
            write_epochs(log, 0, 6)
    assert "no answer in time" in survives(tmp_path, caught, began, limit=30)


def test_a_process_that_takes_nothing_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(wandb_mirror, "_BACKLOG", 200_000)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with RunLog(tmp_path, "offline") as log:
            os.kill(child(log), signal.SIGSTOP)
            log.summary(text="x" * 400_000)
            log._mirror._process and os.kill(child(log), signal.SIGSTOP)
            log.summary(text="x" * 400_000)
            assert log._mirror._process is None
            write_epochs(log, 0, 6)
    (text,) = warned(caught)
    assert text.startswith(
        "W&B is off for the rest of this run; log.jsonl is still written (its process takes nothing any more; then"
    )
    assert len(read_log(tmp_path)) == 6


def test_without_a_key_it_never_asks(tmp_path):
    began = time.monotonic()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with RunLog(tmp_path, "online") as log:
            write_epochs(log, 0, 6)
    assert "No API key" in survives(tmp_path, caught, began, limit=30)


def test_a_folder_that_wandb_cannot_write(tmp_path):
    (tmp_path / "wandb").write_text("a file", encoding="utf-8")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with RunLog(tmp_path, "offline") as log:
            write_epochs(log, 0, 6)
    (text,) = warned(caught)
    assert text.startswith("W&B is off for the rest of this run; log.jsonl is still written (")
    assert len(read_log(tmp_path)) == 6


# ------------------------------------------------------------------------------------- whole processes: disks and kills

SCRIPT = """
import sys, time, types
package = types.ModuleType("grafs_timm")  # without what its import brings, torch and timm
package.__path__ = [sys.argv.pop(1)]
sys.modules["grafs_timm"] = package
from grafs_timm.runs.tracking import RunLog
folder, mode, epochs = sys.argv[1], sys.argv[2], int(sys.argv[3])
with RunLog(folder, mode, config={"note": "x" * 6000}) as log:
    for epoch in range(epochs):
        log.log("epoch", epoch=epoch)
        time.sleep(float(sys.argv[4]))
"""


def start(tmp_path, *arguments, before=None):
    env = os.environ | {"PYTHONWARNINGS": "always"}
    command = [sys.executable, "-c", SCRIPT, str(ROOT / "grafs_timm"), str(tmp_path / "run"), *map(str, arguments)]
    return subprocess.Popen(
        command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8", preexec_fn=before
    )


def small_files():
    """No file of this process and those it starts may grow beyond 4,096 bytes: a disk that is full, for each alone."""
    import resource

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))


def test_a_disk_too_full_for_wandb_costs_one_warning(tmp_path):
    process = start(tmp_path, "offline", 20, 0.1, before=small_files)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    assert [line["epoch"] for line in read_log(tmp_path / "run")] == list(range(20))
    assert output.count("MirrorWarning: W&B is off for the rest of this run; log.jsonl is still written") == 1, output
    assert output.count("Warning") == 1, output


def test_a_file_that_wandb_left_half_written_is_noticed(tmp_path):
    """Its service says nothing of a disk that fills up: here the file is cut behind its back, before it is checked."""
    from grafs_timm.runs.wandb_child import _is_whole

    with RunLog(tmp_path, "offline", config={"note": "x" * 70_000}) as log:  # records across blocks
        write_epochs(log, 0, 6)
    (file,) = files(tmp_path)
    assert _is_whole(str(file))
    whole = file.read_bytes()
    for end in (7, 100, 40_000, 70_000, len(whole) - 600):
        file.write_bytes(whole[:end])
        assert not _is_whole(str(file)), end
    file.write_bytes(whole[:2000] + bytes(32768 * 2) + whole[2000:])  # a hole
    assert not _is_whole(str(file))


def test_a_disk_too_full_for_the_log_ends_the_run_and_keeps_its_lines(tmp_path):
    process = start(tmp_path, "disabled", 200, 0, before=small_files)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "RunError: cannot write" in output
    assert "File too large; the lines before are kept" in output
    lines = read_log(tmp_path / "run")
    assert [line["epoch"] for line in lines] == list(range(len(lines)))
    assert 4000 < (tmp_path / "run" / "log.jsonl").stat().st_size <= 4096


def has_lines(folder, lines):
    log, deadline = folder / "log.jsonl", time.monotonic() + 60
    while not (log.exists() and log.read_bytes().count(b"\n") >= lines):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_killed_run_is_as_whole_in_wandb_as_in_its_log(tmp_path):
    process = start(tmp_path, "offline", 10_000, 0.02)
    has_lines(tmp_path / "run", 100)
    process.kill()
    process.communicate(timeout=60)
    deadline = time.monotonic() + 60
    while not files(tmp_path / "run") or read_offline(files(tmp_path / "run")[0]).exit is None:
        assert time.monotonic() < deadline
    found = read_offline(files(tmp_path / "run")[0])
    assert found.exit["exit_code"] == 1
    assert plain(found.rows)[:100] == numbers(tmp_path / "run")[:100]
    assert len(numbers(tmp_path / "run")) - len(found.rows) in (0, 1)  # killed between the log and W&B


@pytest.mark.parametrize(
    "kill", [signal.SIGINT, *(pytest.param(k, marks=pytest.mark.slow) for k in (signal.SIGTERM, signal.SIGKILL))]
)
def test_a_run_that_is_ended_ends_at_once_and_leaves_nothing_behind(tmp_path, server, impatient, kill):
    server.mood = "stalls"
    process = start(tmp_path, "online", 10_000, 0.01)
    has_lines(tmp_path / "run", 100)
    children = [
        int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text(encoding="utf-8").split()
    ]
    assert len(children) == 1
    began = time.monotonic()
    process.send_signal(kill)
    process.communicate(timeout=60)
    assert time.monotonic() - began < 3
    assert process.returncode != 0
    while any(Path(f"/proc/{pid}").exists() for pid in children) or processes(f"--pid {children[0]}"):
        assert time.monotonic() < began + 25
        time.sleep(0.1)


# ----------------------------------------------------------------------------------------------------------- modes


@pytest.mark.parametrize(
    ("environment", "netrc", "mode"),
    [
        ({}, None, "offline"),
        ({"WANDB_API_KEY": KEY}, None, "online"),
        ({"WANDB_API_KEY": KEY, "WANDB_MODE": "offline"}, None, "offline"),
        ({"WANDB_MODE": "disabled"}, None, "disabled"),
        ({"WANDB_MODE": "dryrun", "WANDB_API_KEY": KEY}, None, "offline"),
        ({"WANDB_MODE": "online"}, None, "online"),
        ({}, f"machine 127.0.0.1 login user password {KEY}", "online"),
        ({}, f"machine api.wandb.ai login user password {KEY}", "offline"),  # another server than this one
        ({"WANDB_BASE_URL": ""}, f"machine api.wandb.ai login user password {KEY}", "online"),
        ({}, "machine (damaged", "offline"),
        *(
            ({"WANDB_MODE": mode, "WANDB_API_KEY": KEY}, None, "offline")
            for mode in ("OFFLINE", "Offline", " offline ", "DryRun")
        ),
        *(({"WANDB_MODE": mode}, None, "online") for mode in ("ONLINE", "Run", "Shared")),
        *(({"WANDB_MODE": mode, "WANDB_API_KEY": KEY}, None, "disabled") for mode in ("DISABLED", "Disabled")),
        *(({"WANDB_DISABLED": word, "WANDB_API_KEY": KEY}, None, "disabled") for word in ("true", "1", "YES", "on", "True ")),
        *(({"WANDB_DISABLED": word, "WANDB_API_KEY": KEY}, None, "online") for word in ("false", "0", "", "no", "off")),
        ({"WANDB_DISABLED": "true", "WANDB_MODE": "online"}, None, "disabled"),
        ({"WANDB_MODE": "", "WANDB_API_KEY": KEY}, None, "online"),
    ],
)
def test_the_mode_that_auto_stands_for(tmp_path, monkeypatch, environment, netrc, mode):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    if netrc:
        (tmp_path / "home" / ".netrc").write_text(netrc, encoding="utf-8")
        (tmp_path / "home" / ".netrc").chmod(0o600)
    assert check_mode("auto") == mode
    assert check_mode("offline") == "offline"


def test_the_server_that_wandb_login_was_told(tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_BASE_URL")
    (tmp_path / "home" / "settings").write_text("[default]\nbase_url = https://wandb.example.org\n", encoding="utf-8")
    (tmp_path / "home" / ".netrc").write_text(f"machine wandb.example.org login user password {KEY}", encoding="utf-8")
    assert check_mode("auto") == "online"


def test_wandb_is_neither_imported_nor_needed_until_asked_for(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert check_mode("auto") == "disabled"
    RunLog(tmp_path / "a", "auto").close()
    with pytest.raises(RunError, match=r"pip install 'grafs-timm\[wandb\]'; grafs-timm doctor"):
        RunLog(tmp_path / "b", "offline")
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("mode", ["ofline", "off", "true", "none", "0"])
def test_a_mode_that_wandb_does_not_have_is_told_before_the_run(tmp_path, monkeypatch, mode):
    monkeypatch.setenv("WANDB_MODE", mode)
    with pytest.raises(RunError, match=rf"WANDB_MODE={mode}: W&B's modes are online, offline, disabled.*--wandb"):
        RunLog(tmp_path / "run", "auto")
    assert check_mode("offline") == "offline"  # an option wins


@pytest.mark.parametrize(("written", "mode"), [("offline", "offline"), ("disabled", "disabled"), ("online", "online")])
def test_what_the_commands_of_wandb_have_set(tmp_path, monkeypatch, written, mode):
    (tmp_path / "home" / "settings").write_text(f"[default]\nmode = {written}\n", encoding="utf-8")
    assert check_mode("auto") == mode
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert check_mode("auto") == "offline"


def test_wandb_mode_in_any_case_is_mirrored(tmp_path, monkeypatch, recwarn):
    monkeypatch.setenv("WANDB_MODE", "OFFLINE")
    with RunLog(tmp_path / "run", "auto") as log:
        write_epochs(log, 0, 2)
    assert not warned(recwarn)
    monkeypatch.delenv("WANDB_MODE")  # the tool that reads the file doesn't take it either
    assert len(read_offline(files(tmp_path / "run")[-1]).rows) == 2


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("WANDB_BASE_URL", "nowhere"),
        ("WANDB_QUIET", "perhaps"),
        *(
            pytest.param(*case, marks=pytest.mark.slow)  # seconds each, as each has two processes of W&B
            for case in (
                ("WANDB_BASE_URL", "ftp://x"), ("WANDB_BASE_URL", "https://app.wandb.ai"), ("WANDB_BASE_URL", "http://[::1"),
                ("WANDB_X_STATS_SAMPLING_INTERVAL", "often"), ("WANDB_API_KEY", f" {KEY} "), ("WANDB_MODE", "OFFLINE"),
                ("WANDB_MODE", "none"),
            )
        ),
    ],
)  # fmt: skip
@pytest.mark.parametrize("mode", ["offline", "online"])
def test_a_wrong_variable_is_named_and_offline_does_without_it(tmp_path, monkeypatch, recwarn, impatient, name, value, mode):
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv(name, value)
    with RunLog(tmp_path / "run", mode) as log:
        write_epochs(log, 0, 2)
    said = warned(recwarn)
    if mode == "offline":
        assert not said
    else:
        (line,) = said
        assert "validation error" not in line
        assert "wandb sync" in line
        if name not in ("WANDB_MODE", "WANDB_X_STATS_SAMPLING_INTERVAL", "WANDB_API_KEY"):
            assert f"{name}={value}: " in line
    monkeypatch.delenv(name)
    assert len(read_offline(files(tmp_path / "run")[-1]).rows) == 2


def test_wandbs_names_of_things_count_where_no_option_says_others(tmp_path, monkeypatch):
    for name, value in (
        ("WANDB_PROJECT", "mine"), ("WANDB_ENTITY", "us"), ("WANDB_NAME", "first"), ("WANDB_RUN_GROUP", "batch"),
        ("WANDB_TAGS", "a,b"), ("WANDB_JOB_TYPE", "try"), ("WANDB_NOTES", "a note"), ("WANDB_RUN_ID", "taken"),
        ("WANDB_RESUME", "must"),
    ):  # fmt: skip
        monkeypatch.setenv(name, value)
    with RunLog(tmp_path / "a", "offline", name="usual", job_type="search") as log:
        write_epochs(log, 0, 1)
    run = read_offline(files(tmp_path / "a")[-1]).run
    names = [run.get(key) for key in ("project", "entity", "display_name", "run_group", "job_type", "notes")]
    assert names == ["mine", "us", "first", "batch", "try", "a note"]
    assert sorted(run["tags"]) == ["a", "b"]
    assert run["run_id"] == _run_id(tmp_path / "a") != "taken"
    with RunLog(tmp_path / "b", "offline", project="theirs", group="option") as log:
        write_epochs(log, 0, 1)
    run = read_offline(files(tmp_path / "b")[-1]).run
    assert (run["project"], run["run_group"]) == ("theirs", "option")


def test_without_wandbs_names_the_usual_ones_stand(tmp_path):
    with RunLog(tmp_path / "a", "offline", name="usual", job_type="search", group="g") as log:
        write_epochs(log, 0, 1)
    run = read_offline(files(tmp_path / "a")[-1]).run
    assert [run[key] for key in ("project", "display_name", "job_type", "run_group")] == ["grafs-timm", "usual", "search", "g"]


@pytest.mark.parametrize("kind", ["new", "there", "not to be made"])
def test_wandb_dir_is_where_its_files_go(tmp_path, monkeypatch, kind):
    place = tmp_path / "elsewhere" / "deep"
    if kind == "there":
        place.mkdir(parents=True)
    if kind == "not to be made":
        (tmp_path / "elsewhere").write_text("a file", encoding="utf-8")
    monkeypatch.setenv("WANDB_DIR", str(place))
    with RunLog(tmp_path / "run", "offline") as log:
        write_epochs(log, 0, 1)
    in_run, in_place = ([*(folder / "wandb").glob("offline-run-*")] for folder in (tmp_path / "run", place))
    assert (len(in_run), len(in_place)) == ((1, 0) if kind == "not to be made" else (0, 1))
