"""The record of a request to add images."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime

from spade_index import wire
from spade_index.wire_feedback import PreviewInfo, Said

ENDED = ("done", "failed", "cancelled")
RESTING = (*ENDED, "interrupted")
SHARED = tuple(one.name for one in fields(wire.JobInfo) if one.name not in ("images", "feedback_ids"))


def now() -> str:
    """Return the time in ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def new_id() -> str:
    """Return an id for a new job."""
    return secrets.token_hex(8)


def kind_fault(verdict: Said | None, kind: str, kinds: Sequence[str]) -> str | None:
    """Return what is wrong with the kind of defects, of feedback with this verdict; None: nothing.

    `kinds` are those of the defects in boxes, if there are any.
    """
    if verdict == "defect" and not all(kinds or [kind]):
        return "say of which kind the defect is"
    if verdict not in ("missed", "defect") and any((kind, *kinds)):
        return "it belongs to the verdicts `missed` and `defect`"
    return None if all(map(str.isprintable, (kind, *kinds))) else "it is not printable"


@dataclass(frozen=True)
class Job:
    """A request to add images."""

    id: str
    gallery: str
    replace: bool
    prefix: str
    again: bool = False  # take images that were removed before
    action: str = "add"
    state: wire.JobState = "receiving"
    names: list[str] = field(default_factory=list)  # of the staged files 0, 1, ...
    done: int = 0  # images processed
    report: dict[str, int] | None = None
    notices: list[str] = field(default_factory=list)
    snapshot: int | None = None  # of the gallery when the job ended
    error: str | None = None
    created: str = field(default_factory=now)
    started: str | None = None
    ended: str | None = None
    verdict: Said | None = None  # of feedback
    who: str = ""
    note: str = ""
    kind: str = ""  # of the defects that are to be known, unless there are boxes
    boxes: list[tuple[float, float, float, float]] = field(default_factory=list)  # of these, in the one image
    kinds: list[str] = field(default_factory=list)  # of the defect in each box
    told: list[str] | None = None  # ids of what feedback added, once it is done
    preview: bool = False  # of feedback: the gallery stays as it is
    previewed: PreviewInfo | None = None  # what would change, once it is done

    def info(self) -> wire.JobInfo:
        """Return the job as clients see it."""
        values = {name: getattr(self, name) for name in SHARED}
        told = self.ids if self.told is None else self.told
        noted = self.verdict is not None and not self.preview
        return wire.JobInfo(**values, images=len(self.names), feedback_ids=tuple(told) if noted else ())

    @property
    def names_defects(self) -> bool:
        """Whether its images become known defects, and no normal images."""
        return self.verdict in ("missed", "defect")

    @property
    def ids(self) -> list[str]:
        """The ids that its images get in the gallery."""
        return [self.prefix + name for name in self.names]
