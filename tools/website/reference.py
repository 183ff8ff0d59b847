"""Pages of the documentation site that are made from the code: the API, the command line, the keys of recipes."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterator
from types import UnionType
from typing import Any, get_args

import click
from repository import ROOT

WIDTH = 88  # of --help, so that it fits the column


def pages() -> dict[str, str]:
    """Return the generated pages: place on the site -> Markdown."""
    return {
        **api(),
        "reference/commands.md": commands(),
        "reference/recipe-keys.md": recipe_keys(),
        "reference/recipe-files.md": recipe_files(),
    }


def api() -> dict[str, str]:
    """Make a page for the package, for each room with public names, and for the errors.

    A name is documented once: where the package itself has it, the room's page links there.
    """
    package = importlib.import_module("grafs_timm")
    made = {"reference/api/grafs_timm.md": _api_page("grafs_timm", package, package.__all__, [])}
    for file in sorted((ROOT / "grafs_timm").glob("*/__init__.py")):
        name = f"grafs_timm.{file.parent.name}"
        room = importlib.import_module(name)
        if public := list(getattr(room, "__all__", ())):
            again = [one for one in public if getattr(package, one, None) is getattr(room, one)]
            made[f"reference/api/{file.parent.name}.md"] = _api_page(name, room, sorted(set(public) - set(again)), again)
    made["reference/api/errors.md"] = "# grafs_timm.errors\n\n::: grafs_timm.errors\n"
    return made


def _api_page(name: str, module: Any, own: list[str], again: list[str]) -> str:
    text = f"# {name}\n\n{(module.__doc__ or '').strip()}\n\n"
    if again:
        text += "Also here: " + ", ".join(f"[`{one}`](grafs_timm.md#{_canonical(module, one)})" for one in again) + ".\n\n"
    return text + "".join(f"::: {_canonical(module, one)}\n\n" for one in own)


def _canonical(module: Any, name: str) -> str:
    found = getattr(module, name)
    return f"{found.__module__}.{found.__qualname__}"


def commands() -> str:
    """Make the page of commands: what ``--help`` prints of each."""
    from grafs_timm.cli.main import main

    text = "# Commands\n\nWhat `--help` prints of each command. [How they belong together](../command-line.md).\n\n"
    return text + "".join(_help(main, None, "grafs-timm"))


def _help(command: click.Command, parent: click.Context | None, name: str) -> Iterator[str]:
    settings = command.context_settings | {"max_content_width": WIDTH, "terminal_width": WIDTH}
    context = click.Context(command, parent=parent, info_name=name.split()[-1], **settings)
    yield f"## {name}\n\n```text\n{command.get_help(context)}\n```\n\n"
    for below in command.list_commands(context) if isinstance(command, click.Group) else ():
        found = command.get_command(context, below)  # type: ignore[attr-defined]
        if found and not found.hidden:
            yield from _help(found, context, f"{name} {below}")


def recipe_keys() -> str:
    """Make the page of recipes' keys from the schema, and from its docstrings what they mean."""
    from grafs_timm.config.schema import Recipe

    text = (
        "# Keys of recipes\n\nEvery key of a [recipe](../recipes.md), by section. `--set search.epochs=20` changes one "
        "on the command line. An unknown key or a wrong value is an error that names the nearest right one.\n\n"
    )
    found = sections(Recipe)
    return text + "".join(_section(model, found) for model in found)


def sections(recipe: Any) -> dict[Any, list[str]]:
    """Return the sections of a recipe, itself first: model -> paths. One that several keys hold comes once."""
    found: dict[Any, list[str]] = {}
    _collect(recipe, "", found)
    return found


def _title(model: Any, paths: list[str]) -> str:
    return (f"`{paths[0]}`" if paths[0] else "The recipe") + {"ImageData": " of images", "TextData": " of text"}.get(
        model.__name__, ""
    )


def _collect(model: Any, path: str, found: dict[Any, list[str]]) -> None:
    found.setdefault(model, []).append(path)
    for key, field in model.model_fields.items():
        for part in _models(field.annotation):
            below = f"{path}.{key}" if path else key
            if below not in found.get(part, []):
                _collect(part, below, found)


def _models(annotation: Any) -> list[Any]:
    if hasattr(annotation, "model_fields"):
        return [annotation]
    inner = get_args(annotation)
    return [model for one in inner for model in _models(one)] if inner or isinstance(annotation, UnionType) else []


def _section(model: Any, found: dict[Any, list[str]]) -> str:
    schema = model.model_json_schema()
    titles = {one: _title(one, paths) for one, paths in found.items()}
    sentence, meanings = meaning(model)
    also = " and ".join(f"`{path}`" for path in found[model][1:])
    rows = [
        f"## {titles[model]}\n",
        f"{sentence}\n",
        *([f"These are the keys of {also} too.\n"] if also else []),
        "| key | value | default | meaning |",
        "|---|---|---|---|",
    ]
    for key, field in model.model_fields.items():
        value = kind(schema["properties"][key], schema.get("$defs", {}))
        default = "required" if field.is_required() else _default(field.get_default(call_default_factory=True))
        below = ", ".join(f"[{titles[one]}](#{_anchor(titles[one])})" for one in dict.fromkeys(_models(field.annotation)))
        said = " ".join(filter(None, [meanings.get(key, ""), below and f"Keys: {below}."]))
        rows.append(f"| `{key}` | {value} | {default} | {said} |")
    return "\n".join(rows) + "\n\n"


def meaning(model: Any) -> tuple[str, dict[str, str]]:
    """Return what a section's docstring says: its text, and key -> meaning."""
    text = re.split(r"^>>> ", inspect.cleandoc(model.__doc__ or ""), flags=re.MULTILINE)[0]
    said, _, arguments = text.partition("Args:\n")
    found = {}
    for line in re.findall(r"^ {4}(\S.*(?:\n {8}.*)*)", arguments, re.MULTILINE):
        names, _, words = " ".join(line.split()).partition(": ")
        found |= dict.fromkeys(names.split(", "), words.replace("|", "\\|"))
    return re.split(r"\n *>>> ", said)[0].strip(), found


def kind(schema: dict[str, Any], defs: dict[str, Any]) -> str:
    """Describe the values that a JSON schema allows, for a cell of a table.

    >>> kind({"anyOf": [{"type": "integer", "minimum": 1}, {"type": "null"}]}, {})
    'integer ≥ 1 or null'
    """
    if "$ref" in schema:
        return kind(defs[schema["$ref"].rpartition("/")[2]], defs)
    if "enum" in schema or "const" in schema:
        return ", ".join(f"`{one}`" for one in schema.get("enum", [schema.get("const")]))
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(kind(one, defs) for one in schema["anyOf"]))
    if "allOf" in schema:
        return kind(schema["allOf"][0], defs)
    if schema.get("type") == "array":
        inner = kind(schema.get("items") or schema["prefixItems"][0], defs)
        return f"list of ({inner})" if "items" in schema else f"list of {len(schema['prefixItems'])} ({inner})"
    if schema.get("type") == "object":
        return "section" if "properties" in schema else "keys and values"
    words = {"string": "text", "boolean": "true, false"}.get(schema.get("type", ""), schema.get("type", "any"))
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    return " ".join([words, ", ".join(f"{sign} {schema[key]:g}" for key, sign in signs.items() if key in schema)]).strip()


def _default(value: Any) -> str:
    if hasattr(value, "model_fields_set"):
        changed = {key: getattr(value, key) for key in type(value).model_fields if key in value.model_fields_set}
        return ", ".join(f"`{key}: {_listed(one)}`" for key, one in changed.items()) or "its keys' defaults"
    plain = {None: "null", True: "true", False: "false"}
    return f"`{plain[value]}`" if isinstance(value, bool | None) else f"`{_listed(value)}`"


def _listed(value: Any) -> str:
    return f"[{', '.join(map(str, value))}]" if isinstance(value, tuple) else str(value)


def _anchor(title: str) -> str:
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def recipe_files() -> str:
    """Make the page with every recipe that comes with the package."""
    text = "# Recipe files\n\nThe recipes of the package, by the name that commands take. [What they are for](../recipes.md); "
    text += "[every key](recipe-keys.md).\n\n"
    for file in sorted((ROOT / "recipes").glob("*.yaml")):
        text += f"## {file.stem}\n\n```yaml\n{file.read_text(encoding='utf-8').strip()}\n```\n\n"
    return text
