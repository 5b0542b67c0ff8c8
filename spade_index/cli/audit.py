"""`spade-index audit`: name the images of a gallery that may not belong there."""

import shlex
from dataclasses import asdict
from pathlib import Path

import click

from .cluster_options import OwnClusterOptions
from .lines import printable
from .options import KernelOptions, gallery_argument, takes
from .outputs import require_writable
from .progress import Progress
from .strict import strict_json
from .values import PATH, WholeRange


@click.command()
@gallery_argument
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@click.option("--report", type=PATH, help="Write a page with maps and evidence to this file.")
@click.option("--count", type=WholeRange(1), help="Number of odd images, at most [20]")
@click.option("--all", "every", is_flag=True, help="Score every image, not only those that `calibrate` scored.")
@takes("cluster", OwnClusterOptions, without=["gpus_per_worker"])
def audit(
    gallery: Path, as_json: bool, report: Path | None, count: int | None, every: bool, cluster: OwnClusterOptions
) -> None:
    """Rank GALLERY's odd images by what each scores without itself, and list near-duplicates."""
    from spade_index.gallery.reader import Gallery
    from spade_index.method import audit as method
    from spade_index.views.audit import ranked, write_audit
    from spade_index.views.text import text_of

    cluster.require()
    if cluster.ray is not None and not every and report is None:
        raise click.UsageError("--ray needs --all or --report: without them, no map is searched")
    require_writable([report], inputs=[gallery])
    number = method.COUNT if count is None else count
    with Gallery(gallery) as opened, cluster.searching("cpu", KernelOptions(None, None)) as elsewhere:
        with Progress("audit", len(opened) if every else 0) as progress:
            found = method.audit(opened, number, every=every, progress=progress, elsewhere=elsewhere)
        if report is not None:
            write_audit(report, opened, found, elsewhere)
    if as_json:
        click.echo(strict_json(asdict(found)))
        return
    for image in found.odd:
        remove = shlex.join(["spade-index", "remove", str(gallery), image.id])
        click.echo(printable(f"{image.score:12.6g}  p {text_of(image.p_value):>6}  {image.id}  ({remove})"))
    for group in found.doubled:
        click.echo(printable(f"nearly the same: {', '.join(group)}"))
    click.echo(f"ranked {ranked(found)}")
    if found.scored < found.images:
        click.echo(f"`spade-index audit {shlex.quote(str(gallery))} --all` ranks all", err=True)
