"""The recipes in recipes/: every model takes the images it is to be trained on, and ImageNet's runs on small shards."""

import gzip
import json
import random
import re

import numpy as np
import pytest
from shard_files import encoded, write_tar
from tiny_runs import call

from grafs_timm.comparison.matrix import Matrix
from grafs_timm.config.recipe import load_recipe
from grafs_timm.config.schema import ImageData, TextData
from grafs_timm.data.pack_text import TextPacking, pack_text
from grafs_timm.runs import checkpoint
from grafs_timm.runs.training import make_model, open_feeds
from grafs_timm.utils.resources import folder

ALL = {path.stem: load_recipe(path) for path in sorted(folder("recipes").glob("*.yaml"))}
NAMES = [name for name, recipe in ALL.items() if recipe.transfer.models and isinstance(recipe.data, ImageData)]
OF_TEXT = [name for name, recipe in ALL.items() if isinstance(recipe.data, TextData)]
COLOUR = (32, 32, 3)
SETS = {"cifar10": (10, COLOUR), "cifar100": (100, COLOUR), "svhn": (10, COLOUR), "fashion-mnist": (10, (28, 28))}
WNIDS = [f"n{number:08d}" for number in range(1000)]


def pictures(shape, count=4, form="png"):
    """``count`` images of noise with labels 0, 1, 2 ..."""
    noise = [np.random.default_rng(key).integers(0, 256, shape, dtype=np.uint8) for key in range(count)]
    return [(f"{key}.{end}", data) for key, pixels in enumerate(noise)
            for end, data in ((form, encoded(pixels, form)), ("cls", str(key).encode()))]  # fmt: skip


def data_set(path, classes, splits):
    """``splits``: {split: {shard: its files}}; each sample has one file ``.cls``."""
    path.mkdir()
    about = {}
    for split, shards in splits.items():
        lengths = [sum(name.endswith(".cls") for name, _ in files) for files in shards.values()]
        for shard, files in shards.items():
            write_tar(path / shard, files)
        about[split] = {"name": split, "filenames": list(shards), "shard_lengths": lengths, "num_samples": sum(lengths)}
    (path / "_info.json").write_text(json.dumps({"splits": about, "classes": classes}), encoding="utf-8")


def imagenet_shard(rng, count):
    """Samples as they lie in ImageNet's shards: JPEGs of any size, some of them grey, and a JSON beside each."""
    files = []
    for _ in range(count):
        label, number = int(rng.integers(1000)), int(rng.integers(10**5))
        height, width = rng.integers(40, 90, 2)
        pixels = rng.integers(0, 256, (height, width) if number % 5 == 0 else (height, width, 3), dtype=np.uint8)
        about = {"filename": f"{WNIDS[label]}/{number}.JPEG", "height": int(height), "width": int(width), "label": label}
        key = f"{WNIDS[label]}_{len(files)}{number}"
        files += [(f"{key}.cls", str(label).encode()), (f"{key}.jpg", encoded(pixels, "jpg"))]
        files += [(f"{key}.json", json.dumps(about).encode())]
    return files


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder with small data sets of the names and shapes that the recipes name."""
    root, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for name, (classes, shape) in SETS.items():
        shards = {split: {f"{split}.tar": pictures(shape)} for split in ("train", "test")}
        data_set(root / name, [str(label) for label in range(classes)], shards)
    train = {f"imagenet1k-train-{number:04d}.tar": imagenet_shard(rng, 8) for number in range(4)}
    validation = {f"imagenet1k-validation-{number:02d}.tar": imagenet_shard(rng, 6) for number in range(2)}
    data_set(root / "imagenet", WNIDS, {"train": train, "validation": validation})
    return root


@pytest.mark.parametrize("name", NAMES)
def test_every_model_takes_every_data_set(name, data, tmp_path, monkeypatch):
    monkeypatch.setenv("GRAFS_TIMM_DATA", str(data))
    matrix = Matrix.plan(load_recipe(name, ["evaluate.batch_size=4"]), tmp_path / "m")
    classes = {label: classes for label, (classes, _) in SETS.items()} | {"imagenet": 1000}
    assert len(matrix.models) >= 2
    assert set(matrix.data) <= set(classes)
    for of in matrix.data:
        for model in matrix.models:
            recipe = matrix.cell_recipe(model, of)
            feeds = open_feeds(recipe, 0, "cpu")
            feeds.close()
            assert feeds.num_classes == classes[of]
            assert make_model(recipe, feeds.num_classes, feeds.shape, "cpu").num_classes == classes[of]
    mirrored = {label for label, section in matrix.data.items() if "flip" in section.augment}
    assert mirrored == set(matrix.data) - {"svhn", "imagenet"}  # ImageNet's are, by timm's transform


@pytest.mark.parametrize("name", OF_TEXT)
def test_every_gpt_takes_every_text(name, tmp_path, monkeypatch):
    pytest.importorskip("transformers")
    draw, root = random.Random(0), tmp_path / "data"
    words = ("".join(draw.choices("abcdefghij", k=draw.randint(2, 9))) for _ in range(30_000))
    tales = "".join(f"{word}{draw.choice([' '] * 9 + [chr(10) * 2])}" for word in words).encode()
    (root / "text").mkdir(parents=True)
    for file in ("tinystories-train-head-cased-2MiB", "tinyshakespeare"):
        (root / "text" / f"{file}.txt.gz").write_bytes(gzip.compress(tales))
    pack_text(str(root / "text" / "tinyshakespeare.txt.gz"), root / "tinystories", TextPacking(hold_out=0.1), quiet=True)
    monkeypatch.setenv("GRAFS_TIMM_DATA", str(root))
    matrix = Matrix.plan(load_recipe(name, ["evaluate.batch_size=4", "evaluate.accumulate=1"]), tmp_path / "m")
    assert len(matrix.models) >= (1 if matrix.recipe.campaign else 2)
    for of in matrix.data:
        for model in matrix.models:
            recipe = matrix.cell_recipe(model, of)
            with pytest.warns(UserWarning, match="byte pairs learnt from"):
                feeds = open_feeds(recipe, 0, "cpu")
            assert feeds.shape == (recipe.data.text.context,)
            assert 256 < feeds.num_classes <= recipe.data.text.vocab_size
            assert make_model(recipe, feeds.num_classes, feeds.shape, "cpu").num_classes == feeds.num_classes


def test_a_dry_run_of_the_benchmark(data, tmp_path, monkeypatch):
    monkeypatch.setenv("GRAFS_TIMM_DATA", str(data))
    monkeypatch.chdir(tmp_path)
    result = call(
        "transfer", "mls_bench", "--activation", "golu", "--set", "evaluate.batch_size=4", "--device", "cpu", "--dry-run"
    )
    assert result.exit_code == 0, result.output
    assert "54 jobs: 0 done, 0 half done, 54 to do" in result.stdout  # 6 activations, 3 pairs, 3 seeds
    for pair in ("cifar_resnet20_b on cifar10", "cifar_vgg16_bn on cifar100", "cifar_mobilenetv2 on fashion-mnist"):
        assert f"{pair}: 3600 epochs of " in result.stdout
    assert list(tmp_path.iterdir()) == []


def test_the_images_stay_as_they_are_but_for_the_vit(data, monkeypatch):
    monkeypatch.setenv("GRAFS_TIMM_DATA", str(data))
    shapes = {}
    for name in ("resnet_cifar10", "vit_cifar10", "convnext_cifar10"):
        matrix = Matrix.plan(load_recipe(name, ["evaluate.batch_size=4"]), "nowhere")
        shapes[name] = open_feeds(matrix.cell_recipe(next(iter(matrix.models)), "fashion-mnist"), 0, "cpu").shape
    assert shapes == {"resnet_cifar10": (1, 28, 28), "vit_cifar10": (3, 32, 32), "convnext_cifar10": (1, 28, 28)}


@pytest.mark.slow
def test_a_search_by_the_convnext_recipe(tmp_path, plain):
    changes = ("epochs=3", "warm_start=1", "shrink_start=1", "batch_size=16", "weights.warmup_epochs=0", "grid.intervals=64")
    settings = [part for change in changes for part in ("--set", f"search.{change}")]
    result = call("search", "convnext_cifar10", "--data", "digits", "--set", "data.train_images=80", *settings,
                  "--device", "cpu", "--wandb", "disabled", "--quiet", "--out", tmp_path / "run")  # fmt: skip
    assert result.exit_code == 0, result.output
    assert (tmp_path / "run" / "genotype.json").exists()


# --------------------------------------------------------------------------------------------------------- ImageNet


def test_a_dry_run_of_imagenet(data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = call("transfer", "imagenet", "--data", data / "imagenet", "--activation", "grafs_resnet", "--processes", 8,
                  "--set", "evaluate.batch_size=16", "--device", "cpu", "--dry-run")  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "36 jobs: 0 done, 0 half done, 36 to do" in result.stdout
    for model in ("resnet50", "vit_small_patch16_224"):
        assert f"{model} on imagenet: 1800 epochs of " in result.stdout
    assert "from 3 training steps of one of 8 processes on cpu here" in result.stdout
    assert "could not be timed" not in result.stdout
    assert list(tmp_path.iterdir()) == []


def test_imagenet_streams_and_trains(data, tmp_path, plain):
    """All of the recipe but its size: LAMB, mixup, cutmix, smoothing, EMA, RandAugment; one of its shards is missing."""
    for shard in (data / "imagenet").iterdir():
        if shard.name != "imagenet1k-train-0002.tar":
            (tmp_path / shard.name).symlink_to(shard)
    changes = ("evaluate.epochs=1", "evaluate.batch_size=8", "evaluate.weights.warmup_epochs=0", "evaluate.checkpoint_steps=2",
               "data.image_size=32", "data.workers=1", "amp=off", "compile=off")  # fmt: skip
    result = call("evaluate", "imagenet", "--activation", "relu", "--data", tmp_path, "--model", "test_resnet",
                  *[part for change in changes for part in ("--set", change)],
                  "--device", "cpu", "--wandb", "disabled", "--quiet", "--out", tmp_path / "run")  # fmt: skip
    assert result.exit_code == 0, result.output
    assert len(re.findall(r"^note: .*imagenet1k-train-0002\.tar: skipped", result.stderr, re.MULTILINE)) == 1
    summary = json.loads((tmp_path / "run" / "summary.json").read_text(encoding="utf-8"))
    assert (summary["train_images"], summary["test_images"], summary["measured_on"]) == (32, 12, "test")
    assert [shard.rpartition("/")[2] for shard in summary["skipped_shards"]] == ["imagenet1k-train-0002.tar"]
    assert np.isfinite(summary["test_loss"])
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["step"] for line in log if line["kind"] == "step"] == [2]
    state = checkpoint.load(tmp_path / "run" / "checkpoint.pt")
    assert any((state["ema"][name] != state["model"][name]).any() for name in state["ema"])
