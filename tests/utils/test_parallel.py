"""Searches of several processes: one set of α, γ and survivors, one folder, one message, and no loss when one is killed."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest
import torch
import torch.nn.functional as F
import yaml
from compare import equal, timeless
from ranks import PLAIN, ROOT
from tiny_runs import SETTINGS, STREAMED, contents, start

from grafs_timm.errors import RunError
from grafs_timm.runs import checkpoint
from grafs_timm.runs.tracking import read_log
from grafs_timm.utils import parallel


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    file = tmp_path_factory.mktemp("recipe") / "tiny.yaml"
    file.write_text(yaml.safe_dump(SETTINGS), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def whole(ranks, tiny, tmp_path_factory):
    """A search of two processes that nothing stopped, and what they printed."""
    out = tmp_path_factory.mktemp("whole") / "run"
    codes, outputs = ranks("command", "search", tiny, "--out", out, "--quiet")
    assert codes == [0, 0], outputs
    return out, outputs


def same_result(folder, whole):
    assert (folder / "genotype.json").read_bytes() == (whole / "genotype.json").read_bytes()
    assert timeless(folder) == timeless(whole)
    ours, theirs = (checkpoint.load(path / "checkpoint.pt") for path in (folder, whole))
    for key in set(theirs) - {"seconds", "log"}:
        assert equal(ours[key], theirs[key]), key


@pytest.mark.parametrize(
    "check",
    [
        ("primitives",),
        ("outer_step",),
        ("outer_gradient",),
        ("inner_step", 1),
        ("inner_step", 2),
        ("not_finite",),
        ("drifted",),
    ],
    ids=lambda check: "-".join(map(str, check)),
)
def test_together(ranks, check):
    codes, outputs = ranks(*check)
    assert codes == [0, 0], "\n".join(outputs)


def test_two_processes_leave_what_one_does(whole):
    out, (main, other) = whole
    assert main.startswith("found     f(x) = ")
    assert other == ""
    assert [line["kind"] for line in read_log(out)] == ["start"] + ["epoch"] * 6
    assert read_log(out)[0]["processes"] == 2
    assert {item.name for item in out.iterdir()} == {
        "recipe.yaml", "run.json", "log.jsonl", "checkpoint.pt", "genotype.json", "summary.json", "plots", "report.html",
    }  # fmt: skip
    first, second = checkpoint.load(out / "checkpoint.pt")["rng"]
    assert not torch.equal(first["torch"], second["torch"])


def test_a_finished_one_is_only_read(ranks, tiny, whole):
    out, _ = whole
    before = contents(out)
    codes, (main, other) = ranks("command", "search", tiny, "--out", out)
    assert codes == [0, 0]
    assert "already finished" in main
    assert other == ""
    assert contents(out) == before


@pytest.mark.slow
def test_stopped_in_the_middle_it_goes_on_to_the_same_bits(ranks, tiny, whole, tmp_path):
    out = tmp_path / "run"
    codes, outputs = ranks("stopped_search", tiny, out, 2)
    assert codes == [9, 0], outputs  # the other rank noticed, by an error that says so
    codes, outputs = ranks("command", "search", tiny, "--out", out, "--quiet")
    assert codes == [1, 1]
    assert "half done; add --resume" in "".join(outputs)
    codes, outputs = ranks("command", "search", tiny, "--out", out, "--quiet", "--resume")
    assert codes == [0, 0], outputs
    same_result(out, whole[0])


def test_two_processes_train_as_one_does_on_the_joint_batch(ranks, tmp_path):
    """51 steps of a model that no batch statistics couple, and no draws: the same weights to 1e-5, and the same accuracy."""
    settings = SETTINGS | {
        "model": "test_efficientnet_ln",  # LayerNorm
        "data": {"name": "digits", "train_images": 560, "test_images": 101},
        "evaluate": {"epochs": 3, "batch_size": 32, "weights": {"opt": "momentum", "lr": 0.1, "sched": "cosine"}},
    }  # fmt: skip
    (tmp_path / "vit.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    command = ["evaluate", tmp_path / "vit.yaml", "--activation", "gelu", "--quiet", "--out"]
    for count in (1, 2):
        codes, outputs = ranks("command", *command, tmp_path / str(count), ranks=count)
        assert codes == [0] * count, outputs
    one, two = (checkpoint.load(tmp_path / name / "checkpoint.pt") for name in "12")
    assert one["step"]["updates"] == two["step"]["updates"] == 51
    begun = sum(float(value.sum()) for value in one["model"].values())
    assert begun != 0
    for name, value in one["model"].items():
        torch.testing.assert_close(two["model"][name], value, rtol=0, atol=1e-5, msg=name)
    lines = [timeless(tmp_path / name) for name in "12"]
    assert lines[0][0]["train_loss"] > 1.3 * lines[0][-1]["train_loss"]  # it has learned something
    for alone, together in zip(*lines, strict=True):
        assert together == pytest.approx(alone, abs=1e-5)


def test_a_training_stopped_in_the_middle_goes_on_to_the_same_bits(ranks, tmp_path):
    evaluate = SETTINGS["evaluate"] | {"mixup": 0.2, "ema_decay": 0.9, "checkpoint_steps": 4, "accumulate": 2}
    file = tmp_path / "tiny.yaml"
    file.write_text(yaml.safe_dump(SETTINGS | {"evaluate": evaluate}), encoding="utf-8")
    command = ["evaluate", file, "--activation", "relu", "--quiet", "--out"]
    codes, outputs = ranks("command", *command, tmp_path / "whole")
    assert codes == [0, 0], outputs
    codes, outputs = ranks("stopped_training", file, tmp_path / "run", 4)
    assert codes == [9, 0], outputs
    codes, outputs = ranks("command", *command, tmp_path / "run", "--resume")
    assert codes == [0, 0], outputs
    assert timeless(tmp_path / "run") == timeless(tmp_path / "whole")
    ours, theirs = (checkpoint.load(tmp_path / name / "checkpoint.pt") for name in ("run", "whole"))
    for key in ("model", "ema", "step", "rng", "values"):
        assert equal(ours[key], theirs[key]), key


def test_a_stream_is_shared(ranks, tmp_path):
    settings = SETTINGS | {"data": STREAMED, "evaluate": SETTINGS["evaluate"] | {"epochs": 1, "weights": {"lr": 0.05}}}
    (tmp_path / "streamed.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    command = ["evaluate", tmp_path / "streamed.yaml", "--activation", "relu", "--quiet", "--out", tmp_path / "run"]
    codes, outputs = ranks("command", *command)
    assert codes == [0, 0], outputs
    summary = json.loads((tmp_path / "run" / "summary.json").read_text(encoding="utf-8"))
    assert (summary["train_images"], summary["test_images"]) == (1437, 360)
    # 360 images in all: a sixth of a per cent of some number of them
    assert summary["test_accuracy"] * 3.6 == pytest.approx(round(summary["test_accuracy"] * 3.6))


@pytest.mark.parametrize(("before", "after"), [(1, 2), pytest.param(2, 1, marks=pytest.mark.slow)])
def test_another_number_of_processes_goes_on_with_a_notice(ranks, tiny, tmp_path, before, after):
    ranks("stopped_search", tiny, tmp_path, 2, ranks=before)
    codes, outputs = ranks("command", "search", tiny, "--out", tmp_path, "--quiet", "--resume", ranks=after)
    assert codes == [0] * after, outputs
    said = f"this search had {before} processes until epoch 2 and resumes with {after}"
    assert "".join(outputs).count(said) == 1
    assert [line["text"].startswith(said) for line in read_log(tmp_path) if line["kind"] == "notice"] == [True]
    assert len(checkpoint.load(tmp_path / "checkpoint.pt")["rng"]) == after


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--seed", 1], "belongs to another run"),
        (["--set", "search.epocs=3"], "nearest: epochs"),
        (["--set", "search.batch_size=33"], "search.batch_size: 33 images, the batch of all processes together, do not divide"),
        (["--set", "search.batch_size=34", "--set", "search.accumulate=2"], "nearest number that does is 32"),
        (["--set", "model=cifar_resnet21"], "cifar_resnet20"),
        (["--sede", 1], "No such option"),
    ],
    ids=lambda value: str(value[-1]) if isinstance(value, list) else "",
)
def test_one_message_and_no_traceback(ranks, tiny, whole, tmp_path, arguments, said):
    out = whole[0] if "--seed" in arguments else tmp_path / "run"
    before = contents(out)
    codes, outputs = ranks("command", "search", tiny, "--out", out, "--quiet", *arguments)
    output = "".join(outputs)
    assert codes in ([1, 1], [2, 2]), output
    assert said in output
    assert output.lower().count("error: ") == 1
    assert "Traceback" not in output
    assert contents(out) == before


def test_an_error_of_one_rank_ends_all_and_is_the_one_that_is_told(ranks, tiny, tmp_path):
    codes, outputs = ranks("broken_on_one_rank", tiny, tmp_path / "run")
    assert codes == [1, 1]
    assert outputs == ["", "error: train-000001.tar: truncated\n"]
    assert not (tmp_path / "run").exists()


def test_a_full_disk_in_the_middle_is_told_once(ranks, tiny, tmp_path):
    codes, outputs = ranks("full_disk", tiny, tmp_path)
    assert codes == [1, 1]
    assert outputs == ["error: cannot write checkpoint.pt: No space left\n", ""]
    assert checkpoint.load(tmp_path / "checkpoint.pt")["epoch"] == 1


def test_weights_that_some_steps_leave_out(ranks, tiny, tmp_path):
    out = tmp_path / "run"  # a PReLU learns in the warm start and has no part in what comes after
    codes, outputs = ranks("command", "search", tiny, "--out", out, "--quiet", "--set", "search.usual=prelu")
    assert codes == [0, 0], outputs
    assert read_log(out)[-1]["skipped_inner"] == 0


def test_an_environment_that_is_only_half_there(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(RunError, match="RANK is not set though WORLD_SIZE is 2"), parallel.joined("cpu"):
        pass
    monkeypatch.setenv("WORLD_SIZE", "two")
    with pytest.raises(RunError, match="WORLD_SIZE is 'two'"):
        parallel.launched()


def test_each_process_has_a_gpu_of_its_own(monkeypatch):
    assert parallel.own_device("cuda:3") == "cuda:3"  # one process takes what it is told
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [parallel.own_device(name) for name in ("cpu", "cuda", "cuda:1")] == ["cpu", "cuda:1", "cuda:1"]
    with pytest.raises(RunError, match="give cuda"):
        parallel.own_device("cuda:0")
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(RunError, match="--nproc_per_node 2"):
        parallel.own_device("cuda")


def test_with_one_process_nothing_has_an_effect():
    x = torch.tensor([1.0])
    parallel.mean_([x])
    model = torch.nn.Linear(1, 1)
    assert parallel.replicate(model) is model
    assert parallel.gather(x)[0] is x
    assert parallel.from_main(lambda: x) is x
    assert parallel.own_seed(5) == 5
    parallel.check_same({"x": x}, "here")
    with parallel.joined("cuda:7") as device:
        assert device == "cuda:7"
    assert x.item() == 1
    assert F.mse_loss(x, x) == 0


def workers(launcher):
    """The processes that this torchrun has started: {rank: process id}."""
    found = {}
    for process in (int(name) for name in os.listdir("/proc") if name.isdigit()):
        try:
            with open(f"/proc/{process}/stat", encoding="utf-8") as file:
                parent = int(file.read().rpartition(")")[2].split()[1])
            with open(f"/proc/{process}/environ", "rb") as file:
                variables = dict(part.split(b"=", 1) for part in file.read().split(b"\0") if b"=" in part)
        except OSError:  # it has ended
            continue
        if parent == launcher.pid and b"LOCAL_RANK" in variables:
            found[int(variables[b"LOCAL_RANK"])] = process
    return found


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="reads the workers' ids from /proc")
def until_checkpoint(out, process):
    for _ in range(60_000):
        assert process.poll() is None, process.stdout.read()
        if (out / "checkpoint.pt").exists():
            return
        time.sleep(0.002)
    raise AssertionError("no checkpoint in two minutes")


@pytest.mark.slow
def test_a_process_that_loses_another_says_so_in_one_message(tiny, tmp_path):
    out = tmp_path / "run"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    together = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    ranks = [
        start("search", tiny, "--out", out, "--quiet", **together, RANK=str(rank), LOCAL_RANK=str(rank)) for rank in range(2)
    ]
    with ranks[0], ranks[1]:
        until_checkpoint(out, ranks[0])
        ranks[1].kill()
        said = ranks[0].communicate(timeout=150)[0]
    assert ranks[0].returncode == 1
    assert said.count("contact with another process of this run was lost") == 1
    assert "Traceback" not in said


@pytest.mark.slow
def test_torchrun_goes_on_by_itself_when_a_worker_is_killed(tiny, whole, tmp_path):
    out = tmp_path / "run"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "--max-restarts", "1"]
    command += ["--monitor-interval", "0.05", "-m", "grafs_timm", "search", str(tiny), "--out", str(out), "--quiet"]
    environment = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    environment |= PLAIN | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8"
    ) as torchrun:
        until_checkpoint(out, torchrun)
        os.kill(workers(torchrun)[1], signal.SIGKILL)
        said = torchrun.communicate(timeout=150)[0]
    assert torchrun.returncode == 0, said
    assert said.count("found     f(x) = ") == 1
    assert "Traceback" not in said  # rank 0 is stopped by torchrun, or says itself what it lost, whichever comes first
    same_result(out, whole[0])
    assert json.loads((out / "summary.json").read_text(encoding="utf-8"))["epochs"] == 6
