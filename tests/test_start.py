"""The four pages for newcomers: every block of code runs, in an empty folder, and shows what the page says it shows."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
from walked import blocks, walk

START = Path(__file__).parents[1] / "docs" / "start"
# first words of a command -> options that make it shorter
FASTER = {
    "train": "--model test_resnet --set data.train_images=200 --quiet",
    "search": "--set search.epochs=4 --set search.warm_start=1 --set search.shrink_start=2 --quiet"
    " --set evaluate.epochs=2 --set evaluate.weights.warmup_epochs=0 --set select.final_seeds=2",
    "transfer": "--set data.train_images=200 --quiet --wandb disabled",
}


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=pytest.mark.slow if page != "better" else ())
        for page in ("better", "compare", "deploy", "search")
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_a_newcomers_page_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    with warnings.catch_warnings():
        walk(START / f"{page}.md", FASTER)


def test_there_is_no_other_page() -> None:
    assert {page.stem for page in START.glob("*.md")} == {"better", "compare", "deploy", "search"}
    assert all(blocks(page) for page in START.glob("*.md"))
