"""Numbers and JSON are read strictly, whatever Python's own readers take."""

import pytest

from spade_index.exact import JsonError, RepeatedName, flag, number, read_json, whole

NO_NUMBERS = [
    "",
    " ",
    "5 ",
    " 5",
    "+5",
    "1_0",
    "٣",
    "５",
    "²",
    "05",
    "-05",
    "0x5",
    "5\n",
    "\t5",
    "--5",
    "5,0",
    "1 0",
    "𝟓",
]
NO_NUMBERS += [
    "nan",
    "NaN",
    "inf",
    "-inf",
    "Infinity",
    "infinity",
    "None",
    "true",
    "5j",
    "5f",
    "5e",
    "e5",
    "\x005",
    "5\x00",
]
NO_REALS = [
    "5.",
    ".",
    "-.",
    ".e5",
    "+.5",
    "1e",
    "1.e5",
    "1e+",
    "1_0.0",
    "1e1_0",
    "1e400",
    "-1e400",
    "٣.٥",
    "00.5",
    "1.5.2",
    "0x1p3",
]
NO_WHOLES = ["1.0", "5e0", "1e3", "1E3", "-1.0", "1.", "9" * 1001]


@pytest.mark.parametrize("text", NO_NUMBERS + NO_WHOLES)
def test_texts_that_are_no_whole_numbers(text: str) -> None:
    with pytest.raises(ValueError, match="number"):
        whole(text)


@pytest.mark.parametrize("text", NO_NUMBERS + NO_REALS)
def test_texts_that_are_no_numbers(text: str) -> None:
    with pytest.raises(ValueError, match="number"):
        number(text)


@pytest.mark.parametrize("text", ["0", "5", "-5", "-0", "1000", "9" * 1000])
def test_whole_numbers(text: str) -> None:
    assert whole(text) == int(text)


@pytest.mark.parametrize(
    "text", ["0", "-0.5", "40", "1e3", "1E-3", "1.5e+3", "0.1", ".5", "-.5", ".05e1", "-0", "9" * 300]
)
def test_numbers(text: str) -> None:
    assert number(text) == float(text)


@pytest.mark.parametrize("text", ["1", "yes", "True", "TRUE", "on", "t", "", " true", "true ", "0", "no"])
def test_texts_that_are_no_flags(text: str) -> None:
    assert (flag("true"), flag("false")) == (True, False)
    with pytest.raises(ValueError, match="neither true nor false"):
        flag(text)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("NaN", "NaN"),
        ("[1, -Infinity]", "-Infinity"),
        ('{"a": {"b": 1, "b": 2}}', "'b' twice"),
        ('[{"\\u0061": 1, "a": 2}]', "'a' twice"),
        ('["\\ud800"]', "surrogate"),
        ('{"\\uDfff": 1}', "surrogate"),
        ('["\\udc00\\ud800"]', "surrogate"),
        ("1e999", "1e999"),
        ('{"threshold": -1e999}', "threshold"),
        ("[" * 100_000 + "]" * 100_000, "too deeply"),
        ('{"a":' * 100_000, "too deeply"),
        ("9" * 5000, "not JSON"),
        ("[1,]", "not JSON"),
        ("[01]", "not JSON"),
        ("[+1]", "not JSON"),
        ("[.5]", "not JSON"),
        ("{'a': 1}", "not JSON"),
        ('["\n"]', "not JSON"),
        ("[] []", "not JSON"),
        ("\ufeff[]", "not JSON"),
        ("", "not JSON"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_texts_that_are_no_json(text: str, says: str) -> None:
    with pytest.raises(JsonError, match=says) as raised:
        read_json(text)
    assert len(str(raised.value)) < 200
    assert isinstance(raised.value, RepeatedName) == ("twice" in says)


@pytest.mark.parametrize("text", ['{"a": [1, -0.5, 1e3, "\\ud83d\\ude00", null, true]}', '[{"a": 1}, {"a": 2}]', " 5 "])
def test_json(text: str) -> None:
    read_json(text)


def test_the_last_of_many_names_is_found_twice_without_comparing_all_pairs() -> None:
    names = ", ".join(f'"{number}": 1' for number in range(200_000))
    with pytest.raises(RepeatedName, match="'199999' twice"):
        read_json(f'{{{names}, "199999": 2}}')
