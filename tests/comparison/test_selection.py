"""A choice among searches: what is held out, who goes on, what is recommended, and that a stopped one goes on."""

import csv
import json
import math
from dataclasses import replace

import pytest
import torch
import yaml
from tiny_runs import SETTINGS, call, contents, recipe, refused
from written_results import read_results

from grafs_timm.activations.named import Activation
from grafs_timm.comparison import contenders, selection
from grafs_timm.comparison.contenders import Contender
from grafs_timm.comparison.results import Result
from grafs_timm.comparison.selection import Selection, held_out, of_length, run_searches, run_selection
from grafs_timm.errors import RecipeError, RunError
from grafs_timm.jobs.job import Outcome
from grafs_timm.runs import training
from grafs_timm.utils import compiled

pytestmark = pytest.mark.usefixtures("plain")
SHORT = SETTINGS["search"] | {"epochs": 4}
EVALUATE = SETTINGS["evaluate"] | {"epochs": 2}
RECIPE = recipe(search=SHORT, select={"final_seeds": 2, "seeds": 1, "keep": 1}, evaluate=EVALUATE)


def in_this_process(jobs, *where):
    """`run_jobs` without a process for each job."""
    outcomes = []
    for job in jobs:
        if job.done:
            outcomes.append(Outcome(job, "skipped"))
            continue
        ended = call(*job.arguments)
        outcomes.append(Outcome(job, "failed" if ended.exit_code else "done", ended.stderr.strip()))
    return outcomes


@pytest.fixture
def here(monkeypatch):
    monkeypatch.setattr(selection, "run_jobs", in_this_process)


@pytest.fixture(scope="module")
def chosen(tmp_path_factory):
    """A choice among three searches, with the splits that were opened for it."""
    out, opened = tmp_path_factory.mktemp("choice") / "out", []
    load = training.load_split
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiled, "plain_only", True)  # as `plain`, which comes too late for a module's fixture
        torch.set_num_threads(1)
        patch.setattr(selection, "run_jobs", in_this_process)
        patch.setattr(training, "load_split", lambda info, split, **more: opened.append(split) or load(info, split, **more))
        summary = run_selection(RECIPE, out, 3)
    torch.set_num_threads(threads)
    return out, summary, opened


def test_from_searches_to_a_ranking(chosen):
    out, summary, opened = chosen
    assert set(opened) == {"train"}
    assert (summary["searches"], summary["usual"], summary["measured_on"]) == (3, "relu", "validation")
    # three searches and three random cells, halved until one is left: 6 -> 3 -> 1
    assert [line.split("; ")[1] for line in summary["rounds"]] == ["3 remain", "1 remain"]
    assert len(summary["ranking"]) == 1
    assert summary["ranking"][0]["n"] == 2
    assert summary["recommended"] in ("relu", summary["ranking"][0]["activation"])
    rows = list(csv.DictReader((out / "trainings.csv").open(encoding="utf-8")))
    assert len(rows) == 7 + 4 + 2 * 2
    assert {row["split"] for row in rows} == {"validation"}
    # each round has seeds of its own, and the last one's had no part in the choice
    by_length = {epochs: {int(row["seed"]) for row in rows if row["epochs"] == epochs} for epochs in ("1", "2")}
    assert by_length == {"1": {0, 1}, "2": {2, 3}}
    report = (out / "report.md").read_text(encoding="utf-8")
    assert summary["why"] in report
    assert (out / "genotype.json").exists() == (summary["recommended"] != "relu")
    assert (out / "final" / "report.md").exists()


def test_its_cost_is_what_its_runs_took(chosen):
    out, summary, _ = chosen
    cost, seconds = summary["cost"], 0.0
    for log in out.rglob("log.jsonl"):
        lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
        own = [line["seconds"] for line in lines if line["kind"] == "epoch"]
        seconds += own[-1] if "searches" in log.parts else sum(own)
    assert cost["search_seconds"] + cost["training_seconds"] == pytest.approx(seconds, abs=0.2)
    units = (cost["search_seconds"] + cost["training_seconds"]) / cost["full_training_seconds"]
    assert cost["full_trainings"] == pytest.approx(units, rel=0.3)  # the seconds are rounded


def test_a_finished_one_is_only_read(chosen, here):
    out, summary, _ = chosen
    before = contents(out)
    assert run_selection(RECIPE, out, 3) == summary
    assert contents(out) == before
    with pytest.raises(RunError, match="searches: 3 there, 4 here"):
        run_selection(RECIPE, out, 4)
    with pytest.raises(RunError, match=r"recipe\.search\.epochs: 4 there, 5 here"):
        run_selection(recipe(search=SHORT | {"epochs": 5}), out, 3)


@pytest.mark.slow
def test_a_stopped_one_goes_on(chosen, tmp_path, monkeypatch):
    out, summary, _ = chosen
    left = [3, 6, 99]

    def stopped(jobs, *where):
        for job in jobs:
            if left[0] == 0:
                left.pop(0)
                raise KeyboardInterrupt
            left[0] -= not job.done
            in_this_process([job])
        return in_this_process(jobs)

    monkeypatch.setattr(selection, "run_jobs", stopped)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            run_selection(RECIPE, tmp_path, 3)
    again = run_selection(RECIPE, tmp_path, 3)
    for key in set(summary) - {"cost"}:
        assert again[key] == summary[key]
    ours, theirs = ([replace(row, seconds=None) for row in read_results(at / "trainings.csv")] for at in (tmp_path, out))
    assert ours == theirs


def test_what_fails_is_said_and_stops_nothing(tmp_path, monkeypatch):
    def one_fails(jobs, *where):
        return [
            Outcome(job, "failed", "error: no") if job.name in ("search s0", "random0 s1") else in_this_process([job])[0]
            for job in jobs
        ]

    monkeypatch.setattr(selection, "run_jobs", one_fails)
    few = recipe(search=SHORT, select={"final_seeds": 2, "final_epochs": 1, "keep": 9}, evaluate=EVALUATE)
    summary = run_selection(few, tmp_path / "one", 2)
    assert summary["failed"] == ["search s0: error: no", "random0 s1: error: no"]
    assert (summary["distinct"], summary["rounds"]) == (1, [])
    assert {row["activation"]: row["n"] for row in summary["ranking"]} == {"searches_s1": 2, "random0": 1}
    assert "not compared" in summary["searched_against_random"]
    monkeypatch.setattr(selection, "run_jobs", lambda jobs, *where: [Outcome(job, "failed", "error: no") for job in jobs])
    with pytest.raises(RunError, match="none of the 2 searches ended: error: no"):
        run_selection(RECIPE, tmp_path / "all", 2)


def test_the_better_half_goes_on_and_one_that_lost_a_training_is_last(tmp_path):
    def row(label, seed, accuracy):
        return Result(label, "found", None, None, None, "m", "d", seed, accuracy, 1.0, "validation", 1)

    field = [Contender(Activation(label, kind="found")) for label in "abcde"]
    figures = {"a": (50, 52), "b": (60, 61), "c": (70, math.nan), "d": (55, 56), "e": (40, 41), "relu": (99, 99)}
    rows = [row(label, seed, accuracy) for label, both in figures.items() for seed, accuracy in enumerate(both)]
    choice = Selection(recipe(select={"keep": 2}), tmp_path, 5)
    assert [each.label for each in choice.halve(field, rows)] == ["b", "d"]
    (said,) = choice.rounds
    assert said.startswith("round 1: b 60.50, d 55.50, a 51.00, e 40.50, c -inf beside relu 99.00")
    assert [each.label for each in Selection(recipe(select={"keep": 3}), tmp_path, 5).halve(field, rows)] == ["b", "d", "a"]


@pytest.mark.parametrize(
    ("train_images", "expected"),
    [(None, 143), (300, 300), (1000, 437)],  # 1437 images: a tenth; as many as are trained on; what is left
)
def test_how_many_images_are_held_out(train_images, expected):
    data = {"name": "digits", "train_images": train_images}
    assert held_out(recipe(data=data)).data.validation_images == expected
    assert held_out(recipe(data=data | {"validation_images": 7})).data.validation_images == 7


def test_none_can_be_held_out():
    with pytest.raises(RecipeError, match=r"data\.validation_images: digits has 1437 training images and train_images takes"):
        held_out(recipe(data={"name": "digits", "train_images": 1437}))


def test_a_shorter_evaluation_keeps_its_proportions():
    weights = {"sched": "multistep", "decay_epochs": [100, 150], "warmup_epochs": 10}
    short = of_length(recipe(evaluate={"epochs": 200, "weights": weights}), 50).evaluate
    assert (short.epochs, short.weights.decay_epochs, short.weights.warmup_epochs) == (50, (25, 38), 2)
    least = of_length(recipe(evaluate={"epochs": 200, "weights": weights}), 1).evaluate
    assert (least.weights.decay_epochs, least.weights.warmup_epochs) == ((1,), 0)


def test_several_searches_are_a_batch(tmp_path, here):
    assert run_searches(recipe(search=SHORT), tmp_path / "batch", 2) == []
    found = contenders.given(str(tmp_path / "batch"))
    assert [(each.label, each.batch, each.search_seed) for each in found] == [
        ("batch_s0", "batch", 0),
        ("batch_s1", "batch", 1),
    ]
    with pytest.raises(RunError, match=r"recipe\.search\.epochs: 4 there, 6 here"):
        run_searches(recipe(), tmp_path / "batch", 2)


def test_on_the_command_line(chosen, tmp_path):
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(SETTINGS), encoding="utf-8")
    assert "--select selects among several searches: give --seeds N" in refused("search", tmp_path / "tiny.yaml", "--select")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").touch()
    said = refused("search", tmp_path / "tiny.yaml", "--seeds", 2, "--select", "--out", tmp_path / "full", "--device", "cpu")
    assert "is not empty and is no selection" in said
    out, summary, _ = chosen
    (tmp_path / "same.yaml").write_text(RECIPE.to_yaml(), encoding="utf-8")
    ended = call("search", tmp_path / "same.yaml", "--seeds", 3, "--select", "--out", out, "--device", "cpu")
    assert ended.exit_code == 0, ended.output
    assert f"advice    {summary['why']}" in ended.stdout
    assert f"cost      {summary['cost']['full_trainings']} full trainings of relu" in ended.stdout
