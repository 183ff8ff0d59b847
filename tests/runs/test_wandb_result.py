"""What W&B has of a finished run, read back by its own tool."""

import json
import sys
import warnings

import pytest
from tiny_runs import call, recipe
from wandb_file import files, media, read_offline

from grafs_timm.runs import wandb_result
from grafs_timm.runs.run_search import run_search
from grafs_timm.runs.run_training import run_training
from grafs_timm.runs.tracking import Wandb, read_log

pytest.importorskip("wandb")


def numbers(run):
    return [
        {f"{line['kind']}/{key}": value for key, value in line.items()
         if key not in ("kind", "time") and isinstance(value, int | float) and not isinstance(value, bool)}
        for line in read_log(run)
    ]  # fmt: skip


def check(run, kind, group):
    """What every kind of run shows; returns W&B's file, read, and its media's paths."""
    (file,) = files(run)
    found = read_offline(file)
    summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    assert (found.run["job_type"], found.run["run_group"]) == (kind, group)
    title = [summary.get("activation"), "test_resnet", "digits", "s0"]
    assert found.run["display_name"] == " ".join(part for part in title if part)
    assert found.config["model"] == summary["model"]
    assert found.config["seed"] == summary["seed"]
    rows = [{key: value for key, value in row.items() if not key.startswith("_")} for row in found.rows]
    assert rows[:-1] == numbers(run)  # the last one has the media
    shown = {key: value for key, value in found.summary.items() if key in summary}
    wanted = {key: value for key, value in summary.items() if not isinstance(value, dict) and value is not None}
    assert wanted.items() <= shown.items()
    kinds, paths = media(found)
    table = json.loads((file.parent / "files" / paths["result/epochs"]).read_text(encoding="utf-8"))
    epochs = [line for line in read_log(run) if line["kind"] == "epoch"]
    assert table["data"] == [[epoch[column] for column in table["columns"]] for epoch in epochs]
    assert {"epoch", "seconds"} <= set(table["columns"])
    assert summary["formula"] in (file.parent / "files" / paths["result/formula"]).read_text(encoding="utf-8")
    assert (file.parent / "files" / paths["result/function"]).read_bytes() == (run / "plots" / "function.png").read_bytes()
    return found, kinds


def test_a_search(tmp_path):
    run = tmp_path / "first"
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        run_search(recipe(), run, quiet=True, wandb=Wandb("offline", "batch"))
    found, kinds = check(run, "search", "batch")
    assert kinds == {"result/formula": "html-file", "result/epochs": "table-file", "result/function": "image-file",
                     "result/shrinking": "image-file"}  # fmt: skip
    artifacts = {item["type"]: item["manifest"]["contents"][0]["local_path"] for item in found.artifacts}
    assert artifacts["genotype"] == str(run / "genotype.json")
    assert artifacts["summary"] == str(run / "summary.json")


@pytest.mark.parametrize("activation", ["grafs_resnet", "relu"])
def test_an_evaluation(tmp_path, activation):
    run = tmp_path / "one"
    run_training(recipe(), activation, run, quiet=True, wandb=Wandb("offline", "matrix"))
    found, kinds = check(run, "evaluate", "matrix")
    assert kinds == {"result/formula": "html-file", "result/epochs": "table-file", "result/function": "image-file"}
    kinds = {item["type"] for item in found.artifacts}
    assert kinds >= {"summary"}
    assert ("genotype" in kinds) == (activation != "relu") == (run / "genotype.json").exists()


@pytest.mark.parametrize(
    ("command", "function"),
    [(("search",), "run_search.run_search"), (("evaluate", "--activation", "relu"), "run_training.run_training")],
)
def test_the_command_line_passes_mode_and_group_on(tmp_path, monkeypatch, command, function):
    passed = []
    monkeypatch.setattr(f"grafs_timm.runs.{function}", lambda *_, **settings: passed.append(settings) or 1 / 0)
    for options in ([], ["--wandb", "offline", "--wandb-group", "matrix"]):
        with pytest.raises(ZeroDivisionError):
            call(*command, "--out", tmp_path, *options)
    assert [one["wandb"] for one in passed] == [Wandb("auto"), Wandb("offline", "matrix")]


def test_a_result_that_cannot_be_shown_costs_a_warning(tmp_path, monkeypatch):
    monkeypatch.setattr(wandb_result.plots, "plot_functions", lambda *_: 1 / 0)
    with pytest.warns(RuntimeWarning, match="W&B is not shown the result of .*division by zero"):
        summary = run_training(recipe(), "relu", tmp_path, quiet=True, wandb=Wandb("offline"))
    assert json.loads((tmp_path / "summary.json").read_text(encoding="utf-8")) == summary


def test_without_wandb_nothing_is_drawn(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    monkeypatch.setattr(wandb_result, "plots", None)
    run_training(recipe(), "relu", tmp_path, quiet=True)
    assert not (tmp_path / "plots").exists()
