"""Charts are SVG that stands in a page: escaped, within their frame, and true to their numbers."""

import xml.etree.ElementTree as ET

import numpy as np
import pytest

from spade_index.views.charts import (
    BOTTOM,
    HEIGHT,
    LEFT,
    MOST_POINTS,
    RIGHT,
    TOP,
    WIDTH,
    Chart,
    Line,
    histogram,
    thinned,
)


def points(svg: str, at: int = 0) -> np.ndarray:
    """Return the points of a line of a chart, [n, 2]."""
    lines = [element for element in ET.fromstring(svg).iter() if element.tag in ("polyline", "polygon")]
    return np.array([[float(part) for part in pair.split(",")] for pair in lines[at].attrib["points"].split()])


def test_lines_are_where_their_numbers_are():
    chart = Chart("c", "x", "y", [Line("l", np.array([0.0, 0.5, 1.0]), np.array([0.0, 1.0, 0.5]))])
    found = points(chart.svg())
    assert found[0].tolist() == [LEFT, HEIGHT - BOTTOM]
    assert found[1].tolist() == [LEFT + (WIDTH - LEFT - RIGHT) / 2, TOP]
    assert found[2, 0] == WIDTH - RIGHT


def test_names_are_escaped():
    name = '<script>alert("x")</script>'
    svg = Chart(name, name, name, [Line(name, np.zeros(2), np.ones(2)), Line(name, np.zeros(2), np.ones(2))]).svg()
    assert "<script" not in svg
    assert ET.fromstring(svg).attrib["aria-label"].startswith(name)


def test_a_long_line_keeps_its_ends_and_its_shape():
    x = np.linspace(0, 300, 100_000)
    line = np.column_stack([x, 100 * np.sin(x / 20)])
    few = thinned(line)
    assert len(few) <= MOST_POINTS
    assert few[[0, -1]].tolist() == line[[0, -1]].tolist()
    assert np.abs(np.interp(x, few[:, 0], few[:, 1]) - line[:, 1]).max() < 2


@pytest.mark.parametrize("threshold", [None, 4.0, float("inf")])
def test_a_histogram_shows_shares_and_the_threshold(threshold):
    random = np.random.default_rng(0)
    groups = [("good", "good", random.normal(2, 0.3, 500)), ("defective", "bad", random.normal(6, 1, 20))]
    chart = histogram("scores", "score", groups, threshold)
    assert [line.name for line in chart.lines][2:] == (["threshold"] if threshold == 4.0 else [])
    for line in chart.lines[:2]:
        assert line.y[1:-1:2].sum() == pytest.approx(1)
    found = points(chart.svg())
    assert found[:, 0].min() >= LEFT - 0.1
    assert found[:, 0].max() <= WIDTH - RIGHT + 0.1
    assert found[:, 1].min() >= TOP - 0.1


def test_histograms_of_equal_and_of_distant_scores():
    same = histogram("s", "x", [("good", "good", np.ones(3)), ("bad", "bad", np.ones(2))], None)
    assert np.isfinite(points(same.svg())).all()
    far = histogram("s", "x", [("good", "good", np.full(30, 0.01)), ("bad", "bad", np.array([100.0]))], 1.0)
    assert far.logarithmic
    assert np.isfinite(points(far.svg())).all()
    negative = histogram("s", "x", [("good", "good", np.full(30, -0.01)), ("bad", "bad", np.array([100.0]))], 1.0)
    assert not negative.logarithmic
