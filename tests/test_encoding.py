"""Text states its encoding wherever a file or a process is opened: the locale's would be another on another machine.

ruff's PLW1514 sees `open` and what it knows to be a path. This looks at the rest as well: paths in variables, processes, logs.
"""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = [
    file for folder in ("grafs_timm", "tools", "tests", "examples", "benchmarks") for file in (ROOT / folder).rglob("*.py")
]

# by what is called: the position of the mode, of the encoding (None: by keyword alone), and the usual mode
OPENED = {
    "open": (1, 3, "r"), "io.open": (1, 3, "r"), "os.fdopen": (1, 3, "r"), "codecs.open": (1, 2, "rb"),
    "gzip.open": (1, 3, "rb"), "bz2.open": (1, 3, "rb"), "lzma.open": (1, None, "rb"), ".open": (0, 2, "r"),
    ".makefile": (0, None, "r"), ".NamedTemporaryFile": (0, 2, "w+b"), ".TemporaryFile": (0, 2, "w+b"),
    ".SpooledTemporaryFile": (1, 3, "w+b"),
}  # fmt: skip
ALWAYS_TEXT = {
    ".read_text": 0, ".write_text": 1, ".TextIOWrapper": 1, ".FileHandler": 2, ".RotatingFileHandler": 4, ".basicConfig": None,
    ".getoutput": None, ".getstatusoutput": None, ".loadtxt": None, ".savetxt": None, ".genfromtxt": None, ".FileInput": None,
}  # fmt: skip
ONLY_WITH = {".basicConfig": "filename"}  # it writes a file then
NOT_TEXT = re.compile(r"(tarfile|zipfile|Image|os|wave|shelve|dbm|webbrowser|cls|[A-Z]\w+)\.open")
PROCESSES = {".run", ".Popen", ".check_output", ".check_call", ".call"}
MODE = re.compile(r"[rwaxbt+]{1,4}")


def unstated(source):
    """(line, what) for each place of ``source`` that opens text without an encoding."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and (what := _unstated(node)):
            yield node.lineno, what
        if isinstance(node, ast.Dict) and _is_text_process(dict(_constants(node))):
            yield node.lineno, "settings of a process"


def _constants(node):
    for key, value in zip(node.keys, node.values, strict=True):
        if isinstance(key, ast.Constant):
            yield key.value, value


def _is_text_process(keywords):
    asked = [keywords[key] for key in ("text", "universal_newlines") if key in keywords]
    return any(isinstance(each, ast.Constant) and each.value is True for each in asked) and "encoding" not in keywords


def _unstated(call):
    name = ast.unparse(call.func)
    last = "." + name.rpartition(".")[2]
    keywords = {each.arg: each.value for each in call.keywords}
    if last in PROCESSES:
        return name if _is_text_process(keywords) else None
    if last in ALWAYS_TEXT:
        place = ALWAYS_TEXT[last]
        writes = ONLY_WITH.get(last) in (None, *keywords)
        return name if writes and "encoding" not in keywords and (place is None or len(call.args) <= place) else None
    kind = name if name in OPENED else last
    if kind not in OPENED or (kind == ".open" and ("." not in name or NOT_TEXT.fullmatch(name))):
        return None
    at, place, usual = OPENED[kind]
    given = keywords.get("mode", call.args[at] if len(call.args) > at else ast.Constant(usual))
    mode = given.value if isinstance(given, ast.Constant) else None
    if kind == ".open" and not (isinstance(mode, str) and MODE.fullmatch(mode)):
        return None  # it opens something else, such as a URL
    binary = mode is not None and ("b" in mode or (usual == "rb" and "t" not in mode))
    stated = "encoding" in keywords or (place is not None and len(call.args) > place)
    return None if binary or stated else name


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_text_states_its_encoding(file):
    assert list(unstated(file.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    "code",
    [
        "open(path)", "open(path, 'w')", "open(path, mode)", "open(path, mode='a')", "io.open(path)", "os.fdopen(3, 'w')",
        "path.open()", "(folder / 'a').open('w')", "path.open(newline='')", "path.read_text()",
        "path.read_text(errors='replace')", "path.write_text(text)", "gzip.open(path, 'rt')", "bz2.open(path, mode='wt')",
        "lzma.open(path, 'rt')", "tempfile.NamedTemporaryFile('w')", "NamedTemporaryFile(mode='w+', delete=False)",
        "tempfile.TemporaryFile('w+')", "io.TextIOWrapper(raw)", "logging.FileHandler('log')",
        "logging.basicConfig(filename='log')", "np.loadtxt(path)", "numpy.savetxt(path, rows)",
        "subprocess.run(command, text=True)", "subprocess.Popen(command, universal_newlines=True)",
        "subprocess.check_output(command, text=True)", "quiet = {'stdout': PIPE, 'text': True}",
        "subprocess.getoutput('git')", "connection.makefile()",
    ],
)  # fmt: skip
def test_what_states_none_is_found(code):
    assert len(list(unstated(code))) == 1


@pytest.mark.parametrize(
    "code",
    [
        "open(path, 'rb')", "open(path, mode='ab')", "open(path, encoding='utf-8')", "open(path, 'w', -1, 'utf-8')",
        "gzip.open(path)", "path.open('rb')", "path.open('a', encoding='utf-8')", "path.read_text('utf-8')",
        "path.write_text(text, 'utf-8')", "tarfile.open(path)", "Image.open(path)", "Campaign.open(family, budget, zoo)",
        "opener.open(url, timeout=3)", "tempfile.TemporaryFile()", "logging.basicConfig(level='INFO')",
        "subprocess.run(command, capture_output=True)", "subprocess.run(command, text=True, encoding='utf-8')",
        "{'text': 'True'}", "os.fdopen(3, 'wb', 0)",
    ],
)  # fmt: skip
def test_what_states_one_or_needs_none_is_not(code):
    assert list(unstated(code)) == []
