"""The commands: what a user types, reads and finds afterwards, above all where the input is wrong."""

import json
import pickle
import shlex
import subprocess
import sys

import pytest
import torch
import yaml
from shard_files import samples, write_info, write_tar
from tiny_runs import GENOTYPE, ROOT, SETTINGS, call, contents, refused

from grafs_timm import __version__
from grafs_timm.activations import genotype as genotypes

pytestmark = pytest.mark.usefixtures("plain")
COMMANDS = [["search"], ["train"], ["exec"], ["zoo", "list"], ["zoo", "show"], ["zoo", "plot"]]


@pytest.fixture
def tiny(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(SETTINGS), encoding="utf-8")
    return path


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(GENOTYPE), encoding="utf-8")
    return path


@pytest.mark.parametrize("command", [[], ["zoo"], *COMMANDS])
@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_shows_an_example(command, flag):
    result = call(*command, flag)
    assert result.exit_code == 0
    assert "grafs-timm " + " ".join(command) in result.stdout.split("Options:")[0].split("\n", 2)[2]


def test_version_of_the_module():
    shown = subprocess.run([sys.executable, "-m", "grafs_timm", "--version"], cwd=ROOT, capture_output=True, encoding="utf-8")
    assert shown.returncode == 0, shown.stderr
    assert __version__ in shown.stdout


def test_a_search_prints_the_command_that_trains_as_it_was_changed(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my data").symlink_to(ROOT / "grafs_timm" / "data" / "digits")
    changes = ("--data", "my data", "--set", "data.train_images=200", "--set", "search.epochs=4", "--set", "evaluate.epochs=1",
               "--set", "evaluate.weights.warmup_epochs=0")  # fmt: skip
    said = call("search", tiny, *changes, "--out", "my run", "--quiet").stdout
    (line,) = [line.removeprefix("next      ") for line in said.splitlines() if line.startswith("next")]
    program, *words = shlex.split(line)
    assert program == "grafs-timm"
    assert "search.epochs=4" not in words
    result = call(*words, "--quiet", "--out", "trained")
    assert result.exit_code == 0, result.output
    trained = yaml.safe_load((tmp_path / "trained" / "recipe.yaml").read_text(encoding="utf-8"))
    assert (trained["data"]["name"], trained["data"]["train_images"]) == ("my data", 200)
    assert trained["evaluate"]["epochs"] == 1


def test_search_then_evaluate(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = call("search", tiny, "--quiet")
    assert result.exit_code == 0, result.output
    out = tmp_path / "runs" / "search_tiny_s0"
    found = genotypes.load(out / "genotype.json")
    assert f"f(x) = {found.text}" in result.stdout
    assert json.loads((out / "genotype.json").read_text(encoding="utf-8"))["sha256"] == found.sha256
    for name in ("function.png", "shrinking.png"):
        assert (out / "plots" / name).read_bytes().startswith(b"\x89PNG\r\n")
    assert torch.load(out / "checkpoint.pt", weights_only=True)

    before = contents(tmp_path)
    again = call("search", tiny, "--quiet")
    assert again.exit_code == 0
    assert again.stdout == f"already finished, nothing was run: {out.relative_to(tmp_path)}\n" + result.stdout
    assert contents(tmp_path) == before

    for activation in (out / "genotype.json", "relu"):
        command = ("evaluate", tiny, "--activation", activation, "--quiet")
        result = call(*command)
        assert result.exit_code == 0, result.output
        assert "test accuracy" in result.stdout
        before = contents(tmp_path)
        again = call(*command)
        assert again.exit_code == 0
        assert again.stdout.startswith("already finished")
        assert again.stdout.endswith(result.stdout)
        assert contents(tmp_path) == before
    made = sorted(path.name for path in (tmp_path / "runs").iterdir())
    assert made == ["search_tiny_s0", f"train_tiny_genotype_{found.sha256[:8]}_s0", "train_tiny_relu_s0"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--set", "search.epochz=3"], "search.epochz: unknown key; nearest: epochs"),
        (["--set", "search.epochs=x"], "search.epochs"),
        (["--set", "search.warm_start=99"], "search.warm_start: must be below epochs (6), got 99"),
        (["--set", "search.epochs"], "expected key=value"),
        (["--set", "search.usual=rulu"], "relu"),
        (["--set", "search.weights.opt=adamm"], "adam"),
        (["--set", "search.batch_size=512"], "do not fill one batch of 512"),
        (["--set", "data.train_images=12"], "do not fill one batch"),
        (["--model", "cifar_resnet21"], "cifar_resnet20"),
        (["--data", "digit"], "digits"),
        (["--data", "."], "_info.json"),
        (["--device", "cuda:99"], "cuda:99"),
        (["--device", "gpu"], "'gpu'"),
        (["--seed", "x"], "'x' is not a valid integer"),
        (["--seed", "-1"], "-1"),
        (["--seed", str(2**70)], str(2**70)),
        (["--wandb", "of"], "'of' is not one of"),
        (["--sead", "1"], "--seed"),
    ],
)
def test_wrong_options(tiny, tmp_path, monkeypatch, arguments, said):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    before = contents(tmp_path)
    assert said in refused("search", tiny, "--out", tmp_path / "run", "--quiet", *arguments)
    assert contents(tmp_path) == before
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["set #2", "set ", "2024", "null", "a: b", "[set]"])
@pytest.mark.parametrize("option", ["--data", "--model"])
def test_what_is_typed_as_a_name_is_that_name(tiny, tmp_path, monkeypatch, option, name):
    (tmp_path / "data" / "set").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert repr(name) in refused("evaluate", tiny, "--activation", "relu", option, name, "--out", tmp_path / "run", "--quiet")


@pytest.mark.parametrize(
    "arguments",
    [
        ["search", "--data", ""],
        ["search", "--model="],
        ["search", "--out", ""],
        ["search", ""],
        ["evaluate", "--activation", ""],
        ["transfer", "resnet_digits", "--data", "", "--dry-run"],
        ["zoo", "verify", "grafs_resnet", "--retrain", "--data", ""],
        ["data", "check", "digits", "--split", ""],
        ["data", "pack", "", "out"],
        ["campaign", "status", "--zoo", ""],
    ],
)
def test_an_unset_variable_is_no_choice_of_the_default(tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    assert "it is empty" in refused(*arguments)
    assert not any(tmp_path.iterdir())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is CUDA")
def test_cuda_without_cuda(tiny, tmp_path):
    assert "device 'cuda' can't be used" in refused("search", tiny, "--out", tmp_path / "run", "--device", "cuda")


def test_unknown_recipe():
    assert "resnet_digits" in refused("search", "resnet_digit")
    assert "resnet_digits" in refused("evaluate", "resnet_digit", "--activation", "relu")


@pytest.mark.parametrize("text", ["", "[]", "model: [", "model: 3", "modle: cifar_resnet20", "a: &a [*a]", "\x00"])
def test_recipes_that_are_none(tmp_path, text):
    (tmp_path / "bad.yaml").write_text(text, encoding="utf-8")
    assert "bad.yaml" in refused("search", tmp_path / "bad.yaml", "--out", tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ("truncated", "a.tar"),
        ("corrupt", "a.tar"),
        ("label", "7"),
        ("no label", "a.tar"),
        ("missing", "a.tar"),
        ("few", "do not fill one batch"),
        ("info", "_info.json"),
    ],
)
def test_data_that_is_damaged(tiny, tmp_path, damage, said):
    folder = tmp_path / "images"
    folder.mkdir()
    files = samples(12)
    if damage == "label":
        files[3] = (files[3][0], b"7")
    if damage == "no label":
        del files[3]
    write_tar(folder / "a.tar", files)
    write_info(folder, {"a.tar": 12}, ["x", "y", "z"])
    whole = (folder / "a.tar").read_bytes()
    if damage == "truncated":
        (folder / "a.tar").write_bytes(whole[: len(whole) // 2])
    if damage == "corrupt":
        (folder / "a.tar").write_bytes(bytes(byte ^ 0x55 for byte in whole))
    if damage == "missing":
        (folder / "a.tar").unlink()
    if damage == "info":
        (folder / "_info.json").write_text('{"splits": ', encoding="utf-8")
    for command in (["search"], ["evaluate", "--activation", "relu"])[: 1 if damage == "few" else 2]:
        assert said in refused(*command, tiny, "--data", folder, "--out", tmp_path / "run", "--quiet")
        assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["rulu", "grafs_resnet_x", "missing.json", "a/b", "", " "])
def test_unknown_activations(tiny, tmp_path, name):
    said = refused("evaluate", tiny, "--activation", name, "--out", tmp_path / "run")
    assert "relu" in said or name != "rulu"
    assert not (tmp_path / "run").exists()


CODE = "__import__('os').system('touch owned')"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"null",
        b"\xff\xfe",
        pickle.dumps({"format": "grafs-cell/1"}),
        b"[" * 1_000_000,
        b'{"u1":' * 1_000_000,
        json.dumps(GENOTYPE | {"u1": {"op": CODE}}).encode(),
        json.dumps(GENOTYPE | {"u1": CODE}).encode(),
        json.dumps(GENOTYPE | {CODE: 1}).encode(),
        json.dumps(GENOTYPE | {"u2": {"op": "scale", "gamma": CODE}}).encode(),
        json.dumps(GENOTYPE | {"u2": {"op": "scale"}}).encode(),
        json.dumps(GENOTYPE | {"formula": CODE}).encode(),
        json.dumps(GENOTYPE | {"sha256": "0" * 64}).encode(),
        json.dumps(GENOTYPE).replace("1.5", "NaN").encode(),
        json.dumps(GENOTYPE).replace("1.5", "9" * 5000).encode(),
    ],
)
def test_hostile_genotypes(tiny, file, tmp_path, monkeypatch, content):
    monkeypatch.chdir(tmp_path)
    file.write_bytes(content)
    before = contents(tmp_path)
    for command in (["evaluate", tiny, "--activation", file], ["zoo", "show", file], ["zoo", "plot", file]):
        said = refused(*command)
        assert "mine.json" in said
        assert len(said) < 600
    assert contents(tmp_path) == before


def test_folders_of_something_else(tiny, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine", encoding="utf-8")
    out = tmp_path / "run"
    assert call("evaluate", tiny, "--activation", "relu", "--out", out, "--quiet").exit_code == 0
    before = contents(tmp_path)
    for arguments, said in (
        (["--activation", "relu", "--seed", "1"], "seed: 0 there, 1 here"),
        (["--activation", "gelu"], 'activation: "relu" there, "gelu" here'),
        (["--activation", "relu", "--set", "evaluate.epochs=9"], "evaluate.epochs: 3 there, 9 here"),
        (["--activation", "relu", "--out", tmp_path / "mine"], "holds no run"),
        (["--activation", "relu", "--out", tmp_path / "mine" / "thesis.txt"], "is a file"),
    ):
        assert said in refused("evaluate", tiny, "--out", out, "--quiet", *arguments, "--resume")
    assert 'kind: "evaluate" there, "search" here' in refused("search", tiny, "--out", out)
    assert contents(tmp_path) == before


def test_zoo_list_and_show(file):
    assert call("zoo", "list").exit_code == 0
    assert call("zoo", "list", "no_such*").stdout == ""
    found = genotypes.load(file)
    shown = call("zoo", "show", file).stdout
    assert found.text in shown
    assert found.sha256 in shown
    assert json.loads(call("zoo", "show", file, "--json").stdout) == found.to_dict(derived=True)
    assert "timm's own" in refused("zoo", "show", "prelu")
    assert "gelu" in refused("zoo", "show", "gellu")


@pytest.mark.parametrize(("name", "begins"), [("a.png", b"\x89PNG"), ("b.svg", b"<?xml"), ("new/c.pdf", b"%PDF")])
def test_zoo_plot(file, tmp_path, name, begins):
    result = call("zoo", "plot", file, "gelu", "prelu", "--out", tmp_path / name)
    assert result.exit_code == 0, result.output
    assert (tmp_path / name).read_bytes().startswith(begins)


def test_zoo_plot_refuses(file, tmp_path):
    assert "png" in refused("zoo", "plot", file, "--out", tmp_path / "a.txt")
    assert "gelu" in refused("zoo", "plot", file, "gellu", "--out", tmp_path / "a.png")
    assert "Missing argument" in refused("zoo", "plot")
    assert "cannot write" in refused("zoo", "plot", file, "--out", file / "a.png")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.json"]
