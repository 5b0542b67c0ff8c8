"""Tensors of the Open Inference Protocol (KServe, Triton) over HTTP: JSON, followed by raw bytes.

A body with binary tensors begins with JSON, whose length is in the header Inference-Header-Content-Length; the tensors'
bytes follow in the order in which the JSON names them, each of the length in its parameter `binary_data_size`. An
element of type BYTES is its length, four bytes little-endian, and itself; in JSON it is base64 for inputs, which are
files, and text for outputs, which are names.
"""

import base64
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from spade_index.exact import JsonError, RepeatedName

from .json_bodies import parse_json
from .limits import TENSOR_RANK
from .settings import ServeSettings
from .tensor_values import (
    IGNORED,
    TensorError,
    WrongName,
    entries,
    flag,
    id_of,
    is_count,
    known,
    name_of,
    parameters_of,
    require_ignored,
)

HEADER = "Inference-Header-Content-Length"
PARAMETERS = {"maps", "threshold", "binary_data_output"} | IGNORED.keys()
REQUEST = {"id", "parameters", "inputs", "outputs"}
TENSOR = {"name", "shape", "datatype", "parameters", "data"}
MOST_INPUTS = 2  # that models have
MOST_OUTPUTS = 6
DATATYPES = ("BYTES", "UINT8")
LENGTH = 4  # bytes that the length of an element takes

Tensor = np.ndarray | list[bytes]  # uint8 of any shape, or the elements of type BYTES


@dataclass(frozen=True)
class OutputWish:
    """An output that a request asks for."""

    name: str
    binary: bool


@dataclass(frozen=True)
class InferRequest:
    """A request for an inference."""

    id: str | None
    parameters: Mapping[str, Any]
    inputs: dict[str, Tensor]
    outputs: list[OutputWish] | None  # None: all of them
    binary_by_default: bool


@dataclass(frozen=True)
class Output:
    """An output tensor: FP32 and BOOL arrays, or an object array of str."""

    name: str
    values: np.ndarray
    binary: bool

    @property
    def datatype(self) -> str:
        """Return the protocol's name of the type of its elements."""
        return {"f": "FP32", "b": "BOOL", "O": "BYTES"}[self.values.dtype.kind]


def parse_request(
    body: bytes,
    header_length: int | None,
    most_images: int = ServeSettings.request_images,
    most_elements: int = ServeSettings.json_elements,
) -> InferRequest:
    """Parse the JSON and the tensors of a request. Raises TensorError."""
    json_length = len(body) if header_length is None else header_length
    if json_length > len(body):
        raise TensorError(f"{HEADER} is beyond the body's end")
    try:
        request = known(parse_json(body[:json_length], most_elements), "the request", REQUEST)
    except JsonError as error:
        raise (WrongName if isinstance(error, RepeatedName) else TensorError)(str(error)) from error
    rest = memoryview(body)[json_length:]
    parameters = parameters_of(request, PARAMETERS)
    require_ignored(parameters)
    inputs: dict[str, Tensor] = {}
    for entry in entries(request, "inputs", MOST_INPUTS) if request.get("inputs") != {} else []:
        tensor = known(entry, "an input", TENSOR)
        name = name_of(tensor)
        if name in inputs:
            raise WrongName(f"input {name!r} is there twice")
        if tensor.get("datatype") not in DATATYPES:
            raise TensorError(f"input {name!r}: its datatype is neither BYTES nor UINT8")
        size = parameters_of(tensor, {"binary_data_size"}).get("binary_data_size")
        if size is not None and "data" in tensor:
            raise TensorError(f"input {name!r}: give either its data or its binary_data_size")
        if size is None:
            inputs[name] = _from_json(name, tensor, most_images)
        else:
            if not is_count(size) or size > len(rest):
                found = f"the whole number of bytes that it says is not there: {len(rest)} follow"
                raise TensorError(f"input {name!r}: binary_data_size: {found}")
            inputs[name], rest = _from_bytes(name, tensor, rest[:size], most_images), rest[size:]
    if rest:
        raise TensorError(f"{len(rest)} bytes behind the last input")
    binary = flag(parameters, "binary_data_output", False)
    outputs = [_wish(entry, binary) for entry in entries(request, "outputs", MOST_OUTPUTS)] or None
    return InferRequest(id_of(request), parameters, inputs, outputs, binary)


def render_response(facts: Mapping[str, Any], outputs: Sequence[Output]) -> tuple[bytes, int | None]:
    """Return the body of an answer, and the length of its JSON if tensors follow it."""
    entries, behind = [], []
    for output in outputs:
        entry: dict[str, Any] = {
            "name": output.name,
            "datatype": output.datatype,
            "shape": list(output.values.shape),
        }
        if output.binary:
            behind.append(_to_bytes(output.values))
            entry["parameters"] = {"binary_data_size": len(behind[-1])}
        else:
            entry["data"] = [_plain(value) for value in output.values.ravel().tolist()]
        entries.append(entry)
    head = json.dumps({**facts, "outputs": entries}).encode()
    return b"".join([head, *behind]), len(head) if behind else None


def _from_json(name: str, tensor: Mapping[str, Any], most_images: int) -> Tensor:
    shape, data = _shape(name, tensor), tensor.get("data")
    if tensor["datatype"] == "BYTES":
        if not isinstance(data, list):
            raise TensorError(f"input {name!r}: in JSON, its data is a list of strings in base64")
        elements = _flat(name, shape, data)
        _require_few(len(elements), most_images)
        try:
            return [base64.b64decode(_text(element), validate=True) for element in elements]
        except (TypeError, ValueError) as error:
            raise TensorError(f"input {name!r}: in JSON, an element of BYTES is a string in base64") from error
    return np.frombuffer(_numbers(name, _flat(name, shape, data)), np.uint8).reshape(shape)


def _flat(name: str, shape: list[int], data: Any) -> list[Any]:
    """Return the elements of a tensor's data in JSON, in raster order.

    They are in one list, or nested as the shape says; dimensions of 1 may be left out, or added. Raises TensorError.
    """
    if not isinstance(data, list):
        raise TensorError(f"input {name!r}: its data is no list")
    lengths = [len(data)]
    while data and isinstance(data[0], list):
        length = len(data[0])
        if len(lengths) == TENSOR_RANK or not all(isinstance(row, list) and len(row) == length for row in data):
            raise TensorError(f"input {name!r}: its data is no array")
        lengths.append(length)
        data = list(chain.from_iterable(data))
    _require_count(name, shape, len(data))
    if len(lengths) > 1 and [size for size in lengths if size != 1] != [size for size in shape if size != 1]:
        raise TensorError(f"input {name!r}: its data is nested as {lengths}, and its shape is {shape}")
    return data


def _numbers(name: str, data: list[Any]) -> bytes:
    """Return the bytes of numbers; NumPy would make strings of them all if one is a string, as long as it."""
    try:
        if {*map(type, data)} != {int}:
            raise TypeError
        return bytes(data)
    except (TypeError, ValueError, OverflowError) as error:
        raise TensorError(f"input {name!r}: its data is not of whole numbers 0 to 255") from error


def _from_bytes(name: str, tensor: Mapping[str, Any], data: memoryview, most_images: int) -> Tensor:
    shape = _shape(name, tensor)
    if tensor["datatype"] == "BYTES":
        elements = _elements(name, data, most_images)
        _require_count(name, shape, len(elements))
        return elements
    _require_count(name, shape, len(data))
    return np.frombuffer(data, np.uint8).reshape(shape)


def _elements(name: str, data: memoryview, most: int) -> list[bytes]:
    elements: list[bytes] = []
    place = 0
    while place < len(data):
        _require_few(len(elements) + 1, most)
        size = int.from_bytes(data[place : place + LENGTH], "little")
        place += LENGTH
        if place + size > len(data):
            raise TensorError(f"input {name!r}: an element is cut off")
        elements.append(bytes(data[place : place + size]))
        place += size
    return elements


def _to_bytes(values: np.ndarray) -> bytes:
    if values.dtype.kind != "O":
        return values.tobytes()
    texts = [text.encode() for text in values.ravel()]
    return b"".join(len(text).to_bytes(LENGTH, "little") + text for text in texts)


def _plain(value: Any) -> Any:
    """Convert a value for JSON, which has no NaN."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _wish(entry: Any, binary_by_default: bool) -> OutputWish:
    output = known(entry, "an output", {"name", "parameters"})
    return OutputWish(name_of(output), flag(parameters_of(output, {"binary_data"}), "binary_data", binary_by_default))


def _shape(name: str, tensor: Mapping[str, Any]) -> list[int]:
    shape = tensor.get("shape")
    if not isinstance(shape, list) or not 0 < len(shape) <= TENSOR_RANK or not all(map(is_count, shape)):
        raise TensorError(f"input {name!r}: its shape is no list of whole numbers: 1 to {TENSOR_RANK} of them, from 0")
    return shape


def _require_count(name: str, shape: list[int], count: int) -> None:
    if math.prod(shape) != count:
        raise TensorError(f"input {name!r}: {count} elements are not of shape {shape}")


def _require_few(images: int, most: int) -> None:
    if images > most:
        raise TensorError(f"more images than the limit of {most:,} of a request")


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("not a string")
    return value
