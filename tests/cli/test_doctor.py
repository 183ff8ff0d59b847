"""`grafs-timm doctor` where something is missing, broken or not to be written: each problem has its cure.

Tests may run as root, who may write everywhere: what cannot be written here is a folder below a file.
"""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_runs import ROOT, call, contents

from grafs_timm.kernels import cpu
from grafs_timm.runs import doctor
from grafs_timm.utils import compiled, hardware, version

KEY = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def alone(monkeypatch, tmp_path):
    """In an empty folder, without settings of the machine, and where whatever compiles or connects fails."""

    def refused(*arguments, **settings):
        raise AssertionError("the doctor only looks")

    monkeypatch.chdir(tmp_path)
    for name in ("WANDB_MODE", "GRAFS_TIMM_DATA", "NETRC", "TORCHINDUCTOR_CACHE_DIR", "XDG_CACHE_HOME", "LD_PRELOAD"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(socket.socket, "connect", refused)
    monkeypatch.setattr(cpu, "load", refused)


def check(found):
    for section in found["sections"].values():
        for finding in section["findings"]:
            assert finding["level"] in ("broken", "problem", "advice")
            assert len(finding["what"]) > 10, finding
            assert len(finding["cure"]) > 5, finding
    return found["sections"]


def sections(*arguments, exit_code=0):
    """What it prints as JSON, in this process; the text has the same, and nothing is left in the folder."""
    before = contents(Path())
    said = call("doctor", *arguments, "--json")
    assert said.exit_code == exit_code, said.output
    found = check(json.loads(said.stdout))
    text = call("doctor", *arguments).stdout
    for title, section in found.items():
        assert f"\n{title}\n" in f"\n{text}"
        for finding in section["findings"]:
            assert f"  {finding['level']}: {finding['what']}\n    cure: {finding['cure']}\n" in text
    assert contents(Path()) == before
    assert sorted(path.name for path in Path().iterdir()) == sorted({path.split("/")[0] for path in before} | {"home"})
    return found


def problems(section, level="problem"):
    return {each["what"]: each["cure"] for each in section["findings"] if each["level"] == level}


def test_of_an_installation_that_works():
    found = sections()
    assert found["versions"]["facts"]["torch"] == torch.__version__
    assert found["processor"]["facts"]["processor"] == hardware.processor()
    assert found["processor"]["facts"]["amp: auto"].startswith("bf16 " if hardware.has_bf16() else "off ")
    assert [line.split()[0] for line in found["processor"]["facts"]["channels_last: auto"]] == ["true", "false"]
    assert found["folders"]["facts"]["runs"]["writable"] is True
    assert found["zoo"]["facts"]["entries"] >= 4
    assert any(line.startswith("grafs_resnet -> ") for line in found["zoo"]["facts"]["aliases"])
    lines = sum(len(file.read_bytes().splitlines()) for file in (ROOT / "zoo").glob("vit/evidence/cifar10_reduced_1/*.jsonl"))
    assert f"vit/cifar10_reduced_1: {lines} lines" in found["zoo"]["facts"]["ledgers"]
    assert not any(problems(section, "broken") for section in found.values())


def test_without_a_compiler(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path / "home"))
    section = sections()["compiler"]
    assert section["facts"]["C++ compiler"] is None
    assert section["facts"]["loops on a CPU"] == compiled.WITHOUT
    (what,) = problems(section)
    assert "no C++ compiler was found" in what
    assert "g++" in problems(section)[what]


def test_every_extra_says_what_it_is_for():
    extras = {each.extra for each in version.needed() if each.extra}
    assert "hf-data" in extras
    assert extras <= doctor._FOR.keys()


def test_with_compiling_switched_off(monkeypatch):
    monkeypatch.setattr(compiled, "plain_only", True)
    assert "unset GRAFS_TIMM_COMPILE" in problems(sections()["compiler"], "advice").values()


def test_a_home_and_a_cache_that_cannot_be_written(monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("HOME", str(tmp_path / "file" / "home"))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "file" / "cache"))
    section = sections()["folders"]
    assert not section["facts"]["compiled loops"]["writable"]
    cures = problems(section)
    assert len(cures) == 2
    assert any("compiled loops" in what and "export TORCHINDUCTOR_CACHE_DIR=" in cure for what, cure in cures.items())
    assert any("packed data" in what and "export GRAFS_TIMM_CACHE=" in cure for what, cure in cures.items())


def test_more_threads_than_processors(monkeypatch, tmp_path):
    (tmp_path / "home" / "cpu.max").write_text("150000 100000\n", encoding="ascii")
    monkeypatch.setattr(hardware, "_QUOTA", ((str(tmp_path / "home" / "cpu.max"),),))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    section = sections()["processor"]
    assert section["facts"]["processors"] <= 1.5
    assert "export OMP_NUM_THREADS=1" in problems(section, "advice").values()


def test_the_allocators_settings_are_those_of_the_page(monkeypatch):
    settings = " ".join(f"{name}={value}" for name, value in hardware.ALLOCATOR.items())
    assert f"`{settings}`" in (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
    for name, value in hardware.ALLOCATOR.items():
        monkeypatch.setenv(name, value)
    assert hardware.keeps_pages()
    assert f"export {settings}" not in problems(sections()["processor"], "advice").values()


# ------------------------------------------------------------------------------------------------------------------- W&B


@pytest.mark.parametrize("where", ["variable", "netrc"])
def test_a_key_is_found_and_never_printed(where, monkeypatch, tmp_path):
    if where == "variable":
        monkeypatch.setenv("WANDB_API_KEY", KEY)
    else:
        netrc = tmp_path / "home" / ".netrc"
        netrc.write_text(f"machine api.wandb.ai\n  login user\n  password {KEY}\n", encoding="ascii")
        netrc.chmod(0o600)
    facts = sections()["W&B"]["facts"]
    assert facts["key"] == ("from WANDB_API_KEY" if where == "variable" else "from ~/.netrc")
    assert facts["--wandb auto"] == "online"
    for arguments in ([], ["--json"]):
        assert KEY not in call("doctor", *arguments).output


@pytest.mark.parametrize(
    ("variables", "mode", "cure"),
    [
        ({}, "offline", "wandb login"),
        ({"WANDB_MODE": "online"}, "online", "wandb login"),
        ({"WANDB_MODE": "ofline"}, None, "WANDB_MODE"),
        ({"WANDB_BASE_URL": "nowhere", "WANDB_API_KEY": KEY}, "online", "WANDB_BASE_URL"),
        ({"WANDB_BASE_URL": "https://user:secret@wandb.example.org/path", "WANDB_API_KEY": KEY}, "online", None),
        ({"WANDB_DIR": "file/wandb", "WANDB_MODE": "disabled"}, "disabled", "WANDB_DIR"),
    ],
)
def test_the_settings_of_wandb(variables, mode, cure, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    section = sections()["W&B"]
    assert section["facts"]["--wandb auto"] == mode
    assert [cure in each["cure"] for each in section["findings"]] == ([True] if cure else [])
    assert "secret" not in json.dumps(section)


# ------------------------------------------------------------------------------------------------------------------ data


def test_where_names_of_data_lead(monkeypatch, tmp_path):
    (tmp_path / "data" / "mine").mkdir(parents=True)
    (tmp_path / "data" / "mine" / "_info.json").write_text("{}", encoding="ascii")
    monkeypatch.setenv("GRAFS_TIMM_DATA", "nowhere")
    section = sections("--data", "mine")["data"]
    assert section["facts"]["--data mine"] == "data/mine"
    assert "mine: data/mine" in section["facts"]["found"]
    assert [cure for what, cure in problems(section).items() if "GRAFS_TIMM_DATA=nowhere" in what]

    section = sections("--data", "svhn")["data"]
    assert "to be packed into nowhere/svhn" in section["facts"]["--data svhn"]  # and nothing was downloaded

    section = sections("--data", "mne")["data"]
    assert section["facts"]["--data mne"] is None
    assert any(
        "no data set 'mne'; nearest: mine" in what and "grafs-timm data pack" in cure
        for what, cure in problems(section).items()
    )


# ------------------------------------------------------------------------------------------------------ what is installed


def test_versions_that_do_not_fit(monkeypatch):
    stated = ["torch>=99", "timm>=1.0.24", "no-such-library>=2", 'wandb>=99; extra == "wandb"', 'no-such-extra; extra == "ray"']
    monkeypatch.setattr(version, "requires", lambda name: stated)
    section = sections(exit_code=1)["versions"]
    assert problems(section, "broken") == {"no-such-library is not installed": "pip install 'no-such-library>=2'"}
    assert "pip install 'torch>=99'" in problems(section).values()
    assert "pip install -U 'grafs-timm[wandb]'" in problems(section).values()
    assert "pip install -U 'grafs-timm[ray]'" in section["facts"]["no-such-extra"]


# a process in which some libraries are not there: neither to import nor among those installed
MISSING = """
import importlib.metadata as metadata, sys
missing = {missing!r}
found = metadata.version
def version(name):
    if name in missing:
        raise metadata.PackageNotFoundError(name)
    return found(name)
metadata.version = version
class NotThere:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in missing:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, NotThere())
sys.modules["wandb"] = None
from grafs_timm.cli.main import main
main(["doctor", "--json"], prog_name="grafs-timm")
"""


def without(missing, cwd, **environment):
    code = MISSING.format(missing=missing)
    env = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"} | environment
    done = subprocess.run([sys.executable, "-c", code], cwd=cwd, env=env, capture_output=True, encoding="utf-8")
    assert done.stderr == ""
    return done.returncode, check(json.loads(done.stdout))


def test_an_installation_that_cannot_work(tmp_path):
    code, found = without(["torch"], tmp_path)
    assert code == 1
    assert problems(found["versions"], "broken")["torch is not installed"].startswith("pip install 'torch>=")
    assert found["folders"]["facts"]["runs"]["writable"]


@pytest.mark.slow
def test_a_cache_that_torch_cannot_make(tmp_path):
    """torch makes the folder when it is imported, and then nothing that imports torchvision or timm works."""
    (tmp_path / "file").touch()
    code, found = without([], tmp_path, TORCHINDUCTOR_CACHE_DIR=str(tmp_path / "file" / "cache"))
    assert code == 1
    ((what, cure),) = problems(found["versions"], "broken").items()
    assert "import torch" in what
    assert "export TORCHINDUCTOR_CACHE_DIR=FOLDER" in cure
    assert not found["folders"]["facts"]["compiled loops"]["writable"]


@pytest.mark.slow
def test_everything_optional_missing_at_once(tmp_path):
    """No compiler, no wandb, no Ray, no home, no cache, no data: it works all the same."""
    (tmp_path / "file").touch()
    here = {name: str(tmp_path / "file" / name) for name in ("HOME", "XDG_CACHE_HOME", "HF_HOME")}
    before = contents(tmp_path)
    code, found = without(["wandb", "ray", "triton"], tmp_path, PATH=str(tmp_path), GRAFS_TIMM_DATA="nowhere", **here)
    assert code == 0
    assert contents(tmp_path) == before
    assert found["W&B"]["facts"]["--wandb auto"] == "disabled"
    assert "pip install -U 'grafs-timm[wandb]'" in found["versions"]["facts"]["wandb"]
    assert len(problems(found["folders"])) == 2
    assert found["compiler"]["facts"]["C++ compiler"] is None
    assert found["zoo"]["facts"]["entries"] >= 4
