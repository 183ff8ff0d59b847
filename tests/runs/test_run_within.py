"""A training with the search inside: its phases, what it leaves, that a stopped one ends as if it had not been."""

import json
import os
import random
import signal
import subprocess
import sys

import pytest
import torch
from test_run_training import EVERYTHING, result, stopped_after
from text_runs import WORDS
from text_runs import recipe as text_recipe
from tiny_runs import SETTINGS, STREAMED, WEIGHTS, call, contents, kill_after, recipe, refused, start

from grafs_timm.activations import genotype as genotypes
from grafs_timm.config.recipe import parse_recipe
from grafs_timm.errors import GrafsError, RecipeError
from grafs_timm.models import weights
from grafs_timm.runs import checkpoint
from grafs_timm.runs.run_training import Training, run_training
from grafs_timm.runs.run_within import TrainingWithSearch, run_within
from grafs_timm.runs.tracking import read_log

pytestmark = pytest.mark.usefixtures("plain")
EVALUATE = SETTINGS["evaluate"] | {"epochs": 6, "weights": WEIGHTS}
WITHIN = {"epochs": 3, "warm_start": 1, "shrink_start": 1}


def within(**changes):
    return recipe(**{"evaluate": EVALUATE, "search_within": WITHIN} | changes)


def test_what_it_leaves(tmp_path):
    summary = run_within(within(), tmp_path, quiet=True)
    found = genotypes.load(tmp_path / "genotype.json")
    assert summary["formula"] == found.text
    assert summary["genotype"] == found.to_dict()
    assert (summary["kind"], summary["epochs"], summary["search_epochs"]) == ("search_within", 6, 3)
    lines = read_log(tmp_path)
    assert [line["kind"] for line in lines] == ["start", *["epoch"] * 6]
    assert [line["phase"] for line in lines[1:]] == ["search"] * 3 + ["train"] * 3
    assert [line["alive"] for line in lines[1:4]] == sorted((line["alive"] for line in lines[1:4]), reverse=True)
    assert lines[3]["alive"] == 6
    assert lines[3]["formula"] == found.text
    assert lines[-1]["test_accuracy"] == summary["test_accuracy"]
    assert {file.name for file in (tmp_path / "plots").iterdir()} == {
        "function.png",
        "shrinking.png",
        "forming.png",
        "alpha.png",
    }
    kept = weights.create_from(tmp_path / "weights", pretrained=True)
    assert weights.activation_of(kept).sha256 == found.sha256
    state = checkpoint.load(tmp_path / "checkpoint.pt")
    assert state["search"] is None
    assert all(torch.equal(value, kept.state_dict()[name]) for name, value in state["model"].items())
    before = contents(tmp_path)
    assert run_within(within(), tmp_path, resume=True) == summary
    assert contents(tmp_path) == before
    with pytest.raises(GrafsError, match="kind"):
        run_training(within(), "relu", tmp_path)


def test_its_function_trains_from_scratch_by_its_file(tmp_path):
    run_within(within(), tmp_path / "one", quiet=True)
    again = run_training(within(), tmp_path / "one" / "genotype.json", tmp_path / "two", quiet=True)
    assert again["epochs"] == 6


def test_the_learning_rate_is_that_of_the_plain_training(tmp_path):
    run_within(within(), tmp_path / "within", quiet=True)
    run_training(within(), "relu", tmp_path / "plain", quiet=True)
    states = [checkpoint.load(tmp_path / name / "checkpoint.pt")["step"] for name in ("within", "plain")]
    assert states[0]["updates"] == states[1]["updates"] == 6 * (300 // 32)
    assert [s["optimizer"]["param_groups"][0]["lr"] for s in states] == [states[0]["optimizer"]["param_groups"][0]["lr"]] * 2


ALL = {"mid-epoch of the search": 3, "end of the search": 15, "mid-epoch of the training": 17}


@pytest.mark.parametrize(
    "where", ["end of the search", *(pytest.param(one, marks=pytest.mark.slow) for one in ALL if "mid" in one)]
)
def test_stopped_anywhere_it_ends_with_the_same_bits(tmp_path, where):
    settings = within(evaluate=EVALUATE | EVERYTHING)
    run_within(settings, tmp_path / "whole", quiet=True)
    epoch, done = stopped_after(ALL[where], lambda: run_within(settings, tmp_path / "run", quiet=True))
    expected = {"mid-epoch of the search": (0, 6), "end of the search": (3, 0), "mid-epoch of the training": (3, 4)}
    assert (epoch, done) == expected[where]
    torch.manual_seed(77)  # what comes in between must not matter
    run_within(settings, tmp_path / "run", quiet=True, resume=True)
    assert result(tmp_path / "run") == result(tmp_path / "whole")


def test_killed_on_the_very_step_of_the_change(tmp_path, monkeypatch):
    settings = within()
    run_within(settings, tmp_path / "whole", quiet=True)
    process = os.fork()
    if process == 0:  # killed after the change, before its checkpoint
        from grafs_timm.search.bilevel import ActivationSearch

        finish = ActivationSearch.finish

        def killed(search, *copies):
            finish(search, *copies)
            os.kill(os.getpid(), signal.SIGKILL)

        ActivationSearch.finish = killed
        run_within(settings, tmp_path / "run", quiet=True)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == -signal.SIGKILL
    assert checkpoint.load(tmp_path / "run" / "checkpoint.pt")["epoch"] == 2
    run_within(settings, tmp_path / "run", quiet=True, resume=True)
    assert result(tmp_path / "run") == result(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize("epochs", [1, 4])
def test_killed_in_either_phase_by_the_command(tmp_path, epochs):
    (tmp_path / "tiny.yaml").write_text(within().to_yaml(), encoding="utf-8")
    whole, out = tmp_path / "whole", tmp_path / "run"
    run_within(within(), whole, quiet=True)
    command = ["train", tmp_path / "tiny.yaml", "--search", "--quiet"]
    kill_after(start(*command, "--out", out), out / "log.jsonl", epochs)
    ended = call(*command, "--out", out, "--resume")
    assert ended.exit_code == 0, ended.output
    assert f"--activation {out / 'genotype.json'}" in ended.output
    assert result(out) == result(whole)


@pytest.mark.slow
def test_in_bfloat16_with_an_average(tmp_path):
    summary = run_within(
        within(amp="bf16", data=SETTINGS["data"] | {"image_size": 32}, evaluate=EVALUATE | {"ema_decay": 0.9}),
        tmp_path,
        quiet=True,
    )
    kept = weights.create_from(tmp_path / "weights", pretrained=True)
    assert weights.activation_of(kept).sha256 == genotypes.load(tmp_path / "genotype.json").sha256
    assert summary["test_loss"] > 0


def test_a_text(tmp_path):
    pytest.importorskip("transformers")  # has the GPTs
    tales = tmp_path / "tales.txt"
    tales.write_text(" ".join(random.Random(0).choices(WORDS, k=10_000)), encoding="utf-8")
    settings = text_recipe(tales, search_within={"epochs": 4}, evaluate={"epochs": 10, "steps_per_epoch": 2, "batch_size": 8})
    summary = run_within(settings, tmp_path / "run", quiet=True)
    assert summary["search_epochs"] == 4
    assert read_log(tmp_path / "run")[-1]["phase"] == "train"


def test_without_a_share_both_levels_have_the_same_batches(tmp_path, monkeypatch):
    seen = []
    step = Training.train_step

    def watched(self, images, labels):
        seen.append((images, self.last_outer))
        step(self, images, labels)

    losses = TrainingWithSearch.losses

    def noted(self, network, images, labels):
        if network is self.model and self.search is not None:
            self.last_outer = images
        return losses(self, network, images, labels)

    monkeypatch.setattr(TrainingWithSearch, "losses", noted)
    monkeypatch.setattr(Training, "train_step", watched)
    run_within(within(search_within=WITHIN | {"architecture_fraction": 0.0}), tmp_path, quiet=True)
    assert all(torch.equal(inner, outer) for inner, outer in seen[: 3 * (300 // 32)])


BAD = {
    "longer than the training": ({"epochs": 6}, r"search_within\.epochs: .*6 epochs leaves nothing of a training of 6"),
    "all warm start": ({"epochs": 4, "warm_start": 4}, r"search_within\.warm_start: .*below epochs \(4\)"),
    "no room for the drops": ({"epochs": 4, "shrink_start": 3}, r"search_within\.shrink_start: .*at most epochs − 2 \(2\)"),
    "too short": ({"epochs": 2}, r"search_within\.epochs"),
    "no such key": ({"epoch": 4}, r"search_within\.epoch"),
    "no share": ({"architecture_fraction": -0.1}, r"search_within\.architecture_fraction"),
}


@pytest.mark.parametrize("what", BAD)
def test_a_section_that_does_not_fit_is_refused(what):
    section, said = BAD[what]
    with pytest.raises(RecipeError, match=said):
        parse_recipe(SETTINGS | {"evaluate": EVALUATE, "search_within": section})


def test_a_training_too_short_for_any_search(tmp_path):
    with pytest.raises(RecipeError, match=r"search_within\.epochs: a search of 4 epochs leaves nothing of a training of 3"):
        run_within(recipe(), tmp_path)
    assert not (tmp_path / "run.json").exists()


def test_a_share_of_less_than_a_batch_is_refused(tmp_path):
    said = r"architecture_fraction: at 0\.05 of 3\d\d training images the \d\d for α and γ do not fill one batch of 32"
    with pytest.raises(RecipeError, match=said):
        run_within(within(search_within=WITHIN | {"architecture_fraction": 0.05}), tmp_path)


def test_streamed_data_is_refused(tmp_path):
    with pytest.raises(RecipeError, match="a search keeps its images on the device"):
        run_within(within(data=STREAMED), tmp_path)


def test_the_command_wants_one_of_both(tmp_path):
    for asked in ([], ["--search", "--activation", "relu"]):
        assert "--search to find one in the training, not both" in refused("train", "resnet_digits", *asked)


def test_a_recipe_without_the_section_keeps_its_hash():
    assert "search_within" not in recipe().to_yaml()
    assert within().for_training().sha256 == recipe(evaluate=EVALUATE).for_training().sha256


@pytest.mark.slow
def test_two_processes_by_torchrun(tmp_path):
    (tmp_path / "tiny.yaml").write_text(within().to_yaml(), encoding="utf-8")
    launched = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "grafs_timm"]
    command = [*launched, "train", tmp_path / "tiny.yaml", "--search"]
    environment = os.environ | {"GRAFS_TIMM_COMPILE": "0", "OMP_NUM_THREADS": "1"}
    ended = subprocess.run([*map(str, command), "--quiet", "--out", str(tmp_path / "run")], env=environment, check=False)
    assert ended.returncode == 0
    assert json.loads((tmp_path / "run" / "summary.json").read_text(encoding="utf-8"))["search_epochs"] == 3
