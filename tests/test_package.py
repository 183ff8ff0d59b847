"""What importing the package costs, and what it promises on its face."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

import grafs_timm
from grafs_timm.cli.main import main

LAZY = ("wandb", "webdataset", "matplotlib", "sympy", "scipy.special", "scipy.optimize", "transformers", "tokenizers")


@pytest.mark.parametrize("start", ["timm", "torch"])
def test_import_brings_no_optional_library(start: str) -> None:
    """Beyond what timm itself imports (it takes wandb where that is installed, torch takes sympy)."""
    code = (
        f"import sys, {start}, timm; before = set(sys.modules); import grafs_timm; "
        f"print(*[m for m in set(sys.modules) - before if m.startswith({LAZY!r})])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True)
    assert done.stdout.strip() == ""


def test_import_takes_little_beside_timms() -> None:
    """At most 0.2 s beyond ``import timm``: of the process's own time, as others may be busy, once the bytecode is there."""
    code = "import time, timm; before = time.process_time(); import grafs_timm; print(time.process_time() - before)"
    runs = [subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True) for _ in range(2)]
    assert min(float(run.stdout) for run in runs) <= 0.2


def test_import_works_without_wandb_and_matplotlib_and_webdataset() -> None:
    """Blocked, not merely unused: an environment without them can load the zoo."""
    code = (
        "import sys\n"
        "for name in ('wandb', 'webdataset', 'matplotlib'): sys.modules[name] = None\n"
        "import timm, grafs_timm\n"
        "print(grafs_timm.family_of('resnetv2_50'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8")
    assert (done.returncode, done.stdout.strip()) == (0, "resnet"), done.stderr


def test_public_names_exist() -> None:
    for name in grafs_timm.__all__:
        assert getattr(grafs_timm, name) is not None
    with pytest.raises(AttributeError, match="nothing"):
        _ = grafs_timm.nothing


FIRST = ["timm", "grafs_timm", "grafs_timm.zoo.lookup"]
FIRST_TOO = [
    f"grafs_timm.{name}"
    for name in (
        "activations.timm_maps",
        "models.timm_names",
        "models.families",
        "zoo.outside",
        "search.bilevel",
        "data.images",
    )
]


@pytest.mark.parametrize(
    "first",
    [f"import {name}" for name in FIRST] + [pytest.param(f"import {name}", marks=pytest.mark.slow) for name in FIRST_TOO],
)
def test_whatever_is_imported_first_timm_knows_the_names(first: str) -> None:
    code = (
        f"{first}\nimport grafs_timm, timm\nprint(timm.layers.create_act_layer('grafs_resnet').activation_name)\n"
        "assert timm.is_model('cifar_resnet20') and timm.is_model('gpt_mini')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("grafs_resnet")


# run by a process that has imported nothing: `called` calls the command line, which may end the process
LIGHT = """
import sys, time
from grafs_timm.cli.main import main
def called(*words):
    try: main(list(words), prog_name="grafs-timm")
    except SystemExit: pass
{calls}
assert not {{"torch", "timm", "numpy"}} & set(sys.modules)
assert time.process_time() < 0.5, time.process_time()
"""


def light(calls: str, **environment: str) -> str:
    """The output of these ``calls``, which must import neither torch nor timm and take at most 0.5 s of processor time."""
    done = subprocess.run(
        [sys.executable, "-c", LIGHT.format(calls=calls)],
        capture_output=True, encoding="utf-8", env=os.environ | environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-500:]
    return done.stdout


def test_a_command_answers_for_help_without_torch_and_timm() -> None:
    names = [(name, below) for name, group in main.commands.items() for below in ("", *getattr(group, "commands", ()))]
    helps = [[name, below, "--help"] if below else [name, "--help"] for name, below in names]
    said = light(f"for words in {[['--help'], ['--version'], ['nothing'], *helps]}: called(*words)")
    assert said.count("Usage: grafs-timm ") == 1 + len(helps)


@pytest.mark.parametrize(
    ("typed", "place", "proposed"),
    [
        ("grafs-timm zo", 1, {"zoo"}),
        ("grafs-timm zoo ", 2, {"list", "plot", "show", "verify"}),
        ("grafs-timm search --sel", 2, {"--select"}),
    ],
)
def test_a_shell_completes_without_torch_and_timm(typed: str, place: int, proposed: set[str]) -> None:
    said = light("called()", _GRAFS_TIMM_COMPLETE="bash_complete", COMP_WORDS=typed, COMP_CWORD=str(place))
    assert {line.partition(",")[2] for line in said.splitlines()} == proposed


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_there_is_a_completion_script(shell: str) -> None:
    said = light("called()", _GRAFS_TIMM_COMPLETE=f"{shell}_source")
    assert "_GRAFS_TIMM_COMPLETE=" in said
    assert "grafs-timm" in said
