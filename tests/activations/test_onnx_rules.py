"""torch's older ONNX exporter, which timm's onnx_export takes by default, exports every operation; numbers as in eager."""

import io
import subprocess
import sys
import warnings

import numpy as np
import pytest
import timm
import torch
from torch import nn

import grafs_timm
from grafs_timm.activations import ops
from grafs_timm.activations.activation import activation_class
from grafs_timm.activations.genotype import Gene, Genotype

pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

X = Gene("identity")


ALL = {op.name: op for arity in (1, 2) for op in ops.OPS[arity].values()}


def cell(name: str) -> Genotype:
    gene = Gene(name, 0.5 if ALL[name].has_gamma else None)
    if ALL[name].arity == 1:
        return Genotype(gene, X, Gene("left"), X, X, Gene("left"))
    return Genotype(Gene("tanh"), X, gene, X, X, Gene("left"))


def exported(model: nn.Module, x: torch.Tensor, opset: int | None = None) -> np.ndarray:
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(model, (x,), file, dynamo=False, opset_version=opset, input_names=["x"])
    session = onnxruntime.InferenceSession(file.getvalue())
    return session.run(None, {"x": x.numpy()} if session.get_inputs() else {})[0]  # a constant cell has none


@pytest.mark.parametrize("name", sorted(ALL))
def test_every_operation_is_exported_with_its_numbers(name):
    model = activation_class(cell(name))().eval()
    x = torch.cat([torch.linspace(-12, 12, 481), torch.tensor([-1e4, -60.0, 60.0, 1e4, 3e9])])
    np.testing.assert_allclose(exported(model, x), model(x).numpy(), rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("opset", [11, 13, 15, 17, 18])
@pytest.mark.parametrize("name", ["asinh", "sinh", "cosh"])
def test_every_opset_takes_them(name, opset):
    model = nn.Sequential(nn.Linear(5, 7), activation_class(cell(name))(), nn.Linear(7, 2)).eval()
    x = torch.randn(4, 5)
    np.testing.assert_allclose(exported(model, x, opset), model(x).detach().numpy(), rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("name", ["asinh", "sinh", "cosh"])
def test_timms_own_export_takes_them(tmp_path, name):
    from timm.utils.onnx import onnx_export

    model = timm.create_model("test_resnet", num_classes=3)
    grafs_timm.replace_activations(model, cell(name).to_dict())
    file = tmp_path / "model.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        onnx_export(model, str(file), batch_size=2, input_size=(3, 64, 64))
    x = torch.randn(2, 3, 64, 64)
    got = onnxruntime.InferenceSession(file).run(None, {"input0": x.numpy()})[0]
    np.testing.assert_allclose(got, model(x).detach().numpy(), rtol=1e-3, atol=1e-4)


def test_a_rule_of_the_users_own_stays():
    code = """
import io, torch
from torch.onnx import register_custom_op_symbolic
register_custom_op_symbolic("aten::asinh", lambda graph, x: graph.op("Neg", x), 9)
from grafs_timm.activations.activation import activation_class
from grafs_timm.activations.genotype import Gene, Genotype
import onnx
X = Gene("identity")
file = io.BytesIO()
model = activation_class(Genotype(Gene("asinh"), X, Gene("left"), X, X, Gene("left")))()
torch.onnx.export(model, (torch.ones(3),), file, dynamo=False)
kinds = {node.op_type for node in onnx.load_from_string(file.getvalue()).graph.node}
assert "Neg" in kinds and "Asinh" not in kinds, kinds
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, encoding="utf-8")
    assert not done.returncode, done.stderr
