"""The command line: click over gallery and detector.

The commands are in `cli_change`, `cli_look`, `cli_score`, `cli_serve` and `cli_benchmark`; what they share is in
`cli_options`.
"""

import os
import sys
from typing import Any

import click

from spade_index.errors import SpadeIndexError

from .benchmark import benchmark
from .change import add, build, calibrate, compact, index, remove, restore
from .look import info, list_, verify
from .score import demo, evaluate, query
from .serve import serve


class Commands(click.Group):
    """Translates what the core raises into one line and exit status 1."""

    def invoke(self, context: click.Context) -> Any:
        """Run a command."""
        try:
            return super().invoke(context)
        except SpadeIndexError as error:
            message = str(error)
        except KeyboardInterrupt:
            message = "interrupted; what was committed is safe, and the same command carries on"
        except BrokenPipeError:  # the reader of the output has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(1)
        except OSError as error:
            message = f"{error.filename or 'input or output'}: {error.strerror or error}"
        click.echo(f"spade-index: {' '.join(message.split())}", err=True)
        sys.exit(1)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="spade_index")
def main() -> None:
    """Find what is not normal in images, by a gallery of normal ones."""


for command in (build, add, remove, restore, index, calibrate, compact):
    main.add_command(command)
for command in (list_, info, verify, query, evaluate, demo):
    main.add_command(command)
main.add_command(benchmark)
main.add_command(serve)
