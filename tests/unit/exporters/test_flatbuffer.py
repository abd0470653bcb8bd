"""The packer against the schema's own generated code: slots, types, defaults, numbers, and what a reader gets back."""

import re

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from edgehone.exporters._flatbuffer import SCHEMA, UNION_MEMBER, Options, pack_model
from edgehone.exporters._tflite_model import _OPERATORS, _TENSOR_TYPE, ChannelParams, ModelWriter
from edgehone.graph.quantized import QuantParams

OURS = {  # names of ours that differ from the schema's
    "activation": "fused_activation_function",
    "dilation_w": "dilation_w_factor",
    "dilation_h": "dilation_h_factor",
    "signatures": "signature_defs",
    "options_type": "builtin_options_type",
    "options": "builtin_options",
}
METHODS = {"i8": "Int8", "u8": "Uint8", "i32": "Int32", "u32": "Uint32", "f32": "Float32", "bool": "Bool"}


class Recorder:
    """Stands in for a builder and notes what the generated code does."""

    def __getattr__(self, method: str) -> object:
        return lambda slot, value, default: setattr(self, "call", (method, slot, default))


def camel(name: str) -> str:
    return "".join(word[:1].upper() + word[1:] for word in name.split("_"))


@pytest.mark.parametrize(("table", "key"), [(table, key) for table, fields in SCHEMA.items() for key in fields])
def test_fields_are_those_of_the_schema(table: str, key: str) -> None:
    recorder = Recorder()
    getattr(schema, f"{table}Add{camel(OURS.get(key, key))}")(recorder, 1)
    field = SCHEMA[table][key]
    method = METHODS.get(field.type, "UOffsetTRelative")
    assert recorder.call == (f"Prepend{method}Slot", field.slot, field.default)


def test_numbers_are_those_of_the_schema() -> None:
    assert {name: getattr(schema.BuiltinOptions, name) for name in UNION_MEMBER} == UNION_MEMBER
    codes = {name: operator.code for name, operator in _OPERATORS.items()}
    assert {name: getattr(schema.BuiltinOperator, name) for name in _OPERATORS} == codes
    assert {name: getattr(schema.TensorType, name.upper()) for name in _TENSOR_TYPE} == _TENSOR_TYPE
    assert {operator.options for operator in _OPERATORS.values()} - {None} == set(UNION_MEMBER)


def written() -> bytes:
    model = ModelWriter()
    x = model.tensor((1, 2, 2, 3), "int8", QuantParams(0.5, -3), name="input")
    scale = np.array([0.25, 0.125], np.float32)
    weight = model.constant(np.arange(6, dtype=np.int8).reshape(2, 1, 1, 3), ChannelParams(scale))
    bias = model.constant(np.array([7, -7], np.int32), ChannelParams(scale / 2))
    y = model.tensor((1, 2, 2, 2), "int8", QuantParams(1.5, 4))
    options = {"padding": 1, "stride_w": 1, "stride_h": 1, "dilation_h": 1, "dilation_w": 1, "activation": 3}
    model.operator("CONV_2D", [x, weight, bias], y, options, int8=True)
    z = model.tensor((1, 2, 2, 2), "int8", QuantParams(1.5, 4), name="output")
    model.operator("HARD_SWISH", [y], z, int8=True)
    return model.finish(x, {"output": z})


def test_a_reader_gets_back_what_was_written() -> None:
    model = schema.ModelT.InitFromPackedBuf(written(), 0)
    assert written()[4:8] == b"TFL3"
    assert (model.version, model.description) == (3, b"edgehone")
    graph = model.subgraphs[0]
    assert [tensor.name for tensor in graph.tensors] == [b"input", b"1", b"2", b"3", b"output"]
    assert (list(graph.inputs), list(graph.outputs)) == ([0], [4])
    weight = graph.tensors[1]
    assert (list(weight.shape), weight.type) == ([2, 1, 1, 3], schema.TensorType.INT8)
    assert list(weight.quantization.scale) == [0.25, 0.125]
    assert list(weight.quantization.zeroPoint) == [0, 0]
    assert bytes(model.buffers[weight.buffer].data) == bytes(range(6))
    assert model.buffers[0].data is None
    conv = graph.operators[0]
    assert (list(conv.inputs), list(conv.outputs)) == ([0, 1, 2], [3])
    assert conv.builtinOptions.padding == schema.Padding.VALID
    assert conv.builtinOptions.fusedActivationFunction == schema.ActivationFunctionType.RELU6
    assert (conv.builtinOptions.dilationWFactor, conv.builtinOptions.strideH) == (1, 1)
    codes = [(code.builtinCode, code.deprecatedBuiltinCode, code.version) for code in model.operatorCodes]
    assert codes == [(3, 3, 3), (117, 117, 1)]
    signature = model.signatureDefs[0]
    assert (signature.signatureKey, signature.subgraphIndex) == (b"serving_default", 0)
    assert [(t.name, t.tensorIndex) for t in signature.inputs + signature.outputs] == [(b"input", 0), (b"output", 4)]


def test_constant_data_is_inside_and_aligned() -> None:
    data = written()
    for content in (bytes(range(6)), np.array([7, -7], "<i4").tobytes()):
        places = [match.start() for match in re.finditer(re.escape(content), data)]
        assert any(place % 16 == 0 for place in places)
    buffers = schema.ModelT.InitFromPackedBuf(data, 0).buffers
    assert all(buffer.offset == buffer.size == 0 for buffer in buffers)


def test_equal_constants_are_one() -> None:
    model = ModelWriter()
    ones = np.ones(8, np.int8)
    same = model.constant(ones, QuantParams(1.0, 0))
    assert model.constant(ones.copy(), QuantParams(1.0, 0)) == same
    other = model.constant(ones, QuantParams(0.5, 0))
    square = model.constant(ones.reshape(2, 4), QuantParams(1.0, 0))
    bits = model.constant(np.frombuffer(ones.tobytes(), np.int32))
    assert len({same, other, square, bits}) == 4
    packed = schema.ModelT.InitFromPackedBuf(model.finish(same, {"output": other}), 0)
    assert {tensor.buffer for tensor in packed.subgraphs[0].tensors} == {1}
    assert len(packed.buffers) == 2


def test_equal_tables_are_written_once() -> None:
    def file(scales: list[float]) -> int:
        tensors = [{"shape": [1], "quantization": {"scale": np.float32([s]), "zero_point": [0]}} for s in scales]
        return len(pack_model({"buffers": [], "subgraphs": [{"tensors": tensors}]}))

    assert file([1.0] * 20) < file([1.0 + i for i in range(20)]) - 19 * 16


def test_defaults_are_left_out() -> None:
    def file(dilation: int) -> bytes:
        options = Options("Conv2DOptions", {"dilation_w": dilation, "dilation_h": dilation})
        operators = [{"options_type": 1, "options": options}]
        return pack_model({"buffers": [], "subgraphs": [{"operators": operators}]})

    assert len(file(1)) < len(file(2))
    for dilation in (1, 2):
        read = schema.ModelT.InitFromPackedBuf(file(dilation), 0).subgraphs[0].operators[0].builtinOptions
        assert (read.dilationWFactor, read.dilationHFactor) == (dilation, dilation)


def test_an_unknown_field_is_refused() -> None:
    with pytest.raises(KeyError):
        pack_model({"buffers": [], "colour": 3})
