"""Searches and trainings on text: the same runs as on images, measured by loss, in epochs of as many steps as asked for."""

import gzip
import math
import random
import shutil

import pytest
import torch
from text_runs import WORDS, recipe
from tiny_runs import ROOT, refused
from written_results import read_results

from grafs_timm.comparison import estimate
from grafs_timm.comparison.matrix import Matrix
from grafs_timm.comparison.selection import run_selection
from grafs_timm.comparison.transfer import run_transfer
from grafs_timm.data.pack_text import TextPacking, pack_text
from grafs_timm.errors import DataError, RecipeError
from grafs_timm.jobs.options import Launch
from grafs_timm.runs.run_search import run_search
from grafs_timm.runs.run_training import run_training
from grafs_timm.runs.tracking import read_log
from grafs_timm.runs.training import Paced, held_out, measured_on

pytest.importorskip("transformers")
pytestmark = pytest.mark.usefixtures("plain")
STORIES = ROOT.parent / "shared" / "data" / "text" / "tinystories-train-head-cased-2MiB.txt.gz"


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """A file of 20,000 words in an order that can be learnt a little."""
    draw, path = random.Random(0), tmp_path_factory.mktemp("text") / "tales.txt"
    path.write_text("".join(f"{draw.choice(WORDS)}{draw.choice([' ', ' ', '. '])}" for _ in range(20_000)), encoding="utf-8")
    return path


def test_a_search_counts_iterations_and_logs_some_of_them(text, tmp_path):
    summary = run_search(recipe(text), tmp_path, quiet=True)
    epochs = [line for line in read_log(tmp_path) if line["kind"] == "epoch"]
    assert [line["epoch"] for line in epochs] == [5, 10, 15, 20]
    assert epochs[-1]["alive"] == 6
    assert sum(len(line["dropped"]) for line in epochs) == 104
    assert 0 < summary["held_out_loss"] < 6
    assert set(summary["genotype"]) >= {"u1", "b2"}


def test_a_search_over_shards_of_tinystories_in_byte_pairs(tmp_path):
    if not STORIES.exists():
        pytest.skip(f"no {STORIES}")
    with gzip.open(STORIES, "rt", encoding="utf-8") as file:
        (tmp_path / "head.txt").write_text(file.read(400_000), encoding="utf-8")
    pack_text(str(tmp_path / "head.txt"), tmp_path / "stories", TextPacking(hold_out=0.05), quiet=True)
    data = {"name": str(tmp_path / "stories"), "text": {"tokenizer": "bpe", "vocab_size": 300, "context": 32}}
    with pytest.warns(UserWarning, match="byte pairs learnt from"):
        found = run_search(recipe(data["name"], data=data), tmp_path / "search", quiet=True)["genotype"]
    losses = {}
    for name, activation in {"found": found, "gelu": "gelu"}.items():
        with pytest.warns(UserWarning, match="byte pairs learnt from"):
            summary = run_training(recipe(data["name"], data=data), activation, tmp_path / name, quiet=True)
        losses[name] = summary["test_loss"]
        assert summary["test_tokens"] > 5_000
    assert all(0 < loss < math.log(300) for loss in losses.values()), losses


def test_a_training_is_measured_by_loss_and_learns(text, tmp_path):
    summary = run_training(recipe(text), "relu", tmp_path, quiet=True)
    losses = [line["test_loss"] for line in read_log(tmp_path) if line["kind"] == "epoch"]
    assert losses[-1] < losses[0]
    assert summary["test_loss"] == losses[-1]
    assert summary["train_tokens"] > 10 * summary["test_tokens"]
    again = run_training(recipe(text), "relu", tmp_path / "again", quiet=True)
    assert again["test_loss"] == summary["test_loss"]


def test_paced_epochs_go_on_where_the_one_before_ended(text):
    class Counting:
        def __len__(self):
            return 4

        def epoch(self, epoch, start=0):
            yield from ((epoch, step) for step in range(start, 4))

    paced = Paced(Counting(), 6)
    assert len(paced) == 6
    assert list(paced.epoch(0)) == [(0, 0), (0, 1), (0, 2), (0, 3), (1, 0), (1, 1)]
    assert list(paced.epoch(1)) == [(1, 2), (1, 3), (2, 0), (2, 1), (2, 2), (2, 3)]
    assert list(paced.epoch(1, start=4)) == [(2, 2), (2, 3)]


@pytest.mark.slow
def test_a_matrix_says_nats_and_takes_the_lower_loss_for_better(text, tmp_path):
    """Three of its four trainings here, which takes a second; the last one as a job."""
    asked = recipe(text, transfer={"activations": [], "baselines": ["relu", "gelu"], "seeds": 2})
    matrix = Matrix.plan(asked, tmp_path)
    matrix.write()
    for cell in matrix.wanted[:3]:
        own = matrix.cell_recipe(cell.model, cell.data)
        run_training(own, cell.activation, matrix.job_folder(cell), seed=cell.seed, quiet=True)
    done = run_transfer(asked, tmp_path, options=("--device", "cpu", "--wandb", "disabled"))
    assert sorted(each.state for each in done.outcomes) == ["done", "skipped", "skipped", "skipped"]
    results = read_results(tmp_path / "results.csv")
    assert {row.compared_by for row in results} == {"loss"}
    report = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "Loss in nats per token on the test split" in report
    assert "numbers of classes" not in report
    means = {name: sum(row.loss for row in results if row.activation == name) / 2 for name in ("relu", "gelu")}
    line = next(line for line in report.splitlines() if line.startswith("| `relu`"))
    assert f"{means['relu']:.4f}" in line
    sign = "+" if means["relu"] < means["gelu"] else "−"
    assert f"| {sign}0.0" in line


def test_an_estimate_is_of_the_steps_that_an_epoch_has(text, monkeypatch):
    assert 0 < estimate.timed_epoch(recipe(text), "cpu") < 20
    monkeypatch.setattr(estimate, "_step_seconds", lambda *_: 1.0)
    size = text.stat().st_size / (8 * 16)  # batches of the whole text
    test = 0.05 * size / 3  # forward alone
    assert estimate.timed_epoch(recipe(text), "cpu") == pytest.approx(6 + test, rel=1e-3)
    by_the_text = recipe(text, evaluate={"batch_size": 8})
    assert estimate.timed_epoch(by_the_text, "cpu") == pytest.approx(int(0.9 * size) + test, rel=1e-3)


@pytest.mark.slow
def test_a_choice_is_made_on_the_validation_part(text, tmp_path):
    assert measured_on(recipe(text)) == "test"
    assert measured_on(held_out(recipe(text))) == "validation"
    options = ("--device", "cpu", "--wandb", "disabled")
    summary = run_selection(recipe(text), tmp_path, 1, options=options, launch=Launch(warm=True, workers=1))
    assert summary["measured_on"] == "validation"
    assert "nats" in summary["why"]
    assert "Measured on text held out" in (tmp_path / "report.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model": "cifar_resnet20", "model_kwargs": {}}, "cifar_resnet20 cannot be built"),
        ({"model_kwargs": {"vocab_size": 100, "depth": 1}}, "vocab_size"),
        ({"model_kwargs": {"context": 8, "depth": 1}}, "does not take texts of 16 tokens"),
        ({"channels_last": True}, "channels_last"),
    ],
)
def test_what_does_not_fit_text(text, tmp_path, changes, said):
    with pytest.raises((RecipeError, DataError), match=said):
        run_training(recipe(text, **changes), "relu", tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"", "empty"), (b"abc\xff" * 4000, "not UTF-8"), (b"too short", "too few|leave one part empty")],
)
def test_texts_that_cannot_be_trained_on(tmp_path, content, said):
    (tmp_path / "t.txt").write_bytes(content)
    for run in (
        lambda: run_search(recipe(tmp_path / "t.txt"), tmp_path / "run"),
        lambda: run_training(recipe(tmp_path / "t.txt"), "relu", tmp_path / "run"),
    ):
        with pytest.raises(DataError, match=said):
            run()
        assert not (tmp_path / "run").exists()


def test_a_text_that_is_not_there(text, tmp_path):
    missing = text.parent / "tails.txt"
    with pytest.raises(KeyError, match=r"tales\.txt"):
        Matrix.plan(recipe(missing), tmp_path / "m")
    (tmp_path / "r.yaml").write_text(recipe(missing).to_yaml(), encoding="utf-8")
    assert "tales.txt" in refused("evaluate", tmp_path / "r.yaml", "--activation", "relu", "--out", tmp_path / "run")
    shutil.rmtree(tmp_path / "run", ignore_errors=True)


def test_the_loss_of_tokens_is_the_mean_over_all_of_them():
    from grafs_timm.runs.weight_step import loss_of

    logits, labels = torch.randn(2, 3, 5), torch.randint(5, (2, 3))
    picked = logits.log_softmax(-1).gather(-1, labels[..., None])
    assert loss_of(logits, labels) == pytest.approx(-picked.mean().item(), rel=1e-6)
