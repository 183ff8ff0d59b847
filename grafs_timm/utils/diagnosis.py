"""Collect facts about an installation in sections, each with its problems, and each problem with its cure."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from ..errors import first_line

_LITTLE = 2**30  # bytes of free disk space below which a folder is a problem
_PROBE = 4096  # bytes that are written into a folder to see whether they can be

Level = Literal["broken", "problem", "advice"]


@dataclass(frozen=True)
class Finding:
    """Something that does not work, or could be faster.

    Args:
        level: "broken" where nothing works for it, "problem" where some things do not, "advice" where it costs time alone.
        what: What was found.
        cure: A command or a setting.
    """

    level: Level
    what: str
    cure: str


@dataclass
class Section:
    """Facts about one part of the installation.

    Args:
        title: Of the section, its key in JSON too.
        facts: Values that JSON has: text, numbers, booleans, lists and None.
        findings: What is wrong.

    >>> section = Section("compiler")
    >>> section.problem("no C++ compiler was found", "apt-get install g++")
    >>> section.findings
    [Finding(level='problem', what='no C++ compiler was found', cure='apt-get install g++')]
    """

    title: str
    facts: dict[str, Any] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    def broken(self, what: str, cure: str) -> None:
        """Add what keeps the whole package from working."""
        self.findings.append(Finding("broken", what, cure))

    def problem(self, what: str, cure: str) -> None:
        """Add what does not work."""
        self.findings.append(Finding("problem", what, cure))

    def advice(self, what: str, cure: str) -> None:
        """Add what costs time alone."""
        self.findings.append(Finding("advice", what, cure))

    def add_folder(self, key: str, find: Callable[[], str | Path], cure: str) -> None:
        """Add a folder with its free space, and a problem where no file can be made in it; a missing folder stays missing.

        Args:
            key: Of the fact.
            find: Returns the folder; its errors are problems, such as a user without a home.
            cure: How to name another folder.
        """
        try:
            folder = Path(find()).absolute()
        except (OSError, RuntimeError) as error:
            self.facts[key] = None
            self.problem(f"{key}: {first_line(error)}", cure)
            return
        about = {"path": str(folder), "writable": True, "free_gb": None}
        self.facts[key] = about
        try:
            place = nearest_existing(folder)
            free = shutil.disk_usage(place).free
            about["free_gb"] = round(free / 1e9, 1)
            write_probe(place)
        except OSError as error:
            about["writable"] = False
            self.problem(f"{key}: {folder} cannot be written: {error.strerror or error}", cure)
            return
        if free < _LITTLE:
            self.problem(f"{key}: {free / 1e6:.0f} MB are left on the disk of {folder}", f"free some space, or {cure}")


def nearest_existing(folder: Path) -> Path:
    """Return the folder, or the nearest one above it that exists."""
    return next(place for place in (folder, *folder.parents) if place.exists())


def write_probe(folder: Path) -> None:
    """Write a small file that is gone when this returns. OSError where that fails."""
    with tempfile.TemporaryFile(dir=folder) as file:  # without a name where the file system can do that
        file.write(bytes(_PROBE))
        file.flush()


@dataclass(frozen=True)
class Diagnosis:
    """What an examination found.

    >>> print("\\n".join(Diagnosis((Section("threads", {"torch": 2}),)).lines()))
    threads
      torch                 2
    <BLANKLINE>
    it works, and nothing is wrong
    """

    sections: tuple[Section, ...]

    @property
    def works(self) -> bool:
        """Return whether nothing is broken."""
        return not any(finding.level == "broken" for finding in self._findings)

    @property
    def _findings(self) -> list[Finding]:
        return [finding for section in self.sections for finding in section.findings]

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON has it: ``works``, and of each section the facts and the findings."""
        sections = {
            section.title: {"facts": section.facts, "findings": [asdict(each) for each in section.findings]}
            for section in self.sections
        }
        return {"works": self.works, "sections": sections}

    def lines(self) -> Iterator[str]:
        """Yield the same as text, with the number of findings last."""
        for section in self.sections:
            yield section.title
            for key, value in section.facts.items():
                yield from _lines(key, value)
            for finding in section.findings:
                yield f"  {finding.level}: {finding.what}"
                yield f"    cure: {finding.cure}"
            yield ""
        yield f"it {'works' if self.works else 'cannot work'}{self._counted()}"

    def _counted(self) -> str:
        names = {"broken": "broken", "problem": "to mend", "advice": "to make faster"}
        counts = {level: sum(each.level == level for each in self._findings) for level in names}
        return "".join(f", {count} {names[level]}" for level, count in counts.items() if count) or ", and nothing is wrong"


def _lines(key: str, value: Any) -> Iterator[str]:
    rows = value if isinstance(value, list) else [value]
    for number, row in enumerate(rows or ["none"]):
        yield f"  {'' if number else key:20s}  {_text(row)}".rstrip()


def _text(value: Any) -> str:
    if isinstance(value, dict):  # of a folder
        free = "" if value["free_gb"] is None else f", {value['free_gb']:g} GB free"
        return f"{value['path']} ({'writable' if value['writable'] else 'not writable'}{free})"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value is None else str(value)


def examine(parts: Mapping[str, Callable[[Section], None]]) -> Diagnosis:
    """Fill a section by each function; what one raises hides no other.

    Args:
        parts: By the titles of the sections: functions that add facts and findings.

    >>> examine({"numbers": lambda section: section.advice("1 / 0 is slow", "leave it out")}).works
    True
    """
    sections: list[Section] = []
    for title, look in parts.items():
        section = Section(title)
        try:
            look(section)
        except Exception as error:  # whatever a damaged installation raises
            if Diagnosis(tuple(sections)).works:
                cure = "pip install --force-reinstall grafs-timm, or report it with the output of grafs-timm doctor --json"
                section.problem(f"this could not be examined: {first_line(error)}", cure)
            else:  # most likely for what is broken
                section.facts["not examined"] = first_line(error)
        sections.append(section)
    return Diagnosis(tuple(sections))
