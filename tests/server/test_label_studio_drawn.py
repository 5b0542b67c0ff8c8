"""Regions that annotators draw: their boxes, in whichever way they were drawn."""

import pytest

from spade_index.images.geometry import Geometry
from spade_index.server.label_studio.drawn import drawn, in_pixels
from spade_index.views.brush import packed

from helpers.label_studio import region

SIZE = (40, 20)


def box(kind: str, **value: object) -> list[tuple[float, ...]]:
    """Return the boxes in pixels of one region with the label `scratch`."""
    (found,) = drawn([region(kind, {**value, kind: ["scratch"]}, SIZE)], "image")
    assert found.label == "scratch"
    return in_pixels([] if found.box is None else [found.box], Geometry.of_size(*SIZE))


def test_each_way_to_draw_gives_the_box_around_it() -> None:
    assert box("polygonlabels", points=[[25, 50], [50, 50], [50, 75], [25, 60]]) == [(10, 10, 10, 5)]
    assert box("rectanglelabels", x=25, y=50, width=25, height=25) == [(10, 10, 10, 5)]
    turned = box("rectanglelabels", x=50, y=50, width=25, height=25, rotation=90)  # 10 x 5 pixels, clockwise
    assert turned == [(15, 10, 5, 10)]
    assert box("brushlabels", rle=packed([[True, False], [True, True]], (10, 12), SIZE)) == [(10, 12, 2, 2)]
    assert box("brushlabels", rle=packed([[False]], (0, 0), SIZE)) == []


def test_a_box_lies_in_the_image_and_has_a_pixel() -> None:
    assert box("polygonlabels", points=[[-5, -5], [200, -5], [3, 101]]) == [(0, 0, 40, 20)]
    assert box("polygonlabels", points=[[100, 100], [100, 100], [100, 100]]) == [(39, 19, 1, 1)]


def test_what_was_drawn_twice_is_one_region_and_each_has_its_label() -> None:
    polygon = region("polygonlabels", {"points": [[0, 0], [50, 0], [50, 50], [0, 50]], "polygonlabels": ["a"]}, SIZE)
    brush = region("brushlabels", {"rle": packed([[True] * 19] * 9, (0, 0), SIZE), "brushlabels": ["a"]}, SIZE)
    other = region("rectanglelabels", {"x": 60, "y": 0, "width": 9, "height": 9, "rectanglelabels": ["b"]}, SIZE)
    found = drawn([polygon, brush, other], "image")
    assert [one.label for one in found] == ["a", "b"]
    assert found[1].box == pytest.approx((0.6, 0, 0.09, 0.09))
    assert drawn([other | {"to_name": "elsewhere"}, {"type": "choices"}, 5], "image") == ()
    assert drawn(None, "image") == ()
    many = [region("polygonlabels", {"points": [[n, n], [n + 1, n + 1]], "polygonlabels": ["a"]}) for n in range(30)]
    assert len(drawn(many, "image")) == 10


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("polygonlabels", {"points": []}),
        ("polygonlabels", {"points": [[1]]}),
        ("polygonlabels", {"points": [[1, None]]}),
        ("polygonlabels", {"points": [[1e300, 2]]}),
        ("rectanglelabels", {"x": 1, "y": 2, "width": 3}),
        ("rectanglelabels", {"x": True, "y": 2, "width": 3, "height": 4}),
        ("brushlabels", {}),
        ("brushlabels", {"rle": 5}),
        ("brushlabels", {"rle": []}),
        ("brushlabels", {"rle": [300]}),
        ("brushlabels", {"rle": packed([[True]], (0, 0), SIZE)[:-1]}),
        ("brushlabels", {"rle": packed([[True]], (0, 0), (9, 9))}),
    ],
)
def test_a_region_that_cannot_be_read_is_an_error(kind: str, value: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=f"a region of {kind}"):
        drawn([region(kind, {**value, kind: ["a"]}, SIZE)], "image")
