"""Preview feedback: which of the images judged last would be judged otherwise, were it committed."""

import io
import time
from collections.abc import Callable, Collection, Generator, Sequence
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

from PIL import Image

from spade_index.errors import InputError
from spade_index.gallery.reader import Gallery
from spade_index.images.decode import DecodedImage
from spade_index.images.files import ImageFile
from spade_index.images.loading import in_lots, load_all
from spade_index.images.workers import DecoderPool, Held
from spade_index.method.detection import Detection, Question
from spade_index.method.detector import Detector
from spade_index.method.replay import judged_by_each
from spade_index.wire_feedback import JudgedInfo, PreviewInfo, VerdictChange

from .galleries import Galleries, default_maps
from .recent import Kept, Recent
from .settings import ServeSettings

BATCH = 8  # images; queries of the same backbone wait for as many


class Previewer:
    """Judges the images of a gallery that were judged last by two states of it."""

    def __init__(self, galleries: Galleries, settings: ServeSettings, decoders: DecoderPool, recent: Recent) -> None:
        self._galleries, self._settings = galleries, settings
        self._decoders, self._recent = decoders, recent

    def preview(
        self, name: str, before: Path, after: Path, given: Collection[bytes], require_wanted: Callable[[], None]
    ) -> PreviewInfo:
        """Judge the images again, the newest first, for as long as there is time; return those that differ.

        Args:
            name: of the gallery.
            before: the gallery as it is.
            after: a copy of it, changed.
            given: digests of the images that the change is about.
            require_wanted: called now and then; may raise to end this.
        """
        kept, replayed, changes = self._recent.of(name), 0, []
        until = time.monotonic() + self._settings.replay_seconds
        with closing(Gallery(before)) as was, closing(Gallery(after)) as becomes:
            backbone = self._galleries.backbone(was)
            detectors = [self._galleries.detector(gallery, backbone) for gallery in (was, becomes)]
            with closing(self._judged(detectors, kept)) as judged:
                for image, (first, second) in judged:
                    require_wanted()
                    replayed += 1
                    if first.anomalous != second.anomalous:
                        changes.append(_change(image, first, second, image.upload.digest in given))
                    if time.monotonic() > until:
                        break
            for detector in detectors:
                detector.pixel_search.close()
        return PreviewInfo(len(kept), replayed, tuple(changes))

    def _judged(self, detectors: Sequence[Detector], kept: Sequence[Kept]) -> Generator[tuple[Kept, list[Detection]]]:
        by_place = {str(place): one for place, one in enumerate(kept)}

        def question(detector: Detector, image: DecodedImage) -> Question:
            one = by_place[image.file.id]
            asked = Question(one.maps or default_maps(detector), one.threshold)
            try:
                detector.require_answerable(asked)
            except InputError:  # the gallery is searched in another way by now
                return Question(default_maps(detector), one.threshold)
            return asked

        loaded = load_all(
            (_file(place, one) for place, one in by_place.items()),
            detectors[0].gallery.settings.preprocessing,
            workers=1,
            ahead=BATCH,
            on_error=lambda error: None,  # it is of another gallery of that name: not judged again
            decoders=self._decoders,
            thumbnails=False,
        )
        with closing(loaded):
            for picture, detections in judged_by_each(detectors, in_lots(loaded, BATCH), question):
                yield by_place[picture.file.id], detections


def _file(id: str, kept: Kept) -> ImageFile:
    data = kept.upload.data
    if kept.upload.pixels is not None:
        buffer = io.BytesIO()
        Image.fromarray(kept.upload.pixels).save(buffer, "PNG", compress_level=1)
        data = buffer.getvalue()
    return ImageFile(id, kept.upload.name or "an image", len(data), 0, Held(data), region=kept.upload.mask)


def _change(kept: Kept, before: Detection, after: Detection, given: bool) -> VerdictChange:
    first, second = (JudgedInfo(found.score, found.threshold, found.anomalous) for found in (before, after))
    picture = f"/v1/galleries/{quote(kept.gallery, safe='')}/judged/{kept.id}/picture"
    return VerdictChange(kept.upload.name, kept.judged, first, second, given, picture)
