"""Commands that pack and check shards: data pack, data check."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from .options import PATH, QUIET, Group, section

_FORMATS = click.Choice(["webp", "png", "jpg", "keep"])
_THERE = click.Path(path_type=Path, exists=True)


@click.group(cls=Group)
def data() -> None:
    """Pack and check data sets of webdataset shards.

    \b
    Example:
      grafs-timm data pack svhn data/svhn
    """


def _splits(context: click.Context, parameter: click.Parameter, value: str | None) -> dict[str, str] | None:
    if value is None:
        return None
    pairs = [(part if "=" in part else f"{part}={part}").partition("=")[::2] for part in value.split(",")]
    if not all(own and name for name, own in pairs) or len(dict(pairs)) < len(pairs):
        raise click.BadParameter("such as train,test or train=train,test=val")
    return dict(pairs)


@data.command("pack")
@click.argument("source")
@click.argument("out", type=PATH)
@section(
    "Shards",
    click.option("--format", "form", type=_FORMATS, default="webp", help="webp, png: lossless; keep: copy.  [default: webp]"),
    click.option("--shard-size", type=click.IntRange(1), default=1000, show_default=True, help="Maximum samples per shard."),
)
@section(
    "Source",
    click.option("--splits", callback=_splits, metavar="NAME=OWN,...", help="Splits to pack, such as train,test=val."),
    click.option("--hold-out", type=float, help="Fraction of each class (of a text, its end) that becomes the test split."),
    click.option("--root", type=_THERE, help="Folder with a torchvision data set's files.  [default: download them]"),
    click.option("--skip-bad", is_flag=True, help="Skip images that cannot be read."),
)
@section("Logging", QUIET)
def data_pack(source: str, out: Path, form: Any, shard_size: int, splits: dict[str, str] | None, hold_out: float | None,
              root: Path | None, skip_bad: bool, quiet: bool) -> None:  # fmt: skip
    """Pack SOURCE into the folder OUT.

    SOURCE is a torchvision data set, a folder of images (CLASS/IMAGE.jpg, or train/CLASS/IMAGE.jpg and val/CLASS/...), of a
    Hugging Face data set or of torchvision's files, or a text file. Such folders need no packing: --data of the other
    commands takes them, and packs them into a cache once.

    \b
    Examples:
      grafs-timm data pack svhn data/svhn
      grafs-timm data pack fashion-mnist data/fashion-mnist --root path/to/its/files
      grafs-timm data pack imagenet/ data/imagenet --format keep
      grafs-timm data pack photos/ data/photos --hold-out 0.1
      grafs-timm data pack stories.txt.gz data/stories --hold-out 0.1
    """
    if source.lower().endswith((".txt", ".txt.gz")):
        images = {"--format": form != "webp", "--splits": splits, "--root": root, "--skip-bad": skip_bad}
        _pack_text(source, out, shard_size, hold_out, [option for option, given in images.items() if given], quiet)
        return
    from ..data.datasets import open_dataset
    from ..data.pack import Packing, pack

    how = Packing(form, shard_size, hold_out, splits, skip_bad)
    skipped = pack(source, out, how, root, quiet)
    info = open_dataset(out.resolve())
    for name, split in info.splits.items():
        click.echo(f"{name:12s} {split.num_samples} images in {len(split.filenames)} shards")
    for line in skipped:
        click.echo(f"skipped: {line}", err=True)
    if skipped:
        click.echo(f"skipped: {len(skipped)} images")
    click.echo(f"packed {len(info.classes or ())} classes into {out}\nnext   grafs-timm data check {out}")


def _pack_text(source: str, out: Path, shard_size: int, hold_out: float | None, of_images: list[str], quiet: bool) -> None:
    from ..data.datasets import open_dataset
    from ..data.pack_text import TextPacking, pack_text
    from ..errors import DataError

    if of_images:
        raise DataError(f"{', '.join(of_images)}: only valid for images; {source} is text")
    pack_text(source, out, TextPacking(shard_size, hold_out or 0.0), quiet)
    for name, split in open_dataset(out.resolve()).splits.items():
        click.echo(f"{name:12s} {split.num_samples} samples of text in {len(split.filenames)} shards")
    click.echo(f"packed {source} into {out}\nnext   grafs-timm data check {out}")


@data.command("check")
@click.argument("name", metavar="DATA")
@click.option("--split", help="Check this split only.")
@QUIET
def data_check(name: str, split: str | None, quiet: bool) -> None:
    """Read every sample of DATA and check counts, labels, decoding and checksums.

    DATA is what --data of other commands takes. The exit code is 1 if there is a problem.

    \b
    Example:
      grafs-timm data check data/svhn
    """
    from ..data.check import as_text, check

    info, reports = check(name, split, quiet)
    click.echo(as_text(info, reports))
    problems = [problem for report in reports for problem in report.problems]
    for problem in problems:
        click.echo(f"problem: {problem}")
    click.echo(f"{len(problems)} problems" if problems else "no problems")
    if problems:
        sys.exit(1)
