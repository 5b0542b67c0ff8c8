"""What Label Studio sends to an ML backend, recorded from version 1.23.2, and what it reads in a brush mask."""

import base64
import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

FILE = Path(__file__).parents[1] / "server" / "label_studio.json"
CONFIG = json.loads(FILE.read_text())["setup"]["schema"]


def recorded(name: str) -> dict[str, Any]:
    """Return a body that Label Studio has sent: setup, predict, created, updated or deleted."""
    return json.loads(FILE.read_text())[name]


def asking(*images: str, config: str = CONFIG) -> dict[str, Any]:
    """Return a request of predictions for images, as tasks name them."""
    body = recorded("predict")
    body["label_config"] = config
    task = body["tasks"][0]
    body["tasks"] = [copy.deepcopy(task) | {"id": n, "data": {"image": image}} for n, image in enumerate(images, 1)]
    return body


def saying(choice: str | None, image: str, *, action: str = "created", id: int = 1) -> dict[str, Any]:
    """Return the event of an annotation that was created or updated; None: it answers nothing."""
    event = recorded(action)
    event["annotation"]["id"] = id
    event["task"]["data"] = {"image": image}
    event["annotation"]["result"][0]["value"]["choices"] = [choice]
    if choice is None:
        event["annotation"]["result"] = []
    return event


def region(kind: str, value: dict[str, Any], size: tuple[int, int] = (40, 36)) -> dict[str, Any]:
    """Return a region as an annotation has it; `kind` is its tag's, such as polygonlabels."""
    width, height = size
    whole = {"original_width": width, "original_height": height, "image_rotation": 0, "to_name": "image"}
    return {**whole, "id": "drawn", "type": kind, "from_name": kind, "value": value}


def deleting(*ids: int) -> dict[str, Any]:
    """Return the event of annotations that were deleted."""
    return recorded("deleted") | {"annotations": [{"id": id} for id in ids]}


def in_the_task(data: bytes) -> str:
    """Return an image file as the URI that a task can have it in."""
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"


def unpacked(packed: list[int]) -> NDArray[np.uint8]:
    """Return the values of a brush mask, uint8 [n]: read bit by bit, as the format is described."""
    bits = "".join(f"{byte:08b}" for byte in packed)
    at = 0

    def number(size: int) -> int:
        nonlocal at
        at += size
        assert at <= len(bits)
        return int(bits[at - size : at], 2)

    count, value_bits = number(32), number(5) + 1
    sizes = [number(4) + 1 for _ in range(4)]
    values: list[int] = []
    while len(values) < count:
        equal = number(1)
        length = number(sizes[number(2)]) + 1
        values += [number(value_bits)] * length if equal else [number(value_bits) for _ in range(length)]
    assert len(values) == count
    assert len(bits) - at < 8
    assert "1" not in bits[at:]
    return np.array(values, np.uint8)
