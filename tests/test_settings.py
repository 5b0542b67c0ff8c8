"""Settings are validated, survive JSON unchanged, and name the field in which two galleries differ."""

import json
from dataclasses import FrozenInstanceError, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spade_index.errors import InputError, SettingsMismatch
from spade_index.presets import PAPER_PREPROCESSING, PAPER_SEARCH
from spade_index.settings import ExtractionSettings, Preprocessing, SearchSettings

EXTRACTION = ExtractionSettings(
    backbone="resnet18",
    weights="0123abcd",
    levels=("layer1", "layer2"),
    level_shapes=((64, 56, 40), (128, 28, 20)),
    pooled_dim=512,
    preprocessing=Preprocessing(input_size=(224, 160)),
)

EDGES = st.integers(16, 4096)
FRACTIONS = st.floats(0.01, 1.0)


@given(
    backbone=st.text(max_size=20),
    levels=st.lists(st.text(min_size=1, max_size=10), max_size=4).map(tuple),
    input_size=st.tuples(EDGES, EDGES),
    crop=st.booleans(),
    mean=st.tuples(FRACTIONS, FRACTIONS, FRACTIONS),
    precision=st.sampled_from(["float32", "bfloat16"]),
)
def test_extraction_settings_survive_json(backbone, levels, input_size, crop, mean, precision):
    preprocessing = Preprocessing(input_size, resize=max(input_size) if crop else None, mean=mean)
    settings = replace(
        EXTRACTION,
        backbone=backbone,
        levels=levels,
        level_shapes=tuple((8, 4, 4) for _ in levels),
        preprocessing=preprocessing,
        precision=precision,
    )
    text = settings.to_json()
    assert ExtractionSettings.from_json(text) == settings
    assert ExtractionSettings.from_json(text).to_json() == text
    assert "\n" not in text


@pytest.mark.parametrize("pixels", [{}, {"bits": 12}, {"pixel_range": (-0.5, 2.0)}, {"profiles": False}])
def test_how_pixels_are_read_survives_json_and_makes_no_other_backbone(pixels):
    settings = replace(EXTRACTION, preprocessing=replace(EXTRACTION.preprocessing, **pixels))
    again = ExtractionSettings.from_json(settings.to_json()).preprocessing
    own = settings.preprocessing
    assert (again.bits, again.pixel_range, again.profiles) == (own.bits, own.pixel_range, own.profiles)
    EXTRACTION.require_equal(settings, "GALLERY")


def test_settings_of_earlier_versions_are_read_and_written_as_they_were():
    earlier = json.loads(EXTRACTION.to_json())
    assert earlier["preprocessing"].pop("profiles") is True
    assert "stored_grid" not in earlier
    text = json.dumps(earlier, sort_keys=True)
    settings = ExtractionSettings.from_json(text)
    assert (settings.preprocessing.bits, settings.preprocessing.profiles) == (None, False)
    assert settings.to_json() == text


def test_sizes_and_bytes_of_maps():
    assert EXTRACTION.sizes == [(56, 40), (28, 20)]
    assert EXTRACTION.map_bytes == 2 * (64 * 56 * 40 + 128 * 28 * 20)


def test_equal_settings_are_accepted():
    EXTRACTION.require_equal(ExtractionSettings.from_json(EXTRACTION.to_json()), "GALLERY")


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (replace(EXTRACTION, backbone="resnet50"), ["backbone resnet18", "resnet50"]),
        (replace(EXTRACTION, weights="ffff"), ["weights 0123abcd", "ffff"]),
        (replace(EXTRACTION, precision="bfloat16"), ["precision float32", "bfloat16"]),
        (replace(EXTRACTION, stored_grid=28), ["stored_grid None", "28"]),
        (replace(EXTRACTION, preprocessing=Preprocessing()), ["input_size (224, 160)", "(224, 224)"]),
        (replace(EXTRACTION, preprocessing=Preprocessing((224, 160), resize=256)), ["resize None", "256"]),
    ],
)
def test_a_mismatch_names_the_gallery_the_field_and_both_values(other, words):
    with pytest.raises(SettingsMismatch) as raised:
        EXTRACTION.require_equal(other, "GALLERY")
    message = str(raised.value)
    assert message.startswith("GALLERY")
    assert "\n" not in message
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    "values",
    [
        {"input_size": (15, 224)},
        {"input_size": (224, 4097)},
        {"resize": 223},
        {"input_size": (64, 128), "resize": 100},
        {"std": (0.1, 0.0, 0.1)},
        {"bits": 11},
        {"bits": 12, "pixel_range": (0, 1)},
        {"pixel_range": (1, 1)},
        {"pixel_range": (0, float("inf"))},
    ],
)
def test_preprocessing_refuses_invalid_values(values):
    with pytest.raises(InputError) as raised:
        Preprocessing(**values)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "values",
    [
        {"score_neighbours": 0},
        {"gallery_neighbours": 0},
        {"pixel_neighbours": 0},
        {"pixel_neighbours": 11},
        {"smoothing": -1.0},
        {"mode": "concat"},
        {"maps": "sometimes"},
        {"level_weights": "inverse"},
        {"image_score": "mean"},
        {"image_score": "map", "maps": "never"},
        {"image_score": "both", "maps": "auto"},
    ],
)
def test_search_settings_refuse_invalid_values(values):
    with pytest.raises(InputError) as raised:
        SearchSettings(**values)
    message = str(raised.value)
    assert "\n" not in message
    assert any(name in message or name.replace("_", " ") in message for name in values)


def test_settings_are_frozen():
    with pytest.raises(FrozenInstanceError):
        SearchSettings().smoothing = 1.0
    with pytest.raises(FrozenInstanceError):
        EXTRACTION.backbone = "resnet50"


@pytest.mark.parametrize(
    ("values", "score"),
    [
        ({}, "both"),
        ({"maps": "auto"}, "pooled"),
        ({"maps": "never"}, "pooled"),
        ({"image_score": "pooled"}, "pooled"),
        ({"image_score": "map"}, "map"),
    ],
)
def test_the_default_image_score_depends_on_maps(values, score):
    assert SearchSettings(**values).effective_image_score == score


def test_a_calibration_is_valid_for_settings_with_the_same_scores():
    base = SearchSettings()
    key = base.calibration_key()
    json.loads(key)
    assert replace(base, image_score="pooled", maps="never").calibration_key() == key
    changed = {
        "score_neighbours": 4,
        "gallery_neighbours": 49,
        "pixel_neighbours": 2,
        "mode": "per-level",
        "level_weights": (1.0, 2.0),
        "smoothing": 3.0,
    }
    keys = {replace(base, **{name: value}).calibration_key() for name, value in changed.items()}
    assert len(keys | {key}) == len(changed) + 1


def test_the_preset_equals_the_paper():
    assert (PAPER_PREPROCESSING.resize, PAPER_PREPROCESSING.input_size) == (256, (224, 224))
    assert (PAPER_SEARCH.score_neighbours, PAPER_SEARCH.gallery_neighbours, PAPER_SEARCH.pixel_neighbours) == (
        50,
        50,
        1,
    )
    assert (PAPER_SEARCH.level_weights, PAPER_SEARCH.smoothing) == ("equal", 4.0)
    assert PAPER_SEARCH.effective_image_score == "pooled"
