"""The table of limits in docs/serve.md is the code's: names, defaults, options; and each limit has its test."""

import re
from dataclasses import fields
from pathlib import Path

import pytest
from click.testing import CliRunner

from spade_index.cli import main
from spade_index.cli.serve import LIMITS as BY_LIMIT
from spade_index.cli.serve import NO_LIMITS, OPTIONS
from spade_index.errors import InputError
from spade_index.server import limits
from spade_index.server.settings import MIB, MOST_ADDED, ServeSettings

from helpers.cli_runs import refused
from helpers.documents import ROOT
from helpers.limit_table import LIMITS

SETTINGS = {one.name: one.default for one in fields(ServeSettings) if one.type in (int, float)}
FIXED = {name.lower(): value for name, value in vars(limits).items() if name.isupper()}
DEFAULTS = {name: value for name, value in (SETTINGS | FIXED).items() if name not in NO_LIMITS}


def shown(name: str, value: float) -> str:
    """Return a default as the table shows it."""
    if name == "decoders":
        return "cores"
    if name.endswith(("_bytes", "_rate")) or name == "memory":
        size = (1, "B") if value < 1 << 10 else (1 << 10, "KiB") if value < MIB else (MIB, "MiB")
        return f"{value / size[0]:g} {size[1]}" + "/s" * name.endswith("_rate")
    return f"{value:g} s" if name.endswith("_seconds") else f"{value:,}"


def test_the_table_names_every_limit_with_its_default() -> None:
    assert {name: limit.default for name, limit in LIMITS.items()} == {
        name: shown(name, value) for name, value in DEFAULTS.items()
    }
    assert len(LIMITS) > 50
    assert f"{MOST_ADDED:,} is the most" in (ROOT / "docs" / "serve.md").read_text()


def test_the_table_names_the_option_of_every_limit() -> None:
    options = dict.fromkeys(FIXED, "fixed") | dict.fromkeys(BY_LIMIT, "--limit") | OPTIONS
    assert {name: limit.option for name, limit in LIMITS.items()} == options
    help_text = CliRunner().invoke(main, ["serve", "--help"]).output
    assert set(options.values()) - {"fixed"} <= set(re.findall(r"--[a-z-]+", help_text))


def test_every_limit_is_walked_by_a_test() -> None:
    tests = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    walked = re.findall(r"^def test_limit_(\w+)\(", tests, re.MULTILINE)
    assert sorted(walked) == sorted(LIMITS)


@pytest.mark.parametrize("name", sorted(DEFAULTS.keys() - FIXED.keys()))
@pytest.mark.parametrize("value", [0, -1])
def test_a_limit_is_above_0(name: str, value: int) -> None:
    with pytest.raises(InputError, match=name):
        ServeSettings(Path(), **{name: value})


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_limit_is_finite(value: float) -> None:
    with pytest.raises(InputError, match="head_seconds must be above 0 and finite"):
        ServeSettings(Path(), head_seconds=value)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("held_bytes=1.5", "not a whole number"),
        ("head_seconds=x", "not a number"),
        ("head_seconds", "not a number"),
        ("body_bytes=1", "use --max-body"),
        ("hold_bytes=1", "there are add_images"),
        ("head_bytes=1", "there are add_images"),
        ("port=1", "there are add_images"),
    ],
)
def test_a_wrong_limit_is_a_usage_error(tmp_path: Path, given: str, says: str) -> None:
    ran = CliRunner().invoke(main, ["serve", str(tmp_path), "--limit", given], terminal_width=10_000)
    assert ran.exit_code == 2
    assert says in ran.output


def test_a_limit_is_given_once_and_in_range(tmp_path: Path) -> None:
    twice = ["serve", str(tmp_path), "--limit", "jobs_kept=1", "--limit", "jobs_kept=2"]
    ran = CliRunner().invoke(main, twice)
    assert (ran.exit_code, "given twice" in ran.output) == (2, True)
    assert "head_seconds must be above 0" in refused("serve", tmp_path, "--limit", "head_seconds=nan")
    assert "add_images must be at most 10000" in refused("serve", tmp_path, "--limit", "add_images=10001")
