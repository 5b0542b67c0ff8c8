"""Heat maps are aligned with the image; pages are complete, escaped and need no other file."""

import io
import re
from base64 import b64decode
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from spade_index.images import Geometry
from spade_index.views.example import Alike, Example, mark
from spade_index.views.heatmap import colourise, heatmap, score_limits
from spade_index.views.montage import montage
from spade_index.views.report import Table, write_report

GREY = (90, 90, 90)


def photo(width: int = 300, height: int = 200, seed: int = 0) -> Image.Image:
    """Return a texture that compresses about as badly as a photograph."""
    noise = np.random.default_rng(seed).normal(size=(height, width))
    texture = ndimage.gaussian_filter(noise, 1.5)
    return Image.fromarray(np.clip(120 + 90 * texture / texture.std() / 3, 0, 255).astype(np.uint8)).convert("RGB")


def example(seed: int = 0, image_id: str = "crack/001.png") -> Example:
    image = photo(seed=seed)
    return Example(
        image_id=image_id,
        kind="crack",
        image=image,
        score=12.3456,
        threshold=8.0,
        verdict="anomalous",
        heatmap=image,
        mask=Image.new("1", image.size),
        match=photo(seed=seed + 1),
        match_id="train/good/007.png",
        worst=(299, 0),
        matched=(10.5, 190),
        neighbours=[("train/good/007.png", 1.25), ("train/good/003.png", 1.5)],
    )


class Page(HTMLParser):
    """Parse the tags of a page with their attributes."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.text = path.read_text(encoding="utf-8")
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(self.text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def changed(before: Image.Image, after: Image.Image) -> np.ndarray:
    """Return the change of each pixel, [H, W]."""
    return np.abs(np.asarray(after, dtype=int) - np.asarray(before, dtype=int)).max(axis=2)


def test_colours_go_from_dark_to_bright() -> None:
    colours = colourise(np.linspace(2, 5, 100)[None], (2.0, 5.0))
    assert colours.shape == (1, 100, 3)
    assert colours.dtype == np.uint8
    lightness = colours[0] @ np.array([0.2126, 0.7152, 0.0722])
    assert (np.diff(lightness) > -0.5).all()
    assert lightness[-1] > lightness[0] + 150


def test_colours_stop_at_the_limits() -> None:
    below, low, high, above = colourise([[-1e9, 2.0, 5.0, 1e9]], (2.0, 5.0))[0]
    assert (below == low).all()
    assert (above == high).all()
    flat, beyond = colourise([[3.0, 3.1]], (3.0, 3.0))[0]
    assert (flat == low).all()
    assert (beyond == high).all()


def test_limits_are_shared_and_keep_a_threshold_in_the_darker_half() -> None:
    calm, loud = np.full((4, 4), 2.0, dtype=np.float32), np.full((4, 4), 3.0, dtype=np.float32)
    loud[0, 0] = 1000.0
    assert score_limits([calm, loud])[0] == 2.0
    for threshold in (2.5, 5.0, 700.0):
        low, high = score_limits([calm, loud], threshold)
        assert 1 / 3 - 1e-6 <= (threshold - low) / (high - low) <= 0.5 + 1e-6
    assert score_limits([calm, loud], 1.0) == score_limits([calm, loud])


def test_limits_of_maxima_and_of_no_scores() -> None:
    low, high = score_limits([4.0, 6.0, 8.0])
    assert (low, high) == (2.0, 7.0)
    assert score_limits([]) == (0.0, 1.0)
    assert score_limits([], 3.0) == (0.0, 6.0)


@pytest.mark.parametrize("size", [(200, 100), (50, 25), (1000, 500)])
@pytest.mark.parametrize("box", [(0.0, 0.0, 200.0, 100.0), (50.0, 0.0, 150.0, 100.0), (30.5, 10.2, 190.1, 99.0)])
def test_a_defect_is_drawn_where_it_is(size: tuple[int, int], box: tuple[float, float, float, float]) -> None:
    score_map = np.zeros((56, 56), dtype=np.float32)
    score_map[40:44, 10:14] = 1.0
    image = Image.new("RGB", size, GREY)
    drawn = heatmap(image, score_map, Geometry(200, 100, box), (0.0, 1.0))
    assert drawn.size == size
    colourful = np.ptp(np.asarray(drawn, dtype=int), axis=2)
    y, x = ndimage.center_of_mass(np.where(colourful > colourful.max() / 4, colourful, 0))
    left, top, right, bottom = box
    scale = size[0] / 200
    expected = (left + 12 / 56 * (right - left), top + 42 / 56 * (bottom - top))
    assert (x + 0.5) / scale == pytest.approx(expected[0], abs=1.5)
    assert (y + 0.5) / scale == pytest.approx(expected[1], abs=1.5)


def test_normal_places_stay_visible_and_unseen_ones_are_dimmed() -> None:
    image = photo(200, 100)
    score_map = np.full((56, 56), 2.0, dtype=np.float32)
    drawn = heatmap(image, score_map, Geometry(200, 100, (50, 0, 150, 100)), (2.0, 5.0))
    assert (changed(image, drawn)[:, 50:150] == 0).all()
    outside = np.asarray(drawn, dtype=int)[:, :50]
    assert (outside <= np.asarray(image, dtype=int)[:, :50]).all()
    assert outside.mean() > 0.5 * np.asarray(image)[:, :50].mean()


def test_a_higher_score_covers_more() -> None:
    image = Image.new("RGB", (60, 10), GREY)
    score_map = np.repeat(np.linspace(0, 1, 6, dtype=np.float32)[None], 2, axis=0)
    geometry = Geometry(60, 10, (0, 0, 60, 10))
    difference = changed(image, heatmap(image, score_map, geometry, (0.0, 1.0)))[5]
    assert (np.diff(difference[5::10]) > 0).all()
    faint = changed(image, heatmap(image, score_map, geometry, (0.0, 1.0), opacity=0.2))[5]
    assert faint[-1] < difference[-1]


def test_a_peak_survives_a_small_image() -> None:
    score_map = np.zeros((224, 224), dtype=np.float32)
    score_map[100:103, 100:103] = 100.0
    image = Image.new("RGB", (32, 32), GREY)
    drawn = heatmap(image, score_map, Geometry(32, 32, (0, 0, 32, 32)), (0.0, 10.0))
    assert changed(image, drawn).max() > 50


@pytest.mark.parametrize("background", ["white", "black"])
@pytest.mark.parametrize("xy", [(50.0, 40.0), (0.0, 0.0), (99.0, 79.0), (-5.0, 500.0)])
def test_marks_are_visible_and_inside(background: str, xy: tuple[float, float]) -> None:
    image = Image.new("RGB", (100, 80), background)
    marked = mark(image, xy, 20)
    assert marked.size == image.size
    assert image.getcolors() == [(100 * 80, (255,) * 3 if background == "white" else (0,) * 3)]
    found = np.argwhere(changed(image, marked))
    height, width = np.ptp(found, axis=0)
    assert height >= 18
    assert width >= 18


def test_a_mark_may_be_larger_than_the_image() -> None:
    assert mark(Image.new("RGB", (8, 6)), (3, 3), 40).size == (8, 6)


def test_page_is_complete_and_self_contained(tmp_path: Path) -> None:
    path = tmp_path / "new" / "report.html"
    tables = [Table("By kind", ["Kind", "Images", "PRO"], [["crack", 57, 0.71234], ["good", 178, None]])]
    examples = [example(), example(2)]
    write_report(path, title="Tiles", summary=[("PRO", 0.7)], tables=tables, examples=examples, limits=(1.0, 9.5))
    page = Page(path)
    images = page.all("img")
    assert len(images) == 8
    for attributes in images:
        assert attributes["alt"]
        source = attributes["src"]
        assert source is not None
        assert source.startswith("data:image/")
        picture = Image.open(io.BytesIO(b64decode(source.partition(",")[2])))
        assert max(picture.size) <= 320
    assert not re.search(r"https?://|url\(|<script|<link", page.text)
    for expected in ("0.712", "12.346", "8.000", "anomalous", "low 1.000", "9.500 high", "007.png", "1.250"):
        assert expected in page.text
    assert [attributes.get("class") for attributes in page.all("td")] == [None, "number", "number"] * 2


def test_page_escapes_text(tmp_path: Path) -> None:
    hostile = "<script>alert('x')</script>\"&"
    alikes = [Alike((3, 4), hostile, b"jpeg")]
    shown = Example(
        hostile, hostile, photo(), 1.0, verdict=hostile, match_id=hostile, neighbours=[(hostile, 1.0)], alikes=alikes
    )
    table = Table(hostile, [hostile], [[hostile]])
    path = tmp_path / "report.html"
    write_report(path, title=hostile, summary=[(hostile, hostile)], tables=[table], examples=[shown])
    page = Page(path)
    assert not page.all("script")
    assert page.all("img")[0]["alt"] == f"{hostile}, {hostile}"


def test_page_without_evidence_says_so(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    write_report(path, title="Bare", summary=[], examples=[Example("a.png", "good", photo(20, 30), 0.00001)])
    page = Page(path)
    assert len(page.all("img")) == 1
    assert page.text.count("<span>none</span>") == 3
    assert "1e-05" in page.text
    assert "threshold" not in page.text


def test_page_accepts_file_names_that_are_not_valid_text(tmp_path: Path) -> None:
    odd = b"caf\xe9.png".decode("utf-8", errors="surrogateescape")
    write_report(tmp_path / "report.html", title="Odd", summary=[], examples=[Example(odd, "good", photo(), 1.0)])
    montage([Example("a.png", odd, photo(), 1.0, match_id=odd)], tmp_path / "montage.png")


def test_forty_examples_stay_small(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    shown = [example(seed) for seed in range(4)] * 10
    write_report(path, title="Forty", summary=[], examples=shown)
    assert path.stat().st_size < 5_000_000


def test_a_failed_write_keeps_the_old_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "report.html"
    path.write_text("old")

    def fail(self: Path, target: Path) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_report(path, title="New", summary=[])
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_montage_has_a_row_for_each_example(tmp_path: Path) -> None:
    bare = Example("a.png", "good", photo(20, 300), 1.0)
    sizes = []
    for count in (1, 3):
        montage([example(), bare, bare][:count], tmp_path / "montage.png", edge=100)
        with Image.open(tmp_path / "montage.png") as picture:
            sizes.append(picture.size)
    assert sizes[0][0] == sizes[1][0] > 400
    assert sizes[1][1] - sizes[0][1] == 2 * (100 + 24 + 12)


def test_long_facts_take_a_line_and_pages_of_queries_no_ground_truth(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    facts = [("Images", 7), ("Compared by", "levels 1, 2 scaled to length 1, grid 28, 20 neighbours")]
    shown = Example("a/b@1,2.png", "", photo(20, 30), 1.0)
    write_report(path, title="Queries", summary=facts, examples=[shown], truth=False)
    text = Page(path).text
    assert text.count('<div class="long">') == 1
    assert "<div><dt>Images</dt>" in text
    assert "Ground truth" not in text
    assert text.count("<span>none</span>") == 2
    assert 'alt="a/b@1,2.png"' in text
    assert "a/<wbr>b<wbr>@1,2.png" in text
