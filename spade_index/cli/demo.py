"""`spade-index demo`: a demonstration that needs no data."""

from pathlib import Path

import click


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default=Path("demo"), show_default=True, help="Folder to use.")
def demo(out: Path) -> None:
    """Build, query and evaluate on photographs of textures with made defects; needs no data and no download."""
    from .demonstration import run_demo

    run_demo(out, say=click.echo)
