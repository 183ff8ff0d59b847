"""A page of the documentation as a reader goes along it: its blocks run in order, and show what the page says they show."""

from __future__ import annotations

import contextlib
import io
import itertools
import re
import shlex
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from grafs_timm.cli.main import main

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_NUMBER = re.compile(r"[-−+]?\d[\d.,]*(e[-+]?\d+)?")
OTHERS = (
    "pip ",
    "cd ",
    "wandb ",
    "ray ",
    "sbatch ",
    "xargs ",
    "cat ",
    "ls ",
)  # commands that a page shows beside the package's


def blocks(page: Path) -> list[tuple[str, str]]:
    """Language and text of a page's code blocks."""
    return _FENCE.findall(page.read_text(encoding="utf-8"))


def walk(page: Path, faster: dict[str, str]) -> None:
    """Run a page's blocks in the working directory.

    Python blocks share their names, as typed into one session. A ``text`` block is what the block before it prints; lines are
    compared without their numbers, ``...`` stands for any lines, and what a search or selection finds may differ.

    Args:
        page: A Markdown file.
        faster: First words of a command -> options added to it.
    """
    names: dict[str, Any] = {"__name__": "__main__"}
    shown = ""
    for language, code in blocks(page):
        if language == "python":
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                exec(compile(code, str(page), "exec"), names)  # the repository's own text, as a reader would type it
            shown = printed.getvalue()
        elif language == "sh":
            shown = "".join(_typed(line, faster) for line in re.sub(r" \\\n *", " ", code).splitlines())
        elif language == "yaml":
            Path(re.match(r"# (\S+)\n", code)[1]).write_text(code, encoding="utf-8")
        elif language == "text":
            _compare(code, shown, page)
        else:
            raise AssertionError(f"{page}: a block of {language or 'no language'}: {code[:60]}")


def _typed(line: str, faster: dict[str, str]) -> str:
    if not line or line.startswith(OTHERS):
        return ""
    line, _, to = line.partition(" > ")
    words = shlex.split(line, comments=True)
    assert words[0] == "grafs-timm", line
    extra = max((key for key in faster if " ".join(words[1:]).startswith(key)), key=len, default="")
    shorter = faster.get(extra, "")
    result = CliRunner().invoke(main, [*words[1:], *shlex.split(shorter)], prog_name="grafs-timm")
    assert result.exit_code == 0, f"{line}\n{result.output}\n{result.exception}"
    if to:
        Path(to).write_text(result.stdout, encoding="utf-8")
        return ""
    said = result.output
    for setting in re.findall(r" ?(--set \S+)", shorter):  # a next command repeats what was set for the test alone
        said = said.replace(f" {setting}", "")
    return said


def _compare(expected: str, shown: str, page: Path) -> None:
    lines = iter([_plain(line) for line in shown.splitlines()])
    wanted = [line for line, _ in itertools.groupby(filter(None, map(_plain, expected.splitlines())))]
    for line in wanted:
        if line != "...":
            assert line in lines, f"{page}: not shown, or not in this order: {line}\n\n{shown}"


def _plain(line: str) -> str:
    line = re.sub(r"(f\(x\) = |^searches_s|^cost|^advice).*", r"\1", line.strip())
    return " ".join(_NUMBER.sub("#", line).split())
