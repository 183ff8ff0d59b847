"""The examples in docstrings run, and every public name has one."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

import grafs_timm

PACKAGE = Path(grafs_timm.__file__).parent
MODULES = sorted(
    ".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts)
    for file in PACKAGE.rglob("*.py")
    if ">>>" in file.read_text(encoding="utf-8")
)
ROOMS = ["grafs_timm", *sorted(f"grafs_timm.{file.parent.name}" for file in PACKAGE.glob("*/__init__.py"))]
PUBLIC = [(room, name) for room in ROOMS for name in getattr(importlib.import_module(room), "__all__", ())]


@pytest.mark.parametrize("module", MODULES)
def test_examples_run(module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    result = doctest.testmod(importlib.import_module(module), optionflags=flags)
    assert result.attempted > 0
    assert result.failed == 0
    assert not list(tmp_path.iterdir()), "an example leaves files behind"


@pytest.mark.parametrize(("room", "name"), PUBLIC, ids=[f"{room}.{name}" for room, name in PUBLIC])
def test_a_public_name_has_an_example(room: str, name: str) -> None:
    assert ">>>" in (getattr(importlib.import_module(room), name).__doc__ or "")
