"""The matrix: what belongs to it, that it can be stopped, extended and repeated, and what is refused."""

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from compare import equal, soon, timeless
from shard_files import samples, write_info, write_tar
from tiny_runs import GENOTYPE, ROOT, SETTINGS, call, contents, refused, start
from wandb_file import files, media, read_offline

from grafs_timm.activations import genotype as genotypes
from grafs_timm.comparison import contenders, transfer
from grafs_timm.comparison.matrix import Cell, Matrix
from grafs_timm.comparison.transfer import run_transfer
from grafs_timm.config.recipe import load_recipe, parse_recipe
from grafs_timm.errors import RunError
from grafs_timm.runs import checkpoint
from grafs_timm.runs.tracking import Wandb
from grafs_timm.utils.files import locked

TRANSFER = {"baselines": ["relu"], "seeds": 1}


@pytest.fixture(autouse=True)
def alike(monkeypatch):
    """All processes compute in the same way."""
    for name, value in {"GRAFS_TIMM_COMPILE": "0", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}.items():
        monkeypatch.setenv(name, value)


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """A folder with a recipe and a genotype."""
    folder = tmp_path_factory.mktemp("transfer")
    (folder / "mine.json").write_text(json.dumps(GENOTYPE), encoding="utf-8")
    transfer = TRANSFER | {"activations": [str(folder / "mine.json")]}
    (folder / "tiny.yaml").write_text(yaml.safe_dump(SETTINGS | {"transfer": transfer}), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def whole(here):
    """A matrix that nothing stopped: (folder, what was printed)."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"GRAFS_TIMM_COMPILE": "0", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}.items():
            patch.setenv(name, value)
        result = call("transfer", here / "tiny.yaml", "--out", here / "whole", "--device", "cpu", "--workers", 2, "--quiet")
    assert result.exit_code == 0, result.output
    return here / "whole", result.stdout


def plan(folder="nowhere", **transfer):
    return Matrix.plan(parse_recipe(SETTINGS | {"transfer": {"baselines": ["relu"], "seeds": 1} | transfer}), folder)


def same_results(folder, other):
    """Of the cells of one matrix and the same ones of another, bit by bit but for what clocks say; returns how many."""
    runs = sorted(path.parent.relative_to(folder) for path in (folder / "jobs").rglob("summary.json"))
    for run in runs:
        assert (folder / run / "summary.json").read_bytes() == (other / run / "summary.json").read_bytes()
        assert timeless(folder / run) == timeless(other / run)
        ours, theirs = (checkpoint.load(side / run / "checkpoint.pt") for side in (folder, other))
        assert all(equal(ours[key], theirs[key]) for key in set(theirs) - {"log"})
    return len(runs)


def processes(folder):
    """Ids of the processes whose command line names something in ``folder``."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if str(folder).encode() in path.read_bytes() and int(path.parent.name) != os.getpid():
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


# --------------------------------------------------------------------------------------------------- what belongs to it


def test_the_grid(here, tmp_path):
    matrix = plan(
        tmp_path / "m", activations=[str(here / "mine.json"), "mish"], baselines=["gelu"], random=2,
        models=["test_resnet", "cifar_vit_tiny"], data=["digits", {"name": "digits", "train_images": 50}], seeds=2,
    )  # fmt: skip
    activations = ["gelu", "relu", "mine", "mish", "random0", "random1"]  # relu: test_resnet's usual one
    expected = [
        Cell(activation, model, data, seed)
        for seed in range(2)
        for data in ("digits", "digits_2")
        for model in ("test_resnet", "cifar_vit_tiny")
        for activation in activations
    ]
    assert list(matrix.wanted) == expected
    assert {label: each.kind for label, each in matrix.activations.items()} == dict(
        zip(activations, ["baseline", "baseline", "found", "baseline", "random", "random"], strict=True)
    )
    assert matrix.usual() == {"test_resnet": "relu", "cifar_vit_tiny": "gelu"}
    recipe = matrix.cell_recipe("cifar_vit_tiny", "digits")
    assert (recipe.model, recipe.transfer) == ("cifar_vit_tiny", parse_recipe(SETTINGS).transfer)
    assert recipe.data.train_images == 300  # a bare name takes the rest from the recipe's section
    assert matrix.cell_recipe("test_resnet", "digits_2").data.augment == ()
    assert not (tmp_path / "m").exists()


def searched(folder, seed, genotype):
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"kind": "search", "seed": seed}), encoding="utf-8")
    (folder / "genotype.json").write_text(json.dumps(genotype), encoding="utf-8")


def test_a_batch_of_searches(tmp_path):
    scaled = GENOTYPE | {"u3": {"op": "relu"}, "u2": {"op": "scale", "gamma": 2.5}}
    relu = {slot: {"op": op} for slot, op in zip(("u1", "u2", "b1", "u3", "u4", "b2"),
            ("relu", "identity", "left", "identity", "identity", "left"), strict=True)}  # fmt: skip
    doubled = relu | {"u3": {"op": "scale", "gamma": 2.0}}
    batch = tmp_path / "a batch"
    for seed, genotype in ((10, GENOTYPE), (2, relu), (3, doubled), (0, scaled)):
        searched(batch / f"run{seed}", seed, {"format": "grafs-cell/1"} | genotype)
    matrix = plan(activations=[str(batch)])
    found = [each for each in matrix.activations.values() if each.kind == "found"]
    assert [(each.label, each.batch, each.search_seed, each.also) for each in found] == [
        ("a_batch_s0", "a batch", 0, ()),
        ("a_batch_s2", "a batch", 2, (3,)),
        ("a_batch_s10", "a batch", 10, ()),
    ]
    one = plan(activations=[str(batch / "run10"), str(batch / "run10" / "genotype.json")])
    assert [(each.label, each.search_seed) for each in one.activations.values()] == [("relu", None), ("run10", 10)]
    searched(tmp_path / "c10" / "s4", 4, {"format": "grafs-cell/1"} | GENOTYPE)
    assert list(plan(activations=[str(tmp_path / "c10" / "s4" / "genotype.json")]).activations) == ["relu", "c10_s4"]


def test_random_cells_are_a_stable_sequence_of_functions():
    five, again = (list(contenders.random_cells(5, 0)) for _ in range(2))
    assert five == again == list(contenders.random_cells(9, 0))[:5]
    assert five != list(contenders.random_cells(5, 1))
    rng, drawn = np.random.default_rng(0), []
    for _ in range(400):
        drawn.append(genotypes.random_genotype(rng))
    kept = list(contenders.random_cells(300, 0))
    assert kept == [cell for cell in drawn if cell in kept][:300]
    left_out = [cell for cell in drawn[: drawn.index(kept[-1])] if cell not in kept]
    for cell in left_out:
        values = cell(torch.linspace(-4, 4, 7, dtype=torch.float64))
        assert not values.isfinite().all() or float(values.max() - values.min()) <= 1e-6 * float(values.abs().max())
    assert left_out


@pytest.mark.parametrize(
    ("text", "name"),
    [("../../etc", "etc"), ("a/b", "a_b"), ("..", "unnamed"), (".hidden", "hidden"), ("ρ γ", "unnamed"), ("x" * 300, "x" * 80)],
)
def test_names_are_folders_that_stay_inside(text, name):
    assert contenders.safe(text) == name
    assert contenders.safe(text, {name.upper()}) == f"{name}_2"


def test_each_search_has_its_row_and_what_failed_has_no_figure(tmp_path):
    for seed in (0, 3):
        searched(tmp_path / "a batch" / f"s{seed}", seed, {"format": "grafs-cell/1"} | GENOTYPE)
    matrix = plan(tmp_path / "m", activations=[str(tmp_path / "a batch")], seeds=2)
    for cell in matrix.cells():
        if (cell.activation, cell.seed) != ("relu", 1):
            folder = matrix.job_folder(cell)
            folder.mkdir(parents=True)
            figures = {"test_accuracy": 50.0 + cell.seed, "test_loss": 1.0}
            summary = {"measured_on": "test", **figures, "epochs": 2}
            (folder / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
            (folder / "log.jsonl").write_text(
                "".join(json.dumps({"kind": "epoch", "seconds": each, **figures}) + "\n" for each in (2.0, 3.0)),
                encoding="utf-8",
            )
    rows = transfer.results(matrix, [matrix.job_folder(Cell("relu", "test_resnet", "digits", 1))])
    figures = {(row.activation, row.seed): (row.search_seed, row.accuracy, row.seconds) for row in rows}
    assert str(figures.pop(("relu", 1))) == str((None, float("nan"), None))
    assert figures == {
        ("relu", 0): (None, 50.0, 5.0),
        ("a_batch_s0", 0): (0, 50.0, 5.0), ("a_batch_s0", 1): (0, 51.0, 5.0),
        ("a_batch_s3", 0): (3, 50.0, 5.0), ("a_batch_s3", 1): (3, 51.0, 5.0),
    }  # fmt: skip
    assert len(transfer.results(matrix)) == 5
    (folder / "log.jsonl").write_text("", encoding="utf-8")
    with pytest.raises(
        RunError, match=r"summary\.json is not the summary of a training: .*has no epoch.*train that cell again"
    ):
        transfer.results(matrix)


# -------------------------------------------------------------------------------------------------------- that it runs


def test_a_finished_matrix(whole, here):
    folder, said = whole
    assert said.startswith("2 done, 0 skipped, 0 failed    report: ")
    assert said.endswith("\nnext      one training seed gives no interval: the same command with --seeds 3 adds two\n")
    lines = (folder / "results.csv").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 3
    assert {line.split(",")[0] for line in lines[1:]} == {"relu", "mine"}
    assert genotypes.load(folder / "activations" / "mine.json").sha256 == genotypes.load(here / "mine.json").sha256
    summary = json.loads((folder / "jobs/mine/test_resnet/digits/s0/summary.json").read_text(encoding="utf-8"))
    assert (summary["activation"], summary["seed"], summary["model"]) == ("mine", 0, "test_resnet")
    assert load_recipe(folder / "recipes" / "test_resnet__digits.yaml").evaluate.epochs == 3

    page = (folder / "report.html").read_bytes()
    assert b"Learning curves" in page
    assert transfer.write_page(folder).read_bytes() == page

    before = contents(folder / "jobs")
    again = call("transfer", here / "tiny.yaml", "--out", folder, "--device", "cpu", "--quiet")
    assert again.stdout.startswith("0 done, 2 skipped, 0 failed")
    assert contents(folder / "jobs") == before


@pytest.mark.slow
def test_a_killed_launcher(whole, here, tmp_path):
    """Its jobs die with it; called again, all ends as if nothing had been."""
    out = tmp_path / "m"
    command = ("transfer", here / "tiny.yaml", "--out", out, "--device", "cpu", "--workers", 2, "--quiet")
    with start(*command) as launcher:
        assert soon(lambda: any(b'"epoch"' in log.read_bytes() for log in out.rglob("log.jsonl")), 120)
        launcher.send_signal(signal.SIGKILL)
    assert soon(lambda: not processes(out), 30), processes(out)  # one that is still importing looks only then
    assert len(list(out.rglob("summary.json"))) < 2
    result = call(*command)
    assert result.exit_code == 0, result.output
    assert same_results(out, whole[0]) == 2


@pytest.mark.slow
def test_two_processes_a_job(here, tmp_path):
    """The launcher is killed, and what torchrun started ends too; called again it goes on to the end."""
    out = tmp_path / "m"
    more = ("--set", "transfer.activations=[]", "--set", "evaluate.epochs=12", "--device", "cpu", "--processes", 2, "--quiet")
    command = ("transfer", here / "tiny.yaml", "--out", out, *more)
    (line,) = call(*command, "--print-jobs").stdout.splitlines()
    assert " -m torch.distributed.run --standalone --nproc_per_node 2 -m grafs_timm train " in line
    with start(*command) as launcher:
        assert soon(lambda: any(b'"epoch"' in log.read_bytes() for log in out.rglob("log.jsonl")), 90)
        assert len(processes(out)) == 4  # the launcher, torchrun and its two
        launcher.send_signal(signal.SIGKILL)
    assert soon(lambda: not processes(out), 30), processes(out)
    result = call(*command)
    assert result.exit_code == 0, result.output
    (run,) = (path.parent for path in out.rglob("summary.json"))
    assert len(checkpoint.load(run / "checkpoint.pt")["rng"]) == 2


@pytest.mark.slow
def test_killed_again_and_again(here, tmp_path):
    """The launcher, or one of its jobs, at ten random moments; in the end all is as if nothing had been."""
    out, rng, story = tmp_path / "m", np.random.default_rng(0), []
    more = ("--set", "evaluate.epochs=40", "--random", 1, "--device", "cpu", "--workers", 2, "--retries", 9, "--quiet")
    command = ("transfer", here / "tiny.yaml", "--out", out, *more)

    def epochs():
        return sum(log.read_bytes().count(b'"epoch"') for log in out.rglob("log.jsonl"))

    def at(number):
        return soon(lambda: epochs() >= number, 60) and time.sleep(rng.uniform(0, 0.3)) is None

    while len(story) < 10:
        with start(*command) as launcher:
            for victim in ("a job", "the launcher"):
                assert at(epochs() + int(rng.integers(1, 7))), story
                jobs = [each for each in processes(out) if each != launcher.pid]
                story.append(f"{victim} after {epochs()} epochs of all")
                os.kill(launcher.pid if victim == "the launcher" else int(rng.choice(jobs)), signal.SIGKILL)
        assert soon(lambda: not processes(out), 30)
    assert len(list(out.rglob("summary.json"))) < 3
    assert call(*command).exit_code == 0
    undisturbed = call("transfer", here / "tiny.yaml", "--out", tmp_path / "whole", *more)
    assert undisturbed.exit_code == 0, undisturbed.output
    assert same_results(out, tmp_path / "whole") == 3, story
    print(*story, sep="\n")


@pytest.mark.slow
def test_printed_jobs_run_by_hand(whole, here, tmp_path, monkeypatch):
    out = tmp_path / "a matrix"
    arguments = ("transfer", here / "tiny.yaml", "--out", out, "--set", "transfer.activations=[]", "--device", "cpu", "--quiet")
    (line,) = call(*arguments, "--print-jobs").stdout.splitlines()
    assert not (out / "jobs").exists()
    assert "--wandb offline" in call(*arguments, "--print-jobs", "--wandb", "offline").stdout
    monkeypatch.chdir(tmp_path)
    assert subprocess.run(["sh", "-c", line], stdout=subprocess.DEVNULL).returncode == 0
    assert call(*arguments, "--print-jobs").stdout == ""
    assert call(*arguments).stdout.startswith("0 done, 1 skipped, 0 failed")
    assert same_results(out, whole[0]) == 1
    assert (out / "results.csv").exists()


PAIRED = {
    "models": ["cifar_resnet20", "cifar_resnet32"],
    "data": ["digits", {"name": "digits", "image_size": 16}],
    "paired": True,
}


def test_paired_models_and_data_are_trained_together_alone(tmp_path):
    recipe = parse_recipe(SETTINGS | {"transfer": TRANSFER | PAIRED}, "tiny")
    matrix = Matrix.plan(recipe, tmp_path / "m")
    places = [("cifar_resnet20", "digits"), ("cifar_resnet32", "digits_2")]
    assert [(cell.model, cell.data) for cell in matrix.wanted] == places
    assert list(matrix.cells()) == list(matrix.wanted)
    matrix.write()
    assert sorted(path.stem for path in (tmp_path / "m" / "recipes").iterdir()) == ["__".join(place) for place in places]
    assert list(Matrix.plan(recipe, tmp_path / "m").wanted) == list(matrix.wanted)


def test_pairs_that_do_not_match_are_refused(here, tmp_path):
    (tmp_path / "paired.yaml").write_text(yaml.safe_dump(SETTINGS | {"transfer": TRANSFER | PAIRED}), encoding="utf-8")
    said = refused("transfer", tmp_path / "paired.yaml", "--model", "cifar_resnet20", "--out", tmp_path / "m")
    assert "transfer.paired: needs as many models as data sets, got 1 and 2" in said


@pytest.mark.slow
def test_a_failed_job_stops_no_other_and_a_later_call_extends(here, tmp_path):
    broken = tmp_path / "broken"
    broken.mkdir()
    write_tar(broken / "a.tar", samples(12))
    write_info(broken, {"a.tar": 12}, ["x", "y", "z"])
    (broken / "a.tar").write_bytes(b"no tar")
    out = tmp_path / "m"
    arguments = ["transfer", here / "tiny.yaml", "--out", out, "--set", "transfer.activations=[]", "--device", "cpu", "--quiet"]
    result = call(*arguments, "--data", broken, "--data", "digits")
    assert result.exit_code == 1
    assert result.stdout.startswith("1 done, 0 skipped, 1 failed")
    assert f"failed: relu/test_resnet/broken/s0 ({out}/jobs/relu/test_resnet/broken/s0.txt)\n  error: " in result.stderr
    assert "a.tar" in result.stderr
    before = contents(out / "jobs" / "relu" / "test_resnet" / "digits")
    more = call(*arguments, "--seeds", 2)
    assert more.exit_code == 0, more.output
    assert more.stdout.startswith("1 done, 1 skipped, 0 failed")
    after = contents(out / "jobs" / "relu" / "test_resnet" / "digits")
    assert before.items() <= after.items()
    about = json.loads((out / "matrix.json").read_text(encoding="utf-8"))
    assert about["seeds"] == 2
    assert list(about["data"]) == ["broken", "digits"]


def test_a_dry_run_writes_nothing(whole, here, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = call("transfer", here / "tiny.yaml", "--dry-run", "--device", "cpu")
    assert result.exit_code == 0
    assert "2 jobs: 0 done, 0 half done, 2 to do" in result.stdout
    assert "test_resnet on digits: 6 epochs of" in result.stdout
    assert "from 3 training steps on cpu here" in result.stdout
    assert "÷" not in result.stdout
    assert list(tmp_path.iterdir()) == []

    before = contents(whole[0])
    more = call("transfer", here / "tiny.yaml", "--dry-run", "--out", whole[0], "--seeds", 2, "--workers", 2, "--device", "cpu")
    assert "4 jobs: 2 done, 0 half done, 2 to do" in more.stdout
    assert "(measured, in this matrix)" in more.stdout
    assert "÷ 2 workers" in more.stdout
    assert contents(whole[0]) == before


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_shows_an_example(flag):
    assert "grafs-timm transfer resnet_cifar10" in call("transfer", flag).stdout.split("Options:")[0]


# ------------------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--activation", "rulu"], "relu"),
        (["--activation", "runs/none"], "runs/none: cannot be read"),
        (["--activation", "."], "no genotype.json below"),
        (["--baseline", "geluu"], "no activation 'geluu'; nearest: gelu"),
        (["--model", "cifar_resnet21"], "cifar_resnet20"),
        (["--data", "digit"], "digits"),
        (["--seeds", "0"], "--seeds"),
        (["--random", "-1"], "--random"),
        (["--set", "transfer.modles=[x]"], "transfer.modles: unknown key; nearest: models"),
        (["--device", "cuda:99"], "this machine has cpu"),
        (["--launcher", "rai"], "'rai' is not one of"),
        (["--workers", "0"], "--workers"),
    ],
)
def test_wrong_options(here, tmp_path, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    assert said in refused("transfer", here / "tiny.yaml", "--out", tmp_path / "m", "--quiet", *arguments)
    assert list(tmp_path.iterdir()) == []


def test_a_changed_recipe(whole, here):
    before = contents(whole[0])
    for arguments, key in (
        (["--set", "evaluate.epochs=4"], "evaluate.epochs: 3 there, 4 here"),
        (["--set", "transfer.random_seed=1"], "transfer.random_seed: 0 there, 1 here"),
        (["--on-bad-shard", "skip"], 'data.on_bad_shard: "raise" there, "skip" here'),
        (["--set", "model=cifar_resnet20"], "model"),
    ):
        said = refused("transfer", here / "tiny.yaml", "--out", whole[0], "--quiet", *arguments)
        assert "is the matrix of another recipe; name another --out" in said
        assert key in said
    assert contents(whole[0]) == before


def test_a_folder_in_use(whole, here):
    with locked(whole[0]):
        said = refused("transfer", here / "tiny.yaml", "--out", whole[0], "--device", "cpu", "--quiet")
    assert f"{whole[0]} is in use by process {os.getpid()} on " in said
    run = whole[0] / "jobs" / "new" / "s0"
    with locked(run):
        said = refused("evaluate", here / "tiny.yaml", "--activation", "relu", "--out", run)
    assert f"{run} is in use by process {os.getpid()}" in said
    assert not (whole[0] / "jobs" / "new").exists()


def test_several_processes(here, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(RunError, match="call it without torchrun"):
        run_transfer(load_recipe(here / "tiny.yaml"), tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_a_folder_of_something_else(here, tmp_path):
    (tmp_path / "thesis.txt").write_text("mine", encoding="utf-8")
    before = contents(tmp_path)
    assert "not empty and not a matrix" in refused("transfer", here / "tiny.yaml", "--out", tmp_path, "--device", "cpu")
    assert "not empty and not a matrix" in refused(
        "transfer", here / "tiny.yaml", "--out", tmp_path / "thesis.txt", "--dry-run"
    )
    assert contents(tmp_path) == before


def test_the_report_is_a_run_in_wandb(whole, tmp_path):
    copy = tmp_path / "whole"
    shutil.copytree(whole[0], copy)
    matrix = Matrix.plan(load_recipe(copy / "recipe.yaml"), copy)
    transfer._show_report(matrix, copy / "report.md", Wandb("offline", "whole"))
    (file,) = files(copy)
    found = read_offline(file)
    assert (found.run["job_type"], found.run["run_group"], found.run["display_name"]) == ("report", "whole", "report of whole")
    assert [item["type"] for item in found.artifacts].count("report") == 3
    kinds, paths = media(found)
    assert kinds == {"results": "table-file", "forest": "image-file", "heatmap": "image-file"}
    table = json.loads((file.parent / "files" / paths["results"]).read_text(encoding="utf-8"))
    assert {row[0] for row in table["data"]} == {"relu", "mine"}


@pytest.mark.parametrize("damage", ["", "[]", "{}", '{"format": "grafs-matrix/9"}', "climb"])
def test_a_damaged_matrix(tmp_path, damage):
    matrix = plan(tmp_path, activations=["grafs_resnet"])
    matrix.write()
    assert plan(tmp_path, activations=["grafs_resnet"]).activations == matrix.activations
    text = (tmp_path / "matrix.json").read_text(encoding="utf-8")
    (tmp_path / "matrix.json").write_text(
        text.replace('"relu": {', '"../relu": {') if damage == "climb" else damage, encoding="utf-8"
    )
    with pytest.raises(RunError, match=r"matrix.json is damaged"):
        plan(tmp_path)


def test_killed_between_its_first_files(tmp_path):
    matrix = plan(tmp_path / "m", activations=["grafs_resnet"])
    matrix.write()
    (tmp_path / "m" / "matrix.json").unlink()
    assert plan(tmp_path / "m", activations=["grafs_resnet"]).activations == matrix.activations
