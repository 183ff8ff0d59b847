"""Make a zoo entry of finished run folders: a search, its sister searches, and the trainings that measured it.

    python tools/add_to_zoo.py NAME SEARCH --searches OTHER_SEARCH... --evaluations FOLDER... [--recommended]

Every number of the entry is read from the folders' summary.json; the trainings of the usual activations on the same recipe
stand beside the found one's.
"""

from __future__ import annotations

import json
import platform
import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any

import click

from grafs_timm import formula, resources, zoo
from grafs_timm.errors import GrafsError
from grafs_timm.families import family_of
from grafs_timm.files import write_json


def _summary(folder: Path, kind: str) -> dict[str, Any]:
    path = folder / "summary.json"
    if not path.exists():
        raise GrafsError(f"{folder}: no summary.json: not a finished run")
    summary: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if summary["kind"] != kind:
        raise GrafsError(f"{folder}: a {summary['kind']} run where a {kind} run is meant")
    return summary


def _metrics(evaluations: tuple[Path, ...], sha256: str, name: str) -> list[dict[str, Any]]:
    """One row per model, data, budget and activation: mean and sd of the test accuracy over training seeds."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = defaultdict(list)
    for folder in evaluations:
        summary = _summary(folder, "evaluate")
        activation = name if summary["activation_sha256"] == sha256 else summary["activation"]
        if summary["activation_sha256"] not in (None, sha256):
            raise GrafsError(f"{folder}: trained with {summary['formula']}, which is neither the found nor a usual activation")
        key = (summary["model"], summary["data"], summary["train_images"], summary["epochs"], activation)
        groups[key].append(summary)
    rows = []
    for (model, data, images, epochs, activation), runs in sorted(groups.items()):
        values = [run["test_accuracy"] for run in sorted(runs, key=lambda run: run["seed"])]
        rows.append(
            {
                "model": model, "data": data, "train_images": images, "epochs": epochs, "activation": activation,
                "n": len(values), "mean": round(statistics.mean(values), 3),
                "sd": round(statistics.stdev(values), 3) if len(values) > 1 else 0.0, "each": values,
            }
        )  # fmt: skip
    return rows


@click.command()
@click.argument("name")
@click.argument("search", type=click.Path(path_type=Path))
@click.option("--searches", multiple=True, type=click.Path(path_type=Path), help="The other searches of the batch.")
@click.option("--evaluations", multiple=True, type=click.Path(path_type=Path), help="Evaluate runs, found and usual.")
@click.option("--recommended", is_flag=True, help="The family's recommended one.")
@click.option("--note", default="", help="What a reader should know about the budget.")
def main(
    name: str, search: Path, searches: tuple[Path, ...], evaluations: tuple[Path, ...], recommended: bool, note: str
) -> None:
    """Write zoo/<family>/NAME.json."""
    found, about = _summary(search, "search"), json.loads((search / "run.json").read_text(encoding="utf-8"))
    genotype, family = formula.load(search / "genotype.json"), family_of(found["model"])
    batch = [_summary(folder, "search") for folder in (search, *searches)]
    entry = {
        "format": zoo.FORMAT, "name": name, "family": family, "recommended": recommended,
        "genotype": genotype.to_dict(derived=True),
        "provenance": {
            "model": found["model"], "data": found["data"], "search_seed": found["seed"], "epochs": found["epochs"],
            "seconds": round(found["seconds"]), "recipe_sha256": about["recipe_sha256"], "versions": about["versions"],
            "hardware": f"{platform.machine()} CPU", "note": note,
        },
        "metrics": _metrics(evaluations, genotype.sha256, name),
        "searches": [
            {"seed": s["seed"], "formula": s["formula"], "genotype": s["genotype"], "held_out_accuracy": s["held_out_accuracy"]}
            for s in batch
        ],
    }  # fmt: skip
    path = resources.folder("zoo") / family / f"{name}.json"
    write_json(path, entry)
    zoo.Entry.read(path)
    click.echo(f"{path}: f(x) = {genotype.text}")


if __name__ == "__main__":
    main()
