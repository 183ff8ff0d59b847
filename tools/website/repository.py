"""Where the repository's files are on the documentation site, and links between them.

Pages link to one another as files of the repository, so that links work wherever it is browsed. Many lie outside docs/, which
is all that MkDocs knows. Each of these gets a place on the site, and a page's links are rewritten while the site is built.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).parents[2]
FENCE = re.compile(r"^( *)```.*?^\1```$", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"\]\(([^()\s]+)\)")
# the leaderboard's thumbnails; Python-Markdown leaves links in HTML as they are
_THUMBNAIL = re.compile(r'<a href="([^"]+)"><img src="([^"]+)" width="(\d+)" alt="([^"]*)"></a>')
_MOVED = {
    "README.md": "index.md",
    "zoo/README.md": "zoo/leaderboard.md",  # docs/zoo/index.html is the gallery
    # what pages are generated from
    "grafs_timm/config/schema.py": "reference/recipe-keys.md",
    "grafs_timm/cli": "reference/commands.md",
    "recipes": "reference/recipe-files.md",
}
_SOURCE = (".py", ".yaml")  # shown as pages


def place(path: str) -> str:
    """Return where a file of the repository is on the site, as MkDocs names sources.

    Args:
        path: Relative to the repository, with slashes.

    >>> place("docs/method.md"), place("zoo/README.md"), place("grafs_timm/errors.py")
    ('method.md', 'zoo/leaderboard.md', 'source/grafs_timm/errors.py.md')
    """
    if path in _MOVED:
        return _MOVED[path]
    if path.endswith(_SOURCE):
        return f"source/{path}.md"
    return path.removeprefix("docs/")


def outside_docs() -> dict[str, str]:
    """Return the repository's files that the site shows or links to, apart from those in docs/: path -> place."""
    first = ["README.md", "CHANGELOG.md", "CONTRIBUTING.md"]
    first += [path.relative_to(ROOT).as_posix() for path in sorted((ROOT / "docs").rglob("*.md"))]
    known: dict[str, str] = {}
    waiting = first
    while waiting:
        path = waiting.pop()
        if path in known:
            continue
        known[path] = place(path)
        if path.endswith(".md"):
            waiting += [target for target in _targets(path) if (ROOT / target).is_file()]
    return {path: where for path, where in known.items() if not path.startswith("docs/")}


def rewritten(text: str, path: str, where: str) -> str:
    """Return a page's Markdown with its links as they are on the site.

    Args:
        text: Its Markdown.
        path: Its file, or that of the part of it that ``text`` is, relative to the repository.
        where: The page's place.
    """
    text = _THUMBNAIL.sub(r"[![\4](\2){ width=\3 }](\1)", text)

    def on_site(target: str) -> str | None:
        file, _, anchor = target.partition("#")
        full = _joined(path, file)
        if (ROOT / full).is_dir() and full not in _MOVED:
            return None
        new = os.path.relpath(place(full), PurePosixPath(where).parent)
        return f"{new}#{anchor}" if anchor else new

    return _outside_fences(text, lambda part: _relink(part, on_site))


def _relink(text: str, on_site: Callable[[str], str | None]) -> str:
    def folders(match: re.Match[str]) -> str:
        words, target = match.groups()
        if _relative(target) and on_site(target) is None:
            return f"{words} (in the repository)"  # the site has no page of a folder
        return match[0]

    text = re.sub(r"(?<!!)\[([^\[\]]*)\]\(([^()\s]+/)\)", folders, text)
    return _LINK.sub(lambda match: f"]({on_site(match[1])})" if _relative(match[1]) else match[0], text)


def _relative(target: str) -> bool:
    return not re.match(r"[a-z]+:|#", target)


def _joined(path: str, target: str) -> str:
    return os.path.normpath(PurePosixPath(path).parent / target)


def _targets(path: str) -> Iterator[str]:
    text = FENCE.sub("", (ROOT / path).read_text(encoding="utf-8"))
    found = _LINK.findall(text) + [target for match in _THUMBNAIL.findall(text) for target in match[:2]]
    for target in found:
        if _relative(target):
            yield _joined(path, target.partition("#")[0])


def _outside_fences(text: str, change: Callable[[str], str]) -> str:
    parts, end = [], 0
    for fence in FENCE.finditer(text):
        parts += [change(text[end : fence.start()]), fence[0]]
        end = fence.end()
    return "".join([*parts, change(text[end:])])
