"""`spade-index index`: build the FAISS index of a gallery."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import click

from spade_index.errors import InputError
from spade_index.settings import STORAGES, IndexSettings

from .backbone_options import BackboneOptions
from .options import LoadingOptions, device_option, gallery_argument, takes
from .progress import Progress
from .sources import SourceOptions, Sources
from .values import PATH, REAL, WholeRange

if TYPE_CHECKING:  # these take long to import
    import numpy as np

    from spade_index.features.backbone import Backbone


@dataclass(frozen=True)
class IndexOptions:
    """Options of building the index; None: the previous index's value, or the default."""

    storage: Annotated[
        str | None,
        click.option(
            "--storage",
            type=click.Choice(STORAGES),
            help="What the inverted lists of large galleries hold: float32, float16, 8 bits a value, or codes of a "
            f"product quantizer [as before; {IndexSettings.storage}]. Distances are computed again from the stored "
            "descriptors either way.",
        ),
    ]
    dimensions: Annotated[
        int | None,
        click.option(
            "--dimensions",
            type=WholeRange(0),
            help="Principal components of longer descriptors that the lists hold; 0: all values "
            f"[as before; {IndexSettings.dimensions}]",
        ),
    ]
    recall: Annotated[
        float | None,
        click.option(
            "--recall",
            type=REAL,
            help=f"Recall of the 50 nearest images [as before; {IndexSettings.recall:g}]",
        ),
    ]
    memory: Annotated[
        int | None,
        click.option(
            "--memory", type=WholeRange(64), help=f"MiB that building may take [{IndexSettings.memory >> 20:,}]"
        ),
    ]

    def settings(self, before: IndexSettings) -> IndexSettings:
        """Return the settings of the new index. Raises InputError for values that cannot be."""
        return IndexSettings(
            storage=before.storage if self.storage is None else self.storage,
            dimensions=before.dimensions if self.dimensions is None else self.dimensions,
            recall=before.recall if self.recall is None else self.recall,
            memory=before.memory if self.memory is None else self.memory << 20,
        )


@click.command()
@gallery_argument
@takes("options", IndexOptions)
@click.option(
    "--queries",
    type=PATH,
    help="Images like future queries, to measure the recall with [as before; some of the gallery's own]",
)
@takes("backbone", BackboneOptions)
@device_option
@takes("sources", SourceOptions)
@takes("loading", LoadingOptions)
def index(
    gallery: Path,
    options: IndexOptions,
    queries: Path | None,
    backbone: BackboneOptions,
    device: str,
    sources: SourceOptions,
    loading: LoadingOptions,
) -> None:
    """Build the FAISS index of GALLERY again."""
    from spade_index.gallery.reader import Gallery
    from spade_index.gallery.write.writer import GalleryWriter

    loading.limit_decoding()
    pooled = None
    if queries is not None:
        found = Sources([queries], sources)
        found.require_images()
        with Gallery(gallery) as recorded:
            loaded = backbone.load(device, recorded)
            recorded.settings.require_equal(loaded.settings, str(gallery))
        pooled = pooled_descriptors(loaded, found, loading)
        found.say_passed_over()
    with GalleryWriter(gallery) as writer:
        built = writer.build_index(options.settings(writer.index_settings()), pooled, Progress.note)
    click.echo(str(built))
    if built.recall < built.target:
        click.echo(
            f"the recall is below {built.target:g}: choose another --storage, or accept that neighbours are missed",
            err=True,
        )


def pooled_descriptors(backbone: "Backbone", sources: Sources, loading: LoadingOptions) -> "np.ndarray":
    """Return the pooled descriptors of images, float32 [n, D], each computed alone.

    Raises InputError if no image can be decoded.
    """
    import numpy as np

    from spade_index.errors import ImageError
    from spade_index.images.loading import load_all
    from spade_index.images.marks import OwnOutput

    def failed(error: ImageError) -> None:
        if isinstance(error, OwnOutput):
            sources.leave_out(error)
        else:
            Progress.say(f"skipped {error}")

    loaded = load_all(
        sources.counted_files(),
        backbone.settings.preprocessing,
        workers=loading.workers,
        ahead=2 * loading.batch_size,
        on_error=failed,
        thumbnails=False,
    )
    descriptors = [backbone(np.stack([image.pixels])).pooled.cpu().numpy() for image in loaded]
    if not descriptors:
        raise InputError("none of the images to measure the recall with could be decoded")
    return np.concatenate(descriptors)
