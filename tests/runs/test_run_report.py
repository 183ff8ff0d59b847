"""The page of a run: at the end and halfway, of old logs and of hostile names, and that a run never fails by it."""

from __future__ import annotations

import json
import re
import shutil

import pytest
import torch
from browser import as_it_is, needs_chromium
from same_runs import differences
from tiny_runs import SETTINGS, WEIGHTS, contents, recipe

from grafs_timm.errors import GrafsWarning, RunError
from grafs_timm.runs import loop
from grafs_timm.runs.report import write_report
from grafs_timm.runs.run_search import run_search
from grafs_timm.runs.run_training import run_training
from grafs_timm.runs.run_within import run_within

pytestmark = pytest.mark.usefixtures("plain")
SHORT = SETTINGS["search"] | {"epochs": 3, "warm_start": 1, "shrink_start": 1}
WITHIN = {
    "evaluate": SETTINGS["evaluate"] | {"epochs": 4, "weights": WEIGHTS},
    "search_within": {"epochs": 3, "warm_start": 1, "shrink_start": 1},
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A search, a training with a search, and a training, finished."""
    from grafs_timm.utils import compiled

    folder, kept, threads = tmp_path_factory.mktemp("runs"), compiled.plain_only, torch.get_num_threads()
    compiled.plain_only = True
    torch.set_num_threads(1)
    run_search(recipe(search=SHORT), folder / "search", quiet=True)
    run_within(recipe(**WITHIN), folder / "within", quiet=True)
    run_training(recipe(), "gelu", folder / "training", quiet=True)
    compiled.plain_only = kept
    torch.set_num_threads(threads)
    return folder


def changed(run, to, **files):
    """A copy of a run whose log's lines or other files are changed."""
    folder = to / "run"
    shutil.copytree(run, folder)
    for name, change in files.items():
        path = folder / {"log": "log.jsonl", "about": "run.json", "summary": "summary.json"}[name]
        if change is None:
            path.unlink()
            continue
        lines = [change(json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()] if name == "log" else None
        text = (
            "".join(json.dumps(line) + "\n" for line in lines if line)
            if lines
            else json.dumps(change(json.loads(path.read_bytes())))
        )
        path.write_text(text, encoding="utf-8")
    (folder / "report.html").unlink(missing_ok=True)
    return folder


def page_of(folder):
    return write_report(folder).read_text(encoding="utf-8")


def sections(page):
    return re.findall(r"<h2>(.*?)</h2>", page)


def test_a_search_and_a_training_with_one_end_with_their_page(runs):
    search, within = ((runs / name / "report.html").read_text(encoding="utf-8") for name in ("search", "within"))
    for page, name in ((search, "search"), (within, "within")):
        summary = json.loads((runs / name / "summary.json").read_bytes())
        assert sections(page) == ["The function", "How it formed", "Learning curves", "Costs", "Epochs", "Settings"]
        assert f"<code>{summary['formula']}</code>" in page
        assert page.count('data-frame="epoch') == 3
        assert "α of each candidate" in page
        assert page.count("<figcaption><b>u1</b>") == page.count("<figcaption><b>b2</b>") == 2
        assert "relu" in page
        assert "momentum" in page
    assert "search steps" in search
    assert "full trainings" in search
    assert re.search(r"<dt>a search step</dt><dd class=\"clock\">[\d.]+ plain steps, as measured in this run</dd>", within)
    assert "search ends" in within


def test_the_page_is_that_of_the_files_to_the_byte(runs, tmp_path):
    for name in ("search", "within"):
        before = (runs / name / "report.html").read_bytes()
        assert write_report(changed(runs / name, tmp_path / name)).read_bytes() == before


def test_a_training_has_a_page_when_it_is_asked_for(runs, tmp_path):
    assert not (runs / "training" / "report.html").exists()
    page = page_of(changed(runs / "training", tmp_path))
    assert sections(page) == ["The function", "Learning curves", "Costs", "Epochs", "Settings"]
    assert "Training: test_resnet on digits, seed 0" in page


def test_a_run_under_way_has_the_page_of_its_state(runs, tmp_path):
    half = changed(
        runs / "within", tmp_path, summary=None, log=lambda line: line if line.get("epoch", 0) <= 1 else None
    )  # fmt: skip
    (half / "genotype.json").unlink()
    page = page_of(half)
    assert "Under way: 1 of 4 epochs are logged." in page
    assert "the largest α so far" in page
    begun = changed(
        runs / "search", tmp_path / "begun", summary=None, log=lambda line: line if line["kind"] == "start" else None
    )
    (begun / "genotype.json").unlink()
    assert sections(page_of(begun)) == ["Settings"]


def test_a_log_from_before_alpha_was_in_it_gives_what_it_has(runs, tmp_path):
    def old(line):
        return {key: value for key, value in line.items() if key not in ("alpha", "genotype")}

    page = page_of(changed(runs / "search", tmp_path, log=old))
    assert 'data-frame="' not in page
    assert "When candidates were dropped" in page
    assert "α of each candidate" not in page


def test_names_and_notices_are_text(runs, tmp_path):
    hostile = "</pre></script><script>alert(1)</script>"

    def log(line):
        return line | ({"formula": hostile} if "formula" in line else {"settings": {hostile: hostile}})

    folder = changed(
        runs / "search", tmp_path, log=log,
        about=lambda about: about | {"activation": hostile, "commit": hostile, "versions": {hostile: hostile}},
        summary=lambda own: own | {"formula": hostile, "known_as": hostile, "hardware": {hostile: 1}},
    )  # fmt: skip
    page = page_of(folder)
    assert page.count("<script>") == page.count("</script>") == 1
    assert page.count("&lt;script&gt;alert(1)") > 5


def test_infinite_and_missing_numbers_are_gaps(runs, tmp_path):
    def log(line):
        return line | ({"inner_loss": "nan", "outer_loss": "inf"} if line.get("epoch") == 2 else {})

    page = page_of(changed(runs / "search", tmp_path, log=log, summary=lambda own: own | {"held_out_loss": "nan"}))
    assert not re.search(
        r'[ "]nan|inf[ ",]', re.sub(r"<(pre|script).*?</\1>", "", page, flags=re.DOTALL).split("<h2>Epochs")[0]
    )


@pytest.mark.parametrize("broken", [{"survivors": {}}, {"survivors": 3}, {"genotype": {"format": "x"}}, {"epoch": None}])
def test_a_log_of_another_kind_is_an_error_that_names_it(runs, tmp_path, broken):
    folder = changed(runs / "search", tmp_path, log=lambda line: line | broken)
    with pytest.raises((RunError, ValueError), match=r"log\.jsonl|run"):
        write_report(folder)
    assert not (folder / "report.html").exists()


def test_a_folder_without_a_run_is_an_error(tmp_path):
    with pytest.raises(RunError, match=r"holds no run: there is no run\.json"):
        write_report(tmp_path)


def test_a_page_that_fails_costs_a_warning_and_not_the_result(runs, tmp_path, monkeypatch):
    def fails(*_):
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(loop, "write_report", fails)
    with pytest.warns(GrafsWarning, match=r"complete without a report\.html \(a bug\); grafs-timm open .* makes it"):
        run_search(recipe(search=SHORT), tmp_path / "run", quiet=True)
    assert (tmp_path / "run" / "summary.json").exists()
    assert write_report(tmp_path / "run").exists()
    assert differences(tmp_path / "run", runs / "search") == []  # but for what clocks say


def test_many_epochs_are_bounded_and_the_rest_is_told_of(runs, tmp_path):
    folder = changed(runs / "search", tmp_path)
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    many = lines + [lines[-1] | {"epoch": epoch} for epoch in range(4, 3001)]
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in many), encoding="utf-8")
    page = page_of(folder)
    assert "200 of 3000 epochs are shown; all are in log.jsonl." in page
    assert page.count('data-frame="') == 40
    assert len(page) < 1_000_000


@needs_chromium
def test_both_pages_open_without_a_word_on_the_console(runs, tmp_path):
    before = contents(runs)
    for name in ("search", "within"):
        document, said = as_it_is(runs / name / "report.html", tmp_path)
        assert said == []
        assert 'type="range"' in document
        assert "<button" in document
    assert contents(runs) == before
