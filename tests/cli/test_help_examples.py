"""Every example of a help text runs, in a folder that has what it names, with tiny settings appended."""

import json
import shlex
import shutil
from collections.abc import Iterator

import click
import pytest
import torchvision
from made_campaign import made_campaign
from made_ledger import REAL, RECIPE, made_ledger
from shard_files import colour, encoded, samples, write_tar
from tiny_runs import GENOTYPE, call
from torchvision_files import SVHN_FILES, fashion_mnist, svhn

from grafs_timm.cli.main import main
from grafs_timm.comparison import campaign, campaign_run, selection
from grafs_timm.config.recipe import load_recipe, parse_recipe
from grafs_timm.jobs.job import Outcome
from grafs_timm.publishing import card_plots
from grafs_timm.publishing.publish import publish

pytestmark = pytest.mark.usefixtures("plain")


def commands(command: click.Command, names: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    yield names, command
    for name, below in command.commands.items() if isinstance(command, click.Group) else ():
        yield from commands(below, (*names, name))


def examples() -> Iterator[str]:
    """Each command line below "Example:" or "Examples:"; one that continues after a backslash is one line."""
    for names, command in commands(main):
        _, title, text = command.help.partition("Example")
        lines = [" ".join(line.split()) for line in text.replace("\\\n", "").splitlines()[1:]]
        assert title, names
        assert any(f"grafs-timm {' '.join(names)}".rstrip() in line.replace("-m grafs_timm", "grafs-timm") for line in lines)
        yield from (line for line in lines if line and not line.startswith("#"))


STANDARD = "resnet_cifar10_standard"
SEARCH = "--model test_resnet --set search.epochs=4 --set search.warm_start=1 --set search.shrink_start=2 "
SEARCH += "--set search.batch_size=8 --set data.train_images=64 --quiet"
SELECT = " --seeds 2 --set select.epochs=1 --set select.final_seeds=2"
TRAIN = "--model test_resnet --set data.train_images=64 --set data.test_images=50 --quiet "
TRAIN += "--set evaluate.batch_size=32 --set evaluate.epochs=1 --set evaluate.weights.warmup_epochs=0"
# what is appended to an example, by its first words; the longest that fits counts
APPENDED = {
    "search": SEARCH,
    "search resnet_cifar10_small": SEARCH + SELECT + " --set evaluate.epochs=1"
    " --set evaluate.batch_size=16 --set evaluate.weights.warmup_epochs=0",
    "search resnet_cifar10_small --data photos": SEARCH.replace("batch_size=8", "batch_size=4"),
    "train": TRAIN,
    "transfer": "--set evaluate.batch_size=16",  # those that do not print their jobs are dry runs
    "transfer resnet_cifar10 --activation runs/batch --random": "--dry-run --set evaluate.batch_size=16",
    "campaign": "--zoo zoo",
    "campaign run": "--zoo zoo --quiet --minutes 0.1",
    "data pack": "--quiet",
    "data pack svhn": "--quiet --root path/to/its/files",
    "data check": "--quiet",
    "publish": "",
    "zoo": "",
    "zoo verify grafs_resnet --retrain": "--zoo zoo --data digits",
    "models": "",
    "open": "--print",  # and no browser
    "exec": "",
    "doctor": "",
}  # fmt: skip


def words_of(example: str) -> list[str]:
    """The arguments of the command line: of torchrun the program, which test_parallel starts in several processes."""
    line = example.split(" > ")[0]
    assert line.startswith(("grafs-timm", "torchrun --nproc_per_node 4 -m grafs_timm")), line
    words = shlex.split(line.partition("grafs-timm" if line.startswith("grafs-timm") else "-m grafs_timm")[2])
    first = max((key for key in APPENDED if " ".join(words).startswith(key)), key=len)
    return words + shlex.split(APPENDED[first])


@pytest.fixture(scope="module")
def furnished(tmp_path_factory):
    """A folder with all that the examples name."""
    place = tmp_path_factory.mktemp("furnished")
    for folder in ("path/to/cifar10", "data/cifar10", "data/cifar100", "data/fashion-mnist", "data/svhn"):
        _shards(place / folder)
    for folder in ("runs/search_resnet_digits_s0", "runs/c10_s2", "runs/batch/s0"):
        (place / folder).mkdir(parents=True)
        (place / folder / "genotype.json").write_text(json.dumps(GENOTYPE), encoding="utf-8")
    for folder in ("imagenet/train", "imagenet/val", "photos"):
        for name in ("ant", "bee"):
            (place / folder / name).mkdir(parents=True)
            for number in range(10):
                (place / folder / name / f"{number}.png").write_bytes(encoded(colour(number)))
    (place / "path/to/its/files").mkdir(parents=True)
    fashion_mnist(place / "path/to/its/files")
    svhn(place / "path/to/its/files")
    (place / "stories.txt.gz").write_bytes(_gzipped("Once upon a time.\n\n" * 500))
    (place / "train.py").write_text("import sys, timm\nprint(timm.layers.get_act_layer('grafs_resnet'), sys.argv)", "utf-8")
    made_ledger(place / "other/zoo/resnet/evidence/cifar10_standard", rounds=1, **REAL)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(card_plots, "draw", lambda contents, folder: [])  # takes seconds; test_publish draws
        publish(made_campaign(place / "zoo", "cifar10_standard"))
    relu = ("train", "resnet_digits", "--activation", "relu", *shlex.split(TRAIN), "--out")
    assert call(*relu, place / "runs/train_resnet_digits_relu_s0").exit_code == 0
    assert call(*relu, place / "runs/mine", "--activation", "grafs_resnet").exit_code == 0
    return place


def _gzipped(text: str) -> bytes:
    import gzip

    return gzip.compress(text.encode())


def _shards(folder) -> None:
    folder.mkdir(parents=True)
    write_tar(folder / "train.tar", samples(96))
    write_tar(folder / "test.tar", samples(24, start=96))
    splits = {
        name: {"name": name, "num_samples": count, "filenames": [f"{name}.tar"], "shard_lengths": [count]}
        for name, count in (("train", 96), ("test", 24))
    }
    (folder / "_info.json").write_text(json.dumps({"splits": splits, "classes": ["x", "y", "z"]}), encoding="utf-8")


def in_this_process(jobs, launch, on_outcome=None):
    """`run_jobs` without a process for each job."""
    outcomes = []
    for job in jobs:
        ended = call(*job.arguments)
        outcomes.append(Outcome(job, "failed" if ended.exit_code else "done", ended.stderr.strip()))
        if on_outcome:
            on_outcome(outcomes[-1])
    return outcomes


@pytest.fixture
def here(furnished, tmp_path, monkeypatch):
    """A copy of that folder as the working directory, and jobs in this process."""
    place = shutil.copytree(furnished, tmp_path / "here")
    monkeypatch.chdir(place)
    monkeypatch.delenv("GRAFS_TIMM_DATA", raising=False)
    monkeypatch.setenv("GRAFS_TIMM_CACHE", str(tmp_path / "cache"))
    for module in (selection, campaign_run):
        monkeypatch.setattr(module, "run_jobs", in_this_process)
    monkeypatch.setattr(torchvision.datasets.SVHN, "split_list", SVHN_FILES)
    monkeypatch.setattr(card_plots, "draw", lambda contents, folder: [])
    for name in ("argv", "path"):
        monkeypatch.setattr(f"sys.{name}", list(getattr(__import__("sys"), name)))
    return place


def test_there_are_as_many_as_commands():
    assert len(set(examples())) >= len(list(commands(main)))


@pytest.mark.parametrize(
    "example",
    [
        pytest.param(each, marks=pytest.mark.slow) if "--select" in each else each  # searches and trainings of half a minute
        for each in sorted(set(examples()))
    ],
)
def test_it_runs(here, monkeypatch, example):
    words = words_of(example)
    if words[0] == "campaign":  # that of the recipe that ships takes days
        tiny = parse_recipe(RECIPE | REAL, STANDARD)
        monkeypatch.setattr(campaign, "load_recipe", lambda name: tiny if name == STANDARD else load_recipe(name))
        if words[1] != "status":
            shutil.rmtree("zoo")  # made with another recipe
    if "--retrain" in words:
        words[2] = "grafs_resnet_digits_standard_s0"  # the entry of the small campaign
    if words[:2] == ["data", "pack"] or words[0] == "search":  # what it is to write
        shutil.rmtree("data" if words[0] == "data" else "runs")
    result = call(*words)
    assert result.exit_code == 0, result.output
    assert result.stdout
