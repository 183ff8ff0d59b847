"""The campaign tool: what goes into the matrix, what is left, what a slice leaves behind; and a whole small campaign."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import fill_zoo
import pytest
import yaml
from fill_zoo import Family, chosen, families, left, size, tidy

from grafs_timm import formula
from grafs_timm.errors import GrafsError, RunError
from grafs_timm.formula import Gene, Genotype
from grafs_timm.recipe import parse_recipe
from grafs_timm.report import read_results, write_results
from grafs_timm.statistics import Result

SMALL = """
model: cifar_resnet20
data: {name: digits, train_images: 200, test_images: 100}
search: {epochs: 4, warm_start: 1, shrink_start: 2, batch_size: 32}
evaluate: {epochs: 2, batch_size: 32, weights: {sched: none}}
select: {epochs: 1, seeds: 1, keep: 2, final_seeds: 2}
transfer: {models: [cifar_resnet20], data: [digits], random: 1, seeds: 1, baselines: [relu, gelu]}
"""


def cell(op):
    """op(x), as a genotype."""
    gene = Gene("identity")
    return Genotype(Gene(op), gene, Gene("left"), gene, gene, Gene("left"))


def result(label, seed, accuracy, epochs):
    return Result(label, "found", "searches", 0, "0" * 64, "m", "d", seed, accuracy, 1.0, "validation", epochs)


def family(folder, ops, trainings):
    for seed, op in enumerate(ops):
        formula.save(cell(op), folder / "selection" / "searches" / f"s{seed}" / "genotype.json")
    write_results(trainings, folder / "selection" / "trainings.csv")
    return Family("resnet", folder, parse_recipe({"model": "m", "data": "d", "select": {"final_seeds": 2}}, "made"), 100)


def test_the_best_ranked_search_is_chosen_and_never_a_usual_activation(tmp_path):
    last = {"random1": 73.0, "searches_s0": 72.0, "searches_s1": 68.0, "searches_s2": 69.0}
    rows = [result(label, seed, accuracy, 2) for label, accuracy in last.items() for seed in (2, 3)]
    lucky = [result("searches_s1", 0, 99.0, 1)]  # in a round before
    assert chosen(family(tmp_path, ["relu", "atan", "softplus"], lucky + rows)) == "searches_s2"


def test_where_none_is_ranked_the_longest_trainings_decide(tmp_path):
    rows = [result("searches_s1", 0, 50.0, 1), result("searches_s2", 0, 40.0, 1), result("searches_s2", 1, 30.0, 2)]
    rows += [result("random0", seed, 60.0, 2) for seed in (4, 5)]
    assert chosen(family(tmp_path, ["relu", "atan", "softplus"], rows)) == "searches_s2"


def test_searches_that_all_ended_in_usual_activations_leave_nothing_to_publish(tmp_path):
    rows = [result("searches_s0", 2, 50.0, 1), result("searches_s1", 2, 40.0, 1)]
    with pytest.raises(RunError, match="every search ended in a usual activation"):
        chosen(family(tmp_path, ["relu", "gelu"], rows))


@pytest.mark.parametrize("budget", ["full", "reduced"])
def test_every_recipe_has_other_models_other_data_and_the_controls(tmp_path, budget):
    for family in families(tmp_path, (), budget):
        asked, of_text = family.recipe.transfer, family.recipe.data.text is not None
        assert len(asked.models) == 3 if of_text and budget == "full" else 2
        if of_text:
            assert "relu2" in asked.baselines
            assert len(asked.data) == (2 if budget == "reduced" else 0)
            assert family.choosing().data.text.measure == "validation"
        else:
            assert [each.name for each in asked.data] == ["cifar10", "cifar100", "fashion-mnist"]
            assert family.choosing().data.validation_images
        assert {"relu", "gelu", "silu", "elu", "leaky_relu"} <= set(asked.baselines)
        assert asked.random >= 3
        assert asked.seeds >= 3
        assert left(family)[1] is None  # nothing was timed


def test_a_family_without_a_recipe(tmp_path):
    with pytest.raises(GrafsError, match="no reduced recipe for family 'vgg'; there are: resnet, vit, mlp_mixer, gpt"):
        families(tmp_path, ("vgg",), "reduced")


def test_more_seeds_extend_the_matrix_and_leave_the_choice_as_it_was(tmp_path):
    recipe = parse_recipe(yaml.safe_load(SMALL), "small")
    asked, more = Family("resnet", tmp_path, recipe, 100), Family("resnet", tmp_path, recipe, 100, seeds=4)
    assert more.choosing() == asked.choosing()
    for seed, op in enumerate(("relu", "atan")):
        formula.save(cell(op), tmp_path / "selection" / "searches" / f"s{seed}" / "genotype.json")
    write_results([result("searches_s1", 2, 50.0, 1)], tmp_path / "selection" / "trainings.csv")
    assert {each.seed for each in asked.planned().wanted} == {0}
    assert {each.seed for each in more.planned().wanted} == {0, 1, 2, 3}


def run_folder(path, kilobytes, epochs, finished):
    path.mkdir(parents=True)
    (path / "run.json").write_text("{}")
    (path / "checkpoint.pt").write_bytes(bytes(1024 * kilobytes))
    (path / "log.jsonl").write_text("".join(json.dumps({"kind": "epoch", "epoch": n + 1}) + "\n" for n in range(epochs)))
    if finished:
        (path / "summary.json").write_text("{}")
        (path / "weights").mkdir()
        (path / "weights" / "model.safetensors").write_bytes(bytes(1024 * kilobytes))


def test_a_slice_leaves_no_more_than_it_may(tmp_path):
    run_folder(tmp_path / "done", 600, 9, finished=True)
    run_folder(tmp_path / "far", 600, 8, finished=False)
    run_folder(tmp_path / "near", 600, 2, finished=False)
    assert tidy(tmp_path, megabytes=1) == ["near begins anew: 2 epochs lost"]
    assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.glob("**/*")) == [
        "done", "done/log.jsonl", "done/run.json", "done/summary.json",
        "far", "far/checkpoint.pt", "far/log.jsonl", "far/run.json",
    ]  # fmt: skip
    assert size(tmp_path) <= 1


@pytest.mark.slow
def test_a_campaign_in_slices(tmp_path):
    """Slices that end anywhere come to the same results as one that doesn't end."""
    (tmp_path / "small.yaml").write_text(SMALL)
    start = (
        "import fill_zoo, sys; fill_zoo.REDUCED = {'resnet': sys.argv.pop(1)}; fill_zoo._HELD_OUT = {'reduced': 100}; "
        "fill_zoo.SEARCHES = 2; fill_zoo.main()"
    )

    def slices(out, *options):
        for _ in range(40):
            command = [sys.executable, "-c", start, tmp_path / "small.yaml", out, "--budget", "reduced", "--device", "cpu"]
            ended = subprocess.run([*command, *options], capture_output=True, text=True, cwd=Path(fill_zoo.__file__).parent)
            assert ended.returncode == 0, ended.stderr
            if '"left": "nothing"' in ended.stdout:
                return [replace(row, seconds=None) for row in read_results(out / "resnet" / "matrix" / "results.csv")]
        raise AssertionError(ended.stdout)

    whole = slices(tmp_path / "whole")
    assert len(whole) > 3
    assert slices(tmp_path / "cut", "--minutes", "0.4") == whole
    assert size(tmp_path / "cut") < 2
