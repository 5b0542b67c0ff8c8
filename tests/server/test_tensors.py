import base64
import contextlib
import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from spade_index.server.tensors import Output, TensorError, parse_request, render_response


def nested(data: object, times: int) -> object:
    return nested([data], times - 1) if times else data


def request(*inputs: dict, behind: bytes = b"", **more: object) -> tuple[bytes, int]:
    head = json.dumps({"inputs": list(inputs), **more}).encode()
    return head + behind, len(head)


def test_binary_tensors_follow_the_json_in_its_order():
    pixels = np.arange(24, dtype=np.uint8).reshape(1, 2, 4, 3)
    files = b"\x03\x00\x00\x00abc\x00\x00\x00\x00"
    body, head = request(
        {"name": "image", "datatype": "BYTES", "shape": [2], "parameters": {"binary_data_size": len(files)}},
        {"name": "pixels", "datatype": "UINT8", "shape": [1, 2, 4, 3], "parameters": {"binary_data_size": 24}},
        behind=files + pixels.tobytes(),
        id="7",
        outputs=[{"name": "score", "parameters": {"binary_data": True}}, {"name": "distance"}],
    )
    parsed = parse_request(body, head)
    assert parsed.inputs["image"] == [b"abc", b""]
    np.testing.assert_array_equal(parsed.inputs["pixels"], pixels)
    assert parsed.id == "7"
    assert [(wish.name, wish.binary) for wish in parsed.outputs] == [("score", True), ("distance", False)]


def test_the_same_tensors_in_json():
    pixels = np.arange(12, dtype=np.uint8).reshape(1, 2, 2, 3)
    body, _ = request(
        {"name": "image", "datatype": "BYTES", "shape": [1], "data": [base64.b64encode(b"abc").decode()]},
        {"name": "pixels", "datatype": "UINT8", "shape": [1, 2, 2, 3], "data": pixels.ravel().tolist()},
    )
    nested, _ = request({"name": "pixels", "datatype": "UINT8", "shape": [1, 2, 2, 3], "data": pixels.tolist()})
    parsed = parse_request(body, None)
    assert parsed.inputs["image"] == [b"abc"]
    np.testing.assert_array_equal(parsed.inputs["pixels"], pixels)
    np.testing.assert_array_equal(parse_request(nested, None).inputs["pixels"], pixels)
    assert parsed.outputs is None


@pytest.mark.parametrize("shape", [[2, 2, 1, 3], [1, 4, 1, 3]])
def test_data_may_be_nested_as_the_shape_says_without_dimensions_of_1(shape):
    values = np.arange(12, dtype=np.uint8)
    data = values.reshape([size for size in shape if size != 1]).tolist()
    body, _ = request({"name": "pixels", "datatype": "UINT8", "shape": shape, "data": data})
    np.testing.assert_array_equal(parse_request(body, None).inputs["pixels"], values.reshape(shape))


def test_outputs_are_binary_where_the_request_says_so_for_all():
    body, head = request(
        parameters={"binary_data_output": True},
        outputs=[{"name": "score"}, {"name": "distance", "parameters": {"binary_data": False}}],
    )
    assert [wish.binary for wish in parse_request(body, head).outputs] == [True, False]


PIXELS = {"name": "pixels", "datatype": "UINT8", "shape": [1, 1, 1, 3]}
FILES = {"name": "image", "datatype": "BYTES", "shape": [1]}


@pytest.mark.parametrize(
    ("body", "head", "says"),
    [
        (b"{", None, "not JSON"),
        (b"[" * 100_000, None, "not JSON"),
        (b"\xff\xfe", None, "not JSON"),
        (b"[]", None, "no JSON object"),
        (b"{}", 3, "beyond the body's end"),
        (b"{}x", 2, "1 bytes behind the last input"),
        (b'{"inputs": {}}', None, ""),
        (b'{"inputs": 3}', None, "no list"),
        (b'{"inputs": [3]}', None, "an input is no JSON object"),
        (b'{"parameters": [1]}', None, "`parameters` is no JSON object"),
        (*request(PIXELS | {"data": [1, 2]})[:1], None, "2 elements are not of shape"),
        (*request(PIXELS | {"data": [1, 2, 256]})[:1], None, "whole numbers 0 to 255"),
        (*request(PIXELS | {"data": [1, 2, 0.5]})[:1], None, "whole numbers 0 to 255"),
        (*request(PIXELS | {"data": [[1], [2, 3]]})[:1], None, "no array"),
        (*request(PIXELS | {"data": [10**400, 1, 1]})[:1], None, "whole numbers 0 to 255"),
        (*request(PIXELS | {"datatype": "FP32", "data": [1, 2, 3]})[:1], None, "neither BYTES nor UINT8"),
        (*request(PIXELS | {"shape": [3, -1], "data": [1, 2, 3]})[:1], None, "no list of whole numbers"),
        (*request(PIXELS | {"shape": [True], "data": [1]})[:1], None, "no list of whole numbers"),
        (*request(PIXELS | {"shape": [1] * 40, "data": [1]})[:1], None, "no list of whole numbers"),
        (*request(PIXELS | {"shape": [10**30], "data": [1]})[:1], None, "1 elements are not of shape"),
        (*request(PIXELS | {"data": [1, 2, 3]}, PIXELS | {"data": [1, 2, 3]})[:1], None, "is there twice"),
        (*request(FILES | {"data": ["%%%"]})[:1], None, "base64"),
        (*request(FILES | {"data": [7]})[:1], None, "base64"),
        (*request(FILES)[:1], None, "base64"),
        (*request(FILES | {"parameters": {"binary_data_size": 9}}, behind=b"\x09\x00\x00\x00a"), "is not there"),
        (*request(FILES | {"parameters": {"binary_data_size": 5}}, behind=b"\x09\x00\x00\x00a"), "cut off"),
        (*request(FILES | {"parameters": {"binary_data_size": -1}}), "is not there"),
        (*request(FILES | {"parameters": {"binary_data_size": 0}}), "0 elements"),
        (*request(FILES | {"parameters": {"binary_data_size": 5.0}}, behind=b"\0\0\0\0a"), "binary_data_size"),
        (*request(FILES | {"datatype": "bytes", "data": ["AAAA"]})[:1], None, "its datatype is neither"),
        (*request(FILES | {"data": [["AAAA"], []]})[:1], None, "its data is no array"),
        (*request(FILES | {"data": [[], "AAAA"]})[:1], None, "its data is no array"),
        (*request(FILES | {"shape": [2], "data": ["AAAA", ["AAAA"]]})[:1], None, "base64"),
        (*request(FILES | {"shape": [4], "data": [["AAAA"] * 2] * 2})[:1], None, "nested as [2, 2]"),
        (*request(PIXELS | {"shape": [1, 1, 2, 3], "data": [[1, 2], [3, 4], [5, 6]]})[:1], None, "nested as [3, 2]"),
        (*request(PIXELS | {"data": nested([1, 2, 3], 8)})[:1], None, "its data is no array"),
        (b'{"inputs": [{"name": "pixels", "shape": [%s]}]}' % (b"9" * 5000), None, "too many digits"),
        (*request(parameters={"priority": "high"})[:1], None, "`priority` must be a whole number"),
        (*request(parameters={"timeout": -1})[:1], None, "`timeout` must be a whole number"),
        (*request(parameters={"timeout": True})[:1], None, "`timeout` must be a whole number"),
        (*request(parameters={"sequence_id": 0.5})[:1], None, "`sequence_id` must be a string"),
        (*request(parameters={"sequence_start": 1})[:1], None, "`sequence_start` must be true or false"),
        (*request(parameters={"sequence_end": "no"})[:1], None, "`sequence_end` must be true or false"),
    ],
)
def test_invalid_requests_are_refused_in_one_line(body, head, says):
    if says == "":
        assert parse_request(body, head).inputs == {}
        return
    with pytest.raises(TensorError) as refused:
        parse_request(body, head)
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)


untimed = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@given(body=st.binary(max_size=300), head=st.none() | st.integers(0, 300))
@untimed
def test_random_bytes_raise_only_tensor_errors(body, head):
    with contextlib.suppress(TensorError):
        parse_request(body, head)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


@given(
    tensor=st.fixed_dictionaries(
        {},
        optional={
            "name": json_values,
            "datatype": st.sampled_from(["BYTES", "UINT8", "FP32"]) | json_values,
            "shape": st.lists(st.integers(-1, 5), max_size=4) | json_values,
            "data": json_values,
            "parameters": st.fixed_dictionaries({}, optional={"binary_data_size": st.integers(-1, 40)}) | json_values,
        },
    ),
    more=st.dictionaries(st.sampled_from(["parameters", "outputs", "id"]), json_values),
    behind=st.binary(max_size=40),
)
@untimed
def test_random_json_raises_only_tensor_errors(tensor, more, behind):
    body, head = request(tensor, behind=behind, **more)
    with contextlib.suppress(TensorError):
        parse_request(body, head)


@given(
    values=arrays("<f4", array_shapes(max_dims=3, min_side=0), elements=st.floats(width=32, allow_infinity=False)),
    binary=st.booleans(),
)
@untimed
def test_float32_arrives_bit_for_bit(values, binary):
    body, head = render_response({"model_name": "m"}, [Output("score", values, binary)])
    told = json.loads(body[:head])
    (entry,) = told["outputs"]
    assert told["model_name"] == "m"
    assert (entry["datatype"], entry["shape"]) == ("FP32", list(values.shape))
    if binary:
        assert body[head:] == values.tobytes()
        assert entry["parameters"] == {"binary_data_size": values.nbytes}
    else:
        assert head is None
        read = np.array([np.nan if value is None else value for value in entry["data"]], "<f4").reshape(values.shape)
        np.testing.assert_array_equal(read, values)
        assert (np.signbit(read) == np.signbit(values))[~np.isnan(values)].all()


def test_text_and_boolean_outputs():
    names = Output("neighbour", np.array([["ä.png", ""]], object), True)
    truths = Output("anomalous", np.array([True, False]), True)
    body, head = render_response({}, [names, truths])
    assert body[head:] == b"\x06\x00\x00\x00" + "ä.png".encode() + b"\x00\x00\x00\x00" + b"\x01\x00"
    assert [entry["datatype"] for entry in json.loads(body[:head])["outputs"]] == ["BYTES", "BOOL"]
    body, head = render_response({}, [Output("neighbour", names.values, False)])
    assert json.loads(body)["outputs"][0]["data"] == ["ä.png", ""]
