"""Searches of parts, merged, give what one search gives."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spade_index.kernels import PRECISIONS, merge_nearest, nearest_pixels
from spade_index.kernels.window import cells_at_corner


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    neighbours=st.integers(1, 5),
    workers=st.integers(1, 3),
    k=st.integers(1, 4),
    window=st.sampled_from([None, 0, 1]),
    ties=st.booleans(),
    precision=st.sampled_from(PRECISIONS),
)
@pytest.mark.parametrize("mode", ["concat-nearest", "concat-bilinear"])
def test_parts_are_merged_as_one_search(
    mode: str, seed: int, neighbours: int, workers: int, k: int, window: int | None, ties: bool, precision: str
) -> None:
    draw, sizes = torch.Generator().manual_seed(seed), [(3, 4), (2, 2)]

    def maps(count: int) -> list[torch.Tensor]:
        levels = [torch.randn(count, h * w, 3, generator=draw).half() for h, w in sizes]
        return [level.sign() for level in levels] if ties else levels

    query, pool, pixels = maps(2), maps(neighbours), 12
    cells = cells_at_corner(sizes[0], window)
    k = min(k, neighbours * cells)
    how = {"sizes": sizes, "weights": [1.0, 0.5], "mode": mode, "window": window}
    how |= {"precision": precision, "backend": "torch"}
    whole = nearest_pixels(query, pool, torch.arange(neighbours).expand(2, -1), k, **how)
    parts: list[tuple[torch.Tensor, torch.Tensor]] = []
    owner = torch.randint(0, workers, (neighbours,), generator=draw)
    for worker in range(workers):
        mine = (owner == worker).nonzero().flatten()
        if len(mine):
            few = min(k, len(mine) * cells)
            distances, matches = nearest_pixels(query, pool, mine.expand(2, -1), few, **how)
            parts.append((distances, mine[matches // pixels] * pixels + matches % pixels))
    merged = merge_nearest(*(torch.cat(of, 2) for of in zip(*parts, strict=True)), k)
    for found, expected in zip(merged, whole, strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_what_comes_last_is_taken_for_want_of_others() -> None:
    distances, matches = torch.tensor([[[1.0, 2.0, 3.0]]]), torch.tensor([[[7, 5, 6]]])
    last = torch.tensor([[[True, False, True]]])
    for k, expected in ((1, [5]), (2, [5, 6]), (3, [5, 6, 7])):
        assert merge_nearest(distances, matches, k, last)[1].tolist() == [[expected]]
    assert merge_nearest(distances, matches, 2, last)[0].tolist() == [[[2.0, 3.0]]]
