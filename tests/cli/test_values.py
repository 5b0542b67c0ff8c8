"""Paths and numbers are checked where they enter, in every command: a usage error, never a traceback."""

import json
import math
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from spade_index.cli import main
from spade_index.cli.strict import strict_json
from spade_index.cli.values import AnyReal, FilePath, Real, RealRange, Second, Whole, WholeRange

from helpers.cli_runs import refused, run

UNCHECKED = ("text", "boolean", "choice", "glob")  # types without numbers or paths


def every_type(command: click.Command = main, path: str = "") -> Iterator[tuple[str, click.ParamType]]:
    """Yield the type of each argument and option of all commands, with its name."""
    if isinstance(command, click.Group):
        for name, each in command.commands.items():
            yield from every_type(each, f"{path} {name}".strip())
        return
    for parameter in command.params:
        kinds = parameter.type.types if isinstance(parameter.type, click.Tuple) else [parameter.type]
        yield from ((f"{path} {parameter.opts[0]}", kind) for kind in kinds)


TYPES = list(every_type())


def of(*kinds: type) -> list[object]:
    return [pytest.param(kind, id=name) for name, kind in TYPES if isinstance(kind, kinds)]


def test_every_number_and_path_has_a_type_that_checks() -> None:
    checked = (FilePath, AnyReal, Real, RealRange, Second, Whole, WholeRange)
    assert [name for name, kind in TYPES if not isinstance(kind, checked) and kind.name not in UNCHECKED] == []
    assert len(of(FilePath)) > 30


@pytest.mark.parametrize("kind", of(FilePath))
def test_an_empty_path_is_a_usage_error(kind: FilePath) -> None:
    with pytest.raises(click.BadParameter, match="empty"):
        kind.convert("", None, None)


@pytest.mark.parametrize("kind", of(Real, RealRange))
def test_a_number_is_finite(kind: click.ParamType) -> None:
    for value in ("nan", "inf", "-inf", "1e400"):
        with pytest.raises(click.BadParameter):
            kind.convert(value, None, None)


@pytest.mark.parametrize("kind", of(Whole, WholeRange))
def test_an_integer_is_not_too_large(kind: click.ParamType) -> None:
    for value in ("1" + 20 * "0", "-1" + 20 * "0", "9" * 5000, "1e3", "nan"):
        with pytest.raises(click.BadParameter):
            kind.convert(value, None, None)


@pytest.mark.parametrize(
    "arguments",
    [
        ["build", "", "GALLERY"],
        ["build", "IMAGES", ""],
        ["add", "GALLERY", ""],
        ["add", "", "IMAGES"],
        ["query", "GALLERY", ""],
        ["query", "GALLERY", "IMAGES", ""],
        ["query", "", "IMAGES"],
        ["query", "GALLERY", "IMAGES", "--out", ""],
        ["query", "GALLERY", "IMAGES", "--weights", ""],
        ["evaluate", ""],
        ["serve", ""],
        ["query", "GALLERY", "IMAGES", "--exclude", ""],
        ["query", "GALLERY", "IMAGES", "--snapshot", "1" + 20 * "0"],
        ["query", "GALLERY", "IMAGES", "--batch-size", "1" + 20 * "0"],
        ["query", "GALLERY", "IMAGES", "--threshold", "nan"],
        ["query", "GALLERY", "IMAGES", "--false-alarms", "nan"],
        ["build", "IMAGES", "GALLERY", "--workers", "1000000"],
        ["build", "IMAGES", "bad\udce9"],
    ],
    ids=lambda arguments: " ".join(arguments).encode("ascii", "replace").decode(),
)
def test_a_usage_error_leaves_no_trace(arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = run(*arguments, status=2)
    assert result.stderr.splitlines()[-1].startswith("Error: Invalid value for ")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "option",
    [
        ["--smoothing", "1e300"],
        ["--mean", "nan,1,1"],
        ["--std", "1,inf,1"],
        ["--level-weights", "1,nan,1"],
        ["--input-size", "1" + 20 * "0"],
    ],
    ids=" ".join,
)
def test_numbers_that_cannot_be_are_named(built: Path, dataset: Path, option: list[str]) -> None:
    assert option[0].removeprefix("--").replace("-", " ") in refused("query", built, dataset / "test", *option)


def test_more_neighbours_than_images_take_no_more_memory(built: Path, dataset: Path) -> None:
    image = dataset / "test" / "good" / "000.png"
    many, all_ = (run("query", built, image, "--json", "--gallery-neighbours", k).stdout for k in (2**31 - 1, 12))
    assert many == all_


def test_the_home_folder_is_expanded_where_a_shell_does_not(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(dataset))
    assert FilePath().convert("~/test", None, None) == dataset / "test"
    monkeypatch.chdir(dataset)
    assert FilePath().convert("~", None, None) == dataset


def test_ids_that_are_not_utf8_do_no_harm(gallery: Path, dataset: Path) -> None:
    assert "no image 'caf\\\\xe9.png'" in refused("remove", gallery, "caf\udce9.png")
    assert "3 added" in run("add", gallery, dataset / "test" / "good", "--prefix", "\udce9/").stdout
    assert run("list", gallery).stdout.splitlines()[-1] == "\\xe9/002.png"
    run("remove", gallery, "\udce9/002.png")


def test_numbers_that_are_not_finite_are_null_in_json() -> None:
    assert json.loads(strict_json({"a": [math.nan, math.inf, 1.5]}), parse_constant=pytest.fail) == {
        "a": [None, None, 1.5]
    }


def test_the_edge_of_a_metric_is_not_larger_than_any_input(tmp_path: Path) -> None:
    result = run("evaluate", tmp_path, "--metric-size", 1_000_000, status=2)
    assert "--metric-size" in result.stderr.splitlines()[-1]


@pytest.mark.parametrize("kind", of(Real, RealRange, AnyReal, Whole, WholeRange))
def test_a_number_has_one_spelling(kind: click.ParamType) -> None:
    for value in ("", " 5", "5 ", "+5", "1_0", "٣", "５", "05", "0x5", "5\n", "5."):
        with pytest.raises(click.BadParameter):
            kind.convert(value, None, None)


@pytest.mark.parametrize("kind", of(Whole, WholeRange))
def test_a_whole_number_has_digits_alone(kind: click.ParamType) -> None:
    for value in ("1.0", "5e0", "1e1"):
        with pytest.raises(click.BadParameter):
            kind.convert(value, None, None)


@pytest.mark.parametrize(
    "option",
    [
        ["--mean", "1_0,1,1"],
        ["--std", "1, 1,1"],
        ["--level-weights", "1,+1,1"],
        ["--level-weights", "1,5.,1"],
        ["--compared-levels", "0,1.0"],
        ["--compared-levels", "0,٢"],
        ["--compared-levels", "nan"],
        ["--input-size", "2_24"],
        ["--input-size", "224x"],
        ["--input-size", " 224"],
    ],
    ids=" ".join,
)
def test_so_has_one_in_a_list(built: Path, dataset: Path, option: list[str]) -> None:
    assert option[0].removeprefix("--").replace("-", " ") in refused("query", built, dataset / "test", *option)


@pytest.mark.parametrize(
    "limit", ["decoders=1_0", "decoders=1.0", "decoders=+1", "head_seconds=1_0", "head_seconds=5."]
)
def test_so_has_a_limit_of_the_service(limit: str, tmp_path: Path) -> None:
    assert "Invalid value for '--limit'" in run("serve", tmp_path, "--limit", limit, status=2).stderr
