"""The command `spade-index`: one module of this package for each subcommand.

Imports that take long (torch, faiss, h5py, fastapi) are inside the commands, so that `--help` answers at once.
"""

import errno
import os
import sys
from contextlib import suppress
from typing import Any

import click

from spade_index.errors import SpadeIndexError
from spade_index.shortage import is_shortage

from .add import add
from .audit import audit
from .benchmark import benchmark
from .build import build
from .calibrate import calibrate
from .compact import compact
from .demo import demo
from .evaluate import evaluate
from .feedback import feedback
from .index import index
from .info import info
from .lines import printable
from .list import list_
from .query import query
from .remove import remove, restore
from .roi import roi
from .serve import serve
from .streams import INTERRUPTED, Terminated, ending_signals, let_idle_threads_sleep, prepare_streams
from .transfer import pull, push
from .tune import tune
from .verify import verify
from .watch import watch

COMMANDS: tuple[click.Command, ...] = (
    build,
    add,
    remove,
    restore,
    feedback,
    index,
    roi,
    tune,
    calibrate,
    audit,
    compact,
    list_,
    info,
    verify,
    push,
    pull,
    query,
    watch,
    evaluate,
    demo,
    benchmark,
    serve,
)


SAFE = "what was committed is safe, and the same command carries on"


class Commands(click.Group):
    """Prints what the core raises as one line, with exit status 1."""

    def main(self, *arguments: Any, **options: Any) -> Any:
        """Parse the command line and run a command."""
        prepare_streams()
        let_idle_threads_sleep()
        with ending_signals():
            try:
                return super().main(*arguments, **options)
            except OSError as error:  # of help that cannot be printed; commands have theirs told by `invoke`
                sys.exit(_told(_of_system(error)))

    def invoke(self, context: click.Context) -> Any:
        """Run a command."""
        status = 1
        try:
            return super().invoke(context)
        except SpadeIndexError as error:
            message = str(error)
        except Terminated as error:
            message, status = f"terminated; {SAFE}", error.status
        except KeyboardInterrupt:
            message, status = f"interrupted; {SAFE}", INTERRUPTED
        except BrokenPipeError:  # the reader of the output has closed it, as `head` does
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(1)
        except UnicodeEncodeError as error:  # before any file is read or written by that name
            message = f"{error.object!a} is no name in this locale ({error.encoding}): use one of UTF-8"
        except OSError as error:
            message = _of_system(error)
        except (MemoryError, RuntimeError) as error:
            if not is_shortage(error):
                raise
            message = f"too little memory, or too few threads; {SAFE}"
        sys.exit(_told(message, status))


def _of_system(error: OSError) -> str:
    if error.errno == errno.ENOMEM:
        return f"too little memory; {SAFE}"
    return f"{error.filename or 'input or output'}: {error.strerror or error}"


def _told(message: str, status: int = 1) -> int:
    """Print what ended the command as one line; return the exit status."""
    with suppress(OSError):  # of standard error, where nothing can be told
        click.echo(printable(f"spade-index: {' '.join(message.split())}"), err=True)
    return status


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="spade_index")
def main() -> None:
    """Find what is not normal in images, by comparison with a gallery of normal images."""


for command in COMMANDS:
    main.add_command(command)
