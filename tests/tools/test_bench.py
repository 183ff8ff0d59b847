"""The benchmarks run, and write rows of one schema."""

from __future__ import annotations

import csv
import json

import bench_activation
import bench_csv
import bench_deploy
import bench_loader
import bench_search
import bench_step
import bench_table
import bench_within
import profile_loops
import pytest
from click.testing import CliRunner

from grafs_timm.zoo import lookup as zoo

QUICK = {
    bench_activation: ["--quick", "--device", "cpu"],
    bench_table: ["--quick", "--device", "cpu", "--dtype", "bf16"],
    bench_search: ["--model", "test_resnet", "--batch", "4", "--rounds", "1", "--device", "cpu"],
    bench_loader: ["--quick", "--workers", "1"],
    bench_step: ["--quick", "--size", "16"],
    bench_deploy: ["--quick"],
    profile_loops: ["--quick"],
}


@pytest.mark.parametrize(
    "tool",
    [pytest.param(tool, marks=pytest.mark.slow) if tool is bench_loader else tool for tool in QUICK],
    ids=lambda tool: tool.__name__,
)
@pytest.mark.usefixtures("plain")
def test_a_benchmark_writes_rows_of_the_schema(tool, tmp_path, monkeypatch):
    if tool is bench_search:
        monkeypatch.setattr(bench_search, "memory", lambda settings: [])  # starts processes; `make test` has its other tests
    out = tmp_path / "rows.csv"
    for _ in range(2):
        result = CliRunner().invoke(tool.main, [*QUICK[tool], "--out", str(out)], catch_exceptions=False)
        assert result.exit_code == 0, result.output
    with out.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == bench_csv.COLUMNS
    assert len(rows) % 2 == 0
    assert {row["torch"] for row in rows} == {bench_csv.environment("cpu")["torch"]}
    assert all(float(row["median_ms"]) > 0 and float(row["ratio"]) > 0 for row in rows)
    assert all(float(row["q25_ms"]) <= float(row["median_ms"]) <= float(row["q75_ms"]) for row in rows)


@pytest.mark.slow
@pytest.mark.usefixtures("plain")
def test_a_training_with_the_search_inside_is_measured_beside_the_plain_one(tmp_path):
    how = [
        "--recipe",
        "resnet_digits",
        "--data",
        "digits",
        "--images",
        "600",
        "--epochs",
        "5",
        "--out",
        str(tmp_path / "rows.csv"),
    ]
    CliRunner().invoke(bench_within.main, how, catch_exceptions=False)
    with (tmp_path / "rows.csv").open(newline="", encoding="utf-8") as file:
        rows = {(row["what"], row["subject"]): float(row["ratio"]) for row in csv.DictReader(file)}
    assert rows["epoch", "epoch with search"] > rows["epoch", "epoch after the search"]
    assert rows["whole", "training with search"] > 1
    assert rows["peak memory", "plain"] == 1


@pytest.mark.usefixtures("plain")
def test_given_activations_are_measured_instead_of_the_tools_own(tmp_path):
    name = next(iter(zoo.entries()))
    file = tmp_path / "mine.json"
    file.write_text(json.dumps(zoo.entries()[name].genotype.to_dict()), encoding="utf-8")
    given = ["--activation", f"a={name}", "--activation", f"b={file}", "--out", str(tmp_path / "rows.csv")]
    CliRunner().invoke(bench_activation.main, ["--quick", "--device", "cpu", *given], catch_exceptions=False)
    with (tmp_path / "rows.csv").open(newline="", encoding="utf-8") as file:
        subjects = {row["subject"] for row in csv.DictReader(file)}
    assert subjects == {"gelu", "silu", "relu", "a", "a op by op", "b", "b op by op"}


@pytest.mark.parametrize(
    ("pair", "said"),
    [("grafs_resnet", "LABEL="), ("a=grafs_resnt", "grafs_resnet"), ("gelu=grafs_resnet", "taken"), ("a=relu", "timm's own")],
)
def test_what_is_no_activation_to_measure_is_refused(pair, said):
    result = CliRunner().invoke(bench_activation.main, ["--quick", "--activation", pair])
    assert result.exit_code == 2
    assert said in result.output


def test_an_unknown_column_is_refused(tmp_path):
    with pytest.raises(ValueError, match="speed"):
        bench_csv.append(tmp_path / "rows.csv", [{"tool": "x", "speed": 1}])


def test_sides_take_turns_and_each_round_begins_with_another():
    order = []
    sides = {name: (lambda name=name: order.append(name)) for name in "ab"}
    result = bench_csv.alternate(sides, 3, warmup=1)
    assert order == list("abbaabba")
    assert result["a"]["repeats"] == 3
