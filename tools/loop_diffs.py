"""Write the diffs of docs/your-own-loop.md anew from the examples, each a script as it was and as it searches.

python tools/loop_diffs.py
"""

from __future__ import annotations

import difflib
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "your-own-loop.md"
NAMES = ("pytorch_loop", "timm_train", "hf_trainer", "lightning_fit")
_BLOCK = re.compile(r"```diff\n--- examples/(\w+)\.py\n.*?```\n", re.DOTALL)


def path(name: str, searched: bool = False) -> Path:
    """The script of an example, as it was or as it searches."""
    return ROOT / "examples" / f"{name}{'_searched' if searched else ''}.py"


def changed(before: list[str], after: list[str]) -> int:
    """How many lines have to be touched: added, deleted, or, counted once, replaced. Empty lines don't count."""
    before, after = ([line for line in lines if line.strip()] for lines in (before, after))
    codes = difflib.SequenceMatcher(None, before, after, autojunk=False).get_opcodes()
    return sum(max(i2 - i1, j2 - j1) for kind, i1, i2, j1, j2 in codes if kind != "equal")


def lines(name: str) -> tuple[list[str], list[str]]:
    before, after = (path(name, searched).read_text(encoding="utf-8").splitlines() for searched in (False, True))
    return before, after


def diff(name: str) -> str:
    """The unified diff of an example, in a fence."""
    before, after = (str(path(name, searched).relative_to(ROOT).as_posix()) for searched in (False, True))
    rows = list(difflib.unified_diff(*lines(name), before, after, n=2, lineterm=""))
    return "```diff\n" + "\n".join(row.rstrip() for row in rows) + "\n```\n"


def made(page: str) -> str:
    """The page with every diff in it made anew; KeyError where it shows an example that there is not."""

    def anew(found: re.Match[str]) -> str:
        if found[1] not in NAMES:
            raise KeyError(f"{PAGE.name} shows {found[1]}, which is none of {', '.join(NAMES)}")
        return diff(found[1])

    return _BLOCK.sub(anew, page)


def main() -> None:
    PAGE.write_text(made(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    for name in NAMES:
        print(f"{name}: {changed(*lines(name))} lines changed")


if __name__ == "__main__":
    main()
