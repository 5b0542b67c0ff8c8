"""Make the detector of a command, and say what its verdicts rest on."""

from spade_index.features.backbone import Backbone
from spade_index.gallery.reader import Gallery
from spade_index.method.at_once import calibrate_at_once
from spade_index.method.by_neighbours import needs_own_scores
from spade_index.method.commands import calibrate_command, gives_verdicts
from spade_index.method.detector import Detector
from spade_index.method.normal_scores import images_needed
from spade_index.method.pixel_search import Elsewhere
from spade_index.settings import SearchSettings

from .options import KernelOptions
from .progress import Progress


def detector_of(
    gallery: Gallery,
    backbone: Backbone,
    search: SearchSettings,
    kernel: KernelOptions,
    false_alarms: float | None,
    threshold: float | None = None,
    elsewhere: Elsewhere | None = None,
) -> Detector:
    """Return a detector with the gallery's calibration, or with one for this run alone where it takes seconds.

    `elsewhere` are the workers of a cluster.
    """
    calibration = None
    if threshold is None or needs_own_scores(search):
        calibration = calibrate_at_once(
            gallery, search, device=backbone.device, kernel=kernel.kernel, map_memory=kernel.map_bytes
        )
    detector = Detector(
        gallery,
        backbone,
        search,
        threshold,
        false_alarms=false_alarms,
        calibrated=True if calibration is None else calibration,
        kernel=kernel.kernel,
        map_memory=kernel.map_bytes,
        elsewhere=elsewhere,
    )
    if calibration is not None and calibration.scores is not None:
        Progress.say(
            f"{gallery.path}: not calibrated for these search settings: {len(calibration.scores)} of its images were "
            f"scored for this run alone; `{calibrate_command(gallery, search)}` stores scores of more"
        )
    if threshold is None:
        note_calibration(detector)
    return detector


def note_calibration(detector: Detector) -> None:
    """Print one line if what the verdicts rest on is missing, too little, or older than the gallery."""
    gallery, rate = detector.gallery, detector.false_alarms
    again = f"`{calibrate_command(gallery, detector.search)}`"
    if detector.calibrated_on is None:
        say = Progress.say if gives_verdicts(gallery) else Progress.note
        say(f"{gallery.path}: not calibrated for these search settings, so there is no verdict: {again} makes one")
    elif detector.normal_scores is not None and detector.kind not in detector.thresholds:
        scored = len(detector.normal_scores)
        Progress.say(
            f"{scored} normal images are too few for false alarms of {rate:g}, so no image is called anomalous: "
            f"{images_needed(rate)} would do, or `--false-alarms {1 / scored:.2g}`"
        )
    elif detector.thresholds.get("pooled") == 0:
        Progress.say(
            "the images of the gallery are copies of each other, so that rounding alone makes an image anomalous: add "
            "images that differ"
        )
    elif detector.calibrated_on != gallery.snapshot:
        on = f"the threshold was chosen on snapshot {detector.calibrated_on}"
        Progress.say(f"{on}, this is {gallery.snapshot}: {again} chooses it again")
