"""`spade-index demo`: a demonstration that needs no data."""

from pathlib import Path

import click

from spade_index.errors import InputError

from .outputs import require_writable
from .values import PATH


@click.command()
@click.option("--out", type=PATH, default=Path("demo"), show_default=True, help="Folder to use.")
def demo(out: Path) -> None:
    """Build, query and evaluate on photographs of textures with made defects; needs no data and no download."""
    require_writable(folders=[out])
    try:
        from .demonstration import run_demo
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "skimage":
            raise
        raise InputError("the demo needs the photographs of scikit-image: pip install scikit-image") from error

    run_demo(out, say=click.echo)
