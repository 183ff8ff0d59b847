"""What a recipe leaves to the machine: what is chosen where, that it is said, and that a run resumes with it."""

import json

import pytest
import torch
from tiny_runs import SETTINGS, recipe

from grafs_timm.config.schema import Recipe
from grafs_timm.errors import GrafsWarning, RecipeError, RunError
from grafs_timm.runs import fitting
from grafs_timm.runs.run_search import run_search
from grafs_timm.runs.run_training import Training, run_training
from grafs_timm.runs.tracking import read_log
from grafs_timm.utils import hardware
from grafs_timm.zoo.lookup import resolve

BF16 = "model name\t: Some CPU\nflags\t\t: avx2 avx512f avx512_bf16\n"
PLAIN = "model name\t: Some CPU\nflags\t\t: avx2 fma\n"
ARM = "processor\t: 0\nFeatures\t: fp asimd bf16\n"

# large enough for the model: of a strided convolution of one pixel oneDNN makes gradients in bfloat16 that are not finite
SIZED = recipe(amp="auto", channels_last="auto", data=SETTINGS["data"] | {"image_size": 32})


def interrupt():
    raise KeyboardInterrupt


@pytest.fixture
def processor(monkeypatch):
    def of(text):
        monkeypatch.setattr(hardware, "_cpuinfo", lambda: text)
        hardware.has_bf16.cache_clear()

    yield of
    hardware.has_bf16.cache_clear()


@pytest.mark.parametrize(("cpuinfo", "amp"), [(BF16, "bf16"), (PLAIN, "off"), (ARM, "bf16"), ("", "off")])
def test_bfloat16_where_the_processor_has_it(processor, cpuinfo, amp):
    processor(cpuinfo)
    settled, why = fitting.fit(recipe(amp="auto"), "cpu")
    assert settled.amp == amp
    assert why["amp"].startswith(f"{amp} (this processor has")


@pytest.mark.parametrize(("there", "amp"), [(True, "bf16"), (False, "off")])
def test_bfloat16_where_the_gpu_has_it(monkeypatch, there, amp):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: there)
    settled, _ = fitting.fit(recipe(amp="auto", channels_last="auto"), "cuda:0")
    assert (settled.amp, settled.channels_last) == (amp, there)  # channels_last pays with mixed precision only


@pytest.mark.parametrize("amp", ["off", "bf16", "fp16"])
def test_what_a_recipe_says_stays(amp):
    given = recipe(amp=amp, channels_last=False)
    assert fitting.fit(given, "cpu") == (given, {})


@pytest.mark.parametrize(
    ("model", "kwargs", "expected"),
    [
        ("cifar_resnet20", {}, True), ("resnet18", {}, True), ("mobilenetv2_100", {}, True), ("convnext_atto", {}, True),
        ("regnetx_002", {}, True), ("vit_tiny_patch16_224", {}, False), ("mixer_s16_224", {}, False),
        ("cifar_vit_tiny", {}, False), ("cifar_mixer_tiny", {}, False), ("no_such_model", {}, False),
        ("resnet18", {"no_such": 1}, False),
    ],
)  # fmt: skip
def test_channels_last_for_models_of_convolutions(model, kwargs, expected):
    settled, why = fitting.fit(Recipe(model=model, model_kwargs=kwargs, data="digits", channels_last="auto"), "cpu")
    assert settled.channels_last is expected
    assert why["channels_last"].startswith(str(expected).lower())


@pytest.mark.parametrize("chosen", [True, False])
def test_the_model_is_in_the_format_that_was_chosen(monkeypatch, chosen):
    monkeypatch.setattr(fitting, "_channels_last", lambda *_: (chosen, "for this test"))
    training = Training(fitting.fit(recipe(channels_last="auto"), "cpu")[0], resolve("relu"), 0, "cpu")
    kernels = [p for p in training.model.parameters() if p.ndim == 4 and p.shape[1] > 1 and p.shape[2] > 1]
    assert kernels
    assert all(kernel.is_contiguous(memory_format=torch.channels_last) is chosen for kernel in kernels)


@pytest.mark.parametrize("run", ["search", "training"])
def test_a_run_says_what_was_chosen(tmp_path, capsys, run):
    folder = tmp_path / "run"
    if run == "search":
        run_search(SIZED, folder)
    else:
        run_training(SIZED, "relu", folder)
    line = read_log(folder)[0]["settings"]
    about = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    assert line["amp"].startswith(about["chosen"]["amp"])
    assert line["channels_last"].startswith("true (a model of convolutions)")
    assert ("compile" in line) == (run == "search")
    assert line["threads"] == str(torch.get_num_threads())
    assert f"amp: {line['amp']}" in capsys.readouterr().err


def test_quiet_runs_say_it_in_the_log_alone(tmp_path, capsys):
    run_training(recipe(channels_last="auto"), "relu", tmp_path, quiet=True)
    assert "settings" not in capsys.readouterr().err
    assert read_log(tmp_path)[0]["settings"]["channels_last"].startswith("true")


def test_a_run_resumes_with_what_it_began_with(tmp_path, processor, monkeypatch):
    processor(BF16)
    given = SIZED
    epoch = Training.run_epoch
    with monkeypatch.context() as patched:
        patched.setattr(Training, "run_epoch", lambda self, run: epoch(self, run) if self.epoch < 1 else interrupt())
        with pytest.raises(KeyboardInterrupt):
            run_training(given, "relu", tmp_path, quiet=True)
    processor(PLAIN)
    with pytest.warns(GrafsWarning, match=r"emulates them: a convolution takes \d+ times as long"):
        run_training(given, "relu", tmp_path, quiet=True, resume=True)
    assert read_log(tmp_path)[0]["settings"]["amp"] == "bf16 (this processor has bfloat16 instructions)"
    assert json.loads((tmp_path / "run.json").read_text(encoding="utf-8"))["chosen"] == {"amp": "bf16", "channels_last": True}


@pytest.mark.parametrize("chosen", [5, {"amp": "fp8"}, {"channels_last": "yes"}, {"model": "resnet18"}, ["amp"]])
def test_a_damaged_choice_is_an_error(tmp_path, chosen):
    run_training(recipe(), "relu", tmp_path / "run", quiet=True)
    file = tmp_path / "run" / "run.json"
    file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")) | {"chosen": chosen}), encoding="utf-8")
    (tmp_path / "run" / "summary.json").unlink()
    with pytest.raises(RunError, match=r"run\.json is damaged: chosen"):
        run_training(recipe(), "relu", tmp_path / "run", quiet=True, resume=True)


def test_bfloat16_that_is_emulated_is_said_with_its_factor(processor):
    processor(PLAIN)
    with pytest.warns(GrafsWarning, match=r"amp: this processor has no bfloat16 .* set amp=off, or amp=auto"):
        fitting.warn_if_emulated(recipe(amp="bf16"), "cpu")


@pytest.mark.parametrize(("cpuinfo", "amp", "device"), [(BF16, "bf16", "cpu"), (PLAIN, "off", "cpu"), (PLAIN, "bf16", "cuda")])
def test_nothing_is_said_where_nothing_is_emulated(processor, recwarn, cpuinfo, amp, device):
    processor(cpuinfo)
    fitting.warn_if_emulated(recipe(amp=amp), device)
    assert not recwarn.list


def test_a_campaign_states_its_precision():
    with pytest.raises(RecipeError, match="amp: a campaign compares trainings of several machines"):
        recipe(amp="auto", campaign={})
