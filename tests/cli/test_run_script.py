"""Scripts that know nothing of the zoo, run with its names known to timm."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from shard_files import samples, write_info, write_tar
from tiny_runs import ROOT, call, refused, start

from grafs_timm.zoo import lookup as zoo

SCRIPTS = os.environ.get("GRAFS_TIMM_SCRIPTS", "")
SCRIPT = """\
import sys
from multiprocessing import get_context

import timm
from beside import doubled


def site(model):
    return type(model.act1).__name__


if __name__ == "__main__":
    model = timm.create_model("test_resnet", act_layer="grafs_resnet")
    print(sys.argv, site(model), doubled(2))
    with get_context("spawn").Pool(1) as pool:
        print(pool.apply(site, (model,)))
    sys.exit(int(sys.argv[-1]))
"""


@pytest.fixture
def script(tmp_path, monkeypatch):
    """A script with a module beside it; what running it in this process changes is put back."""
    monkeypatch.setattr(sys, "argv", list(sys.argv))
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)  # torch.distributed and W&B leave their own
    path = tmp_path / "scripts" / "own.py"
    path.parent.mkdir()
    path.write_text(SCRIPT, encoding="utf-8")
    (path.parent / "beside.py").write_text("def doubled(x):\n    return 2 * x\n", encoding="utf-8")
    return path


def run(*arguments, cwd=ROOT):
    process = subprocess.run(
        [sys.executable, "-m", "grafs_timm", "exec", *map(str, arguments)], cwd=cwd, capture_output=True, encoding="utf-8",
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    return process.returncode, process.stdout, process.stderr


def test_a_script_as_python_runs_it(script):
    """Its arguments, options of ours among them, its folder, its exit code; and workers that it spawns."""
    code, out, error = run("own.py", "--model", "x", "-h", "--", "--seed", "7", cwd=script.parent)
    assert code == 7, error
    arguments, worker = out.splitlines()
    layer = zoo.act_layer("grafs_resnet").__name__
    assert layer.startswith("GrafsResnet")
    assert arguments == f"['own.py', '--model', 'x', '-h', '--', '--seed', '7'] {layer} 4"
    assert worker == layer


@pytest.mark.parametrize(
    ("last", "code"),
    [("", 0), ("sys.exit(5)", 5), ("sys.exit('no')", 1), ("raise EOFError", 1), ("1 / 0", 1), ("raise KeyboardInterrupt", 130)],
)
def test_exit_codes(script, last, code):
    script.write_text("import sys\nprint(__name__, sys.argv[1:])\n" + last, encoding="utf-8")
    result = call("exec", script, "--help")
    assert result.exit_code == code
    assert result.stdout.startswith("__main__ ['--help']\n")


def test_a_traceback_begins_in_the_script(script):
    script.write_text("def fall():\n    raise EOFError('short file')\n\n\nfall()\n", encoding="utf-8")
    said = call("exec", script).stderr.splitlines()
    assert said[0] == "Traceback (most recent call last):"
    assert said[1] == f'  File "{script}", line 5, in <module>'
    assert said[-1] == "EOFError: short file"


def test_an_unknown_name_is_answered_with_the_nearest(script):
    script.write_text("import timm\ntimm.create_model('test_resnet', act_layer='grafs_resnt')", encoding="utf-8")
    result = call("exec", script)
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1].startswith("no activation 'grafs_resnt' in the zoo; nearest: grafs_resnet")


def test_scripts_that_are_none(script):
    assert "nearest: own.py" in refused("exec", script.with_name("ovn.py"))
    assert "there is no folder" in refused("exec", script.parent / "missing" / "own.py")
    assert "is a folder" in refused("exec", script.parent)
    assert "SCRIPT" in refused("exec")
    assert "--nproc" in refused("exec", "--nproc", "2", script)
    script.write_text("def", encoding="utf-8")
    assert call("exec", script).stderr.splitlines()[-1].startswith("SyntaxError")


@pytest.mark.slow
def test_under_torchrun(script):
    script.write_text(
        "import os, sys, timm\n"
        "timm.create_model('test_resnet', act_layer='grafs_resnet')\n"
        "print('rank', os.environ['RANK'], 'of', os.environ['WORLD_SIZE'], sys.argv[1:], flush=True)\n",
        encoding="utf-8",
    )
    process = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone", "-m", "grafs_timm",
         "exec", str(script), "--nproc_per_node", "3"],
        cwd=ROOT, capture_output=True, encoding="utf-8", env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    for rank in (0, 1):
        assert f"rank {rank} of 2 ['--nproc_per_node', '3']" in process.stdout


@pytest.mark.skipif(
    not (Path(SCRIPTS) / "train.py").is_file(), reason="GRAFS_TIMM_SCRIPTS names no folder with timm's train.py and validate.py"
)
def test_timms_own_scripts(tmp_path):
    """One epoch of a few images by timm's train.py, and its validate.py on the checkpoint."""
    folder = tmp_path / "images"
    folder.mkdir()
    for split in ("train", "test"):
        write_tar(folder / f"set-{split}-0.tar", samples(32))
    write_info(folder, {"set-train-0.tar": 32}, ["x", "y", "z"])
    shared = [
        "--data-dir", folder, "--dataset", "wds/set", "--model", "test_resnet", "--model-kwargs", "act_layer=grafs_resnet",
        "--input-size", 3, 32, 32, "--num-classes", 3, "--device", "cpu", "--workers", 1, "--batch-size", 16,
    ]  # fmt: skip
    splits = ["--train-split", "set-train-0.tar|32", "--val-split", "set-test-0.tar|32"]
    rest = ["--epochs", 1, "--warmup-epochs", 0, "--output", tmp_path, "--experiment", "run"]
    trained = start("exec", Path(SCRIPTS) / "train.py", *shared, *splits, *rest, WANDB_MODE="disabled")
    said, _ = trained.communicate(timeout=120)
    assert trained.returncode == 0, said
    assert "act_layer: grafs_resnet" in (tmp_path / "run" / "args.yaml").read_text(encoding="utf-8")
    checkpoint = tmp_path / "run" / "last.pth.tar"
    judged = start("exec", Path(SCRIPTS) / "validate.py", *shared, "--split", "set-test-0.tar|32", "--checkpoint", checkpoint)
    said, _ = judged.communicate(timeout=120)
    assert judged.returncode == 0, said
    assert '"top1"' in said
