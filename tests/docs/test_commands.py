"""Every command in README.md, CONTRIBUTING.md and docs/ works as it is written.

`spade-index` runs on small images, in the order of the page. Commands that need hours, other data, a GPU or a network
are checked instead: the options of benchmarks and of `serve`, targets of make, extras of pip, files and tests. Those
that need a service are run in tests/server.
"""

import re
import runpy
import shlex
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from tempfile import TemporaryFile

import click
import pytest

from spade_index.cli import main

from helpers.cli_runs import run, tuned_gallery
from helpers.documents import PAGES, ROOT, commands
from helpers.processes import forked, killed

LONG = ("benchmark", "demo", "serve")  # commands of spade-index that are checked
EVERY = [(page.name, command) for page in PAGES for command in commands(page)]


def words(command: str) -> list[str]:
    """Split a command as a shell does, without its comment and the variables that are set before it."""
    split = shlex.split(command, comments=True)
    return split[next(number for number, word in enumerate(split) if "=" not in word) :]


def is_run(command: str) -> bool:
    """Return whether a command is run; the others are checked."""
    return words(command)[0] == "spade-index" and words(command)[1] not in LONG


@pytest.fixture(scope="module")
def tuned(_written: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A gallery of small inputs, which commands carry on with; examples name a backbone of the usual size."""
    return tuned_gallery(_written / "good-parts", tmp_path_factory.mktemp("small") / "gallery", "--input-size", 96)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
@pytest.mark.usefixtures("workspace", "quick_tuning")
def test_commands_run_in_the_order_of_their_page(page: Path) -> None:
    if page.name == "serve.md":
        Path("good-parts").rename("good-tiles")
    for command in filter(is_run, commands(page)):
        run(*words(command)[1:])


def test_all_pages_have_commands() -> None:
    assert sum(is_run(command) for _, command in EVERY) > 20
    assert len(EVERY) > 40


@pytest.mark.parametrize("command", [command for _, command in EVERY if not is_run(command)])
def test_a_command_that_is_not_run_names_what_exists(command: str) -> None:
    program, *arguments = words(command)
    CHECKS.get(program, files_exist)(arguments)


def options_exist(arguments: list[str]) -> None:
    """Check that a command of spade-index takes these arguments, without running it."""
    command: click.Command = main
    context = click.Context(main, **main.context_settings)
    while isinstance(command, click.Group):
        found = command.get_command(context, arguments.pop(0))
        assert found is not None
        command, context = found, click.Context(found, parent=context)
    command.make_parser(context).parse_args(arguments)


def program_exists(arguments: list[str]) -> None:
    """Check that a Python file or module exists and that its help lists the options."""
    if arguments[:2] == ["-m", "pytest"]:
        return pytest_takes(arguments[2:])
    if "-c" in arguments[:1]:
        return None
    place = 2 if arguments[0] == "-m" else 1
    options = [argument for argument in arguments[place:] if argument.startswith("--")]
    if arguments[0] == "-m":
        file = arguments[1].replace(".", "/") + ".py"
        assert any((folder / file).is_file() for folder in (ROOT, ROOT / "tests")), file
    else:
        assert (ROOT / arguments[0]).is_file(), arguments[0]
    if options:
        shown = help_of(arguments[:place])
        known = shown + run("evaluate", "--help").output * ("OPTIONS of evaluate" in shown)
        assert set(options) <= set(re.findall(r"--[a-z-]+", known))
    return None


def help_of(program: list[str]) -> str:
    """Return the help of a file, or of `-m` and a module, run in a fork of this process, which has imported torch."""

    def show() -> None:
        sys.argv = [program[-1], "--help"]
        try:
            with redirect_stdout(file):
                if program[0] == "-m":
                    runpy.run_module(program[1], run_name="__main__", alter_sys=True)
                else:
                    sys.path.insert(0, str((ROOT / program[0]).parent))
                    runpy.run_path(str(ROOT / program[0]), run_name="__main__")
        except SystemExit as ended:
            if ended.code:
                raise
        file.flush()

    with TemporaryFile("w+") as file:
        assert not killed(forked(show))
        file.seek(0)
        return file.read()


def pytest_takes(arguments: list[str]) -> None:
    """Check that pytest is given tests that exist."""
    for argument in arguments:
        if argument.startswith("tests"):
            file, _, name = argument.partition("::")
            assert (ROOT / file).exists(), file
            assert not name or f"def {name.partition('[')[0]}(" in (ROOT / file).read_text(), name


def targets_exist(arguments: list[str]) -> None:
    """Check that the Makefile has these targets."""
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(arguments) <= set(targets)


def extras_exist(arguments: list[str]) -> None:
    """Check that pip is asked for extras and files that exist."""
    extras = re.findall(r'^ +"(\w+)": \[', (ROOT / "setup.py").read_text(), re.MULTILINE)
    for argument in arguments[1:]:
        match = re.fullmatch(r"\.\[([\w,]+)\]", argument)
        assert not match or set(match[1].split(",")) <= set(extras), argument
        assert match or argument.startswith("--") or argument == "." or (ROOT / argument).is_file(), argument


def files_exist(arguments: list[str]) -> None:
    """Check that a shell is given a script that exists."""
    assert (ROOT / arguments[0]).is_file(), arguments[0]


CHECKS: dict[str, Callable[[list[str]], None]] = {
    "spade-index": options_exist,
    "python": program_exists,
    ".venv/bin/python": program_exists,
    "make": targets_exist,
    "pip": extras_exist,
}
