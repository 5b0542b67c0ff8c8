"""Groups of options: a command receives each as one object, with the defaults of the settings."""

import importlib
from collections.abc import Sequence
from dataclasses import MISSING, fields
from typing import get_type_hints

import click
import pytest
from click.testing import CliRunner

from spade_index.cli import main
from spade_index.cli.backbone_options import BackboneOptions
from spade_index.cli.cache_options import CacheOptions
from spade_index.cli.index import IndexOptions
from spade_index.cli.options import AddingOptions, KernelOptions, LoadingOptions, takes
from spade_index.cli.search_options import SearchOptions
from spade_index.cli.serve import ServeOptions
from spade_index.errors import InputError
from spade_index.presets import PAPER_SEARCH
from spade_index.server.settings import ServeSettings
from spade_index.settings import BATCH_SIZE, IndexSettings, SearchSettings

GROUPS = (
    AddingOptions,
    BackboneOptions,
    CacheOptions,
    IndexOptions,
    KernelOptions,
    LoadingOptions,
    SearchOptions,
    ServeOptions,
)


def parsed(group: type, arguments: Sequence[str] = ()) -> object:
    """Return a group of options as a command with these arguments receives it."""
    received = []

    @click.command()
    @takes("group", group)
    def command(group: object) -> None:
        received.append(group)

    result = CliRunner().invoke(command, list(arguments))
    assert result.exit_code == 0, result.output
    return received[0]


def test_options_default_to_the_settings(tmp_path):
    assert parsed(SearchOptions).choice(None).settings() == SearchSettings()
    assert parsed(SearchOptions).choice("paper").settings() == PAPER_SEARCH
    assert parsed(IndexOptions).settings(IndexSettings()) == IndexSettings()
    assert parsed(LoadingOptions).batch_size == BATCH_SIZE
    assert parsed(KernelOptions) == KernelOptions(kernel=None, map_memory=None)
    groups = parsed(SearchOptions), None, "auto", parsed(KernelOptions), parsed(CacheOptions)
    assert parsed(ServeOptions).settings(tmp_path, *groups) == ServeSettings(root=tmp_path)


def test_options_override_the_settings(tmp_path):
    search = parsed(SearchOptions, ["--score-neighbours", "5", "--level-weights", "1,0.5,2", "--smoothing", "0"])
    expected = {"score_neighbours": 5, "level_weights": (1, 0.5, 2), "smoothing": 0}
    assert search.choice(None, "auto").settings() == SearchSettings(**expected, maps="auto")
    before = IndexSettings(storage="pq", recall=0.5)
    assert parsed(IndexOptions, ["--dimensions", "0", "--memory", "64"]).settings(before) == IndexSettings(
        storage="pq", recall=0.5, dimensions=0, memory=64 << 20
    )
    assert parsed(KernelOptions, ["--map-memory", "3"]).map_bytes == 3 << 20
    assert parsed(BackboneOptions, ["--backbone", "resnet18"]).name == "resnet18"
    assert parsed(AddingOptions, ["--prefix", "p/", "--strict"]) == AddingOptions(
        "p/", replace=False, again=False, strict=True
    )


def test_the_preset_paper_has_the_papers_levels():
    backbone = parsed(BackboneOptions, ["--backbone", "efficientnet-lite0"])
    assert len(backbone.load("cpu").settings.levels) == 4
    assert [channels for channels, *_ in backbone.load("cpu", preset="paper").settings.level_shapes] == [24, 40, 112]


def test_invalid_values_are_named():
    with pytest.raises(InputError, match="level weights"):
        parsed(SearchOptions, ["--level-weights", "1,x"]).choice(None)


@pytest.mark.parametrize("group", GROUPS, ids=lambda group: group.__name__)
def test_groups_are_frozen(group):
    with pytest.raises(AttributeError):
        setattr(parsed(group), next(iter(get_type_hints(group))), "another value")


@pytest.mark.parametrize("name", sorted(main.commands))
def test_every_option_of_every_command_is_explained(name):
    command = main.commands[name]
    commands = command.commands.values() if isinstance(command, click.Group) else [command]
    for each in commands:
        assert each.help
        assert [option.name for option in each.params if isinstance(option, click.Option) and not option.help] == []


@pytest.mark.parametrize(
    ("name", "module"), [("kernel", "pixel_search"), ("gallery", "gallery_growth"), ("ingest", "ingest")]
)
def test_the_defaults_of_benchmarks_are_those_of_their_settings(name, module):
    settings = importlib.import_module(f"spade_index.benchmarks.{module}").Settings
    defaults = {field.name: field.default for field in fields(settings) if field.default is not MISSING}
    options = {
        option.name: option.default
        for option in main.commands["benchmark"].commands[name].params
        if option.name in defaults and not isinstance(defaults[option.name], tuple) and not callable(option.default)
    }
    assert len(options) > 4
    given = {option: default for option, default in options.items() if isinstance(default, (int, float, str))}
    assert given == {option: defaults[option] for option in given}
