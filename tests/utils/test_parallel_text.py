"""Searches and trainings on text by two processes: what one does on the joint batch, and the same again after a stop."""

import random

import pytest
import torch
from compare import timeless
from text_runs import WORDS, recipe

from grafs_timm.runs import checkpoint
from grafs_timm.runs.tracking import read_log

pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where a text lies as tales.txt, and its recipe without dropout as tales.yaml."""
    draw, found = random.Random(0), tmp_path_factory.mktemp("text")
    (found / "tales.txt").write_text(" ".join(draw.choice(WORDS) for _ in range(20_000)), encoding="utf-8")
    size = {"depth": 1, "num_heads": 2, "embed_dim": 32, "dropout": 0.0}
    (found / "tales.yaml").write_text(recipe(found / "tales.txt", model_kwargs=size).to_yaml(), encoding="utf-8")
    return found


@pytest.mark.slow
def test_two_processes_train_as_one_does_on_the_joint_batch(ranks, folder, tmp_path):
    """18 steps of a model that draws nothing: the same weights to 1e-5, and the same losses."""
    for count in (1, 2):
        command = ["evaluate", folder / "tales.yaml", "--activation", "gelu", "--quiet", "--out", tmp_path / str(count)]
        codes, outputs = ranks("command", *command, ranks=count)
        assert codes == [0] * count, outputs
    one, two = (checkpoint.load(tmp_path / name / "checkpoint.pt") for name in "12")
    assert one["step"]["updates"] == two["step"]["updates"] == 18
    for name, value in one["model"].items():
        torch.testing.assert_close(two["model"][name], value, rtol=0, atol=1e-5, msg=name)
    lines = [timeless(tmp_path / name) for name in "12"]
    assert lines[0][0]["train_loss"] > lines[0][-1]["train_loss"] + 0.3  # it has learned something
    for alone, together in zip(*lines, strict=True):
        assert together == pytest.approx(alone, abs=1e-5)


@pytest.mark.slow
def test_a_search_stopped_in_the_middle_goes_on_to_the_same_bits(ranks, folder, tmp_path):
    command = ["search", folder / "tales.yaml", "--quiet", "--out"]
    codes, outputs = ranks("command", *command, tmp_path / "whole")
    assert codes == [0, 0], outputs
    codes, outputs = ranks("stopped_search", folder / "tales.yaml", tmp_path / "run", 2)
    assert codes == [9, 0], outputs
    codes, outputs = ranks("command", *command, tmp_path / "run", "--resume")
    assert codes == [0, 0], outputs
    assert [line["epoch"] for line in read_log(tmp_path / "run") if line["kind"] == "epoch"] == [5, 10, 15, 20]
    assert timeless(tmp_path / "run") == timeless(tmp_path / "whole")
    ours, theirs = (tmp_path / name / "genotype.json" for name in ("run", "whole"))
    assert ours.read_bytes() == theirs.read_bytes()
