"""A training from scratch as a run: what it leaves, that a stopped one ends as if it had not been, what it refuses."""

import json

import pytest
import safetensors.torch
import timm
import torch
import yaml
from tiny_runs import SETTINGS, WEIGHTS, call, contents, kill_after, recipe, start

from grafs_timm import checkpoint, training, weights
from grafs_timm.errors import GrafsError, RunError
from grafs_timm.runs import RunFolder
from grafs_timm.tracking import read_log
from grafs_timm.training import WeightStep, accuracy, load_data, make_model, run_evaluate

pytestmark = pytest.mark.usefixtures("plain")
RECIPE = recipe()


def result(folder):
    """Every number of a run but the clock's, and its weights."""
    lines = [{key: value for key, value in line.items() if key not in ("time", "seconds")} for line in read_log(folder)]
    tensors = checkpoint.load(folder / "checkpoint.pt")["model"]
    return lines, {key: value.tolist() for key, value in tensors.items()}, (folder / "summary.json").read_bytes()


def test_what_an_evaluation_leaves(tmp_path):
    summary = run_evaluate(RECIPE, "gelu", tmp_path, quiet=True)
    assert summary["epochs"] == 3
    assert summary["train_images"] == 300
    assert summary["test_images"] == 100
    assert "replaced 12 of 12" in summary["report"]
    lines = read_log(tmp_path)
    assert [line["epoch"] for line in lines] == [1, 2, 3]
    assert lines[-1]["test_accuracy"] == summary["test_accuracy"]
    assert json.loads((tmp_path / "summary.json").read_text()) == summary
    before = contents(tmp_path)
    assert run_evaluate(RECIPE, "gelu", tmp_path, resume=True) == summary
    with pytest.raises(RunError, match='activation: "gelu" there, "relu" here'):
        run_evaluate(RECIPE, "relu", tmp_path)
    assert contents(tmp_path) == before


def test_with_images_held_out_the_test_split_is_never_opened(tmp_path, monkeypatch):
    opened = []
    load = training.load_split
    monkeypatch.setattr(training, "load_split", lambda info, split, **more: opened.append(split) or load(info, split, **more))
    held_out = recipe(data=SETTINGS["data"] | {"validation_images": 200})
    summary = run_evaluate(held_out, "relu", tmp_path, quiet=True)
    assert set(opened) == {"train"}
    assert summary["measured_on"] == "validation"
    assert summary["validation_accuracy"] == read_log(tmp_path)[-1]["validation_accuracy"]
    assert "test_accuracy" not in summary
    train, validation = load_data(held_out, "train", "cpu"), load_data(held_out, "validation", "cpu")
    assert (len(train), len(validation)) == (summary["train_images"], summary["validation_images"])
    assert abs(len(train) - 300) <= 10
    assert not {image.numpy().tobytes() for image in train.images} & {image.numpy().tobytes() for image in validation.images}
    with pytest.raises(GrafsError, match=r"validation_images \(9000\)"):
        load_data(recipe(data=SETTINGS["data"] | {"validation_images": 9000}), "train", "cpu")


def test_fine_tuning_begins_with_saved_weights(tmp_path, caplog):
    first = run_evaluate(RECIPE, "relu", tmp_path / "relu", quiet=True)
    folder = str(tmp_path / "relu" / "weights")
    still = SETTINGS["evaluate"] | {"epochs": 1, "weights": WEIGHTS | {"lr": 1e-12, "warmup_epochs": 0}}
    begun = run_evaluate(recipe(evaluate=still | {"start_from": folder}), "relu", tmp_path / "same", quiet=True)
    anew = run_evaluate(recipe(evaluate=still), "relu", tmp_path / "anew", quiet=True)
    assert abs(begun["test_loss"] - first["test_loss"]) < 0.5 * abs(anew["test_loss"] - first["test_loss"])
    assert begun["start_from"] == folder
    assert begun["trained_with"] == "relu"
    assert "start_from" not in anew
    model = make_model(recipe(), load_data(RECIPE, "train", "cpu"), "cpu", folder)
    assert not caplog.text  # timm says there what of weights and model disagrees
    data = load_data(RECIPE, "train", "cpu")
    cfg = json.loads((tmp_path / "relu" / "weights" / "config.json").read_text())["pretrained_cfg"]
    assert (cfg["input_size"], cfg["mean"], cfg["std"]) == ([1, 8, 8], list(data.mean), list(data.std))
    kept = safetensors.torch.load_file(tmp_path / "relu" / "weights" / "model.safetensors")
    assert all(torch.equal(tensor, kept[name]) for name, tensor in model.state_dict().items())
    other = run_evaluate(recipe(evaluate=still | {"start_from": folder}), "gelu", tmp_path / "gelu", quiet=True)
    assert other["trained_with"] == "relu"
    assert weights.activation_of(weights.create_from(tmp_path / "gelu" / "weights", pretrained=True)).name == "gelu"


def test_weights_to_begin_with_for_other_images_and_classes(tmp_path):
    model = timm.create_model("test_resnet", num_classes=7)  # of three channels
    weights.save_pretrained(model, tmp_path)
    adapted = make_model(RECIPE, load_data(RECIPE, "train", "cpu"), "cpu", str(tmp_path))
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
        run_evaluate(recipe(evaluate=settings), "relu", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_killed_evaluation_goes_on_to_the_same_bits(tmp_path):
    settings = SETTINGS | {"evaluate": SETTINGS["evaluate"] | {"epochs": 8}}
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(settings))
    whole, out = tmp_path / "whole", tmp_path / "run"
    run_evaluate(recipe(evaluate=settings["evaluate"]), "relu", whole, quiet=True)
    command = ["evaluate", tmp_path / "tiny.yaml", "--activation", "relu", "--quiet"]
    kill_after(start(*command, "--out", out), out / "log.jsonl", 2)
    ended = call(*command, "--out", out, "--resume")
    assert ended.exit_code == 0, ended.output
    assert result(out) == result(whole)


@pytest.mark.parametrize("where", ["before the first checkpoint", "after the last one"])
def test_stopped_at_either_end(tmp_path, monkeypatch, where):
    run_evaluate(RECIPE, "relu", tmp_path / "whole", quiet=True)

    def stop(*arguments):
        raise ConnectionResetError("the machine is gone")

    with monkeypatch.context() as patch:
        patch.setattr(*((checkpoint, "save") if where.startswith("before") else (RunFolder, "finish")), stop)
        with pytest.raises(ConnectionResetError):
            run_evaluate(RECIPE, "relu", tmp_path / "run", quiet=True)
    run_evaluate(RECIPE, "relu", tmp_path / "run", quiet=True, resume=where.startswith("after"))
    assert result(tmp_path / "run") == result(tmp_path / "whole")


def test_a_result_that_is_not_finite_is_still_one(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "accuracy", lambda *arguments: (10.0, float("nan")))
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(SETTINGS))
    ended = call("evaluate", tmp_path / "tiny.yaml", "--activation", "relu", "--out", tmp_path / "run", "--quiet")
    assert ended.exit_code == 0, ended.output
    assert "loss nan" in ended.stdout
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["test_loss"] == "nan"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model": "cifar_resnet21"}, "cifar_resnet20"),
        ({"model": "vit_tiny_patch16_224"}, "1×8×8"),
        ({"model_kwargs": {"depht": 3}}, "depht"),
        ({"model_kwargs": {"num_classes": 3}}, "10 classes"),
    ],
)
def test_models_that_do_not_fit(tmp_path, changes, said):
    with pytest.raises(GrafsError, match=said):
        run_evaluate(recipe(**changes), "relu", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def tiny_step(amp="off", **settings):
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 3)
    rule = recipe(evaluate={"weights": settings}).evaluate.weights
    return model, WeightStep(model, rule, epochs=4, steps_per_epoch=5, amp=amp, max_skips=3)


@pytest.mark.parametrize("amp", ["off", "bf16", "fp16"])
def test_a_step_that_is_not_finite_leaves_the_weights(amp):
    model, step = tiny_step(amp)
    before = model.weight.clone()
    step(model(torch.full((2, 4), float("inf"))).sum())
    assert torch.equal(model.weight, before)
    assert (step.updates, step.skipped) == (1, 1)
    step(model(torch.ones(2, 4)).sum())
    assert not torch.equal(model.weight, before)
    for _ in range(2):
        step(model(torch.full((2, 4), float("nan"))).sum())
    with pytest.raises(RunError, match=r"3 weight steps in a row .* \(last loss nan\)"):
        step(model(torch.full((2, 4), float("nan"))).sum())


def test_the_schedule_goes_on_from_a_state():
    runs = []
    for stop in (None, 7):
        model, step = tiny_step(sched="cosine", warmup_epochs=1, clip_grad=1.0)
        rates = []
        for update in range(20):
            if update == stop:
                state, weights = step.state_dict(), model.state_dict()
                model, step = tiny_step(sched="cosine", warmup_epochs=1, clip_grad=1.0)
                model.load_state_dict(weights)
                step.load_state_dict(state)
            step(model(torch.ones(2, 4) * update).square().mean())
            rates.append(step.optimizer.param_groups[0]["lr"])
        runs.append((rates, model.weight.tolist()))
    assert runs[0] == runs[1]
    assert max(runs[0][0]) > 5 * runs[0][0][-1]


@pytest.mark.parametrize("amp", ["off", "fp16"])
def test_micro_batches_make_the_same_step(amp):
    x, y = torch.randn(12, 4, generator=torch.Generator().manual_seed(1)), torch.arange(12) % 3
    results = []
    for parts in (1, 2, 3):
        model, step = tiny_step(amp, clip_grad=0.1)
        loss = [
            lambda x=x, y=y, model=model: torch.nn.functional.cross_entropy(model(x), y)
            for x, y in zip(x.chunk(parts), y.chunk(parts), strict=True)
        ]
        mean = step(loss[0]() if parts == 1 else loss)
        assert step.updates == 1
        results.append((mean, model.weight.detach().clone()))
    torch.testing.assert_close(results[1], results[0])
    torch.testing.assert_close(results[2], results[0])


def test_accuracy_puts_the_mode_back():
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Dropout(0.9)).train()
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(2))
        model[0].bias.zero_()
    batches = [(torch.eye(2), torch.tensor([0, 1])), (torch.eye(2)[:1], torch.tensor([1]))]
    top1, loss = accuracy(model, batches)
    assert top1 == pytest.approx(200 / 3)
    assert loss == pytest.approx((2 * 0.3132617 + 1.3132617) / 3, abs=1e-6)
    assert model.training
