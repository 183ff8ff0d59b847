"""Write the page of one run, ``report.html`` in its folder, from the run's files, also while it is under way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from ..activations.genotype import Genotype
from ..activations.plots import sampled
from ..config import strict_yaml
from ..config.recipe import parse_recipe
from ..config.schema import Recipe
from ..errors import GrafsError, RecipeError, RunError, shortened
from ..utils import charts, html
from ..utils.charts import Line, finite, line_chart
from ..utils.files import write_whole
from ..utils.html import Cell, Fact, Facts, Figure, Figures, Head, Paragraph, Row, Section, Table
from ..utils.markdown import duration, many
from ..zoo.lookup import resolve
from .folder import GENOTYPE, RECIPE, RUN, SUMMARY, read_json
from .report_parts import default_of, functions_section, recipe_section, within
from .tracking import read_log

REPORT = "report.html"
SEARCH_STEP = (1.6, 2.3)  # of a search step, in plain training steps on a CPU: benchmarks/README.md
MOST_EPOCHS, MOST_FRAMES = 200, 40  # rows of the table of epochs, and functions that the slider goes through
_SLOTS = ("u1", "u2", "b1", "u3", "u4", "b2")
_TITLES = {"search": "Search", "search_within": "Training with a search", "evaluate": "Training"}


def write_report(folder: str | Path, summary: Mapping[str, Any] | None = None) -> Path:
    """Write ``report.html`` into the folder of a run, finished or not.

    Args:
        folder: Of a search, a training, or both in one.
        summary: The result, where ``summary.json`` is not written yet.

    Returns:
        The path of the page.

    Raises:
        RunError: The folder holds no run, its files are damaged, or the page can't be written.
    """
    folder = Path(folder)
    try:
        page = html.render(_report(folder, summary))
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        if isinstance(error, GrafsError):
            raise
        raise RunError(
            f"{folder}: its files are not those of a run of this version: {error!r}; see {folder}/log.jsonl"
        ) from error
    return write_whole(folder / REPORT, page)


def _report(folder: Path, summary: Mapping[str, Any] | None) -> html.Report:
    if not (folder / RUN).is_file():
        raise RunError(f"{folder} holds no run: there is no {RUN}")
    about, log = read_json(folder / RUN), read_log(folder)
    recipe = _recipe(folder)
    if summary is None:
        summary = read_json(folder / SUMMARY) if (folder / SUMMARY).exists() else {}
    epochs = [line for line in log if line.get("kind") == "epoch"]
    start = next((line for line in log if line.get("kind") == "start"), {})
    kind = str(about.get("kind"))
    found = _function(folder, about, summary, epochs)
    name = "found" if kind != "evaluate" else str(about.get("activation"))
    title = f"{_TITLES.get(kind, kind)}: {recipe.model} on {Path(recipe.data.name).name}, seed {about.get('seed')}"
    planned = recipe.search.epochs if kind == "search" else recipe.evaluate.epochs
    usual = {each: f for each, f in default_of(recipe.model).items() if each != name}
    sections = [functions_section("The function", {name: found}, usual)] if found else []
    sections += [_forming(start, epochs), _curves(kind, epochs), _costs(kind, recipe, start, epochs, summary)]
    sections += [_epochs(epochs), recipe_section(recipe.to_yaml(), _settings(folder, about, start, summary, log))]
    state = "" if summary else f"Under way: {len(epochs)} of {many(planned, 'epoch')} are logged. This page is of that state."
    return html.Report(title, state, _headlines(kind, about, summary, epochs), _remarks(summary), sections)


def _recipe(folder: Path) -> Recipe:
    try:
        return parse_recipe(strict_yaml.read(folder / RECIPE), str(folder / RECIPE))
    except RecipeError as error:
        raise RunError(f"the recipe of the run in {folder} cannot be read: {error}") from error


def _function(folder: Path, about: Mapping[str, Any], summary: Mapping[str, Any], epochs: Sequence[Mapping[str, Any]]) -> Any:
    """What was found or trained with, as a function of float64 tensors; None where the folder does not tell."""
    last = next((line["genotype"] for line in reversed(epochs) if "genotype" in line), None)
    if genotype := summary.get("genotype") or last:
        return Genotype.from_dict(genotype, str(folder / SUMMARY), derived=False)
    if (folder / GENOTYPE).exists():
        return resolve(folder / GENOTYPE).genotype
    if not about.get("activation") or about.get("activation_sha256"):
        return None
    try:
        return resolve(str(about["activation"])).layer()
    except GrafsError:
        return None  # a class of the caller's own


def _headlines(
    kind: str, about: Mapping[str, Any], summary: Mapping[str, Any], epochs: Sequence[Mapping[str, Any]]
) -> list[Markup]:
    formula = summary.get("formula") or next((line["formula"] for line in reversed(epochs) if "formula" in line), None)
    text = str(formula or about.get("activation") or "not known yet")
    so_far = "" if summary or kind == "evaluate" or not formula else " (the largest α so far)"
    lines = [Markup("f(x) = <code>{}</code>{}").format(text, so_far)]
    last = {**(epochs[-1] if epochs else {}), **summary}
    for split in ("test", "validation", "held_out"):
        if (accuracy := finite(last.get(f"{split}_accuracy"))) is not None:
            named = last.get("measured_on", "architecture split")
            on = f"the {named}, by the network of the search itself" if split == "held_out" else f"the {split} split"
            loss = finite(last.get(f"{split}_loss"))
            value = f"{accuracy:.2f} % accuracy" + (f", loss {loss:.4f}" if loss is not None else "")
            lines.append(Markup("<strong>{}</strong> on {}").format(value, on))
    return lines


def _remarks(summary: Mapping[str, Any]) -> list[str]:
    said = []
    near = summary.get("nearest")
    if isinstance(near, Mapping) and near.get("distance") is not None:
        said.append(
            f"Nearest published function, up to scales that neighbouring layers absorb: {near['name']} "
            f"(distance {near['distance']:.3f}); nearest stock activation: {near['stock']} ({near['stock_distance']:.3f})."
        )
    if summary.get("known_as"):
        said.append(f"It is the same function as {summary['known_as']}.")
    if summary.get("keeps_bound"):
        said.append("Its shape depends on the bound of the search (saturation at ±10), which stays a part of it.")
    if report := summary.get("report"):
        said.append(f"In the model: {report}.")
    return said


def _forming(start: Mapping[str, Any], epochs: Sequence[Mapping[str, Any]]) -> Section:
    """How the function formed, as far as the log tells: f epoch by epoch, what was alive, α slot by slot."""
    lines = [line for line in epochs if "survivors" in line]
    if not lines:
        return Section("How it formed", [])
    figures = [each for each in (_frames(lines), _alive(start, lines)) if each]
    parts: list[Any] = [Figures(figures)]
    if "alpha" in lines[0]:
        parts += [
            html.Heading("α of each candidate, slot by slot"),
            Paragraph(_WHAT_ALPHA),
            Figures(_alphas(lines), small=True),
        ]
    first = start.get("survivors") or lines[0]["survivors"]
    parts += [html.Heading("When candidates were dropped"), Figures(_survivors(first, lines), small=True)]
    return Section("How it formed", parts)


_WHAT_ALPHA = (
    "A line ends where its candidate was dropped. The coloured one is left at the end; others are named under the mouse."
)


def _frames(lines: Sequence[Mapping[str, Any]]) -> Figure | None:
    rows, _ = html.bounded([line for line in lines if "genotype" in line], MOST_FRAMES, "epochs", "log.jsonl")
    if not rows:
        return None
    drawn = []
    for row in rows:
        own = sampled(Genotype.from_dict(row["genotype"], "log.jsonl", derived=False), reach=4.0, count=161)
        now = "frame now" if row is rows[-1] else "frame"
        formula = f"f(x) = {row.get('formula')}"
        drawn.append(Line("", own.x, own.f, "found", now, frame=f"epoch {row['epoch']}", text=formula))
    title = "f(x) of the largest α, epoch by epoch"
    svg = line_chart(drawn, f"{title}, {len(rows)} functions", "x", y_limits=within(drawn, 4.0), zero=True)
    return Figure(title, svg)


def _alive(start: Mapping[str, Any], lines: Sequence[Mapping[str, Any]]) -> Figure:
    at = [(line["epoch"], line["alive"]) for line in lines]
    if start.get("survivors"):
        at.insert(0, (0, sum(map(len, start["survivors"].values()))))
    x, y = zip(*at, strict=True)
    alt = f"candidates left: {y[0]} at first, {y[-1]} after epoch {x[-1]}"
    svg = line_chart([Line("candidates", x, y, "c1")], alt, "epoch", y_limits=(0, max(y) * 1.05))
    return Figure("Candidates left in all six slots", svg)


def _alphas(lines: Sequence[Mapping[str, Any]]) -> list[Figure]:
    figures = []
    for slot in _SLOTS:
        values: dict[str, list[tuple[float, float | None]]] = {}
        for line in lines:
            if "alpha" in line:
                for name, alpha in zip(line["survivors"][slot], line["alpha"][slot], strict=True):
                    values.setdefault(name, []).append((line["epoch"], finite(alpha)))
        left = lines[-1]["survivors"][slot]
        drawn = [
            _alpha(name, points, name in left) for name, points in sorted(values.items(), key=lambda each: each[0] in left)
        ]
        figures.append(Figure(slot, line_chart(drawn, f"α of {slot}; left: {', '.join(left)}", "epoch"), note=_left(left)))
    return figures


def _alpha(name: str, points: Sequence[tuple[float, float | None]], stays: bool) -> Line:
    x, y = zip(*points, strict=True)
    return Line(name, x, y, "found" if stays else "default", "" if stays else "thin")


def _survivors(first: Mapping[str, Sequence[str]], lines: Sequence[Mapping[str, Any]]) -> list[Figure]:
    figures, last = [], lines[-1]["epoch"]
    for slot in _SLOTS:
        ends = {n: next((line["epoch"] for line in lines if n not in line["survivors"][slot]), None) for n in first[slot]}
        left = lines[-1]["survivors"][slot]
        order = sorted(ends, key=lambda name: (-(ends[name] or last + 1), list(first[slot]).index(name)))
        bars = [(name, float(ends[name] or last), "found" if name in left else "out") for name in order]
        alt = f"{slot}: epochs until which each of {len(bars)} candidates was alive; left: {', '.join(left)}"
        figures.append(Figure(slot, charts.bar_chart(bars, float(last), alt, "alive until epoch"), note=_left(left)))
    return figures


def _left(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= 4 else f"{len(names)} left"


def _curves(kind: str, epochs: Sequence[Mapping[str, Any]]) -> Section:
    x = [line["epoch"] for line in epochs]
    marks = (
        [(line["epoch"], "search ends") for line in epochs if line.get("phase") == "search"][-1:] if kind != "search" else []
    )
    marks = marks if any(line.get("phase") == "train" for line in epochs) else []
    figures = []
    for title, keys in _CURVES.items():
        there = {name: key for key, name in keys.items() if any(finite(line.get(key)) is not None for line in epochs)}
        tones = dict(zip(there, charts.TONES, strict=False))
        lines = [Line(name, x, [finite(line.get(key)) for line in epochs], tones[name]) for name, key in there.items()]
        if not lines:
            continue
        ends = ", ".join(f"{line.name} {line.y[-1]:.4g}" for line in lines if line.y[-1] is not None)
        limits, above = charts.without_outliers(value for line in lines for value in line.y)
        svg = line_chart(lines[::-1], f"{title} by epoch; at the end: {ends}", "epoch", y_limits=limits, marks=marks)
        note = f"{many(above, 'value')} above the frame" if above else ""
        figures.append(Figure(title, svg, note, [html.Entry(name, tone) for name, tone in tones.items()]))
    return Section("Learning curves", [Figures(figures)] if figures else [])


_CURVES = {
    "loss in nats": {
        "inner_loss": "weights (inner level)", "train_loss": "training", "outer_loss": "architecture (outer level)",
        "test_loss": "test", "validation_loss": "validation",
    },
    "accuracy in per cent": {"test_accuracy": "test", "validation_accuracy": "validation"},
}  # fmt: skip


def _costs(
    kind: str, recipe: Recipe, start: Mapping[str, Any], epochs: Sequence[Mapping[str, Any]], summary: Mapping[str, Any]
) -> Section:
    seconds = [value for line in epochs if (value := finite(line.get("seconds"))) is not None]
    if not seconds:
        return Section("Costs", [])
    total = seconds[-1] if kind == "search" else sum(seconds)
    facts = [Fact("time", f"{duration(total)}, without loading and measuring", clock=True)]
    if kind == "search" and (steps := start.get("steps_per_epoch")):
        facts += _search_costs(recipe, int(steps) * int(epochs[-1]["epoch"]), int(steps), len(epochs))
    elif kind == "search_within":
        facts += _within_costs(recipe, start, epochs)
    elif kind == "evaluate":
        facts.append(Fact("an epoch", duration(total / len(epochs)) if total >= len(epochs) else "under a second", clock=True))
    return Section("Costs", [Facts(facts)])


def _search_costs(recipe: Recipe, steps: int, per_epoch: int, epochs: int) -> list[Fact]:
    low, high = SEARCH_STEP
    why = f"at {low} to {high} training steps a search step, as benchmarked on a CPU; a training with --search measures its own"
    facts = [
        Fact("search steps", f"{steps:,}: one step of the weights and one of the architecture each"),
        Fact("plain steps", f"about {low * steps:,.0f} to {high * steps:,.0f}, {why}"),
    ]
    search, full = recipe.search, recipe.evaluate
    if full.steps_per_epoch:
        images = full.steps_per_epoch * full.batch_size * full.epochs
    elif search.steps_per_epoch is None:
        images = round(per_epoch * search.batch_size / (1 - search.architecture_fraction)) * full.epochs
    else:
        return facts
    parts = [factor * steps * search.batch_size / images for factor in SEARCH_STEP]
    length = many(full.epochs, "epoch")
    return [*facts, Fact("full trainings", f"about {parts[0]:.2f} to {parts[1]:.2f}, of {length}, by the images in them")]


def _within_costs(recipe: Recipe, start: Mapping[str, Any], epochs: Sequence[Mapping[str, Any]]) -> list[Fact]:
    steps = int(start.get("steps_per_epoch") or 0)
    parts = {phase: [finite(line.get("seconds")) or 0.0 for line in epochs if line.get("phase") == phase] for phase in _PHASES}
    facts = [
        Fact(f"steps with {name}", f"{len(parts[phase]) * steps:,} in {many(len(parts[phase]), 'epoch')}")
        for phase, name in _PHASES.items()
    ]
    plain = sum(parts["train"]) / max(len(parts["train"]), 1)
    if not plain or not parts["search"]:
        return facts
    ratio = sum(parts["search"]) / len(parts["search"]) / plain
    more = (sum(parts["search"]) - plain * len(parts["search"])) / plain
    whole = sum(map(sum, parts.values())) / plain / recipe.evaluate.epochs
    adds = f"{whole:.2f} in all; the search adds {more / recipe.evaluate.epochs:.2f} to the one training"
    return [
        *facts,
        Fact("a search step", f"{ratio:.2f} plain steps, as measured in this run", clock=True),
        Fact("the search", f"{ratio * len(parts['search']) * steps:,.0f} plain steps", clock=True),
        Fact("full trainings", adds, clock=True),
    ]


_PHASES = {"search": "the search", "train": "the found activation alone"}


def _epochs(epochs: Sequence[Mapping[str, Any]]) -> Section:
    columns = [key for key in _COLUMNS if any(key in line for line in epochs)]
    rows, left_out = html.bounded(epochs, MOST_EPOCHS, "epochs", "log.jsonl")
    heads = [Head("epoch", "n"), *(Head(_COLUMNS[key], "" if key in ("formula", "phase") else "n") for key in columns)]
    made = [Row([Cell(str(row["epoch"]), row["epoch"], "n"), *(_cell(key, row.get(key)) for key in columns)]) for row in rows]
    return Section("Epochs", [Table("numbers of every epoch", heads, made, left_out)] if made else [])


_COLUMNS = {
    "phase": "phase", "inner_loss": "loss, weights", "train_loss": "loss, training", "outer_loss": "loss, architecture",
    "test_accuracy": "test, %", "test_loss": "loss, test", "validation_accuracy": "validation, %",
    "validation_loss": "loss, validation", "alive": "alive", "seconds": "seconds", "formula": "f(x) of the largest α",
}  # fmt: skip


def _cell(key: str, value: Any) -> Cell:
    if key == "formula" and value is not None:
        return Cell(shortened(str(value), 400), str(value), "formula")
    number = finite(value)
    if number is None:
        return Cell("–" if value is None else str(value), "" if value is None else str(value))
    if key == "alive":
        return Cell(f"{number:g}", number, "n")
    digits = {"seconds": ".1f"}.get(key, ".2f" if key.endswith("accuracy") else ".4f")
    return Cell(f"{number:{digits}}", number, "n clock" if key == "seconds" else "n")


def _settings(
    folder: Path,
    about: Mapping[str, Any],
    start: Mapping[str, Any],
    summary: Mapping[str, Any],
    log: Sequence[Mapping[str, Any]],
) -> list[Fact]:
    chosen: Any = start.get("settings") or next((line["settings"] for line in log if "settings" in line), {})
    versions = about.get("versions") if isinstance(about.get("versions"), Mapping) else {}
    notices = "; ".join(str(line.get("text")) for line in log if line.get("kind") == "notice")
    pairs = {
        "seed": about.get("seed"), "activation": about.get("activation"), "sites": start.get("sites"),
        "processes": start.get("processes"), "chosen for the machine": _listed(chosen),
        "hardware": _listed(summary.get("hardware")), "versions": _listed(versions), "commit": about.get("commit"),
        "sha256 of the recipe": about.get("recipe_sha256"),
        "sha256 of the genotype": summary.get("sha256") or about.get("activation_sha256"),
        "skipped steps": _skipped(summary), "notices": notices,
    }  # fmt: skip
    return [Fact(name, str(value)) for name, value in pairs.items() if value not in (None, "")]


def _listed(values: Any) -> str:
    return ", ".join(f"{key}: {value}" for key, value in values.items()) if isinstance(values, Mapping) else str(values or "")


def _skipped(summary: Mapping[str, Any]) -> str:
    names = {"skipped": "weights", "skipped_inner": "weights", "skipped_outer": "architecture"}
    return ", ".join(f"{summary[key]} {name}" for key, name in names.items() if key in summary)
