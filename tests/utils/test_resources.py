"""The folders that ship with the package, in a checkout and in a wheel."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from grafs_timm.utils import resources

ROOT = Path(__file__).parents[2]


def test_a_checkout_reads_its_own(monkeypatch):
    assert (resources.folder("recipes") / "resnet_cifar10.yaml").is_file()
    assert (resources.folder("zoo") / "README.md").is_file()


def test_an_installed_copy_comes_first(tmp_path, monkeypatch):
    package = tmp_path / "site-packages" / "grafs_timm"
    (package / "_data" / "zoo").mkdir(parents=True)
    (tmp_path / "site-packages" / "recipes").mkdir()
    monkeypatch.setattr(resources, "_PACKAGE", package)
    assert resources.folder("zoo") == package / "_data" / "zoo"
    assert resources.folder("recipes") == tmp_path / "site-packages" / "recipes"


def test_missing_data_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(resources, "_PACKAGE", tmp_path / "grafs_timm")
    with pytest.raises(FileNotFoundError, match="no folder zoo/"):
        resources.folder("zoo")


@pytest.mark.slow
def test_a_wheel_carries_zoo_recipes_and_digits(tmp_path):
    command = [sys.executable, "-m", "pip", "wheel", "-qq", "--no-deps", "-w", str(tmp_path), str(ROOT)]
    subprocess.run(command, check=True)
    (wheel,) = tmp_path.glob("grafs_timm-*.whl")
    inside = set(zipfile.ZipFile(wheel).namelist())
    expected = {"grafs_timm/activations/ops.py"}
    for name in ("zoo", "recipes"):
        files = [path for path in (ROOT / name).rglob("*") if path.is_file()]
        assert files
        expected |= {f"grafs_timm/_data/{path.relative_to(ROOT).as_posix()}" for path in files}
    # data inside the package, the digits among it, goes along as it lies there
    for path in (ROOT / "grafs_timm").rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            expected.add(path.relative_to(ROOT).as_posix())
    assert not expected - inside
