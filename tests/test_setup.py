"""Set-up: the targets of make, the wheel, and the tool that repairs torchvision, tried on a made-up environment."""

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TOOL = ROOT / "tools" / "mend_torchvision.py"

# A torch that knows no operators but those defined, and a torchvision that asks for nms, as the real ones do.
FAKE_TORCH = """
import types
defined = []
class Library:
    def __init__(self, name, kind): self.name = name
    def define(self, schema): defined.append(self.name + "::" + schema.split("(")[0])
library = types.SimpleNamespace(Library=Library)
version = types.SimpleNamespace(cuda={cuda!r})
def load_library(path): {load}
ops = types.SimpleNamespace(load_library=load_library)
"""
FAKE_TORCHVISION = """
import torch
if "torchvision::nms" not in torch.defined:
    raise RuntimeError("operator torchvision::nms does not exist")
if torch.defined.count("torchvision::nms") > 1:
    raise RuntimeError("declared twice")
"""
BARE = sys._base_executable  # without the site-packages of the environment the tests run in, which may be mended

CANNOT = "raise OSError('libcudart.so: cannot open shared object file')"
LOADS = "defined.append('torchvision::nms')"


@pytest.fixture
def tool():
    return runpy.run_path(str(TOOL))


@pytest.fixture
def environment(tmp_path, monkeypatch):
    """Builds site-packages of a made-up environment; running Python sees them through PYTHONPATH."""

    def build(cuda=None, load=CANNOT, torchvision=FAKE_TORCHVISION):
        (tmp_path / "torch.py").write_text(FAKE_TORCH.format(cuda=cuda, load=load), encoding="utf-8")
        (tmp_path / "torchvision").mkdir(exist_ok=True)
        (tmp_path / "torchvision" / "__init__.py").write_text(torchvision, encoding="utf-8")
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        monkeypatch.setattr(sys, "executable", BARE)
        return tmp_path

    return build


def run(code, **more):
    return subprocess.run([BARE, "-c", code], capture_output=True, encoding="utf-8", env={**os.environ, **more})


def test_detects_exactly_the_symptom(tool, environment):
    environment()
    assert tool["diagnose"]()[0] == "mendable"
    environment(cuda="13.0")
    assert tool["diagnose"]() == ("other", "RuntimeError: operator torchvision::nms does not exist")
    environment(torchvision="import a_missing_part")
    verdict, said = tool["diagnose"]()
    assert verdict == "other"
    assert "a_missing_part" in said
    environment(torchvision="")
    assert tool["diagnose"]() == ("fine", "")


def test_what_it_writes_declares_on_the_first_import_and_then_steps_aside(tool, environment):
    folder = environment()
    module, pth = tool["write"](folder)
    assert module.name == "_torchvision_cpu_schemas.py"
    assert pth.read_text(encoding="utf-8") == "import _torchvision_cpu_schemas\n"
    code = """
import sys, _torchvision_cpu_schemas as mended
assert "torch" not in sys.modules and "importlib.util" not in mended.__dict__
before = len(sys.meta_path)
import torchvision, torch
assert torch.defined == ["torchvision::nms", "torchvision::qnms"], torch.defined
assert len(sys.meta_path) == before - 1
"""
    result = run(code)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("cuda", [None, "13.0"])
def test_what_it_writes_leaves_a_fitting_torchvision_alone(tool, environment, cuda):
    tool["write"](environment(cuda=cuda, load=LOADS, torchvision=""))
    result = run("import _torchvision_cpu_schemas, torchvision, torch; print(torch.defined.count('torchvision::qnms'))")
    assert result.stdout.strip() == "0", result.stderr


def test_without_torch_the_error_is_torchvisions_own(tool, environment):
    folder = environment(torchvision="import torch_that_is_missing")
    tool["write"](folder)
    (folder / "torch.py").write_text("raise ImportError('no torch')", encoding="utf-8")
    assert "torch_that_is_missing" in run("import _torchvision_cpu_schemas, torchvision").stderr


def test_refuses_outside_a_virtual_environment(tool, monkeypatch, capsys):
    monkeypatch.setattr(sys, "prefix", sys.base_prefix)
    assert tool["main"]() == 1
    assert "no virtual environment" in capsys.readouterr().err


def test_mends_the_environment_it_runs_in_and_no_other(tool, environment, tmp_path, monkeypatch, capsys):
    folder = environment()
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "some-venv"))
    # sitecustomize stands for the .pth here: .pth files count in site-packages alone
    (folder / "sitecustomize.py").write_text(
        "try:\n import _torchvision_cpu_schemas\nexcept ImportError: pass\n", encoding="utf-8"
    )
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(folder))
    assert tool["main"]() == 0
    assert "CPU-only" in capsys.readouterr().out
    assert tool["main"]() == 0  # a second time: nothing to do, nothing said
    assert capsys.readouterr().out == ""


def test_a_mend_that_does_not_help_is_taken_back(tool, environment, tmp_path, monkeypatch, capsys):
    folder = environment()
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "some-venv"))
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(folder))
    assert tool["main"]() == 1  # nothing loads the .pth from this folder
    assert "torchvision::nms" in capsys.readouterr().err
    assert not list(folder.glob("_torchvision*"))


def test_make_lists_its_targets():
    out = subprocess.run(["make", "-s", "-C", str(ROOT)], capture_output=True, encoding="utf-8", check=True).stdout
    assert {line.split()[1] for line in out.splitlines() if line.startswith("  make ")} == {
        "help", "demo", "test", "test-all", "test-lowest", "lint", "fmt", "docs", "dist", "venv", "clean"
    }  # fmt: skip


INSTALLED = """
import importlib.metadata, pathlib, sys
import timm, grafs_timm
from grafs_timm.cli.main import main
from grafs_timm.config.recipe import load_recipe
here = pathlib.Path(grafs_timm.__file__).parents[1]
assert here == pathlib.Path(sys.argv[1]), here
assert grafs_timm.__version__ == importlib.metadata.version("grafs-timm") == sys.argv[2], grafs_timm.__version__
assert (here / "grafs_timm" / "py.typed").is_file()
model = timm.create_model("resnet18", act_layer="grafs_resnet")
assert "grafs_resnet" in repr(model.act1), model.act1
assert load_recipe("resnet_digits").model and load_recipe("resnet_cifar10").model
main(["zoo", "list"])
"""


def test_a_wheel_installs_and_works_elsewhere(tmp_path):
    """Built, installed into a folder, and used from another one by a new process."""
    pytest.importorskip("hatchling")
    pip = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check"]
    there, elsewhere = tmp_path / "installed", tmp_path / "elsewhere"
    elsewhere.mkdir()
    subprocess.run([*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", str(tmp_path), str(ROOT)], check=True)
    (wheel,) = tmp_path.glob("grafs_timm-*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--no-compile", "--target", str(there), str(wheel)], check=True)
    environment = os.environ | {"PYTHONPATH": str(there), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", INSTALLED, str(there), wheel.name.split("-")[1]],
        cwd=elsewhere, env=environment, capture_output=True, encoding="utf-8",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "grafs_resnet" in done.stdout
    script = [str(there / "bin" / "grafs-timm"), "--version"]
    assert wheel.name.split("-")[1] in subprocess.check_output(script, env=environment, encoding="utf-8")
    assert not any(elsewhere.iterdir())


def test_make_keeps_to_the_python_of_the_environment_that_is_there(tmp_path):
    """Otherwise `make test` after `make venv PYTHON=python3.12` would replace what was just installed."""
    (tmp_path / "Makefile").write_bytes((ROOT / "Makefile").read_bytes())

    def interpreter(*more):
        command = ["make", "-s", "-C", str(tmp_path), "--eval", "shown: ; @echo $(PYTHON)", "shown", *more]
        clean = {key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "MFLAGS")) and key != "PYTHON"}
        return subprocess.run(command, capture_output=True, encoding="utf-8", env=clean, check=True).stdout.split()[-1]

    assert interpreter() == "python3"
    there = tmp_path / ".venv" / "bin" / "python"
    there.parent.mkdir(parents=True)
    there.symlink_to("missing")
    assert interpreter() == "python3"
    there.unlink()
    there.symlink_to(sys.executable)
    assert interpreter() == ".venv/bin/python"
    assert interpreter("PYTHON=python3.12") == "python3.12"
