"""Hooks of MkDocs for mkdocs.yml: files outside docs/, pages made from the code, and links between all of them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import reference
import repository
from latex2mathml.converter import convert
from mkdocs.structure.files import File, Files

_INCLUDE = re.compile(r"^<!-- include: (\S+), from (\S.*?) to (\S.*?) -->$", re.MULTILINE)
_DISPLAYED = re.compile(r"^\$\$\n(.*?)\n\$\$$", re.DOTALL | re.MULTILINE)
_GALLERY = "zoo/index.html"
_path_of: dict[str, str] = {}  # place on the site -> file of the repository


def on_files(files: Files, config: Any) -> Files:
    """Add the repository's files outside docs/ that the site has, and the generated pages; list them in the navigation."""
    _path_of.clear()
    for file in files:
        if file.src_uri.endswith(".md"):
            _path_of[file.src_uri] = f"docs/{file.src_uri}"
    made = reference.pages()
    for path, where in repository.outside_docs().items():
        if where in _path_of or where in made:  # docs/index.md includes the README
            continue
        if where.startswith("source/"):
            files.append(File.generated(config, where, content=_source(path)))
        else:
            files.append(File.generated(config, where, abs_src_path=str(repository.ROOT / path)))
            _path_of[where] = path
    for where, text in made.items():
        files.append(File.generated(config, where, content=text))
    files.remove(files.src_uris[_GALLERY])
    files.append(File.generated(config, _GALLERY, content=_gallery()))
    shim = str(Path(__file__).with_name("iframe-worker.js"))
    files.append(File.generated(config, "assets/iframe-worker.js", abs_src_path=shim))
    _fill(config.nav, "Cards", [where for where in sorted(_path_of) if re.fullmatch(r"zoo/\w+/grafs_\w+\.md", where)])
    _fill(config.nav, "API", [where for where in made if where.startswith("reference/api/")])
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Include parts of other files, rewrite links, and turn displayed LaTeX into MathML, which needs no script."""
    where = page.file.src_uri
    if "\n## " not in markdown and "\n::: " not in markdown:  # no contents to list beside it: the page gets the room
        page.meta.setdefault("hide", []).append("toc")
    if page.parent is None:
        page.meta.setdefault("hide", []).append("navigation")
    if where not in _path_of:
        return markdown
    markdown = repository.rewritten(markdown, _path_of[where], where)
    markdown = _INCLUDE.sub(lambda match: _included(where, *match.groups()), markdown)
    return _DISPLAYED.sub(lambda match: convert(match[1], display="block"), markdown)


def _included(where: str, path: str, first: str, last: str) -> str:
    text = (repository.ROOT / path).read_text(encoding="utf-8") + "\nend"
    start = text.index("\n" + first) if first != "start" else 0
    return repository.rewritten(text[start : text.index("\n" + last, start)], path, where)


def _gallery() -> str:
    """Return the gallery with links to cards as pages of the site, and one to the site's own."""
    text = (repository.ROOT / "docs" / _GALLERY).read_text(encoding="utf-8")
    text = re.sub(r'"card":"\.\./\.\./zoo/([^"]+)\.md"', r'"card":"\1.html"', text)
    text = text.replace('"card":"../activations.md"', '"card":"../activations.html"')
    return text.replace("<body>", '<body>\n<p><a href="leaderboard.html">← the zoo</a></p>')


def _source(path: str) -> str:
    language = {".py": "python", ".yaml": "yaml"}[Path(path).suffix]
    return f"# {path}\n\n````{language}\n{(repository.ROOT / path).read_text(encoding='utf-8')}````\n"


def _fill(nav: list[Any], title: str, pages: list[str]) -> None:
    """Put pages into the section of the navigation that mkdocs.yml leaves empty for them."""
    for item in nav:
        for name, below in item.items() if isinstance(item, dict) else ():
            if name == title:
                item[name] = pages
            elif isinstance(below, list):
                _fill(below, title, pages)
