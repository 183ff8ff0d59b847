"""What a terminal shows: every command on one that lacks signs, and notices as notes, for users instead of programmers."""

import ast
import io
import os
import subprocess
import sys
import warnings
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from grafs_timm import errors
from grafs_timm.cli import main as cli
from grafs_timm.cli import screen
from grafs_timm.errors import GrafsWarning

ROOT = Path(__file__).parents[2]
C_LOCALE = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
COMMANDS = [
    ("zoo show grafs_resnet", 0, "on [−10, 10]: from"),
    ("zoo show grafs_vit", 0, "finite in float16"),
    ("zoo list", 0, "grafs_resnet"),
    ("models resnet18", 0, "resnet18"),
    ("data check digits", 0, "8×8"),
    ("campaign status resnet", 0, "relu"),
    ("--help", 0, "Search activation functions"),
    ("transfer --help", 0, "Train every activation"),
    ("zoo show grafs_resnett", 1, "error: "),
    ("search resnet_digits --set search.epochs=2", 1, "must be at most epochs − 2 (0)"),
]


def environment(**more):
    return {**os.environ, "PYTHONPATH": str(ROOT), **more}


@pytest.mark.parametrize("encoding", ["gbk", "euc-jp", "cp1252", "latin-1", "koi8-r", "ascii", "utf-8"])
@pytest.mark.parametrize(("command", "code", "shown"), COMMANDS)
def test_every_command_prints_where_the_terminal_lacks_signs(monkeypatch, encoding, command, code, shown):
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding=encoding) for _ in range(2))
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    with pytest.raises(SystemExit) as ended:
        cli.main(command.split(), prog_name="grafs-timm")
    assert ended.value.code == code
    read_as = "utf-8" if encoding == "ascii" else encoding  # as click takes it
    text = "".join(stream.buffer.getvalue().decode(read_as) for stream in (out, err) if stream.flush() is None)
    assert any(each in text for each in (shown, shown.replace("−", "-").replace("×", "x")))
    assert "Traceback" not in text


def locales():
    """The environment of each locale that this machine has: C and GBK."""
    yield pytest.param(C_LOCALE, id="C")
    with subprocess.Popen(["locale", "-a"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, encoding="utf-8") as asked:
        there = [name for name in asked.stdout if name.strip().lower().endswith(("gbk", "gb2312", "eucjp"))]
    made = [os.environ[name] for name in ("GRAFS_TIMM_TEST_LOCALE",) if name in os.environ]  # one that LOCPATH has
    name = next(iter([*made, *there]), None)
    missing = pytest.mark.skipif(name is None, reason="no GBK locale here: localedef -i zh_CN -f GBK zh_CN.GBK makes one")
    yield pytest.param({"LC_ALL": name or "", "PYTHONUTF8": "0"}, id="GBK", marks=missing)


SESSION = """
import warnings
from pathlib import Path
from grafs_timm.cli import main as cli
from grafs_timm.utils import files, strict_json
from grafs_timm.errors import GrafsWarning
from grafs_timm.kernels import cpu
warnings.simplefilter("error", GrafsWarning)
print(cpu.loops())                                              # the C++ source goes through torch's compiler driver
files.write_json("a.json", {"formula": "a − b", "of": "猫"})
assert strict_json.parse(Path("a.json").read_bytes()) == {"formula": "a − b", "of": "猫"}
for command in (["zoo", "show", "grafs_resnet"], ["data", "check", "digits", "--quiet"]):
    try: cli.main(command, prog_name="grafs-timm")
    except SystemExit as end: assert not end.code, end.code
try: cli.main(["zoo", "plot", "relu", "--out", "ïñ.png"])       # as a recipe would name it
except SystemExit as end: assert end.code == 1, end.code
"""


@pytest.mark.slow
@pytest.mark.parametrize("there", list(locales()))
def test_a_session_under_another_locale(tmp_path, there):
    (tmp_path / "session.py").write_text(SESSION, encoding="utf-8")
    more = {**there, "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    done = subprocess.run([sys.executable, "session.py"], capture_output=True, cwd=tmp_path, env=environment(**more))
    assert done.returncode == 0, done.stderr.decode(errors="replace")[-2000:]
    assert b"10, 10]: from" in done.stdout
    assert b"no problems" in done.stdout
    assert b".png: cannot be a file name in this locale" in done.stderr
    assert b"set PYTHONUTF8=1, or LC_ALL=C.UTF-8" in done.stderr
    assert done.stderr.count(b"\n") == 1


@pytest.mark.parametrize("encoding", ["gbk", "latin-1"])
@pytest.mark.parametrize("command", ["zoo show grafs_resnet --json", "campaign status resnet --json"])
def test_json_stays_json_where_the_terminal_lacks_signs(monkeypatch, encoding, command):
    out = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", out)
    with pytest.raises(SystemExit):
        cli.main(command.split())
    out.flush()
    assert out.buffer.getvalue().isascii()
    assert out.buffer.getvalue().startswith(b"{")


@pytest.mark.parametrize(
    ("text", "encoding", "shown"),
    [
        ("a − b", "gbk", b"a - b"),
        ("3 × 2 ± 1", "ascii", b"3 x 2 +- 1"),
        ("«train» … x²", "ascii", b"'train' ... x^2"),
        ("x ≥ 1 → y", "latin-1", b"x >= 1 -> y"),
        ("·÷′", "koi8-r", "·÷".encode("koi8-r") + b"'"),
        ("猫", "latin-1", rb"\u732b"),
        ("😀", "gbk", rb"\U0001f600"),
        ("runs/\udcff", "utf-8", b"runs/\xff"),  # a file's name that is not text
        ("runs/\udcff\udcfe", "gbk", b"runs/\xff\xfe"),
        ("a\ud800b", "utf-8", rb"a\ud800b"),
        ("a − b, 猫", "utf-8", "a − b, 猫".encode()),
    ],
)
def test_what_is_shown_for_a_sign_that_the_terminal_lacks(monkeypatch, text, encoding, shown):
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", stream)
    screen.never_die()
    stream.reconfigure(encoding=encoding, errors=stream.errors)  # ASCII too, which becomes UTF-8
    stream.write(text)
    stream.flush()
    assert stream.buffer.getvalue() == shown


@pytest.mark.parametrize("stream", [None, io.StringIO(), object()], ids=["none", "text", "odd"])
def test_streams_that_are_not_pythons_own(monkeypatch, stream):
    monkeypatch.setattr(sys, "stdout", stream)
    screen.never_die()


@pytest.mark.parametrize("encoding", ["gbk", "ascii", "utf-8", "latin-1"])
@pytest.mark.parametrize("name", [b"runs/\xff", "runs/ü".encode(), "runs/猫".encode(), "runs/−".encode(), b"a\xfeb"])
def test_a_name_that_is_no_text_is_printed(monkeypatch, name, encoding):
    @click.command()
    @click.argument("path", type=click.Path(path_type=Path))
    def command(path):
        click.echo(f"{path} −")
        raise errors.DataError(f"{path}: − is missing")

    group = cli._Main("grafs-timm")
    group.add_command(command)
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding=encoding) for _ in range(2))
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    with pytest.raises(SystemExit):
        group.main(["command", name.decode("ascii", "surrogateescape")])
    for stream, shown in ((out, name + b" "), (err, b"error: " + name)):
        stream.flush()
        assert stream.buffer.getvalue().startswith(shown)


# ------------------------------------------------------------------------------------------------------------ notes


def notices():
    """(file, line, category) of every warning that this package gives."""
    for file in sorted((ROOT / "grafs_timm").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("warnings.warn", "warn"):
                category = (
                    node.args[1] if len(node.args) > 1 else next((k.value for k in node.keywords if k.arg == "category"), None)
                )
                yield f"{file.relative_to(ROOT)}:{node.lineno}", category and ast.unparse(category)


@pytest.mark.parametrize(("place", "category"), list(notices()))
def test_every_warning_is_of_the_package(place, category):
    assert category
    assert issubclass(getattr(errors, category), GrafsWarning)


def warn(*given):
    """What a command prints on standard error that warns of each of ``given``: (message, category)."""

    @click.command()
    def command():
        for message, category in given:
            warnings.warn(message, category)

    group = cli._Main("grafs-timm")
    group.add_command(command)
    result = CliRunner().invoke(group, ["command"])
    assert result.exit_code == 0, result.output
    return result.stderr


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("left out 2 files", "note: left out 2 files\n"),
        ("two\nlines", "note: two lines\n"),
        ("a  wide \t gap", "note: a wide gap\n"),
        ("loss − 1", "note: loss − 1\n"),
        ("100 % of {this}", "note: 100 % of {this}\n"),
    ],
)
@pytest.mark.parametrize("category", [GrafsWarning, errors.MirrorWarning])
def test_a_notice_is_one_plain_line(message, shown, category):
    assert warn((message, category)) == shown


def test_a_notice_is_shown_once_whoever_says_it():
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        assert (
            warn(("a", GrafsWarning), ("b", GrafsWarning), ("a", GrafsWarning), ("a", errors.MirrorWarning))
            == "note: a\nnote: b\n"
        )


@pytest.mark.parametrize("category", [UserWarning, RuntimeWarning, FutureWarning, DeprecationWarning, ResourceWarning])
def test_other_warnings_stay_what_they_are(category):
    shown = []
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = lambda message, category, *where, **more: shown.append((str(message), category))
        assert warn(("theirs", category), ("ours", GrafsWarning)) == "note: ours\n"
    assert shown == [("theirs", category)]


def test_what_a_user_ignores_or_forbids_is_not_shown():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", GrafsWarning)
        assert warn(("a", GrafsWarning)) == ""
    with warnings.catch_warnings():
        warnings.simplefilter("error", GrafsWarning)
        with pytest.raises(AssertionError):
            warn(("a", GrafsWarning))


def test_callers_of_the_library_have_warnings():
    before = warnings.showwarning
    warn(("a", GrafsWarning))
    assert warnings.showwarning is before
    with pytest.warns(UserWarning, match="a"):
        warnings.warn("a", GrafsWarning)
    with pytest.warns(RuntimeWarning, match="a"):
        warnings.warn("a", errors.MirrorWarning)


def test_a_note_stands_above_a_progress_bar(capsys):
    from tqdm import tqdm

    with screen.plain_notes(), tqdm(total=2, file=sys.stderr) as bar:
        bar.update()
        warnings.warn("seen", GrafsWarning)
    assert "note: seen" in capsys.readouterr().err.replace("\r", "\n").splitlines()


@pytest.mark.parametrize(
    "command", [["-m", "grafs_timm", "zoo", "list"], ["-c", "import grafs_timm"]], ids=["command", "library"]
)
def test_what_is_told_while_the_package_is_imported(tmp_path, command):
    own = "import timm.layers.create_act as own; own._ACT_LAYER_DEFAULT['grafs_resnet'] = own._ACT_LAYER_DEFAULT['relu']"
    (tmp_path / "sitecustomize.py").write_text(own, encoding="utf-8")
    there = environment(PYTHONPATH=f"{tmp_path}{os.pathsep}{ROOT}")
    done = subprocess.run([sys.executable, *command], capture_output=True, encoding="utf-8", env=there, check=True)
    said = (
        "timm has an activation 'grafs_resnet' of its own, which is kept; use the zoo's by grafs_timm.act_layer('grafs_resnet')"
    )
    (line,) = [line for line in done.stderr.splitlines() if said in line]
    assert line == f"note: {said}" if command[0] == "-m" else "GrafsWarning: " in line


@pytest.mark.parametrize(
    "foreign", ["没有那个文件".encode("gbk"), b"\xff", "é".encode("latin-1")], ids=["GBK", "a byte", "latin-1"]
)
def test_what_another_program_printed_is_read_back_by_the_same_handler(foreign):
    assert "\ufffd" in foreign.decode("utf-8", errors=screen._ERRORS)
