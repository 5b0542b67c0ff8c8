"""What a job does to a gallery: its images are added, the index is built again, and feedback is carried on."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import xxhash

from spade_index.errors import ImageError, InputError, SpadeIndexError
from spade_index.gallery.store.record import Feedback
from spade_index.gallery.trial import trial_copy
from spade_index.gallery.write.writer import GalleryWriter
from spade_index.images.files import ImageFile, suffix_of
from spade_index.images.loading import load_all
from spade_index.images.pages import PAGED, pages_noted
from spade_index.images.workers import DecoderPool
from spade_index.method.named_defects import DefectNamer

from .calibrated import keep_calibrated
from .galleries import Galleries
from .job import Job
from .job_files import FOLDER
from .preview import BATCH, Previewer
from .recent import Recent
from .settings import ServeSettings
from .writing import open_writer

Note = Callable[[str], None]


class Adder:
    """Adds the images of jobs, one job at a time."""

    def __init__(self, galleries: Galleries, settings: ServeSettings, decoders: DecoderPool, recent: Recent) -> None:
        """`recent` are the images that a preview judges again."""
        self._previewer = Previewer(galleries, settings, decoders, recent)
        self._galleries = galleries
        self._settings = settings
        self._decoders = decoders

    def run(
        self,
        job: Job,
        images: Iterable[ImageFile],
        note: Note,
        progress: Callable[[int], None],
        require_wanted: Callable[[], None],
    ) -> dict[str, Any]:
        """Run a job; return its report and snapshot, by the names of its fields.

        `note` is told what is odd, `progress` the number of images of each step; `require_wanted` is called now and
        then, and raises to end the job. A job that was ended can be run again.
        """
        path = self._galleries.path(job.gallery)
        if not job.preview:
            return self._run(path, job, images, note, progress, require_wanted)
        given = list(images)
        with trial_copy(path, self._galleries.folder / FOLDER) as copy:
            found = self._run(copy, job, given, note, progress, require_wanted)
            digests = {xxhash.xxh3_128_digest(image.read()) for image in given}
            found["previewed"] = self._previewer.preview(job.gallery, path, copy, digests, require_wanted)
        return found

    def _run(
        self,
        path: Path,
        job: Job,
        images: Iterable[ImageFile],
        note: Note,
        progress: Callable[[int], None],
        require_wanted: Callable[[], None],
    ) -> dict[str, Any]:
        """Change the gallery at a path. Returns what `run` does."""
        with open_writer(path, self._settings.job_seconds, require_wanted) as writer:
            if (rule := writer.gallery.region_rule) is not None:
                note(f"the images count whole: masks are not sent, and the gallery has a rule for them ({rule.text})")
            backbone = self._galleries.backbone(writer.gallery)
            if job.names_defects:
                namer = DefectNamer(
                    writer.gallery,
                    backbone,
                    job.kind,
                    list(zip(job.boxes, job.kinds, strict=True)),
                    map_memory=self._settings.map_memory,
                    decoders=self._decoders,
                )
                return self._name(job, writer, namer, images, note, progress) | {"told": _told(job, writer)}
            report = writer.add(
                _with_pages_noted(images, note),
                backbone,
                replace=job.replace,
                keep_removed=not job.again,
                feedback=None if job.verdict is None else Feedback(job.verdict, job.who, job.note),
                batch_size=BATCH,
                decoders=self._decoders,
                notice=note,
                progress=progress,
            )
            snapshot = writer.gallery.snapshot
            if not job.preview:  # new images are found without
                _keep_index(writer, note)
            if job.verdict is not None:
                keep_calibrated(writer, self._settings, backbone.device, require_wanted)
            told = None if job.verdict is None else _told(job, writer)
        counts = {name: images for name, images in vars(report).items() if images or name != "tiles"}
        return {"report": counts, "snapshot": snapshot, "told": told}

    def _name(
        self,
        job: Job,
        writer: GalleryWriter,
        namer: DefectNamer,
        images: Iterable[ImageFile],
        note: Note,
        progress: Callable[[int], None],
    ) -> dict[str, Any]:
        """Make the places of images known defects, those of one image in a commit. Return what `run` does."""
        assert job.verdict is not None
        report = Counter[str]()

        def left_out(name: str, error: SpadeIndexError) -> None:
            report[name] += 1
            note(f"left out: {error}")

        loaded = load_all(
            (image for image in images if writer.gallery.catalog.defects_told(image.id) is None),  # when run again
            writer.settings.preprocessing,
            workers=1,
            ahead=BATCH,
            on_error=lambda error: left_out("failed", error),
            decoders=self._decoders,
            thumbnails=False,
        )
        with closing(loaded):
            for named in namer.named(loaded):
                said = Feedback(job.verdict, job.who, job.note)
                try:
                    writer.add_known_defects(said, named.file.id, named.digest, named.defects)
                    report["known_defects"] += 1
                except InputError as error:  # of a known defect, or a normal image
                    left_out("copies", error)
                progress(1)
        return {"report": dict(report), "snapshot": writer.gallery.snapshot}


def _told(job: Job, writer: GalleryWriter) -> list[str]:
    """Return the ids of a job's images that feedback added: not those of copies, nor of files that failed."""
    told = {row.id for row in writer.gallery.catalog.feedback()}
    return [id for id in job.ids if id in told]


def _keep_index(writer: GalleryWriter, note: Note) -> None:
    """Build the index again where it is stale."""
    if writer.index_is_stale():
        try:
            writer.build_index()
        except InputError as error:  # new images are found without
            note(f"the index was not built again: {error}")


def _with_pages_noted(files: Iterable[ImageFile], note: Note) -> Iterator[ImageFile]:
    """Yield files, and note the pages of TIFFs that are not read."""
    for file in files:
        if suffix_of(file.path) in PAGED:
            with suppress(ImageError, OSError):  # adding it will tell
                if (said := pages_noted(file.read(), file.path)) is not None:
                    note(said)
        yield file
