"""Quantise an exported ONNX model and put 256-entry tables where found activations were."""

from __future__ import annotations

import ast
import tempfile
import warnings
from collections import defaultdict
from pathlib import Path
from typing import Any

from torch import nn

from ..activations.activation import FormulaActivation
from ..errors import GrafsWarning
from ..utils.files import write_whole
from ..utils.optional import required
from .int8 import Int8Table, QuantisationError, int8_table

_SCOPES = "pkg.torch.onnx.name_scopes"  # which torch's exporter writes into every node


def quantise_onnx(path: str | Path, out: str | Path, model: nn.Module, calibration: Any) -> dict[str, Int8Table]:
    """Quantise a float ONNX model to 8 bits, with a table in place of every found or published activation.

    The float model stays as it is. Activations are found by the module that the exporter names in every node. One that is not
    between two quantised tensors, such as the last before a global pooling, is computed in float and named in a warning.

    Args:
        path: The float model, written by ``torch.onnx.export(model, ..., dynamo=True)``.
        out: Where to write the quantised model.
        model: The exported torch model.
        calibration: onnxruntime's ``CalibrationDataReader`` over typical inputs.

    Returns:
        The tables by the activation's name in the torch model; they state their errors.

    Raises:
        QuantisationError: No activation was found, or none is between two quantised tensors.
        GrafsError: onnx or onnxruntime is missing.

    >>> quantise_onnx("net.onnx", "net_int8.onnx", net, reader)["act"].max_error  # doctest: +SKIP
    0.4998
    """
    onnx = required("onnx", "export", "quantising an ONNX model")
    quantization = required("onnxruntime.quantization", "export", "quantising an ONNX model")
    places = _places(onnx.load(str(path)), model)
    if not places:
        raise QuantisationError(f"{path}: no node is from an activation of {type(model).__name__}; export it with dynamo=True")
    excluded = [name for names in places.values() for name in names]
    with tempfile.TemporaryDirectory() as folder:
        part = Path(folder) / "quantised.onnx"
        quantization.quantize_static(
            str(path), str(part), calibration, nodes_to_exclude=excluded,
            activation_type=quantization.QuantType.QUInt8, weight_type=quantization.QuantType.QInt8,
            # a pooling after an activation is quantised too, though the activation is not yet
            extra_options={"ActivationSymmetric": False, "ForceQuantizeNoInputCheck": True},
        )  # fmt: skip
        quantised = onnx.load(str(part))
    found = {place: _fold(onnx, quantised.graph, set(names), place, model) for place, names in places.items()}
    tables = {place: table for place, table in found.items() if table}
    left = ", ".join(place for place in found if place not in tables)
    if not tables:
        raise QuantisationError(f"{left}: no activation is between two quantised tensors; quantise the layers around it")
    if left:
        warnings.warn(f"{left}: not between two quantised tensors, so computed in float by the formula", GrafsWarning)
    write_whole(Path(out), quantised.SerializeToString())  # only once all tables are made
    return tables


def _places(exported: Any, model: nn.Module) -> dict[str, list[str]]:
    """Return the nodes of every activation, by its name in the torch model."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    layers = {name for name, layer in model.named_modules() if isinstance(layer, FormulaActivation)}
    for node in exported.graph.node:
        scopes = next((each.value for each in node.metadata_props if each.key == _SCOPES), "[]")
        for scope in _literal(scopes):
            if scope in layers:
                found[scope].append(node.name)
    return dict(found)


def _literal(scopes: str) -> list[Any]:
    """Read a list as Python writes it.

    >>> _literal("['', 'layer1.act']"), _literal("open('x')")
    (['', 'layer1.act'], [])
    """
    try:
        value = ast.literal_eval(scopes)
    except (ValueError, SyntaxError, MemoryError, RecursionError):  # the file is anyone's
        return []
    return value if isinstance(value, list) else []


def _fold(onnx: Any, graph: Any, names: set[str], place: str, model: nn.Module) -> Int8Table | None:
    inside = [node for node in graph.node if node.name in names]
    made = {output for node in inside for output in node.output}
    constants = {each.name for each in graph.initializer}
    sources = {name for node in inside for name in node.input if name and name not in made | constants}
    before = [node for node in graph.node if sources & set(node.output)]
    after = [node for node in graph.node if node.name not in names and made & set(node.input)]
    one = len(sources) == 1 and len(before) == 1 and before[0].op_type == "DequantizeLinear"
    if not one or len(after) != 1 or after[0].op_type != "QuantizeLinear":
        return None
    value = {each.name: onnx.numpy_helper.to_array(each) for each in graph.initializer}
    (source, scale, point), (_, to_scale, to_point) = before[0].input, after[0].input
    signed = value[point].dtype.name == "int8"
    table = int8_table(
        model.get_submodule(place), float(value[scale]), float(value[to_scale]), int(value[point]), int(value[to_point]), signed
    )
    nodes = _look_up(onnx, graph, source, after[0].output[0], table, place)
    at = list(graph.node).index(inside[0])
    for offset, node in enumerate(nodes):
        graph.node.insert(at + offset, node)
    for node in (*inside, *after):
        graph.node.remove(node)
    if not any(before[0].output[0] in node.input for node in graph.node):
        graph.node.remove(before[0])
    return table


def _look_up(onnx: Any, graph: Any, source: str, target: str, table: Int8Table, place: str) -> list[Any]:
    """Return the nodes of a look-up: GatherElements on a vector is several times as fast as Gather, element by element."""
    make, array = onnx.helper.make_node, onnx.numpy_helper.from_array
    key = f"int8_table/{place}"
    import numpy as np

    graph.initializer.extend([array(table.entries.numpy(), key), array(np.array([-1]), f"{key}/flat")])
    return [
        make("Shape", [source], [f"{key}/shape"], name=f"{key}/Shape"),
        make("Cast", [source], [f"{key}/index"], name=f"{key}/Cast", to=onnx.TensorProto.INT32),
        make("Reshape", [f"{key}/index", f"{key}/flat"], [f"{key}/vector"], name=f"{key}/Flatten"),
        make("GatherElements", [key, f"{key}/vector"], [f"{key}/values"], name=f"{key}/GatherElements", axis=0),
        make("Reshape", [f"{key}/values", f"{key}/shape"], [target], name=f"{key}/Reshape"),
    ]
