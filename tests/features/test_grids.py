"""The grids that levels are averaged to: those of one pyramid always fit each other, whatever the images' shape."""

from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from spade_index.features.grids import averaged

STRIDES = (4, 8, 16, 32)
Edges = st.tuples(st.integers(16, 1500), st.integers(16, 1500))
Grids = st.none() | st.integers(1, 80)


@given(Edges, Grids, Grids)
@example((256, 768), 28, 14)  # 9x28, 9x28, 9x28 and 8x24 cells are stored; the last one had more rows than the others
def test_no_level_is_finer_than_the_one_before_it(edges, stored, compared):
    levels = [(-(-edges[0] // stride), -(-edges[1] // stride)) for stride in STRIDES]
    for grid in (stored, compared):
        levels = averaged(levels, grid)
        assert all(fine[axis] >= coarse[axis] >= 1 for fine, coarse in pairwise(levels) for axis in (0, 1))
        assert grid is None or max(levels[0]) <= grid


@pytest.mark.parametrize(
    ("levels", "grid", "right"),
    [
        ([(56, 56), (28, 28), (14, 14)], None, [(56, 56), (28, 28), (14, 14)]),
        ([(56, 56), (28, 28), (14, 14)], 28, [(28, 28), (28, 28), (14, 14)]),
        ([(56, 56), (28, 28), (14, 14)], 14, [(14, 14), (14, 14), (14, 14)]),
        ([(32, 96), (16, 48), (8, 24)], 28, [(9, 28), (9, 28), (8, 24)]),
        ([(9, 28), (8, 24)], 14, [(4, 14), (4, 14)]),
        ([(3, 300)], 20, [(1, 20)]),
    ],
)
def test_cells_are_counted_along_the_longer_edge(levels, grid, right):
    assert averaged(levels, grid) == right
