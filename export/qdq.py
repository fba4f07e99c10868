"""Write a quantized model as an ONNX file with QuantizeLinear and DequantizeLinear around integer operators.

The road: `lower` writes the quantized model in the operators of `custom_ops.py`, torch.export takes it
apart, torch.onnx writes it (opset 21, free batch dimension), and one pass over the ONNX graph gives clean
names and removes what only concerns the exporter. ONNX: https://onnx.ai/onnx/operators/, QuantizeLinear 21.
"""

import ast
import warnings
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import get_args

import numpy as np
import onnx
import onnx_ir as ir
import torch
from onnx_ir.passes import common
from torch import Tensor, nn

from ptq.config.choices import Format, check_choice
from ptq.errors import ExportError, MachineError, reason
from ptq.export import onnx_files
from ptq.export.network_inputs import separate
from ptq.export.operators.custom_ops import TRANSLATIONS
from ptq.export.operators.lowering import lower
from ptq.export.operators.token_layers import reshape_codes
from ptq.export.packing import pack, supported, unpack_at_load
from ptq.graph.preparation import example_input
from ptq.quantization.quantized_model import QuantizedModel
from ptq.tasks.outputs import named
from ptq.utils.files import atomic

__all__ = ["OPSET", "export_float", "export_qdq"]

OPSET = 21


def export_qdq(
    quantized_model: QuantizedModel,
    path: Path | str,
    metadata: Mapping[str, str] | None = None,
    *,
    format: str | None = None,
) -> Path:
    """Write a calibrated quantized model as ONNX with quantized operators.

    Activations below 8 bits are uint8 with an integer Clip. Inputs are float32 (N, C, H, W), normalized as the
    network wants them, named as in the model's forward; outputs are named as `ptq.tasks.outputs.named` says, a single one
    "output". One that is called as an input is gets a "_0" behind its name. N is free.

    Args:
        quantized_model: stays untouched.
        path: of the file, written whole or not at all.
        metadata: more entries for the file's metadata: model, seed, source of the calibration images.
        format: "packed" writes weights below 5 bits as INT4 or INT2, "int8" all as INT8. None packs as far as the
            onnxruntime at hand is as fast with it (`ptq.export.packing`).

    Returns:
        `path`. The metadata's "ptq.format" says which it is.

    Raises:
        InputError: for an unknown format.
        ExportError: for a quantized model without ranges, or an operator that ONNX does not have.
        MachineError: where "packed" is asked for and onnxruntime cannot run it, or the disk is full.

    Example:
        >>> export_qdq(quantized_model, "model.onnx", {"model": "resnet18", "seed": "0"}).name
        'model.onnx'
    """
    facts = {
        "weight_bits": _bits(spec.bits for spec in quantized_model.plan.weights.values()),
        "activation_bits": _bits(spec.bits for spec in quantized_model.plan.activations.values()),
        "layers": str(len(quantized_model.plan.weights)),
    }
    if format is not None:
        check_choice(format, get_args(Format), "format")
    containers = () if format == "int8" else supported()
    if format == "packed" and not containers:
        raise MachineError(
            "the onnxruntime at hand does not run packed weights in integers: update it, or use --format int8."
        )
    model = _translate(lower(quantized_model.module), example_input((2, *quantized_model.input_shape)))
    _clean(model)
    targets = {node.name: str(node.target) for node in quantized_model.module.graph.nodes}
    layers = quantized_model.layers().items()
    unpack_at_load(model.graph, {targets[name] for name, layer in layers if layer.input_quantizer is None})
    common.RemoveUnusedNodesPass()(model)
    facts["format"] = "packed" if pack(model, containers) else "int8"
    return _write(model, Path(path), {**facts, **(metadata or {})})


def export_float(
    module: nn.Module, path: Path | str, example: Tensor, metadata: Mapping[str, str] | None = None
) -> Path:
    """Write a float network as ONNX: what the quantized file is compared with.

    Args:
        module: maps (N, C, H, W) to a tensor, or to tensors by name; a `GraphModel`'s module, or your own.
        path: of the file, written whole or not at all.
        example: (N, C, H, W), N at least 2: torch.export takes a batch of one for a constant.

    Raises:
        ExportError: for an operator that ONNX does not have.
        MachineError: when the disk is full.

    Example:
        >>> export_float(graph_model.module, "float.onnx", graph_model.example(2)).name
        'float.onnx'
    """
    model = _translate(module, example)
    _clean(model)
    return _write(model, Path(path), metadata or {})


def _translate(module: nn.Module, example: Tensor) -> ir.Model:
    """torch -> ONNX, with a free batch dimension."""
    module, inputs, images = separate(module, example)
    batch = {0: torch.export.Dim("batch", min=1)}
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # on the exporter's own internals
            program = torch.export.export(module, images, dynamic_shapes=(batch,) * len(images), strict=False)
            names = list(named(module(*images)))
            taken = inputs or program.graph_signature.user_inputs
            exported = torch.onnx.export(
                program,
                opset_version=OPSET,
                dynamo=True,
                verbose=False,
                output_names=[f"{name}_0" if name in taken else name for name in names],
                custom_translation_table=TRANSLATIONS,
            )
    except Exception as error:  # the exporter raises whatever it meets
        raise ExportError(
            f"this network cannot be written as ONNX ({reason(_innermost(error))}); leave the part in question out of the "
            "network, or write it with ordinary operators."
        ) from error
    assert exported is not None
    model: ir.Model = exported.model
    for value, name in zip(model.graph.inputs, inputs, strict=False):
        value.name = name
    return model


def _innermost(error: BaseException) -> BaseException:
    """What the exporter met: it wraps that into reports of a page each."""
    return error if error.__cause__ is None else _innermost(error.__cause__)


def _write(model: ir.Model, path: Path, metadata: Mapping[str, str]) -> Path:
    model.producer_name, model.producer_version = "ptq", _version()
    model.metadata_props.update({f"ptq.{key}": value for key, value in metadata.items()})
    weights = sum(
        value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value is not None
    )
    data = onnx_files.data_file(path)
    large = weights > onnx_files.LARGE
    with atomic(path) as temporary:
        ir.save(model, temporary, external_data=data.name if large else None)
        try:
            onnx.checker.check_model(str(temporary), full_check=True)
        except onnx.checker.ValidationError as error:
            raise ExportError(f"the exported file is not valid ONNX, please report this: {reason(error)}") from error
    if not large:
        data.unlink(missing_ok=True)  # of the file that was replaced
    return path


def _clean(model: ir.Model) -> None:
    """Constants become initializers, names say what a tensor is, notes of the exporter go."""
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    common.RemoveUnusedNodesPass()(model)
    _join_codes(model.graph)
    reshape_codes(model.graph)
    common.RemoveUnusedNodesPass()(model)
    _unshare_weights(model.graph)
    scopes = {node: _scope(node) for node in model.graph}
    taken = {value.name for value in (*model.graph.inputs, *model.graph.outputs)}
    parameters = {v for v in model.graph.initializers.values() if "." in (v.name or "")}
    taken |= {value.name for value in parameters}
    for node in list(model.graph):
        scope = scopes[node]
        for value in node.inputs:
            if value is not None and value.is_initializer() and value not in parameters:
                value.name = _unique(f"{scope}.constant", taken)
                parameters.add(value)
        if node.op_type == "DequantizeLinear":
            _write_zero_point(model.graph, node, taken)
        node.name = _unique(f"{scope}/{node.op_type}", taken)
        for value in node.outputs:
            if not value.is_graph_output():
                value.name = _unique(f"{scope}.{node.op_type}", taken)
    common.ClearMetadataAndDocStringPass()(model)
    for value in (*model.graph.inputs, *model.graph.outputs, *model.graph.initializers.values()):
        value.metadata_props.clear()
        value.meta.clear()
    model.graph.metadata_props.clear()
    _name_batch(model)


def _join_codes(graph: ir.Graph) -> None:
    """Skip a DequantizeLinear and the QuantizeLinear behind it where both have the same scale and zero point."""
    for node in list(graph):
        source = node.inputs[0] if node.op_type == "QuantizeLinear" else None
        before = None if source is None else source.producer()
        if before is None or before.op_type != "DequantizeLinear" or len(before.inputs) < 3:
            continue
        codes = before.inputs[0]
        grids = [[v.const_value for v in n.inputs[1:3] if v is not None] for n in (node, before)]
        if codes and all(a is b or np.array_equal(a, b) for a, b in zip(*grids, strict=True)):
            node.outputs[0].replace_all_uses_with(codes)


def _unshare_weights(graph: ir.Graph) -> None:
    """Undo the exporter's merging of layers that happen to have equal weights (BatchNorms with equal gains).

    Where onnxruntime rewrites the weight of one layer, it fails on the second that shares it.
    """
    for node in filter(_integer_weight, list(graph)):
        for use in list(node.outputs[0].uses())[1:]:
            clone = ir.node("DequantizeLinear", list(node.inputs), dict(node.attributes))
            clone.outputs[0].shape = node.outputs[0].shape
            clone.outputs[0].type = node.outputs[0].type
            clone.outputs[0].name = f"{node.outputs[0].name}_{use.node.name}"
            clone.metadata_props.update(node.metadata_props)
            graph.insert_before(use.node, clone)
            use.node.replace_input_with(use.idx, clone.outputs[0])
    seen: set[ir.Value] = set()
    for index, node in enumerate(list(graph)):
        codes = _integer_weight(node)
        if codes is None:
            continue
        if codes in seen:
            twin = ir.Value(name=f"{codes.name}.copy{index}", const_value=codes.const_value)
            twin.shape, twin.type = codes.shape, codes.type
            graph.register_initializer(twin)
            node.replace_input_with(0, twin)
        seen.add(codes)


def _integer_weight(node: ir.Node) -> ir.Value | None:
    """Return the int8 initializer that a node dequantizes, or None."""
    codes = node.inputs[0] if node.op_type == "DequantizeLinear" else None
    if codes is None or not codes.is_initializer() or codes.dtype != ir.DataType.INT8:
        return None
    return codes


def _scope(node: ir.Node) -> str:
    """Return the path of the module a node came from, else its name in torch's graph."""
    scopes = ast.literal_eval(node.metadata_props.get("pkg.torch.onnx.name_scopes", "[]"))
    named = [scope for scope in scopes[:-1] if scope] or scopes[-1:]
    return str(named[-1]) if named else str(node.outputs[0].name)


def _write_zero_point(graph: ir.Graph, node: ir.Node, taken: set[str | None]) -> None:
    """Give an int8 weight a zero point of its own, although that is zero.

    Where onnxruntime turns int8 weights into uint8 (CPUs without exact int8 kernels), it moves the zero
    point to 128; it fails on a weight without one, and on a zero point that two weights share.
    """
    codes, scale = _integer_weight(node), node.inputs[1]
    if codes is None or scale is None or len(node.inputs) > 2:
        return

    name = _unique(f"{(codes.name or '').removesuffix('.codes')}.zero_point", taken)
    channels = 1 if scale.shape is None else int(scale.shape[0])  # type: ignore[arg-type]
    value = ir.Value(name=name, const_value=ir.tensor(np.zeros(channels, np.int8), name=name))
    value.shape, value.type = ir.Shape([channels]), ir.TensorType(ir.DataType.INT8)
    graph.register_initializer(value)
    node.resize_inputs(3)
    node.replace_input_with(2, value)


def _name_batch(model: ir.Model) -> None:
    """Call the free dimension "batch"; torch calls it s77 or the like."""
    shape = model.graph.inputs[0].shape
    symbol = None if shape is None else getattr(shape[0], "value", None)
    values = [v for node in model.graph for v in node.outputs]
    for value in (*model.graph.inputs, *values):
        if symbol and value.shape is not None:
            names = [None if isinstance(size, int) else size.value for size in value.shape]
            sizes = zip(value.shape, names, strict=True)
            # One that has no name is not known. Of two of one name onnxruntime believes that they are equal.
            value.shape = ir.Shape([name.replace(symbol, "batch") if name else size for size, name in sizes])


def _unique(name: str, taken: set[str | None]) -> str:
    candidate, count = name, 1
    while candidate in taken:
        count += 1
        candidate = f"{name}_{count}"
    taken.add(candidate)
    return candidate


def _bits(widths: object) -> str:
    return ",".join(str(bits) for bits in sorted(set(widths)))  # type: ignore[call-overload]


def _version() -> str:
    try:
        return version("ptq")
    except PackageNotFoundError:  # run from a checkout that is not installed
        return "unknown"
