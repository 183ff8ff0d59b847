"""`grafs-timm open`: the path and the browser, pages made where they are missing, and what is said of other folders."""

from __future__ import annotations

import json
import os
import webbrowser

import pytest
from tiny_runs import call, recipe, refused

from grafs_timm.comparison import transfer
from grafs_timm.comparison.matrix import Matrix
from grafs_timm.runs.run_training import run_training


@pytest.fixture
def opened(monkeypatch):
    """What the browser was asked to show."""
    asked = []
    monkeypatch.setattr(webbrowser, "open", lambda url: asked.append(url) or True)
    return asked


@pytest.fixture(scope="module")
def training(tmp_path_factory):
    folder = tmp_path_factory.mktemp("open") / "run"
    run_training(recipe(), "relu", folder, quiet=True)
    return folder


def test_it_prints_the_path_and_shows_the_page(training, opened):
    result = call("open", training)
    page = training / "report.html"
    assert result.stdout == f"{page}\n"
    assert opened == [page.as_uri()]
    before = page.stat().st_mtime_ns
    assert call("open", training, "--print").stdout == f"{page}\n"
    assert len(opened) == 1
    assert page.stat().st_mtime_ns == before


def test_a_page_older_than_the_log_is_made_again(training):
    page = training / "report.html"
    page.write_text("old", encoding="utf-8")
    os.utime(page, (1, 1))
    call("open", training, "--print")
    assert "<h1>Training: test_resnet on digits" in page.read_text(encoding="utf-8")


def test_without_a_browser_it_says_so(training, monkeypatch):
    monkeypatch.setattr(webbrowser, "open", lambda url: False)
    result = call("open", training)
    assert result.exit_code == 0
    assert "no browser was found here" in result.stderr


def test_a_folder_that_is_no_run_is_an_error_that_names_what_is_below(training, tmp_path, opened):
    assert "there is no such folder" in refused("open", tmp_path / "nothing")
    assert "is a file; name the folder" in refused("open", training / "run.json")
    assert "is no run: it has no run.json, selection.json or matrix.json\n" in refused("open", tmp_path)
    assert f"below it: {training}" in refused("open", training.parent)
    assert opened == []


def test_a_damaged_run_is_an_error(training, tmp_path, opened):
    (tmp_path / "run.json").write_text("{", encoding="utf-8")
    assert "run.json is damaged" in refused("open", tmp_path)
    (tmp_path / "run.json").write_bytes((training / "run.json").read_bytes())
    assert "recipe" in refused("open", tmp_path)


def test_a_selection_under_way_says_what_can_be_opened(training, tmp_path, opened):
    (tmp_path / "selection.json").write_text("{}", encoding="utf-8")
    search = tmp_path / "searches" / "s0"
    search.mkdir(parents=True)
    (search / "run.json").write_text("{}", encoding="utf-8")
    said = refused("open", tmp_path)
    assert "a selection under way" in said
    assert str(search) in said


def test_a_matrix_gets_the_page_of_what_is_done(training, tmp_path, opened):
    asked = recipe(transfer={"activations": [], "baselines": ["relu"], "seeds": 2})
    matrix = Matrix.plan(asked, tmp_path)
    matrix.write()
    assert "none of them has finished" in refused("open", tmp_path, "--print")
    job = transfer.jobs(matrix)[0].folder
    job.mkdir(parents=True)
    for name in ("summary.json", "log.jsonl"):
        (job / name).write_bytes((training / name).read_bytes())
    call("open", tmp_path)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "1 of 1 trainings have a figure" in page or "1 of 2 trainings have a figure" in page
    accuracy = json.loads((job / "summary.json").read_bytes())["test_accuracy"]
    assert f"{accuracy:.2f}" in page
    assert not (tmp_path / "report.md").exists()
    assert opened == [(tmp_path / "report.html").as_uri()]
