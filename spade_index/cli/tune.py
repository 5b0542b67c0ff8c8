"""`spade-index tune`: choose how to compare."""

from pathlib import Path

import click

from spade_index.settings import TUNE_SECONDS

from .backbone_options import BackboneOptions
from .cluster_options import OwnClusterOptions
from .options import KernelOptions, device_option, gallery_argument, takes
from .outputs import require_writable
from .progress import Progress
from .strict import strict_json
from .values import PATH, RealRange


@click.command()
@gallery_argument
@click.option("--json", "json_file", type=PATH, help="Write what was tried to this file.")
@click.option(
    "--seconds",
    type=RealRange(1),
    default=TUNE_SECONDS,
    show_default=True,
    help="Time that it may take on two cores, approximately; up to five times as long on a slow or busy machine.",
)
@click.option("--no-calibrate", is_flag=True, help="Do not calibrate for the settings chosen.")
@takes("backbone", BackboneOptions)
@device_option
@takes("kernel", KernelOptions)
@takes("cluster", OwnClusterOptions)
def tune(
    gallery: Path,
    json_file: Path | None,
    seconds: float,
    no_calibrate: bool,
    backbone: BackboneOptions,
    device: str,
    kernel: KernelOptions,
    cluster: OwnClusterOptions,
) -> None:
    """Choose how GALLERY is searched, by synthetic defects pasted into its own images; no label is needed.

    Queries search so from then on, where no option says otherwise.
    """
    from spade_index.gallery.write.writer import GalleryWriter
    from spade_index.method import tuning
    from spade_index.method.judgement import carry_on
    from spade_index.views.files import write_whole

    cluster.require()
    require_writable([json_file], inputs=[gallery])
    with GalleryWriter(gallery) as writer, cluster.searching(device, kernel) as elsewhere:
        loaded = backbone.load(device, writer.gallery)
        writer.settings.require_equal(loaded.settings, str(gallery))
        found = tuning.tune(
            writer.gallery,
            loaded,
            seconds=seconds,
            progress=click.echo,
            kernel=kernel.kernel,
            map_memory=kernel.map_bytes,
            elsewhere=elsewhere,
        )
        tuning.store(writer, found)
        if json_file is not None:
            write_whole(json_file, (strict_json(found.record(), indent=2) + "\n").encode())
        click.echo(f"tuned: {found.why}")
        if not no_calibrate:
            with Progress("calibrate", len(writer.gallery)) as progress:
                carry_on(
                    writer,
                    found.settings,
                    searched=found.alone,
                    progress=progress,
                    device=loaded.device,
                    kernel=kernel.kernel,
                    elsewhere=elsewhere,
                )
