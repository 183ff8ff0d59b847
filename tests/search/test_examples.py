"""The four foreign loops as they were and as they search: they run, differ by few lines, and the docs show those."""

from __future__ import annotations

import json
import math
import runpy
from pathlib import Path

import loop_diffs
import pytest
import torch

from grafs_timm.activations.activation import FoundActivation
from grafs_timm.activations.genotype import Genotype
from grafs_timm.search.bilevel import ActivationSearch, Site

# example -> what it cannot run without, beyond what the package itself needs
NEEDS = {"pytorch_loop": (), "timm_train": (), "hf_trainer": ("transformers", "accelerate"), "lightning_fit": ("lightning",)}


def run(name: str, searched: bool, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict:
    """The variables that a script ends with, run as a program in a folder of its own."""
    for needed in NEEDS[name]:
        pytest.importorskip(needed, reason=f"{needed} is not installed")
    monkeypatch.chdir(folder)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with torch.random.fork_rng():
        return runpy.run_path(str(loop_diffs.path(name, searched)), run_name="__main__")


@pytest.mark.parametrize("name", loop_diffs.NAMES)
def test_the_loop_as_it_was_runs(name: str, tmp_path, monkeypatch, capsys) -> None:
    assert "grafs" not in loop_diffs.path(name).read_text(encoding="utf-8")
    assert math.isfinite(float(run(name, False, tmp_path, monkeypatch)["loss"]))
    assert "loss" in capsys.readouterr().out


@pytest.mark.parametrize("name", loop_diffs.NAMES)
def test_the_searched_loop_trains_on_with_what_it_found(name: str, tmp_path, monkeypatch, capsys) -> None:
    made = run(name, True, tmp_path, monkeypatch)
    assert math.isfinite(float(made["loss"]))
    search = made["search"] if "search" in made else made["model"].search
    assert isinstance(search, ActivationSearch)
    assert search.finished
    assert search.epoch == search.epochs
    assert search.skipped == 0
    found = search.genotype()
    assert Genotype.from_dict(json.loads(json.dumps(found.to_dict()))) == found
    assert capsys.readouterr().out.rstrip().endswith(found.text)
    modules = list(search.model.modules())
    assert not any(isinstance(module, Site) for module in modules)
    assert [module.genotype for module in modules if isinstance(module, FoundActivation)] == [found] * search.report.total
    assert not [p for p in search.model.parameters() if not p.requires_grad]


@pytest.mark.parametrize("name", loop_diffs.NAMES)
def test_few_lines_are_changed(name: str) -> None:
    before, after = loop_diffs.lines(name)
    assert 0 < loop_diffs.changed(before, after) <= 15


def test_lines_are_counted_as_one_touches_them() -> None:
    assert loop_diffs.changed(["a", "b", ""], ["a", "b"]) == 0
    assert loop_diffs.changed(["a", "b"], ["a", "c"]) == 1
    assert loop_diffs.changed(["a", "b"], ["a", "c", "d", "", "e"]) == 3
    assert loop_diffs.changed(["a", "b"], ["b"]) == 1


def test_the_page_shows_them_as_they_are() -> None:
    page = loop_diffs.PAGE.read_text(encoding="utf-8")
    assert loop_diffs.made(page) == page, "run tools/loop_diffs.py"
    for name in loop_diffs.NAMES:
        assert loop_diffs.diff(name) in page
        assert (
            f"{loop_diffs.changed(*loop_diffs.lines(name))} lines"
            in page.split(loop_diffs.diff(name))[0].rpartition("\n## ")[2]
        )
    with pytest.raises(KeyError, match="none of pytorch_loop"):
        loop_diffs.made("```diff\n--- examples/other.py\n```\n")
