"""The probe of a folder, and a section whose examination fails."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from grafs_timm.utils.diagnosis import Section, examine


def folder(path: Path) -> Section:
    section = Section("folders")
    section.add_folder("cache", lambda: path, "export CACHE=FOLDER")
    return section


def test_a_folder_that_is_missing_is_not_made(tmp_path: Path) -> None:
    section = folder(tmp_path / "a" / "b")
    assert section.facts["cache"]["writable"]
    assert section.facts["cache"]["free_gb"] >= 0
    assert not section.findings
    assert not list(tmp_path.iterdir())


def test_a_folder_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    section = folder(tmp_path / "file" / "b")
    (finding,) = section.findings
    assert (finding.level, finding.cure) == ("problem", "export CACHE=FOLDER")
    assert str(tmp_path / "file" / "b") in finding.what
    assert not section.facts["cache"]["writable"]


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(free=5_000_000))
    (finding,) = folder(tmp_path).findings
    assert "5 MB are left" in finding.what
    assert finding.cure == "free some space, or export CACHE=FOLDER"


def test_what_cannot_be_examined_hides_nothing_else() -> None:
    def fails(section: Section) -> None:
        section.facts["first"] = 1
        raise KeyError("second")

    found = examine({"a": fails, "b": lambda section: section.broken("it is torn", "mend it"), "c": fails})
    assert not found.works
    assert found.to_dict()["sections"]["a"]["facts"] == {"first": 1}
    lines = list(found.lines())
    assert "  problem: this could not be examined: KeyError: 'second'" in lines
    assert found.to_dict()["sections"]["c"] == {"facts": {"first": 1, "not examined": "KeyError: 'second'"}, "findings": []}
    assert lines[-1] == "it cannot work, 1 broken, 1 to mend"
