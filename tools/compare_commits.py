"""Check that two commits compute the same bits: a search, a training, a text training and a matrix with fixed seeds.

    python tools/compare_commits.py OLD [NEW] [--keep FOLDER]

Checks each commit out into a folder of its own, runs the four there and compares genotypes, weights, logs and reports with
`same_runs.differences`. NEW defaults to HEAD. Takes about two minutes a commit on two cores; exits with 1 where a bit differs.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import click
from same_runs import differences

COMMON = ["--device", "cpu", "--wandb", "disabled", "--quiet"]
SHORT = {
    "search": ["search.epochs=6", "search.warm_start=1", "search.shrink_start=2", "data.train_images=600"],
    "train": ["evaluate.epochs=3", "evaluate.weights.warmup_epochs=1", "data.train_images=600"],
    "text": [
        "evaluate.epochs=1", "evaluate.weights.warmup_epochs=0", "evaluate.steps_per_epoch=4", "evaluate.batch_size=4",
        "data.text.context=16",
    ],
    "matrix": ["evaluate.epochs=1", "evaluate.weights.warmup_epochs=0", "data.train_images=400"],
}  # fmt: skip
TEXT = "".join(f"One day a little girl found {number * number % 97} red balls in the park. " for number in range(400))


def commands(out: Path) -> dict[str, list[str]]:
    """The command lines of the four runs, which write below ``out``; `evaluate` is a name that every commit knows."""
    genotype = str(out / "search" / "genotype.json")
    runs = {
        "search": ["search", "resnet_digits", "--seed", "3", "--out", str(out / "search")],
        "train": ["evaluate", "resnet_digits", "--activation", genotype, "--seed", "1", "--out", str(out / "train")],
        "text": [
            "evaluate", "gpt_tinystories_reduced", "--activation", "gelu", "--data", str(out / "text.txt"), "--seed", "1",
            "--out", str(out / "text"),
        ],
        "matrix": [
            "transfer", "resnet_digits", "--activation", genotype, "--baseline", "relu", "--random", "1", "--seeds", "1",
            "--model", "cifar_resnet20", "--data", "digits", "--out", str(out / "matrix"),
        ],
    }  # fmt: skip
    settings = {name: [each for setting in SHORT[name] for each in ("--set", setting)] for name in runs}
    return {name: [*words, *COMMON, *settings[name]] for name, words in runs.items()}


def run_all(commit: str, root: Path, out: Path) -> None:
    """Run the four with the package as it was at ``commit``, from a checkout below ``root``, into ``out``."""
    source = root / commit.replace("/", "_")
    subprocess.run(["git", "clone", "-q", "--no-checkout", ".", str(source)], check=True)
    subprocess.run(["git", "-C", str(source), "checkout", "-q", "--detach", commit], check=True)
    out.mkdir(parents=True)
    (out / "text.txt").write_text(TEXT, encoding="utf-8")
    env = os.environ | {"PYTHONPATH": str(source), "OMP_NUM_THREADS": "1", "GRAFS_TIMM_COMPILE": "0"}
    for name, words in commands(out).items():
        print(f"{commit}: {name}", flush=True)
        subprocess.run([sys.executable, "-m", "grafs_timm", *words], cwd=source, env=env, check=True, stdout=subprocess.DEVNULL)


@click.command()
@click.argument("old")
@click.argument("new", default="HEAD")
@click.option("--keep", type=click.Path(path_type=Path), help="Keep the runs in this folder.")
def main(old: str, new: str, keep: Path | None) -> None:
    old, new = (subprocess.check_output(["git", "rev-parse", "--short", each], encoding="utf-8").strip() for each in (old, new))
    with tempfile.TemporaryDirectory() as temporary:
        # One folder for both, moved aside after each: paths are facts of a run, and they have to be equal.
        root, out = Path(temporary), Path(temporary) / "runs"
        kept = (keep or root).resolve()
        for commit in (old, new):
            run_all(commit, root / "sources", out)
            kept.mkdir(parents=True, exist_ok=True)
            shutil.move(out, kept / f"runs_{commit}")
        found = [each for each in differences(kept / f"runs_{old}", kept / f"runs_{new}") if not _is_commit(each)]
    print("\n".join(found) if found else f"{old} and {new}: equal, bit for bit")
    sys.exit(bool(found))


def _is_commit(difference: str) -> bool:
    """Whether the difference is the commit that a run notes in its run.json."""
    return difference.partition(":")[0].endswith("run.json['commit']")


if __name__ == "__main__":
    main()
