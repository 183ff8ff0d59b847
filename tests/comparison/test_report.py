"""The report of a matrix: whole files, honest words, tables that Markdown takes, and any shape a matrix can have."""

from __future__ import annotations

import csv
import hashlib
import math
import random
import re
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from written_results import read_results

from grafs_timm.comparison import report_text
from grafs_timm.comparison.report import further_seeds, write_report, write_results
from grafs_timm.comparison.report_table import Table
from grafs_timm.comparison.results import Result
from grafs_timm.errors import RunError

NAN = math.nan
MODELS, DATA = ("resnet20", "resnet32"), ("cifar10", "fashion_mnist")
USUAL = dict.fromkeys(MODELS, "relu")
BASELINES = ("relu", "gelu")


def matrix(
    searches: int = 1, cells: int = 1, seeds: int = 3, models: tuple[str, ...] = MODELS, better: float = 0.0
) -> list[Result]:
    """Found ones are better by ``better`` on average, and differ by 0.3 at random from training to training."""
    source = random.Random(1)
    names = [(f"c10_s{i}", "found", i) for i in range(searches)] + [(f"random_{i}", "random", None) for i in range(cells)]
    names += [(name, "baseline", None) for name in BASELINES]
    return [
        Result(
            activation=name,
            kind=kind,
            batch="c10" if kind == "found" else None,
            search_seed=number,
            sha256=None if kind == "baseline" else hashlib.sha256(name.encode()).hexdigest(),
            model=model,
            data=data,
            seed=seed,
            accuracy=70 + seed + (better if kind == "found" else 0) + source.gauss(0, 0.3),
            loss=1 / 3,
            split="test",
            epochs=5,
            seconds=61.25,
        )
        for model in models
        for data in DATA
        for name, kind, number in names
        for seed in range(seeds)
    ]  # fmt: skip


def report(results: list[Result], folder: Path, **settings: object) -> str:
    return write_report(results, folder, **({"usual": USUAL, "title": "A matrix"} | settings)).read_text(encoding="utf-8")


def tables(text: str) -> list[list[list[str]]]:
    """Every Markdown table as rows of cells, bars inside a cell undone."""
    blocks = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    return [[re.split(r"(?<!\\)\|", line)[1:-1] for line in block.splitlines()] for block in blocks]


def pictures(text: str, folder: Path) -> list[Path]:
    return [folder / link for link in re.findall(r"!\[[^]]+\]\(([^)]+)\)", text)]


def test_whole_report(tmp_path: Path) -> None:
    text = report(matrix(), tmp_path, formulas={"c10_s0": "max(|x|, `y`)"})
    lines = text.splitlines()
    assert lines[0] == "# A matrix"
    assert lines[2].startswith("**`c10_s0` against `relu`, over 4 pairs of model and data: ")
    assert "one search: the spread over searches is unknown" in lines[2]
    assert lines[4].startswith(
        "48 of 48 trainings have a figure: 4 activations × 4 pairs of model and data × 3 training seeds."
    )
    assert "test split after 5 epochs" in lines[4]
    assert "Training took 49.0 min in all." in lines[4]
    assert "incomplete" not in text
    assert r"| `c10_s0` | ``max(\|x\|, `y`)`` |" in text
    for path in pictures(text, tmp_path):
        with Image.open(path) as picture:
            assert picture.width > 800
    assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")) == [
        "plots", "plots/forest.png", "plots/heatmap.png", "report.html", "report.md", "results.csv", "summary.csv",
    ]  # fmt: skip


def test_tables_are_well_formed(tmp_path: Path) -> None:
    results = [replace(row, activation=row.activation.replace("random", "a|b`c")) for row in matrix(searches=3, cells=2)]
    found = tables(report(results, tmp_path, failed=[("job | 1", "out of\nmemory | x")], notes=["*nothing* else"]))
    assert len(found) == 1 + 3 * 4 + 1
    for table in found:
        assert len({len(row) for row in table}) == 1
        assert set("".join(table[1])) == {"-"}


def test_claim_follows_the_interval(tmp_path: Path) -> None:
    for better, word in ((5.0, "better"), (0.0, "no difference shown"), (-5.0, "worse")):
        text = report(matrix(better=better, models=("resnet20",), seeds=5), tmp_path / word)
        claim = text.splitlines()[2]
        assert f": {word} in 2." in claim
        for other in {"better", "no difference shown", "worse"} - {word}:
            assert other not in claim


def test_claim_on_one_model_and_data_has_the_numbers(tmp_path: Path) -> None:
    results = [row for row in matrix(better=5.0, seeds=4) if (row.model, row.data) == ("resnet20", "cifar10")]
    claim = report(results, tmp_path).splitlines()[2]
    assert re.match(
        r"\*\*`c10_s0`, resnet20 on cifar10: better than `relu` by \d.\d\d \[\d.\d\d, \d.\d\d\] percentage points over 4 p",
        claim,
    )


def test_a_batch_is_claimed_as_a_whole_and_not_by_its_best(tmp_path: Path) -> None:
    text = report(matrix(searches=4, cells=4, better=3.0), tmp_path)
    lines = text.splitlines()
    assert lines[2] == "**searches of c10 against `relu`, over 4 pairs of model and data: better in 4.**"
    assert not lines[3]
    assert lines[4].startswith("120 of 120 trainings")
    groups = [row for table in tables(text) for row in table if row[0].strip() in ("searches of c10", "random cells")]
    assert len(groups) == 2 * 2 * 4
    assert text.count("The best of the 4 searches, ") == 4
    assert "the largest of 4 draws from one normal distribution is expected 1.03 sd above their mean" in text
    assert text.count("Searched against random: 4 searched and 4 random activations: median accuracy") == 4


def test_one_seed_claims_nothing(tmp_path: Path) -> None:
    text = report(matrix(searches=3, cells=2, seeds=1, better=5.0), tmp_path)
    assert "no interval in 4" in text.splitlines()[2]
    assert "±" not in re.sub(r"(?s)## How to read this.*", "", text).replace("mean ± sd", "")
    assert "[" not in "".join(cell for table in tables(text) for row in table[2:] for cell in row)
    assert "Too little was trained for any 95 % interval." in text
    assert "- The spread over training seeds: there is one seed." in text
    assert "are better" not in text


def test_incomplete_matrix_says_so(tmp_path: Path) -> None:
    results = [row for row in matrix() if (row.activation, row.model, row.seed) != ("c10_s0", "resnet32", 1)][:-1]
    results[0] = replace(results[0], accuracy=NAN, loss=NAN)
    text = report(results, tmp_path, failed=[("c10_s0-resnet20-cifar10-0", "diverged")])
    assert "**This matrix is incomplete.** 44 of 48 trainings have a figure" in text
    assert "1 job failed." in text
    assert "3 of its trainings have no figure and are left out." in text.splitlines()[2]
    assert "| `c10_s0-resnet20-cifar10-0` | diverged |" in text
    assert "| `c10_s0` | resnet20 on cifar10 | 1 of 3 | 0 |" in text
    assert "| `c10_s0` | resnet32 on fashion\\_mnist | 1 of 3 | 1 |" in text
    assert "| 2 of 3 |" in text
    summary = list(csv.DictReader((tmp_path / "summary.csv").open(encoding="utf-8")))
    first = next(row for row in summary if (row["activation"], row["model"], row["data"]) == ("c10_s0", "resnet20", "cifar10"))
    assert (first["n"], first["planned"], first["pairs"], first["unpaired"]) == ("2", "3", "2", "1")


def test_summary_is_the_reports(tmp_path: Path) -> None:
    results = matrix()
    text = report(results, tmp_path)
    summary = list(csv.DictReader((tmp_path / "summary.csv").open(encoding="utf-8")))
    assert len(summary) == 16
    for row in summary:
        own = [r.accuracy for r in results if (r.activation, r.model, r.data) == (row["activation"], row["model"], row["data"])]
        assert float(row["mean"]) == pytest.approx(sum(own) / 3)
        assert (row["usual"], row["difference"] == "") == ("relu", row["activation"] == "relu")
        assert f"| {float(row['mean']):.2f} ± {float(row['sd']):.2f} | 3 |" in text


@pytest.mark.parametrize("keep", [0, 12])
def test_all_failed(tmp_path: Path, keep: int) -> None:
    results = [replace(row, accuracy=NAN, loss=NAN) for row in matrix()[:keep]]
    text = report(results, tmp_path, failed=[("a", "b")])
    assert "1 job failed" in text
    assert pictures(text, tmp_path) == []
    assert "better" not in re.sub(r"(?s)## How to read this.*", "", text)
    assert len(read_results(tmp_path / "results.csv")) == keep


def test_one_column_failed(tmp_path: Path) -> None:
    results = [replace(row, accuracy=NAN) if row.activation == "gelu" else row for row in matrix(seeds=2)]
    text = report(results, tmp_path)
    assert "| `gelu` | baseline | – | 0 of 2 | – | 0 of 2 | – | – |" in text
    assert len(pictures(text, tmp_path)) == 2


def test_collapsed_trainings_are_counted_and_stay_in_the_mean(tmp_path: Path) -> None:
    results = matrix(seeds=2)
    at = next(i for i, row in enumerate(results) if row.activation == "gelu")
    results[at] = replace(results[at], accuracy=10.0)
    results[at + 2 * 4] = replace(results[at + 2 * 4], loss=math.inf)
    text = report(results, tmp_path, classes=dict.fromkeys(DATA, 10))
    assert "2 trainings collapsed" in text
    assert "2 (1 collapsed)" in text
    assert f"| {(10.0 + results[at + 1].accuracy) / 2:.2f} ± " in text
    assert "1 training collapsed" in report(results, tmp_path)
    assert "Trainings at chance are not counted" in report(results, tmp_path)


@pytest.mark.parametrize("usual", [{}, {"resnet20": "relu"}, dict.fromkeys(MODELS, "swish")])
def test_without_a_usual_activation(tmp_path: Path, usual: dict[str, str]) -> None:
    text = report(matrix(better=3.0), tmp_path, usual=usual)
    assert "No default activation to compare with" in text
    assert ("rank" in text.split("## resnet20")[0]) == bool(usual.get("resnet20") == "relu")
    assert [path.name for path in pictures(text, tmp_path)] == (["forest.png"] * ("relu" in usual.values())) + ["heatmap.png"]


def test_same_bytes_in_any_order_and_again(tmp_path: Path) -> None:
    results = matrix(searches=2, cells=2)
    report(results, tmp_path / "a")
    report(results, tmp_path / "a")
    mixed = list(results)
    random.Random(3).shuffle(mixed)
    report(mixed, tmp_path / "b")
    files = [path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*") if path.is_file()]
    assert len(files) == 6
    for name in files:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name


def test_rows_round_trip(tmp_path: Path) -> None:
    results = matrix()
    results[0] = replace(results[0], activation='σ(x)·x, "quoted"\n|α|', accuracy=1 / 3, seconds=None, data="données")
    results[1] = replace(results[1], loss=math.inf)
    path = write_results(results, tmp_path / "results.csv")
    assert read_results(path) == results
    nan = replace(results[0], accuracy=NAN)
    assert math.isnan(read_results(write_results([nan], path))[0].accuracy)


def test_unicode_and_markup_in_names(tmp_path: Path) -> None:
    odd = {"c10_s0": "σ·$x$ <b>", "resnet20": "модель_*1*"}
    results = [
        replace(row, activation=odd.get(row.activation, row.activation), model=odd.get(row.model, row.model))
        for row in matrix(seeds=2)
    ]
    text = report(results, tmp_path, usual={odd["resnet20"]: "relu", "resnet32": "relu"}, title="A *bold* <title>")
    assert text.startswith("# A \\*bold\\* \\<title\\>\n")
    assert "`σ·$x$ <b>`" in text
    assert "## модель\\_\\*1\\* on cifar10" in text
    assert len(pictures(text, tmp_path)) == 2


def test_code_spans() -> None:
    assert report_text.code("x") == "`x`"
    assert report_text.code("a`b") == "``a`b``"
    assert report_text.code("`a") == "`` `a ``"
    assert report_text._runs([0, 1, 2, 5, 7, 8]) == "0–2, 5, 7–8"


def test_intervals_are_counted_as_shown(tmp_path: Path) -> None:
    results = matrix(searches=2, cells=1)
    shown = sum(cell.count("[") for table in tables(report(results, tmp_path)) for row in table[2:] for cell in row)
    assert Table(results, USUAL, {}).intervals == shown


SAID = re.compile(
    r"the widest interval, (\S+) beside relu with (.+), is ±([\d.]+) percentage points over (\d) paired seeds: "
    r"the same command with --seeds (\d+) at least halves it if further seeds spread alike"
)


def test_what_further_seeds_narrow() -> None:
    results = matrix()
    rows = [row for row in Table(results, USUAL, {}).rows.values() if row.kind == "found"]
    widths = {str(row.place): row.to_default.half_width for row in rows if row.to_default}
    widest = max(widths, key=lambda place: widths[place] or 0.0)
    assert len(set(widths.values())) == 4
    assert SAID.fullmatch(further_seeds(results, USUAL) or "").groups() == ("c10_s0", widest, f"{widths[widest]:.2f}", "3", "5")

    # a training without a figure costs a seed more: two pairs are halved by three
    lost = [replace(row, accuracy=NAN) if (row.activation, row.seed) == ("c10_s0", 2) else row for row in results]
    assert SAID.fullmatch(further_seeds(lost, USUAL) or "").groups()[3:] == ("2", "4")

    of_baselines = [row for row in results if row.kind == "baseline"]
    assert SAID.fullmatch(further_seeds(of_baselines, USUAL) or "")[1] == "gelu"


def test_where_further_seeds_narrow_nothing() -> None:
    assert (
        further_seeds(matrix(seeds=1), USUAL) == "one training seed gives no interval: the same command with --seeds 3 adds two"
    )
    assert further_seeds(matrix(), {}) is None
    assert further_seeds([row for row in matrix() if row.activation == "relu"], USUAL) is None
    assert further_seeds([replace(row, accuracy=70.0) for row in matrix()], USUAL) is None


def test_rows_that_cannot_be_compared_write_nothing(tmp_path: Path) -> None:
    results = matrix()
    with pytest.raises(RunError, match="is a duplicate"):
        report([*results, results[0]], tmp_path / "new")
    assert not (tmp_path / "new").exists()
