"""A choice among searches: what is held out, who goes on, what is recommended, and that a stopped one goes on."""

import csv
import json
import math
import random
import re
from collections import Counter
from dataclasses import dataclass, field, replace

import pytest
import torch
import yaml
from markupsafe import escape
from tiny_runs import SETTINGS, call, contents, recipe, refused
from written_results import read_results

from grafs_timm.activations import genotype as genotypes
from grafs_timm.activations.genotype import Gene, Genotype
from grafs_timm.activations.named import Activation
from grafs_timm.comparison import contenders, selection
from grafs_timm.comparison.contenders import Contender
from grafs_timm.comparison.ranking import look_level
from grafs_timm.comparison.report import write_selection
from grafs_timm.comparison.results import Result
from grafs_timm.comparison.selection import Selection, run_searches, run_selection
from grafs_timm.config.recipe import of_length
from grafs_timm.errors import RecipeError, RunError
from grafs_timm.jobs.job import Outcome
from grafs_timm.runs import training
from grafs_timm.runs.training import held_out
from grafs_timm.utils import compiled
from grafs_timm.utils.files import write_json

pytestmark = pytest.mark.usefixtures("plain")
SHORT = SETTINGS["search"] | {"epochs": 4}
EVALUATE = SETTINGS["evaluate"] | {"epochs": 2}
RECIPE = recipe(search=SHORT, select={"final_seeds": 2, "controls": 2}, evaluate=EVALUATE)


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


def found(op, *gamma, bound=None):
    """A function of one operation."""
    return Genotype(
        Gene("identity"), Gene("identity"), Gene("left"), Gene(op, *gamma), Gene("identity"), Gene("left"), bound=bound
    )


@dataclass
class Pretended:
    """`run_jobs` that writes what runs would leave: a search ends in the function of its seed, a training in a made figure.

    ``worth`` is by how much a label is better than the default activation; the noise depends on the training's seed and label.
    """

    searched: list[Genotype]
    worth: dict[str, float] = field(default_factory=dict)
    noise: float = 0.1
    trained: list[tuple[str, int, int]] = field(default_factory=list)

    def __call__(self, jobs, *where):
        for job in jobs:
            if job.done:
                continue
            words = dict(zip(job.arguments[2::2], job.arguments[3::2], strict=False))
            job.folder.mkdir(parents=True)
            seed, lines = int(words["--seed"]), [{"kind": "epoch", "epoch": 1, "seconds": 39.0}]
            if job.arguments[0] == "search":
                genotypes.save(self.searched[seed], job.folder / "genotype.json")
                write_json(job.folder / "run.json", {"kind": "search", "seed": seed})
            else:
                epochs = int(job.folder.parts[-3].removesuffix("_epochs"))
                label = job.folder.parts[-2]
                self.trained.append((label, epochs, seed))
                accuracy = 50 + self.worth.get(label, 0.0) + random.Random(f"{label} {seed}").gauss(0, self.noise)
                figures = {"validation_accuracy": accuracy, "validation_loss": 1.0}
                lines = [{"kind": "epoch", "epoch": n + 1, "seconds": 1.0, **figures} for n in range(epochs)]
            (job.folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
            write_json(job.folder / "summary.json", {"measured_on": "validation"})
        return [Outcome(job, "done") for job in jobs]


def selected(monkeypatch, out, searched, worth=None, noise=0.1, **select):
    """The summary of a selection among pretended searches that ended in ``searched``, and what was trained."""
    runs = Pretended(list(searched), worth or {}, noise)
    monkeypatch.setattr(selection, "run_jobs", runs)
    full = SETTINGS["evaluate"] | {"epochs": 100}
    return run_selection(recipe(search=SHORT, select=select, evaluate=full), out, len(searched)), runs.trained


FIVE = tuple(map(found, ("silu", "gelu", "elu", "softplus", "tanh")))


def test_the_choice_among_five_searches_costs_less_than_twelve_trainings(tmp_path, monkeypatch):
    """The dearest course: five distinct functions, and a verdict that is open to the end."""
    summary, trained = selected(monkeypatch, tmp_path, FIVE, {"searches_s2": 0.9}, noise=0.2)
    by_epochs = Counter(epochs for _, epochs, _ in trained)
    assert by_epochs[12] == 6
    assert by_epochs[25] == 4
    assert {label for label, epochs, _ in trained if epochs == 25} > {"relu", "searches_s2"}
    assert {label for label, epochs, _ in trained if epochs == 100} == {"relu", "searches_s2"}
    assert len(trained) == len(set(trained))
    assert by_epochs[100] <= 8
    # a search took 0.39 of a full training
    most = 5 * 0.39 + 6 * 0.12 + 4 * 0.25 + 8
    assert summary["cost"]["full_trainings"] <= most < 12
    # the seeds of the last trainings had no part in the choice
    assert {seed for _, epochs, seed in trained if epochs < 100}.isdisjoint(
        {seed for _, epochs, seed in trained if epochs == 100}
    )
    assert "searched_against_random" not in summary
    assert "andom" not in (tmp_path / "report.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("worth", "noise", "pairs", "recommended", "said"),
    [
        (-3.0, 0.1, 2, "relu", "Ended after 2 of 4 seeds: no result of the others could have shown it to be better."),
        (3.0, 0.2, 3, "searches_s0", "Ended after 3 of 4 seeds: the verdict is clear. The interval is of 99.2 %"),
    ],
)
def test_it_ends_when_the_verdict_is_clear(tmp_path, monkeypatch, worth, noise, pairs, recommended, said):
    summary, trained = selected(monkeypatch, tmp_path, [found("tanh")], {"searches_s0": worth}, noise)
    assert sum(epochs == 100 for _, epochs, _ in trained) == 2 * pairs
    assert summary["recommended"] == recommended
    assert said in summary["why"]
    assert summary["level"] == look_level(pairs, 4)
    assert summary["rounds"] == []
    assert (tmp_path / "genotype.json").exists() == (recommended != "relu")
    assert f"The intervals are of {100 * summary['level']:.1f} %." in (tmp_path / "report.md").read_text(encoding="utf-8")


def test_equal_functions_are_trained_once_and_the_default_activation_is_trained_anyway(tmp_path, monkeypatch):
    twice = [found("relu"), found("gelu"), found("scale", 2.0), found("gelu"), found("scale", 3.0)]
    summary, trained = selected(monkeypatch, tmp_path, twice)
    assert (summary["distinct"], len(summary["rounds"])) == (3, 1)
    assert {label for label, _, _ in trained} == {"relu", "searches_s1", "searches_s2"}
    assert [(row["activation"], row["seeds"], row["not_trained"]) for row in summary["searched"]] == [
        ("searches_s0", [0], "the same function as relu, the default activation"),
        ("searches_s1", [1, 3], None),
        ("searches_s2", [2, 4], None),
    ]
    assert summary["searched"][1]["same_as"] == "gelu"


def test_what_the_formula_rules_out_is_listed_and_costs_nothing(tmp_path, monkeypatch):
    searched = [found("const", 1.0), found("relu"), found("scale", 100.0)]
    summary, trained = selected(monkeypatch, tmp_path / "out", searched, controls=2)
    assert trained == []
    assert summary["recommended"] == "relu"
    assert summary["why"] == "Keep relu: none of the 3 functions that the searches ended in is worth a training."
    assert summary["cost"]["full_trainings"] is None
    report = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    for reason in ("constant on [−5, 5]", "the same function as relu, the default activation", "gain: 0.01, outside"):
        assert any(row["not_trained"].startswith(reason) for row in summary["searched"])
        assert reason in report
    assert "Nothing was trained: the searches 117 s" in report
    assert "In round 1" not in report
    (tmp_path / "same.yaml").write_text((tmp_path / "out" / "recipe.yaml").read_text(encoding="utf-8"), encoding="utf-8")
    ended = call("search", tmp_path / "same.yaml", "--seeds", 3, "--select", "--out", tmp_path / "out", "--device", "cpu")
    assert ended.exit_code == 0, ended.output
    assert "cost      117 s of searches, no training" in ended.stdout
    assert "searches_s0      not trained: constant on [−5, 5]" in ended.stdout


def test_rounds_that_are_equally_long_add_seeds_and_train_nothing_twice(tmp_path, monkeypatch):
    summary, trained = selected(monkeypatch, tmp_path, FIVE, epochs=1, seeds=2)
    assert len(trained) == len(set(trained))
    assert {seed for label, epochs, seed in trained if (label, epochs) == ("relu", 1)} == {0, 1, 2, 3}
    assert [line.split(":")[0] for line in summary["rounds"]] == ["round 1 (1 epoch, 2 seeds)", "round 2 (1 epoch, 4 seeds)"]
    assert min(seed for _, epochs, seed in trained if epochs == 100) == 4


def test_random_cells_are_trained_where_they_are_asked_for(tmp_path, monkeypatch):
    summary, trained = selected(monkeypatch, tmp_path, [*FIVE, found("relu")], controls=3)
    assert {label for label, epochs, _ in trained if epochs == 12} >= {"random0", "random1", "random2"}
    # the search that ended in the default activation counts by that one's training
    assert summary["searched_against_random"].startswith("6 searched and 3 random activations: median accuracy")
    assert "In round 1, 6 searched and 3 random" in (tmp_path / "report.md").read_text(encoding="utf-8")


def test_a_folder_of_the_earlier_procedure_is_read_if_finished_and_refused_if_not(tmp_path, monkeypatch):
    summary, _ = selected(monkeypatch, tmp_path, FIVE)
    about = json.loads((tmp_path / "selection.json").read_text(encoding="utf-8"))
    write_json(tmp_path / "selection.json", about | {"format": "grafs-selection/1"})
    file = tmp_path / "recipe.yaml"
    file.write_text(file.read_text(encoding="utf-8").replace("  keep: 1", "  keep: 2"), encoding="utf-8")
    assert selected(monkeypatch, tmp_path, FIVE)[0] == summary
    (tmp_path / "summary.json").unlink()
    with pytest.raises(RunError, match=r"a half-done selection of the format grafs-selection/1.*name a new folder with --out"):
        selected(monkeypatch, tmp_path, FIVE)


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
    # three searches at the most and two random cells
    field = sum(row["not_trained"] is None for row in summary["searched"]) + 2
    assert summary["rounds"][0].endswith(f"; {math.ceil(field / 2)} remain" + "s" * (field < 3))
    assert len(summary["ranking"]) == 1
    assert summary["ranking"][0]["n"] == 2
    assert summary["recommended"] in ("relu", summary["ranking"][0]["activation"])
    rows = list(csv.DictReader((out / "trainings.csv").open(encoding="utf-8")))
    assert {row["split"] for row in rows} == {"validation"}
    # the last seeds had no part in the choice
    by_length = {epochs: {int(row["seed"]) for row in rows if row["epochs"] == epochs} for epochs in ("1", "2")}
    assert by_length["2"] == {max(by_length["1"]) + 1, max(by_length["1"]) + 2}
    report = (out / "report.md").read_text(encoding="utf-8")
    assert summary["why"] in report
    assert (out / "genotype.json").exists() == (summary["recommended"] != "relu")
    assert (out / "final" / "report.md").exists()


def test_its_page_is_that_of_its_files_and_leads_to_the_others(chosen):
    out, summary, _ = chosen
    page = (out / "report.html").read_text(encoding="utf-8")
    assert str(escape(summary["why"])) in page
    assert re.findall(r"<h2>(.*?)</h2>", page) == [
        "Ranking", "Rounds", "The functions that were found", "Learning curves", "Searches", "Costs", "Settings",
    ]  # fmt: skip
    links = re.findall(r'href="([^"]+html)"', page)
    assert set(links) == {"final/report.html", *(f"searches/s{seed}/report.html" for seed in range(3))}
    assert all((out / link).exists() for link in links)
    assert write_selection(out).read_text(encoding="utf-8") == page


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
    runs = Pretended([found("tanh"), found("gelu")])

    def one_fails(jobs, *where):
        lost = [job for job in jobs if job.name in ("search s0", "searches_s1 s1")]
        return runs([job for job in jobs if job not in lost]) + [Outcome(job, "failed", "error: no") for job in lost]

    monkeypatch.setattr(selection, "run_jobs", one_fails)
    summary = run_selection(RECIPE.model_copy(update={"select": recipe().select}), tmp_path / "one", 2)
    assert summary["failed"] == ["search s0: error: no", "searches_s1 s1: error: no"]
    assert (summary["distinct"], summary["rounds"], summary["recommended"]) == (1, [], "relu")
    assert {row["activation"]: row["n"] for row in summary["ranking"]} == {"searches_s1": 1}
    monkeypatch.setattr(selection, "run_jobs", lambda jobs, *where: [Outcome(job, "failed", "error: no") for job in jobs])
    with pytest.raises(RunError, match="none of the 2 searches ended: error: no"):
        run_selection(RECIPE, tmp_path / "all", 2)


@pytest.mark.parametrize(("keep", "left"), [(1, "bda"), (2, "bda"), (4, "bdae")])
def test_the_better_half_goes_on_and_one_that_lost_a_training_is_last(tmp_path, monkeypatch, keep, left):
    def row(label, seed, accuracy):
        return Result(label, "found", None, None, None, "m", "d", seed, accuracy, 1.0, "validation", 1)

    contending = [Contender(Activation(label, kind="found")) for label in "abcde"]
    figures = {"a": (50, 52), "b": (60, 61), "c": (70, math.nan), "d": (55, 56), "e": (40, 41), "relu": (99, 99)}
    rows = [row(label, seed, accuracy) for label, both in figures.items() for seed, accuracy in enumerate(both)]
    monkeypatch.setattr(Selection, "train", lambda *_: rows)
    choice = Selection(recipe(select={"keep": keep, "epochs": 3, "seeds": 2}), tmp_path, 5)
    assert [each.label for each in choice.halve(contending)] == list(left)
    (said,) = choice.rounds
    assert said.startswith("round 1 (1 epoch, 2 seeds): b 60.50, d 55.50, a 51.00, e 40.50, c -inf beside relu 99.00")
    assert [each.label for each in choice.halve(contending)] == list("bdae"[:keep])


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
    said = refused("search", tmp_path / "tiny.yaml", "--seeds", 2, "--controls", 2)
    assert "--controls trains random cells in a selection: give --seeds N --select too" in said
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").touch()
    said = refused("search", tmp_path / "tiny.yaml", "--seeds", 2, "--select", "--out", tmp_path / "full", "--device", "cpu")
    assert "is not empty and is no selection" in said
    out, summary, _ = chosen
    (tmp_path / "same.yaml").write_text(RECIPE.to_yaml(), encoding="utf-8")
    ended = call("search", tmp_path / "same.yaml", "--seeds", 3, "--select", "--controls", 2, "--out", out, "--device", "cpu")
    assert ended.exit_code == 0, ended.output
    assert f"advice    {summary['why']}" in ended.stdout
    assert f"cost      {summary['cost']['full_trainings']} full trainings of relu" in ended.stdout
    best = "relu" if summary["recommended"] == "relu" else out / "genotype.json"
    assert ended.stdout.endswith(f"next      grafs-timm train {tmp_path}/same.yaml --activation {best}\n")
