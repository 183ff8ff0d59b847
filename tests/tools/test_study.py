"""The studies run, write their tables, and go on where they were."""

import csv

import pytest
import study_search
import study_within
from click.testing import CliRunner

from grafs_timm.activations.genotype import Gene, Genotype

TINY = [
    "data.train_images=160", "data.test_images=32", "search.batch_size=32", "evaluate.batch_size=32", "search.epochs=4",
    "search.warm_start=1", "search.shrink_start=1", "evaluate.epochs=2", "evaluate.weights.warmup_epochs=0", "compile=off",
    "model=cifar_resnet8",
]  # fmt: skip


def run(tool, out, *arguments, changes=TINY):
    sets = [part for change in changes for part in ("--set", change)]
    result = CliRunner().invoke(tool.main, [str(out), "--recipe", "resnet_digits", *arguments, *sets], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def rows(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
@pytest.mark.usefixtures("plain")
def test_a_study_of_searches(tmp_path):
    own = ["--seeds", "1", "--trainings", "2", "--random", "1", "--only", "guard"]
    changes = [*TINY, "data.validation_images=100"]
    said = run(study_search, tmp_path, *own, changes=changes)
    found = rows(tmp_path / "study.csv")
    assert [row["setting"] for row in found] == ["usual", "usual", "usual", "random", "guard"]
    default, guarded = found[0], found[-1]
    assert (default["formula"], default["difference"]) == ("relu", "0.0")
    assert guarded["changes"] == "search.guard=true"
    assert float(guarded["low"]) <= float(guarded["difference"]) <= float(guarded["high"])
    assert abs(float(guarded["mean"]) - float(default["mean"]) - float(guarded["difference"])) < 2e-4
    before = (tmp_path / "study.csv").read_bytes()
    assert run(study_search, tmp_path, *own, changes=changes) == said
    assert (tmp_path / "study.csv").read_bytes() == before


def test_an_unknown_setting_is_named(tmp_path):
    result = CliRunner().invoke(study_search.main, [str(tmp_path), "--recipe", "resnet_digits", "--only", "gard"])
    assert result.exit_code == 2
    assert "'gard': expected one of recipe, guard" in result.output
    assert not any(tmp_path.iterdir())


def test_the_steepest_slope_of_a_function():
    x, left = Gene("identity"), Gene("left")
    square = Genotype(x, x, left, Gene("square"), x, left)
    assert study_search.steepest(square) == pytest.approx(10, rel=1e-3)
    assert study_search.steepest(Genotype(x, x, left, Gene("relu"), x, left)) == pytest.approx(1)


@pytest.mark.slow
@pytest.mark.usefixtures("plain")
def test_a_study_of_the_search_within_a_training(tmp_path):
    changes = [*TINY, "evaluate.epochs=6", "search_within.epochs=4"]
    run(study_within, tmp_path, "--seeds", "2", changes=changes)
    found = rows(tmp_path / "within.csv")
    arms = ["within", "from scratch", "relu, same length", "relu, same cost"]
    assert [(row["seed"], row["arm"]) for row in found] == [(seed, arm) for seed in "01" for arm in arms]
    assert [row["epochs"] for row in found[:4]] == ["6", "6", "6", "8"]
    assert found[0]["formula"] == found[1]["formula"]
    summary = (tmp_path / "summary.txt").read_text(encoding="utf-8").splitlines()
    assert len(summary) == 3
    assert all(line.endswith("2 pairs") for line in summary)
