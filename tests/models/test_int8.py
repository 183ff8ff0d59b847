"""8-bit tables: their entries, what they refuse, and models that run with them in onnxruntime and PyTorch."""

from __future__ import annotations

import copy
import pickle
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn

import grafs_timm
from grafs_timm import get_published
from grafs_timm.errors import GrafsWarning, TensorError, UnknownNameError
from grafs_timm.models.int8 import QuantisationError
from grafs_timm.models.int8_fx import Int8Activation


def _model() -> nn.Sequential:
    torch.manual_seed(0)
    acts = [timm.layers.create_act_layer(name) for name in ("grafs_resnet", "golu")]
    return nn.Sequential(nn.Conv2d(3, 8, 3), acts[0], nn.Conv2d(8, 8, 3), acts[1], nn.Conv2d(8, 4, 1)).eval()


@pytest.mark.parametrize("signed", [True, False])
def test_entries_are_the_function_rounded(signed: bool) -> None:
    low, point = (-128, 3) if signed else (0, 120)
    table = grafs_timm.int8_table("golu", 0.04, 0.02, point, point, signed)
    q = torch.arange(low, low + 256).to(torch.int8 if signed else torch.uint8)
    f = get_published("golu")(0.04 * (q.double() - point))
    expected = (f / 0.02 + point).round().clamp(low, low + 255)
    assert torch.equal(table(q).double(), expected)
    assert table.max_error == pytest.approx(float((expected - point - f / 0.02).abs().max()))
    assert 0 <= table.mean_error <= table.max_error
    for x in (q[:0], q[5], q.view(4, 8, 2, 4).to(memory_format=torch.channels_last), q.view(16, 16).T[::3]):
        got = table(x)
        assert got.shape == x.shape
        assert torch.equal(got.double(), expected[(x.long() - low)])
    for other in (copy.deepcopy(table), pickle.loads(pickle.dumps(table))):
        assert torch.equal(other(q), table(q))


@pytest.mark.parametrize("scale", [0, 0.0, -1.0, float("nan"), float("inf"), "0.1", None])
@pytest.mark.parametrize("which", ["input_scale", "output_scale"])
def test_an_impossible_scale_is_an_error_that_names_it(which: str, scale: Any) -> None:
    with pytest.raises(QuantisationError, match=f"{which}: expected a finite number above 0"):
        grafs_timm.int8_table("golu", **{"input_scale": 0.1, "output_scale": 0.1, which: scale})


def test_what_else_is_refused() -> None:
    with pytest.raises(QuantisationError, match=r"output_zero_point.*signed=False"):
        grafs_timm.int8_table("golu", 0.1, 0.1, 0, 128)
    with pytest.raises(UnknownNameError):
        grafs_timm.int8_table("no_such", 0.1, 0.1)
    table = grafs_timm.int8_table("golu", 0.1, 0.1)
    for x in (torch.zeros(3), torch.zeros(3, dtype=torch.uint8)):
        with pytest.raises(TensorError, match="cannot look up"):
            table(x)
    with pytest.raises(TensorError, match="make a table for those"):
        table(torch.quantize_per_tensor(torch.ones(3), 0.2, 0, torch.qint8))


def _quantised(model: nn.Module, x: Tensor) -> Any:
    from torch.ao.quantization import get_default_qconfig_mapping, quantize_fx

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        prepared = quantize_fx.prepare_fx(copy.deepcopy(model), get_default_qconfig_mapping("x86"), (x,))
        prepared(x)
        return quantize_fx.convert_fx(prepared)


def test_pytorchs_quantisation_takes_tables() -> None:
    model, x = _model(), torch.randn(8, 3, 16, 16)
    converted = _quantised(model, x)
    folded = grafs_timm.int8_activations(converted)
    assert sum(isinstance(layer, Int8Activation) for layer in folded.modules()) == 2
    plain, ours, exact = converted(x), folded(x), model(x)
    assert float((ours - plain).abs().max()) <= 0.05 * float(exact.abs().max())
    assert float((ours - exact).abs().max()) <= 0.1 * float(exact.abs().max())
    with pytest.raises(QuantisationError, match="between two quantised tensors"):
        grafs_timm.int8_activations(_quantised(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).eval(), x))


@pytest.mark.filterwarnings("ignore")
def test_onnxruntime_runs_a_model_with_tables(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    from onnxruntime.quantization import CalibrationDataReader

    model, x = _model(), torch.randn(8, 3, 16, 16)
    torch.onnx.export(model, (x,), tmp_path / "float.onnx", dynamo=True, verbose=False, external_data=False)
    name = onnx.load(tmp_path / "float.onnx").graph.input[0].name

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.rows = iter([{name: x.numpy()}])

        def get_next(self) -> Any:
            return next(self.rows, None)

    tables = grafs_timm.quantise_onnx(tmp_path / "float.onnx", tmp_path / "int8.onnx", model, Reader())
    assert set(tables) == {"1", "3"}
    assert all(table.max_error < 1 for table in tables.values())
    onnx.checker.check_model(onnx.load(tmp_path / "int8.onnx"))
    outputs = [
        runtime.InferenceSession(tmp_path / f"{kind}.onnx", providers=["CPUExecutionProvider"]).run(None, {name: x.numpy()})[0]
        for kind in ("float", "int8")
    ]
    np.testing.assert_allclose(outputs[1], outputs[0], atol=0.1 * np.abs(outputs[0]).max())
    assert "GatherElements" in {node.op_type for node in onnx.load(tmp_path / "int8.onnx").graph.node}
    with pytest.raises(QuantisationError, match="dynamo=True"):
        grafs_timm.quantise_onnx(tmp_path / "float.onnx", tmp_path / "x.onnx", nn.Conv2d(3, 3, 3), Reader())


class _Mean(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


def test_poolings_after_activations_as_in_a_resnet(tmp_path: Path) -> None:
    """A max-pooling is quantised with its activation; a global one is not, and the activation before it stays in float."""
    pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    first, last = (timm.layers.create_act_layer("golu") for _ in range(2))
    model = nn.Sequential(nn.Conv2d(3, 4, 3), first, nn.MaxPool2d(2), nn.Conv2d(4, 4, 3), last, _Mean(), nn.Linear(4, 2)).eval()
    x = torch.randn(8, 3, 16, 16)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(model, (x,), tmp_path / "float.onnx", dynamo=True, verbose=False, external_data=False)
    batches = iter([{"input": x.numpy()}])

    class Reader:
        def get_next(self) -> Any:
            return next(batches, None)

        def __iter__(self) -> Any:
            return batches

    with pytest.warns(GrafsWarning, match="4: not between two quantised tensors"):
        tables = grafs_timm.quantise_onnx(tmp_path / "float.onnx", tmp_path / "int8.onnx", model, Reader())
    assert set(tables) == {"1"}
    session = runtime.InferenceSession(tmp_path / "int8.onnx", providers=["CPUExecutionProvider"])
    got = session.run(None, {"input": x.numpy()})[0]
    with torch.no_grad():
        np.testing.assert_allclose(got, model(x).numpy(), atol=0.05)


def test_a_function_that_is_not_finite_there_is_refused():
    class Logarithm(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.log()

    with pytest.raises(QuantisationError, match="input_scale: f is not finite at 0"):
        grafs_timm.int8_table(Logarithm(), 1.0, 1.0)


def test_a_failed_quantisation_leaves_no_file(tmp_path):
    pytest.importorskip("onnxruntime")
    import onnx

    graph = onnx.helper.make_graph([], "empty", [], [])
    onnx.save(onnx.helper.make_model(graph), str(tmp_path / "float.onnx"))
    with pytest.raises(QuantisationError, match="export it with dynamo=True"):
        grafs_timm.quantise_onnx(tmp_path / "float.onnx", tmp_path / "int8.onnx", torch.nn.Identity(), None)
    assert [file.name for file in tmp_path.iterdir()] == ["float.onnx"]
