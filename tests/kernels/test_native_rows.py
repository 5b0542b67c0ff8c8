"""Distances to rows of a file: the bits of numpy's, or none at all."""

import numpy as np
import pytest

from spade_index.kernels.native.library import instruction_sets
from spade_index.kernels.native.rows import distances_to_rows

OFFSET = 3  # rows need not be aligned


@pytest.fixture
def stored(tmp_path):
    """A function that writes rows float32 [n, D] to a file, and returns it, open."""
    opened = []

    def write(rows):
        path = tmp_path / "rows"
        path.write_bytes(b"x" * OFFSET + rows.tobytes())
        opened.append(path.open("rb"))
        return opened[-1].fileno()

    yield write
    for file in opened:
        file.close()


@pytest.mark.parametrize("dim", [*range(1, 18), 127, 128, 129, 136, 255, 257, 300, 1280, 1293, 2048])
def test_they_are_numpys_to_the_bit(dim, stored):
    random = np.random.default_rng(dim)
    rows = (random.normal(size=(40, dim)) * np.exp(3 * random.normal(size=(40, 1)))).astype(np.float32)
    query, asked = random.normal(size=dim).astype(np.float32), random.integers(0, 40, 25)
    right = ((rows[asked] - query.astype(np.float64)) ** 2).sum(1).astype(np.float32)
    file = stored(rows)
    for name in instruction_sets():
        np.testing.assert_array_equal(distances_to_rows(file, OFFSET, asked, query, name), right)


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_there_are_none_of_values_that_are_not_finite(wrong, stored):
    rows = np.zeros((3, 20), np.float32)
    rows[1, 19] = wrong
    file, query = stored(rows), np.ones(20, np.float32)
    assert distances_to_rows(file, OFFSET, np.array([0, 1]), query) is None
    np.testing.assert_array_equal(distances_to_rows(file, OFFSET, np.array([0, 2]), query), [20, 20])


def test_there_are_none_where_a_row_cannot_be_read(stored):
    file, query = stored(np.zeros((3, 20), np.float32)), np.ones(20, np.float32)
    assert distances_to_rows(file, OFFSET, np.array([0, 3]), query) is None
    assert distances_to_rows(-1, OFFSET, np.array([0]), query) is None
    assert distances_to_rows(file, OFFSET, np.array([], np.int64), query).shape == (0,)
