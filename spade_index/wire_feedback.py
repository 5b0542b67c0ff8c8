"""What people say of verdicts, as `wire` states the other answers: feedback, and the defects that it made known."""

from typing import Literal, TypedDict

from pydantic.dataclasses import dataclass

Said = Literal["false_alarm", "missed", "defect"]  # what a person says of a verdict


@dataclass(frozen=True)
class KnownDefectInfo:
    """The known defect that a region is most like."""

    defect: int  # its number
    id: str  # of the feedback that named it
    kind: str  # empty where no kind was said
    distance: float  # 0..2
    limit: float  # above which a region is none of the known defects
    alike: bool  # whether the distance is not above the limit
    seen: int  # images in which this kind is known
    picture: str  # where its small JPEG is


@dataclass(frozen=True)
class FeedbackInfo:
    """What a person said of an image; `there`: the image, or the known defects, are still in the gallery."""

    id: str
    verdict: str
    who: str
    note: str
    given: str  # when: ISO 8601, UTC
    there: bool
    kind: str | None = None  # of known defects; of several kinds, all of them; empty where none was said
    kinds: tuple[str, ...] = ()  # the same one by one, each once


@dataclass(frozen=True)
class JudgedInfo:
    """What a gallery says of an image."""

    score: float
    threshold: float | None
    anomalous: bool | None


@dataclass(frozen=True)
class VerdictChange:
    """An image that was judged lately, and would be judged otherwise after the change that is previewed."""

    image: str | None  # its name
    judged: str  # when: ISO 8601, UTC
    before: JudgedInfo
    after: JudgedInfo
    given: bool  # whether it is one of the images that the feedback is about
    picture: str  # where a small JPEG of it is, for as long as the service keeps it


@dataclass(frozen=True)
class PreviewInfo:
    """Which of the images judged last would change their verdicts: `replayed` of `kept` were judged again."""

    kept: int
    replayed: int
    changes: tuple[VerdictChange, ...]  # the newest first


@dataclass(frozen=True)
class DriftOf:
    """How a quantity of the images judged last ranks among the calibration's, in 0..1."""

    mean_rank: float  # 0.5 where they are alike
    p_value: float  # of a mean that is as far from 0.5, where they are alike
    warns: bool  # whether it is more than chance
    bins: tuple[int, ...]  # images by rank, in tenths


@dataclass(frozen=True)
class DriftInfo:
    """Whether the `images` that were judged last are like those of the calibration."""

    images: int
    least: int  # images: of fewer, none is a warning
    calibrated: bool
    score: DriftOf | None  # None: no image was judged, or the gallery is not calibrated
    brightness: DriftOf | None  # the same, or the gallery's images have no thumbnails


class FeedbackFilters(TypedDict, total=False):
    """Which feedback a client looks for: what fulfils all that is given."""

    verdict: Said
    kind: str  # of any of the defects, exactly; empty: none was said
    who: str  # exactly
    since: str  # a date or time (ISO 8601, UTC), included
    until: str  # the same, included to its end
    undone: bool  # whether it was taken back, or its image removed


@dataclass(frozen=True)
class FeedbackList:
    """Feedback, the newest first, `found` of which were looked for."""

    feedback: tuple[FeedbackInfo, ...]
    found: int
