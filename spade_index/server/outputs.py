"""The output tensors of a model of the Open Inference Protocol, made of answers."""

from collections.abc import Callable, Sequence

import numpy as np

from spade_index.method.pictures import shrunk

from .asks import Answer

EMPTY = np.float32(np.nan)


def output_shapes(size: tuple[int, int], neighbours: int) -> dict[str, tuple[str, list[int]]]:
    """Return the datatypes and shapes of all outputs; -1 is the number of images.

    Args:
        size: (height, width) of the backbone's input.
        neighbours: of an image.
    """
    return {
        "score": ("FP32", [-1]),
        "anomalous": ("BOOL", [-1]),
        "threshold": ("FP32", [-1]),
        "score_map": ("FP32", [-1, *size]),
        "neighbour": ("BYTES", [-1, neighbours]),
        "distance": ("FP32", [-1, neighbours]),
    }


def _scores(answers: Sequence[Answer], size: tuple[int, int]) -> np.ndarray:
    return np.array([answer.detection.score for answer in answers], "<f4")


def _anomalous(answers: Sequence[Answer], size: tuple[int, int]) -> np.ndarray:
    return np.array([bool(answer.detection.anomalous) for answer in answers])


def _thresholds(answers: Sequence[Answer], size: tuple[int, int]) -> np.ndarray:
    found = [answer.detection.threshold for answer in answers]
    return np.array([EMPTY if threshold is None else threshold for threshold in found], "<f4")


def _score_maps(answers: Sequence[Answer], size: tuple[int, int]) -> np.ndarray:
    maps = np.full((len(answers), *size), EMPTY, "<f4")
    for place, answer in enumerate(answers):
        if answer.detection.pixels is not None:
            score_map = answer.detection.pixels.score_map
            maps[place] = score_map if score_map.shape == size else shrunk(score_map, size)  # of a picture of tiles
    return maps


def _neighbours(answers: Sequence[Answer], size: tuple[int, int]) -> np.ndarray:
    ids = np.full((len(answers), _most(answers)), "", object)
    for place, answer in enumerate(answers):
        for rank, neighbour in enumerate(answer.detection.neighbours):
            ids[place, rank] = neighbour.id
    return ids


def _distances(answers: Sequence[Answer], size: tuple[int, int]) -> np.ndarray:
    distances = np.full((len(answers), _most(answers)), EMPTY, "<f4")
    for place, answer in enumerate(answers):
        found = [neighbour.distance for neighbour in answer.detection.neighbours]
        distances[place, : len(found)] = found
    return distances


def _most(answers: Sequence[Answer]) -> int:
    return max(len(answer.detection.neighbours) for answer in answers)


OUTPUTS: dict[str, Callable[[Sequence[Answer], tuple[int, int]], np.ndarray]] = {
    "score": _scores,
    "anomalous": _anomalous,
    "threshold": _thresholds,
    "score_map": _score_maps,
    "neighbour": _neighbours,
    "distance": _distances,
}
