"""A search as a run: what it leaves, and that a stopped one ends as if it had not been."""

import json
import math
import warnings

import pytest
import torch
import yaml
from compare import equal, timeless
from tiny_runs import SETTINGS, call, contents, full_disk, kill_after, recipe, start

from grafs_timm.activations import genotype as genotypes
from grafs_timm.errors import RunError
from grafs_timm.runs import checkpoint, fitting
from grafs_timm.runs import run_search as module
from grafs_timm.runs.run_search import run_search
from grafs_timm.runs.tracking import Wandb, read_log

pytestmark = pytest.mark.usefixtures("plain")
RECIPE = recipe()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A search that nothing stopped."""
    from grafs_timm.utils import compiled

    folder, kept, threads = tmp_path_factory.mktemp("search") / "run", compiled.plain_only, torch.get_num_threads()
    compiled.plain_only = True
    torch.set_num_threads(1)
    run_search(RECIPE, folder, quiet=True)
    compiled.plain_only = kept
    torch.set_num_threads(threads)
    return folder


def same_result(folder, whole):
    assert (folder / "genotype.json").read_bytes() == (whole / "genotype.json").read_bytes()
    assert timeless(folder) == timeless(whole)
    ours, theirs = (checkpoint.load(path / "checkpoint.pt") for path in (folder, whole))
    ours["rng"], theirs["rng"] = ours["rng"][0]["torch"], theirs["rng"][0]["torch"]  # W&B draws from Python's
    for key in ("model", "search", "step", "rng", "epoch"):
        assert equal(ours[key], theirs[key]), key
    ours, theirs = (json.loads((path / "summary.json").read_text(encoding="utf-8")) for path in (folder, whole))
    assert ours | {"seconds": 0} == theirs | {"seconds": 0}


def test_what_a_search_leaves(whole):
    lines = read_log(whole)
    assert [line["kind"] for line in lines] == ["start"] + ["epoch"] * 6
    assert [line["alive"] for line in lines[1:]] == sorted((line["alive"] for line in lines[1:]), reverse=True)
    assert lines[-1]["alive"] == 6
    assert all(math.isfinite(line["inner_loss"]) and math.isfinite(line["outer_loss"]) for line in lines[1:])
    found = genotypes.load(whole / "genotype.json")
    assert found.text == lines[-1]["formula"]
    summary = json.loads((whole / "summary.json").read_text(encoding="utf-8"))
    assert summary["sha256"] == found.sha256
    assert torch.load(whole / "checkpoint.pt", weights_only=True)["state"]["epoch"] == 6
    assert {item.name for item in whole.iterdir()} == {
        "recipe.yaml", "run.json", "log.jsonl", "checkpoint.pt", "genotype.json", "summary.json", "plots",
        "report.html",
    }  # fmt: skip


def test_a_search_says_what_its_figure_is_of(whole, tmp_path):
    def said(folder):
        return (folder / "report.html").read_text(encoding="utf-8")

    assert "on the architecture split, by the network of the search itself" in said(whole)
    shared = recipe(search=SETTINGS["search"] | {"architecture_fraction": 0.0})
    assert run_search(shared, tmp_path / "run", quiet=True)["measured_on"] == "training data, which both levels use"
    assert "on the training data, which both levels use, by the network of the search itself" in said(tmp_path / "run")


def test_a_search_may_use_smaller_images_than_the_trainings(tmp_path):
    smaller = recipe(search=SETTINGS["search"] | {"image_size": 4, "crop_padding": 0})
    assert (smaller.for_search.data.image_size, smaller.for_search.data.crop_padding) == (4, 0)
    assert smaller.data.image_size is None
    run_search(smaller, tmp_path, quiet=True)
    from grafs_timm.config.recipe import load_recipe

    assert load_recipe(tmp_path / "recipe.yaml") == smaller


def test_a_finished_search_is_only_read(whole):
    before = contents(whole)
    for resume in (False, True):
        assert run_search(RECIPE, whole, resume=resume)["formula"]
    assert contents(whole) == before


def test_another_seed_is_another_search(whole, tmp_path, monkeypatch):
    stopped(monkeypatch, (checkpoint, "save"), 1)
    with pytest.raises(ConnectionResetError):
        run_search(RECIPE, tmp_path, seed=1, quiet=True)
    assert timeless(tmp_path)[1]["inner_loss"] != timeless(whole)[1]["inner_loss"]


def test_a_killed_search_goes_on_to_the_same_bits(whole, tmp_path):
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(SETTINGS), encoding="utf-8")
    out = tmp_path / "run"
    kill_after(start("search", tmp_path / "tiny.yaml", "--out", out, "--quiet"), out / "log.jsonl", 2)
    before = contents(out)
    result = call("search", tmp_path / "tiny.yaml", "--out", out)
    assert result.exit_code == 1
    assert "half done; add --resume" in result.stderr
    assert contents(out) == before
    result = call("search", tmp_path / "tiny.yaml", "--out", out, "--quiet", "--resume")
    assert result.exit_code == 0, result.output
    same_result(out, whole)


def stopped(monkeypatch, name, times):
    """From its ``times``-th call on, ``name`` raises as a lost machine would: out of the blue."""
    owner, attribute = name
    original, calls = getattr(owner, attribute), []

    def stop(*arguments, **settings):
        calls.append(1)
        if len(calls) >= times:
            raise ConnectionResetError("the machine is gone")
        return original(*arguments, **settings)

    monkeypatch.setattr(owner, attribute, stop)


@pytest.mark.slow
def test_with_compiled_loops_it_goes_on_to_the_same_bits_too(tmp_path, monkeypatch):
    from grafs_timm.utils import compiled

    monkeypatch.setattr(compiled, "plain_only", False)
    torch.set_num_threads(2)
    run_search(RECIPE, tmp_path / "whole", quiet=True)
    with monkeypatch.context() as patch:
        stopped(patch, (checkpoint, "save"), 4)
        with pytest.raises(ConnectionResetError):
            run_search(RECIPE, tmp_path / "run", quiet=True)
    run_search(RECIPE, tmp_path / "run", quiet=True, resume=True)
    same_result(tmp_path / "run", tmp_path / "whole")


@pytest.mark.parametrize("resume", [False, True])
def test_stopped_before_the_first_checkpoint_it_begins_anew(whole, tmp_path, monkeypatch, resume):
    with monkeypatch.context() as patch:
        stopped(patch, (checkpoint, "save"), 1)
        with pytest.raises(ConnectionResetError):
            run_search(RECIPE, tmp_path, quiet=True)
    assert [line["kind"] for line in read_log(tmp_path)] == ["start", "epoch"]
    run_search(RECIPE, tmp_path, quiet=True, resume=resume)
    same_result(tmp_path, whole)


def test_stopped_after_the_last_epoch(whole, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        stopped(patch, (module, "plot_shrinking"), 1)
        with pytest.raises(ConnectionResetError):
            run_search(RECIPE, tmp_path, quiet=True)
    run_search(RECIPE, tmp_path, quiet=True, resume=True)
    same_result(tmp_path, whole)


@pytest.mark.parametrize("room", [5, 6])  # syncs that succeed: two at the start, two an epoch
def test_a_full_disk_keeps_what_was_there(whole, tmp_path, room):
    with pytest.raises(RunError, match="No space left"), full_disk(room):
        run_search(RECIPE, tmp_path, quiet=True)
    kept = checkpoint.load(tmp_path / "checkpoint.pt")
    assert kept["epoch"] == (room - 2) // 2
    assert len(read_log(tmp_path)) >= kept["epoch"]
    assert not [file for file in tmp_path.iterdir() if file.name.startswith(".")]
    run_search(RECIPE, tmp_path, quiet=True, resume=True)
    same_result(tmp_path, whole)


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "pickle", "other"])
def test_a_damaged_checkpoint_is_refused_and_kept(whole, tmp_path, damage):
    import pickle
    import shutil

    out = shutil.copytree(whole, tmp_path / "run")
    (out / "summary.json").unlink()
    file = out / "checkpoint.pt"
    good = bytearray(file.read_bytes())
    if damage == "flipped":
        good[len(good) // 2] ^= 255
    bad = {"cut": good[: len(good) // 2], "flipped": good, "empty": b"", "pickle": pickle.dumps({"epoch": 1})}
    if damage == "other":  # whole, and of a run that has other tensors
        checkpoint.save(file, {"epoch": 2, "seconds": 0.0, "log": 0, "model": {}, "search": {}, "step": {}})
    else:
        file.write_bytes(bad[damage])
    before = contents(out)
    with pytest.raises(RunError, match=r"checkpoint\.pt"):
        run_search(RECIPE, out, quiet=True, resume=True)
    assert contents(out) == before


def test_a_log_shorter_than_its_checkpoint_says(whole, tmp_path):
    import shutil

    out = shutil.copytree(whole, tmp_path / "run")
    (out / "summary.json").unlink()
    (out / "log.jsonl").write_text("", encoding="utf-8")
    with pytest.raises(RunError, match="lines are lost"):
        run_search(RECIPE, out, quiet=True, resume=True)


@pytest.mark.slow
def test_micro_batches(whole, tmp_path, monkeypatch):

    seen, loss_of = [], module.loss_of

    def loss(logits, labels):
        seen.append(len(labels))
        return loss_of(logits, labels)

    monkeypatch.setattr(module, "loss_of", loss)
    search = SETTINGS["search"] | {"accumulate": 4}
    run_search(recipe(search=search), tmp_path, quiet=True)
    lines = read_log(tmp_path)
    assert set(seen) == {8}
    assert len(seen) == 6 * lines[0]["steps_per_epoch"] * 2 * 4
    assert lines[0]["steps_per_epoch"] == read_log(whole)[0]["steps_per_epoch"]
    assert lines[-1]["inner_loss"] < lines[1]["inner_loss"]


@pytest.mark.parametrize(
    ("amp", "model"), [("bf16", "cifar_resnet20"), pytest.param("fp16", "test_resnet", marks=pytest.mark.slow)]
)
def test_half_precision(tmp_path, amp, model):
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(SETTINGS), encoding="utf-8")
    out = tmp_path / "run"
    # not test_resnet: oneDNN's bfloat16 gradient of a convolution over 1×1 pixels is NaN now and then
    result = call("search", tmp_path / "tiny.yaml", "--model", model, "--out", out, "--quiet", "--set", f"amp={amp}")
    assert result.exit_code == 0, result.output
    epochs = [line for line in read_log(out) if line["kind"] == "epoch"]
    assert len(epochs) == 6
    assert all(math.isfinite(line[key]) for line in epochs for key in ("inner_loss", "outer_loss"))


def test_wandb_offline_writes_into_the_run_folder(whole, tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)  # a mirror that fails says so by one
        run_search(RECIPE, tmp_path / "run", quiet=True, wandb=Wandb("offline"))
    same_result(tmp_path / "run", whole)
    (record,) = (tmp_path / "run" / "wandb").glob("offline-run-*/run-*.wandb")
    assert b"epoch/inner_loss" in record.read_bytes()
    assert not list((tmp_path / "elsewhere").iterdir())


def test_wandb_that_fails_costs_one_warning(whole, tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "wandb.py").write_text('raise OSError("no route to host")', encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "broken"))
    with pytest.warns(RuntimeWarning, match=r"W&B is off .*OSError: no route to host") as caught:
        run_search(RECIPE, tmp_path / "run", quiet=True, wandb=Wandb("online"))
    assert len([w for w in caught if "W&B" in str(w.message)]) == 1
    same_result(tmp_path / "run", whole)


def test_the_tables_are_compiled_where_that_pays():
    from grafs_timm.runs.fitting import WORTH_COMPILING, compiles

    for changes, steps, device, expected in [
        ({}, WORTH_COMPILING - 1, "cpu", False), ({}, WORTH_COMPILING, "cpu", True), ({}, 7, "cuda", True),
        ({"compile": "off"}, 10**9, "cuda", False), ({"compile": "model"}, 1, "cpu", True),
    ]:  # fmt: skip
        assert compiles(recipe(**changes), steps, device)[0] is expected


@pytest.mark.slow
def test_a_search_of_a_compiled_model_is_the_same_search(tmp_path, monkeypatch):
    """Compiled without inductor, whose kernels round otherwise; the graphs and what surrounds them are the same."""

    monkeypatch.setattr(fitting, "compiles", lambda *_: (True, "for this test"))
    compile_ = torch.compile
    monkeypatch.setattr(torch, "compile", lambda function, **settings: compile_(function, backend="eager"))
    for name in ("auto", "model"):
        run_search(recipe(compile=name), tmp_path / name, quiet=True)
    assert (tmp_path / "auto" / "genotype.json").read_bytes() == (tmp_path / "model" / "genotype.json").read_bytes()
    assert timeless(tmp_path / "auto") == timeless(tmp_path / "model")


@pytest.mark.slow
@pytest.mark.parametrize("command", [("search",), ("train", "--activation", "relu")])
def test_versions_that_changed_are_told_of_when_a_run_resumes(command, tmp_path):
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(SETTINGS), encoding="utf-8")
    out = tmp_path / "run"
    arguments = (command[0], tmp_path / "tiny.yaml", *command[1:], "--out", out, "--quiet")
    kill_after(start(*arguments), out / "log.jsonl", 2)
    about = json.loads((out / "run.json").read_text(encoding="utf-8"))
    about["versions"] |= {"torch": "0.9", "timm": "0.1"}
    (out / "run.json").write_text(json.dumps(about), encoding="utf-8")
    result = call(*arguments, "--resume")
    assert result.exit_code == 0, result.output
    for name, before in (("torch", "0.9"), ("timm", "0.1")):
        assert result.stderr.count(f"note: {name} was {before} when this run began and is ") == 1
    told = [line["text"] for line in read_log(out) if line["kind"] == "notice"]
    assert [text.partition(" ")[0] for text in told] == ["torch", "timm"]
