"""Many runs at once: what is skipped, goes on, fails or is stopped; on this machine and on a Ray cluster that loses a node."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from compare import soon
from tiny_runs import ROOT, SETTINGS

from grafs_timm.errors import RunError
from grafs_timm.jobs import job, launch, ray_launch
from grafs_timm.jobs.job import Job
from grafs_timm.jobs.launch import run_jobs
from grafs_timm.jobs.options import Launch
from grafs_timm.runs import checkpoint
from grafs_timm.utils.files import locked

DONE = "folder.mkdir(parents=True, exist_ok=True); (folder / 'summary.json').write_text('{}', encoding='utf-8')"


@dataclass(frozen=True)
class Script(Job):
    """A job of a few milliseconds: ``code`` with its ``folder`` at hand."""

    code: str = DONE

    @property
    def command(self):
        before = f"import os, pathlib, signal, sys, time; folder = pathlib.Path({str(self.folder)!r})"
        return [sys.executable, "-S", "-c", f"{before}\n{self.code}"]


def script(path, code=DONE, cost=1.0):
    return Script(path.name, (), path, cost, code=code)


def run(*jobs, **options):
    on_outcome = options.pop("on_outcome", None)
    return run_jobs(jobs, Launch(quiet=True, **options), on_outcome)


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_what_is_done_is_not_started(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "summary.json").write_text("{}", encoding="utf-8")
    heard = []
    outcomes = run(script(tmp_path / "a", "1/0"), script(tmp_path / "b"), on_outcome=heard.append)
    assert [outcome.state for outcome in outcomes] == ["skipped", "done"]
    assert heard == outcomes
    assert not (tmp_path / "a.txt").exists()
    assert [outcome.state for outcome in run(script(tmp_path / "a"), script(tmp_path / "b", "1/0"))] == ["skipped", "skipped"]


def test_the_longest_begin_first(tmp_path):
    heard = []
    jobs = [script(tmp_path / name, cost=cost) for name, cost in (("short", 1), ("long", 9), ("middle", 3))]
    outcomes = run(*jobs, on_outcome=lambda outcome: heard.append(outcome.job.name))
    assert heard == ["long", "middle", "short"]
    assert [outcome.job.name for outcome in outcomes] == ["short", "long", "middle"]


def test_one_that_fails_stops_no_other_and_is_not_tried_again(tmp_path):
    code = "print('tried', flush=True); print('error: the model\\n  is not one\\nwandb: bye', file=sys.stderr); sys.exit(1)"
    bad, good = run(script(tmp_path / "bad", code), script(tmp_path / "good"))
    assert (bad.state, good.state) == ("failed", "done")
    assert bad.message == "error: the model\n  is not one\nwandb: bye"
    assert (tmp_path / "bad.txt").read_text(encoding="utf-8").count("tried") == 1


@pytest.mark.parametrize(("retries", "state"), [(0, "failed"), (1, "done")])
def test_one_that_is_killed_goes_on(tmp_path, retries, state):
    code = f"again = folder.exists(); folder.mkdir(exist_ok=True)\nif not again: os.kill(os.getpid(), signal.SIGKILL)\n{DONE}"
    (outcome,) = run(script(tmp_path / "a", code), retries=retries)
    assert outcome.state == state
    assert ("SIGKILL" in outcome.message) == (state == "failed")


def test_a_crash_shows_its_last_lines(tmp_path):
    (outcome,) = run(script(tmp_path / "a", "print('x' * 9000); 1/0"), retries=1)
    assert outcome.message.endswith("ZeroDivisionError: division by zero")
    assert len(outcome.message) <= 2000
    assert (tmp_path / "a.txt").read_text(encoding="utf-8").count("ZeroDivisionError") == 2


@pytest.mark.parametrize(
    ("said", "code", "shown", "tried"),
    [
        ("error: no such data", 1, "error: no such data", 1),
        ("ValueError: a crash", 1, "ValueError: a crash", 2),
        ("at work", -9, "ended by signal 9 (SIGKILL): perhaps the machine is out of memory; fewer --workers need less", 2),
    ],
)
def test_what_torchrun_adds_does_not_hide_the_reason(tmp_path, said, code, shown, tried):
    added = ["W1124 12:55:25.343000 7 torch/distributed/api.py:1028] Sending process 9 closing signal SIGTERM",
             f"E1124 12:55:25.514000 7 torch/distributed/api.py:1002] failed (exitcode: {code}) of a binary",
             "Traceback", *["  File a"] * 500]  # fmt: skip
    code = f"print('tried', {said!r}, *{added!r}, sep=chr(10)); sys.exit(1)"
    (outcome,) = run(Script("a", (), tmp_path / "a", processes=2, code=code))
    assert outcome.message.splitlines()[-1] == shown
    assert (tmp_path / "a.txt").read_text(encoding="utf-8").count("tried") == tried


def test_an_end_without_a_result_is_a_failure(tmp_path):
    (outcome,) = run(script(tmp_path / "a", "pass"), retries=0)
    assert (outcome.state, outcome.message) == ("failed", "ended with exit code 0, and printed nothing")


def test_one_that_cannot_be_started_is_a_failure(tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    bad, good = run(script(tmp_path / "file" / "a"), script(tmp_path / "b"))
    assert (bad.state, good.state) == ("failed", "done")
    assert "a cannot be started: [Errno" in bad.message


def test_two_jobs_of_one_folder(tmp_path):
    with pytest.raises(RunError, match="two jobs have one folder"):
        run(script(tmp_path / "a"), script(tmp_path / "a"))


@pytest.mark.parametrize("devices", [("cpu",), ("cuda:0", "cuda:1")])
def test_workers_run_at_once_each_with_its_device(tmp_path, monkeypatch, devices):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    workers = 2 if len(devices) == 1 else 1
    # each waits for the other: one after another they would never end
    meet = f"""{DONE}
end = time.time() + 20
while len(list(folder.parent.glob('*/summary.json'))) < 2 and time.time() < end: time.sleep(0.01)
(folder / 'env').write_text(os.environ['OMP_NUM_THREADS'] + ' ' + os.environ['CUDA_VISIBLE_DEVICES'], encoding='utf-8')
sys.exit(time.time() >= end)"""
    outcomes = run(script(tmp_path / "a", meet), script(tmp_path / "b", meet), workers=workers, devices=devices)
    assert [outcome.state for outcome in outcomes] == ["done", "done"]
    assert {outcome.where for outcome in outcomes} == set(devices)
    threads = max(len(os.sched_getaffinity(0)) // 2, 1)
    seen = sorted((tmp_path / name / "env").read_text(encoding="utf-8") for name in "ab")
    assert seen == ([f"{threads} 5,7"] * 2 if len(devices) == 1 else [f"{threads} 5", f"{threads} 7"])


def test_jobs_of_several_processes_have_a_gpu_each(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7,6,2,3")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    code = f"{DONE}; (folder / 'env').write_text(os.environ['CUDA_VISIBLE_DEVICES'], encoding='utf-8')"
    jobs = [Script(name, (), tmp_path / name, processes=2, code=code) for name in "abc"]
    outcomes = run(*jobs, devices=[f"cuda:{number}" for number in range(5)])
    assert [outcome.state for outcome in outcomes] == ["done"] * 3
    seen = {(outcome.where, (outcome.job.folder / "env").read_text(encoding="utf-8")) for outcome in outcomes}
    assert seen == {("cuda:0,cuda:1", "5,7"), ("cuda:2,cuda:3", "6,2")}
    assert launch.groups(("cpu",), 2) == [("cpu", "cpu")]
    with pytest.raises(RunError, match="a job of 3 processes needs 3 GPUs, here are 2: cuda:0, cuda:1"):
        launch.groups(("cuda:0", "cuda:1"), 3)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_to_stop_the_launcher_stops_its_jobs(tmp_path, monkeypatch, number):
    monkeypatch.setattr(job, "_GRACE", 0.5)
    stubborn = "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" if number == signal.SIGINT else ""
    code = f"{stubborn}(folder.parent / 'pid').write_text(str(os.getpid()), encoding='utf-8'); time.sleep(60)"

    def stop():
        assert soon(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text(encoding="utf-8"))
        os.kill(os.getpid(), number)

    before, thread = signal.getsignal(signal.SIGTERM), threading.Thread(target=stop)
    thread.start()
    with pytest.raises(SystemExit if number == signal.SIGTERM else KeyboardInterrupt):
        run(script(tmp_path / "a", code), script(tmp_path / "b"))
    thread.join()
    assert not alive(int((tmp_path / "pid").read_text(encoding="utf-8")))
    assert not (tmp_path / "b").exists()
    assert signal.getsignal(signal.SIGTERM) is before


def test_devices():
    there = launch.devices("auto")
    assert launch.devices("cpu") == ("cpu",)
    for text in ("cuda:99", "gpu", "", "cpu,cuda:99"):
        with pytest.raises(RunError, match=f"can't be used; this machine has cpu{', cuda:0' if there != ('cpu',) else ''}"):
            launch.devices(text)


# ------------------------------------------------------------------------------------------------------ the lock

HOLD = (
    "import sys, time; from grafs_timm.utils.files import locked\n"
    "with locked(sys.argv[1]): print('held', flush=True); time.sleep(60)"
)


def test_a_folder_is_one_process_s_until_it_dies(tmp_path):
    folder = tmp_path / "new" / "run"
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, encoding="utf-8", env=env
    ) as holder:
        assert holder.stdout.readline() == "held\n"
        said = rf"run is in use by process {holder.pid} on {socket.gethostname()} since \d{{4}}-.*; wait until it ends"
        with pytest.raises(RunError, match=said), locked(folder):
            pass
        holder.kill()
    with locked(folder):
        assert (folder / ".lock").exists()
    assert list(folder.iterdir()) == []  # it was there before
    with locked(tmp_path / "other" / "run"), pytest.raises(RunError, match="in use"), locked(tmp_path / "other" / "run"):
        pass
    assert not (tmp_path / "other").exists()


def test_forked_processes_do_not_hold_it(tmp_path):
    code = f"""{HOLD.partition(": print")[0]}:
    if os.fork() == 0:
        print("held", flush=True)  # by the child, which has let go of the lock by then
        time.sleep(60)
    time.sleep(0.5)
    os.kill(os.getpid(), 9)""".replace("import sys", "import os, sys")
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, encoding="utf-8", env=env, start_new_session=True
    ) as holder:
        assert holder.stdout.readline() == "held\n"
        holder.wait()
        with locked(tmp_path):
            os.killpg(holder.pid, 0)  # the fork is still there
        os.killpg(holder.pid, signal.SIGKILL)


def test_what_cannot_be_locked(tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(RunError, match="is a file"), locked(tmp_path / "file"):
        pass
    with pytest.raises(RunError, match="cannot be locked: Not a directory"), locked(tmp_path / "file" / "below"):
        pass


def test_many_want_one_folder(tmp_path):
    """However they take turns, never do two hold it."""
    inside, most, said = [], [], set()

    def often():
        for _ in range(200):
            try:
                with locked(tmp_path / "a" / "b"):
                    inside.append(1)
                    most.append(len(inside))
                    inside.pop()
            except Exception as error:
                said.add(str(error).partition(" by ")[0])

    threads = [threading.Thread(target=often) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(most) == 1
    assert said <= {f"{tmp_path / 'a' / 'b'} is in use"}
    assert not list(tmp_path.rglob(".lock"))


@pytest.mark.parametrize("error", [FileNotFoundError, FileExistsError])
def test_the_folder_above_goes_while_the_folder_is_made(tmp_path, monkeypatch, error):
    """mkdir looks, makes and looks again; another holder that ends removes its empty folders between two of these."""
    made, mkdir = [], Path.mkdir

    def spoiled(self, *given, **named):
        made.append(self)
        if len(made) == 1:
            raise error(2, "gone meanwhile", str(self))
        mkdir(self, *given, **named)

    monkeypatch.setattr(Path, "mkdir", spoiled)
    with locked(tmp_path / "a" / "b"):
        assert (tmp_path / "a" / "b" / ".lock").exists()


def test_a_link_that_leads_nowhere_is_no_folder(tmp_path):
    (tmp_path / "a").symlink_to(tmp_path / "nowhere")
    with pytest.raises(RunError, match=r"needs a folder|cannot be locked"), locked(tmp_path / "a"):
        pass


# ------------------------------------------------------------------------------------------------------------ Ray


def test_ray_that_is_not_installed(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(RunError, match=r"pip install 'grafs-timm\[ray\]'"):
        run(script(tmp_path / "a"), launcher="ray")


@pytest.mark.parametrize(
    "kind", ["nothing listens", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("nothing answers", "no cluster"))]
)
def test_a_ray_address_that_answers_nothing(tmp_path, monkeypatch, kind):
    pytest.importorskip("ray", reason="Ray is not installed")
    monkeypatch.setattr(ray_launch, "PATIENCE", 6.0)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        if kind == "nothing answers":
            listener.listen()
        address = None if kind == "no cluster" else f"127.0.0.1:{listener.getsockname()[1]}"
        begin = time.monotonic()
        with pytest.raises(RunError, match=r"no Ray cluster.*`ray start --head`"):
            run(script(tmp_path / "a"), launcher="ray", address=address)
        assert time.monotonic() - begin < 20


@pytest.fixture(scope="module")
def cluster():
    """Two nodes of one CPU in this machine."""
    pytest.importorskip("ray", reason="Ray is not installed")
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 1, "object_store_memory": 80_000_000}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"GRAFS_TIMM_COMPILE": 0, "OMP_NUM_THREADS": 1, "RAY_USAGE_STATS_ENABLED": 0}.items():
            patch.setenv(name, str(value))
        patch.setenv("PYTHONPATH", str(ROOT))
        made = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
        made.second = made.add_node(**node)
        yield made
        made.shutdown()


def evaluations(folder, recipe, seeds):
    arguments = ("evaluate", str(recipe), "--activation", "relu", "--resume", "--quiet", "--device", "cpu")
    return [
        Job(f"s{seed}", (*arguments, "--seed", str(seed), "--out", str(folder / f"s{seed}")), folder / f"s{seed}")
        for seed in range(seeds)
    ]


@pytest.mark.slow
def test_ray_without_room_for_a_job(cluster, tmp_path):
    with pytest.raises(RunError, match=r"no node of the Ray cluster has 1 CPUs and 2 GPUs.*1 CPUs, 0 GPUs"):
        run(*evaluations(tmp_path, tmp_path / "none.yaml", 1), launcher="ray", address=cluster.address, gpus_per_job=2)
    (outcome,) = run(*evaluations(tmp_path, tmp_path / "none.yaml", 1), launcher="ray", address=cluster.address)
    assert outcome.state == "failed"
    assert outcome.message.startswith("error: no recipe")
    assert outcome.where.startswith(f"{socket.gethostname()}, node ")


@pytest.mark.slow
def test_ray_node_that_is_killed_mid_job(cluster, tmp_path, capsys):
    """Its job goes on on the other node, from its last checkpoint, to the same bits."""
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(yaml.safe_dump(SETTINGS | {"evaluate": SETTINGS["evaluate"] | {"epochs": 15}}), encoding="utf-8")
    lost, story = cluster.second.node_id[:8], []

    def tell(what):
        story.append(f"{time.strftime('%H:%M:%S')} {what}")

    def on_it():
        """The job on the node that will be lost, once two of its epochs are done."""
        names = [file.stem for file in tmp_path.glob("ray/*.txt") if lost in file.read_text(encoding="utf-8")]
        logs = {name: tmp_path / "ray" / name / "log.jsonl" for name in names}
        return next((name for name, log in logs.items() if log.exists() and log.read_bytes().count(b'"epoch"') >= 2), None)

    def kill():
        assert soon(on_it, 60)
        tell(f"node {lost} is killed while it runs {on_it()}")
        cluster.remove_node(cluster.second, allow_graceful=False)

    killer = threading.Thread(target=kill)
    killer.start()
    on_ray = run_jobs(
        evaluations(tmp_path / "ray", recipe, 2), Launch("ray", address=cluster.address, quiet=True),
        on_outcome=lambda outcome: tell(f"{outcome.job.name} {outcome.state} on {outcome.where}"),
    )  # fmt: skip
    killer.join()
    printed = {file.stem: file.read_text(encoding="utf-8") for file in sorted(tmp_path.glob("ray/*.txt"))}
    story += [f"{name}.txt: {line}" for name, text in printed.items() for line in text.splitlines()]
    if os.environ.get("GRAFS_TIMM_SHOW"):
        with capsys.disabled():
            print("", *story, sep="\n")
    assert [outcome.state for outcome in on_ray] == ["done"] * 2, story
    (moved,) = (name for name, text in printed.items() if text.count("begun on") == 2)
    first, second = (line for line in printed[moved].splitlines() if "begun on" in line)
    assert lost in first
    assert lost not in second
    alone = run_jobs(evaluations(tmp_path / "here", recipe, 2), Launch(workers=2, quiet=True))
    assert [outcome.state for outcome in alone] == ["done"] * 2
    for seed in range(2):
        ours, theirs = (tmp_path / side / f"s{seed}" for side in ("ray", "here"))
        assert (ours / "summary.json").read_bytes() == (theirs / "summary.json").read_bytes()
        a, b = (checkpoint.load(path / "checkpoint.pt")["model"] for path in (ours, theirs))
        assert all((a[name] == b[name]).all() for name in a)
