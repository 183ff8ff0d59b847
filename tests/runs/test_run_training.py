"""A training from scratch as a run: what it leaves, that a stopped one ends as if it had not been, what it refuses."""

import json
import shutil
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch
import yaml
from tiny_runs import SETTINGS, STREAMED, WEIGHTS, call, contents, kill_after, recipe, start

from grafs_timm.data.images import open_dataset
from grafs_timm.errors import GrafsError, RunError
from grafs_timm.models import weights
from grafs_timm.runs import checkpoint, training
from grafs_timm.runs import run_training as module
from grafs_timm.runs.folder import RunFolder
from grafs_timm.runs.run_search import run_search
from grafs_timm.runs.run_training import run_training
from grafs_timm.runs.tracking import read_log
from grafs_timm.runs.training import load_data, make_model

pytestmark = pytest.mark.usefixtures("plain")
RECIPE = recipe()


def result(folder):
    """Every number of a run but the clock's, and its weights."""
    lines = [{key: value for key, value in line.items() if key not in ("time", "seconds")} for line in read_log(folder)]
    tensors = checkpoint.load(folder / "checkpoint.pt")["model"]
    return lines, {key: value.tolist() for key, value in tensors.items()}, (folder / "summary.json").read_bytes()


def test_what_an_evaluation_leaves(tmp_path):
    summary = run_training(RECIPE, "gelu", tmp_path, quiet=True)
    assert summary["epochs"] == 3
    assert summary["train_images"] == 300
    assert summary["test_images"] == 100
    assert "replaced 12 of 12" in summary["report"]
    lines = read_log(tmp_path)
    assert [line["epoch"] for line in lines] == [1, 2, 3]
    assert lines[-1]["test_accuracy"] == summary["test_accuracy"]
    assert json.loads((tmp_path / "summary.json").read_text(encoding="utf-8")) == summary
    before = contents(tmp_path)
    assert run_training(RECIPE, "gelu", tmp_path, resume=True) == summary
    with pytest.raises(RunError, match='activation: "gelu" there, "relu" here'):
        run_training(RECIPE, "relu", tmp_path)
    assert contents(tmp_path) == before


def test_with_images_held_out_the_test_split_is_never_opened(tmp_path, monkeypatch):
    opened = []
    load = training.load_split
    monkeypatch.setattr(training, "load_split", lambda info, split, **more: opened.append(split) or load(info, split, **more))
    held_out = recipe(data=SETTINGS["data"] | {"validation_images": 200})
    summary = run_training(held_out, "relu", tmp_path, quiet=True)
    assert set(opened) == {"train"}
    assert summary["measured_on"] == "validation"
    assert summary["validation_accuracy"] == read_log(tmp_path)[-1]["validation_accuracy"]
    assert "test_accuracy" not in summary
    train, validation = load_data(held_out.data, "train", "cpu"), load_data(held_out.data, "validation", "cpu")
    assert (len(train), len(validation)) == (summary["train_images"], summary["validation_images"])
    assert abs(len(train) - 300) <= 10
    assert not {image.numpy().tobytes() for image in train.images} & {image.numpy().tobytes() for image in validation.images}
    with pytest.raises(GrafsError, match=r"validation_images \(9000\)"):
        load_data(recipe(data=SETTINGS["data"] | {"validation_images": 9000}).data, "train", "cpu")


def test_both_splits_are_measured_by_one_training(tmp_path):
    held_out = recipe(data=SETTINGS["data"] | {"validation_images": 200})
    alone = run_training(held_out, "relu", tmp_path / "alone", quiet=True)
    both = recipe(data=SETTINGS["data"] | {"validation_images": 200}, evaluate=SETTINGS["evaluate"] | {"measure_both": True})
    summary = run_training(both, "relu", tmp_path / "both", quiet=True)
    assert summary["measured_on"] == "test"
    assert summary["validation_loss"] == alone["validation_loss"]  # measuring more does not change what is trained
    assert all(
        {"test_accuracy", "validation_accuracy"} <= line.keys() for line in read_log(tmp_path / "both") if "epoch" in line
    )
    assert summary["test_loss"] != summary["validation_loss"]


def test_fine_tuning_begins_with_saved_weights(tmp_path, caplog):
    first = run_training(RECIPE, "relu", tmp_path / "relu", quiet=True)
    folder = str(tmp_path / "relu" / "weights")
    still = SETTINGS["evaluate"] | {"epochs": 1, "weights": WEIGHTS | {"lr": 1e-12, "warmup_epochs": 0}}
    begun = run_training(recipe(evaluate=still | {"start_from": folder}), "relu", tmp_path / "same", quiet=True)
    anew = run_training(recipe(evaluate=still), "relu", tmp_path / "anew", quiet=True)
    assert abs(begun["test_loss"] - first["test_loss"]) < 0.5 * abs(anew["test_loss"] - first["test_loss"])
    assert begun["start_from"] == folder
    assert begun["trained_with"] == "relu"
    assert "start_from" not in anew
    model = make_model(recipe(), 10, (1, 8, 8), "cpu", folder)
    assert not caplog.text  # timm says there what of weights and model disagrees
    data = load_data(RECIPE.data, "train", "cpu")
    cfg = json.loads((tmp_path / "relu" / "weights" / "config.json").read_text(encoding="utf-8"))["pretrained_cfg"]
    assert (cfg["input_size"], cfg["mean"], cfg["std"]) == ([1, 8, 8], list(data.mean), list(data.std))
    kept = safetensors.torch.load_file(tmp_path / "relu" / "weights" / "model.safetensors")
    assert all(torch.equal(tensor, kept[name]) for name, tensor in model.state_dict().items())
    other = run_training(recipe(evaluate=still | {"start_from": folder}), "gelu", tmp_path / "gelu", quiet=True)
    assert other["trained_with"] == "relu"
    assert weights.activation_of(weights.create_from(tmp_path / "gelu" / "weights", pretrained=True)).name == "gelu"


def test_weights_to_begin_with_for_other_images_and_classes(tmp_path):
    model = timm.create_model("test_resnet", num_classes=7)  # of three channels
    weights.save_pretrained(model, tmp_path)
    adapted = make_model(RECIPE, 10, (1, 8, 8), "cpu", str(tmp_path))
    assert adapted.num_classes == 10
    assert torch.equal(adapted.layer1[0].conv1.weight, model.layer1[0].conv1.weight)


@pytest.mark.parametrize(
    ("start_from", "said"),
    [
        ("nowhere", "missing or damaged"),
        ("vit", "holds weights of test_vit, the model is test_resnet"),
        ("empty", "no weights"),
    ],
)
def test_weights_to_begin_with_that_are_none(tmp_path, start_from, said):
    weights.save_pretrained(timm.create_model("test_vit"), tmp_path / "vit")
    weights.save_pretrained(timm.create_model("test_resnet"), tmp_path / "empty")
    (tmp_path / "empty" / "model.safetensors").unlink()
    settings = SETTINGS["evaluate"] | {"start_from": str(tmp_path / start_from)}
    with pytest.raises(GrafsError, match=said):
        run_training(recipe(evaluate=settings), "relu", tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_killed_evaluation_goes_on_to_the_same_bits(tmp_path):
    settings = SETTINGS | {"evaluate": SETTINGS["evaluate"] | {"epochs": 8}}
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    whole, out = tmp_path / "whole", tmp_path / "run"
    run_training(recipe(evaluate=settings["evaluate"]), "relu", whole, quiet=True)
    command = ["evaluate", tmp_path / "tiny.yaml", "--activation", "relu", "--quiet"]
    kill_after(start(*command, "--out", out), out / "log.jsonl", 2)
    ended = call(*command, "--out", out, "--resume")
    assert ended.exit_code == 0, ended.output
    assert result(out) == result(whole)


EVERYTHING = {"accumulate": 2, "smoothing": 0.1, "mixup": 0.2, "cutmix": 1.0, "ema_decay": 0.9, "checkpoint_steps": 2}


def test_all_of_timms_parts_at_once(tmp_path):
    everything = recipe(evaluate=SETTINGS["evaluate"] | EVERYTHING, channels_last=True)
    summary = run_training(everything, "gelu", tmp_path, quiet=True)
    state = checkpoint.load(tmp_path / "checkpoint.pt")
    kept = weights.create_from(tmp_path / "weights", pretrained=True).state_dict()
    assert state["ema"].keys() == state["model"].keys()
    # what is measured and left is the moving average
    assert all(torch.equal(kept[key], value) for key, value in state["ema"].items())
    assert not torch.equal(state["ema"]["fc.weight"], state["model"]["fc.weight"])
    lines = read_log(tmp_path)
    assert [(line["kind"], line.get("step")) for line in lines[:5]] == [*(("step", n) for n in (2, 4, 6, 8)), ("epoch", None)]
    assert summary["train_loss"] > 1.0  # against mixed and smoothed labels


def test_a_moving_average_of_no_memory_is_the_model(tmp_path):
    evaluate = SETTINGS["evaluate"] | {"epochs": 1, "weights": WEIGHTS | {"warmup_epochs": 0}}
    plain = run_training(recipe(evaluate=evaluate), "relu", tmp_path / "plain", quiet=True)
    averaged = run_training(recipe(evaluate=evaluate | {"ema_decay": 1e-12}), "relu", tmp_path / "ema", quiet=True)
    assert averaged["test_accuracy"] == plain["test_accuracy"]
    assert averaged["test_loss"] == pytest.approx(plain["test_loss"], rel=1e-4)


def test_mixing_needs_pairs(tmp_path):
    with pytest.raises(GrafsError, match=r"evaluate\.batch_size: mixup and cutmix pair images, and 31"):
        run_training(recipe(evaluate=SETTINGS["evaluate"] | {"batch_size": 31, "mixup": 0.1}), "relu", tmp_path, quiet=True)


def stopped_after(saves, run):
    """Begin ``run``, and end it when it has written so many checkpoints; (epoch, steps of the next) of the last one."""
    save, saved = checkpoint.save, []

    def stop(path, state):
        save(path, state)
        saved.append((state["epoch"], state["done"]))
        if len(saved) == saves:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "save", stop)
        with pytest.raises(KeyboardInterrupt):
            run()
    return saved[-1]


def test_killed_within_an_epoch_it_goes_on_to_the_same_bits(tmp_path):
    """Everything that draws or remembers is on; the kill falls between two epochs, where only checkpoint_steps saves."""
    settings = SETTINGS | {"evaluate": SETTINGS["evaluate"] | EVERYTHING, "amp": "off"}
    run_training(recipe(evaluate=settings["evaluate"]), "relu", tmp_path / "whole", quiet=True)
    assert stopped_after(
        8, lambda: run_training(recipe(evaluate=settings["evaluate"]), "relu", tmp_path / "run", quiet=True)
    ) == (1, 6)
    torch.manual_seed(77)  # what comes in between must not matter
    run_training(recipe(evaluate=settings["evaluate"]), "relu", tmp_path / "run", quiet=True, resume=True)
    assert result(tmp_path / "run") == result(tmp_path / "whole")


def test_streamed_it_goes_on_within_an_epoch_too(tmp_path):
    evaluate = SETTINGS["evaluate"] | {"epochs": 2, "checkpoint_steps": 10}
    streamed = recipe(data=STREAMED, evaluate=evaluate)
    summary = run_training(streamed, "relu", tmp_path / "whole", quiet=True)
    assert (summary["train_images"], summary["test_images"]) == (1437, 360)
    assert stopped_after(3, lambda: run_training(streamed, "relu", tmp_path / "run", quiet=True)) == (0, 30)
    run_training(streamed, "relu", tmp_path / "run", quiet=True, resume=True)
    assert result(tmp_path / "run") == result(tmp_path / "whole")
    # the same weights on the same images, whole on the device
    kept = weights.create_from(tmp_path / "run" / "weights", pretrained=True)
    resident = training.load_data(recipe(data={"name": "digits"}).data, "test", "cpu")
    images = (resident.images.float() / 255 - 0.3) / 0.35
    with torch.no_grad():
        right = (kept.eval()(images).argmax(1) == resident.labels).float().mean()
    assert 100 * float(right) == pytest.approx(summary["test_accuracy"], abs=1e-4)


def test_shards_that_are_skipped_are_counted(tmp_path):
    folder = tmp_path / "data"
    shutil.copytree(open_dataset("digits").folder, folder)
    info = json.loads((folder / "_info.json").read_text(encoding="utf-8"))
    damaged = info["splits"]["train"]["filenames"][-1]
    (folder / damaged).write_bytes((folder / damaged).read_bytes()[:-9000])
    for loading in ("resident", "stream"):
        data = STREAMED | {"name": str(folder)} if loading == "stream" else {"name": str(folder)}
        with pytest.raises(GrafsError, match=damaged):
            run_training(recipe(data=data), "relu", tmp_path / loading, quiet=True)
    with pytest.warns(UserWarning, match=damaged):
        summary = run_training(recipe(data=STREAMED | {"name": str(folder), "on_bad_shard": "skip"}), "relu", tmp_path / "skip")
    assert [Path(shard).name for shard in summary["skipped_shards"]] == [damaged]
    assert read_log(tmp_path / "skip")[-1]["skipped_shards"] == 1


def test_settings_of_the_other_way_of_loading(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "STREAMED_FROM", 10)
    with pytest.raises(GrafsError, match=r"data\.augment: digits is large and streamed"):
        run_training(recipe(data={"name": "digits", "augment": ["crop"]}), "relu", tmp_path)
    assert not training.is_streamed(recipe().data, open_dataset("digits"))  # train_images says how much is held
    with pytest.raises(GrafsError, match=r"data\.loading: a search keeps its images on the device"):
        run_search(recipe(data=STREAMED), tmp_path)


@pytest.mark.parametrize("asked", [False, True])
def test_out_of_memory(tmp_path, monkeypatch, asked):
    losses = module.Training.losses

    def too_large(self, network, images, labels):
        if len(images) // self.accumulate > 8:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return losses(self, network, images, labels)

    same = run_training(recipe(evaluate=SETTINGS["evaluate"] | {"accumulate": 4}), "relu", tmp_path / "four", quiet=True)
    monkeypatch.setattr(module.Training, "losses", too_large)
    if not asked:
        with pytest.raises(RunError, match=r"out of memory with 32 images at a time on cpu: evaluate.accumulate=2 .*halve"):
            run_training(RECIPE, "relu", tmp_path / "run", quiet=True)
        return
    halving = recipe(evaluate=SETTINGS["evaluate"] | {"out_of_memory": "halve"})
    with pytest.warns(UserWarning, match="continuing with") as warned:
        summary = run_training(halving, "relu", tmp_path / "run", quiet=True)
    assert len(warned) == 2
    assert summary["accumulate"] == 4
    assert summary["test_loss"] == same["test_loss"]


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"model": "test_vit", "model_kwargs": {"img_size": 8, "patch_size": 2}}, "does not hold what this run needs"),
        ({}, "damaged"),
    ],
)
def test_a_checkpoint_of_another_recipe(tmp_path, other, said):
    for name, changes in (("run", {}), ("other", other)):
        run_training(recipe(**changes), "relu", tmp_path / name, quiet=True)
    (tmp_path / "run" / "summary.json").unlink()
    theirs = (tmp_path / "other" / "checkpoint.pt").read_bytes()
    (tmp_path / "run" / "checkpoint.pt").write_bytes(theirs if other else theirs[:-100])
    before = contents(tmp_path / "run")
    with pytest.raises(RunError, match=rf"checkpoint\.pt .*{said}"):
        run_training(RECIPE, "relu", tmp_path / "run", quiet=True, resume=True)
    assert contents(tmp_path / "run") == before


@pytest.mark.parametrize("where", ["before the first checkpoint", "after the last one"])
def test_stopped_at_either_end(tmp_path, monkeypatch, where):
    run_training(RECIPE, "relu", tmp_path / "whole", quiet=True)

    def stop(*arguments):
        raise ConnectionResetError("the machine is gone")

    with monkeypatch.context() as patch:
        patch.setattr(*((checkpoint, "save") if where.startswith("before") else (RunFolder, "finish")), stop)
        with pytest.raises(ConnectionResetError):
            run_training(RECIPE, "relu", tmp_path / "run", quiet=True)
    run_training(RECIPE, "relu", tmp_path / "run", quiet=True, resume=where.startswith("after"))
    assert result(tmp_path / "run") == result(tmp_path / "whole")


def test_a_result_that_is_not_finite_is_still_one(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "measure", lambda *arguments: torch.tensor([10, float("nan"), 100], dtype=torch.float64))
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(SETTINGS), encoding="utf-8")
    ended = call("evaluate", tmp_path / "tiny.yaml", "--activation", "relu", "--out", tmp_path / "run", "--quiet")
    assert ended.exit_code == 0, ended.output
    assert "loss nan" in ended.stdout
    assert json.loads((tmp_path / "run" / "summary.json").read_text(encoding="utf-8"))["test_loss"] == "nan"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model": "cifar_resnet21"}, "cifar_resnet20"),
        ({"model": "vit_tiny_patch16_224"}, "1×8×8"),
        ({"model_kwargs": {"depht": 3}}, "depht"),
        ({"model_kwargs": {"num_classes": 3}}, "10 classes"),
        ({"model": "test_resnet", "model_kwargs": {"layers": []}}, "layers.*does not take"),
        ({"model": "test_resnet", "model_kwargs": {"channels": 3}}, "cannot be built"),
        ({"model": "test_resnet", "model_kwargs": {"norm_layer": "none_such"}}, "cannot be built"),
        ({"model": "test_resnet", "model_kwargs": {"drop_rate": "high"}}, "drop_rate.*does not take"),
        ({"model": "test_vit", "model_kwargs": {"img_size": 8, "patch_size": 0}}, "cannot be built"),
        ({"model": "test_vit", "model_kwargs": {"img_size": [8], "patch_size": 2}}, "cannot be built"),
        ({"model_kwargs": {"global_pool": ""}}, "global_pool.*does not take"),
    ],
)
def test_models_that_do_not_fit(tmp_path, changes, said):
    with pytest.raises(GrafsError, match=said):
        run_training(recipe(**changes), "relu", tmp_path / "run")
    assert not (tmp_path / "run").exists()
