"""Read a job's record back from the disk: checked, since anything may be there by now."""

import os
import re
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from spade_index.exact import read_json
from spade_index.gallery.catalog.defects import KIND_LENGTH
from spade_index.gallery.store.defect import LARGEST
from spade_index.gallery.store.files import open_regular
from spade_index.method.named_defects import MOST_PLACES
from spade_index.wire import JobState
from spade_index.wire_feedback import PreviewInfo, Said

from .job import Job, kind_fault
from .keys import WHO_LENGTH
from .limits import NAME_LENGTH, NOTE_LENGTH, NOTICE_LENGTH, NOTICES, PREFIX_LENGTH
from .settings import MOST_ADDED

RECORD_BYTES = 32 << 20  # of a record; a thousand long names take eight
ID = re.compile(r"[0-9a-f]{16}")


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("it is not printable")
    return text


def _folder(name: str) -> str:
    if name in (".", "..") or "/" in name:
        raise ValueError("it is not the name of a folder")
    return _printable(name)


def _time(text: str) -> str:
    if datetime.fromisoformat(text).tzinfo is None:
        raise ValueError("it has no time zone")
    return text


def _distinct(names: list[str]) -> list[str]:
    if len(set(names)) < len(names):
        raise ValueError("names occur twice")
    return names


Time = Annotated[str, Field(max_length=40), AfterValidator(_time)]
Name = Annotated[str, Field(min_length=1, max_length=NAME_LENGTH), AfterValidator(_printable)]
Id = Annotated[str, Field(max_length=PREFIX_LENGTH + NAME_LENGTH), AfterValidator(_printable)]
Notice = Annotated[str, Field(max_length=NOTICE_LENGTH)]
Kind = Annotated[str, Field(max_length=KIND_LENGTH), AfterValidator(_printable)]
Edge = Annotated[float, Field(ge=0, le=LARGEST, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0, le=2**62)]


@dataclass(frozen=True, config=ConfigDict(strict=True, extra="forbid"))
class Record:
    """The fields of `Job`, as a record may state them."""

    id: Annotated[str, Field(pattern=f"^{ID.pattern}$")]
    gallery: Annotated[str, Field(min_length=1, max_length=255), AfterValidator(_folder)]
    replace: bool
    prefix: Annotated[str, Field(max_length=PREFIX_LENGTH), AfterValidator(_printable)]
    action: Literal["add"]
    state: JobState
    names: Annotated[list[Name], Field(max_length=MOST_ADDED), AfterValidator(_distinct)]
    done: Count
    report: Annotated[dict[Annotated[str, Field(max_length=40)], Count], Field(max_length=20)] | None
    notices: Annotated[list[Notice], Field(max_length=NOTICES)]
    snapshot: Count | None
    error: Notice | None
    created: Time
    started: Time | None
    ended: Time | None
    again: bool = False  # this and the rest are not in records of earlier versions
    verdict: Said | None = None
    who: Annotated[str, Field(max_length=WHO_LENGTH), AfterValidator(_printable)] = ""
    note: Annotated[str, Field(max_length=NOTE_LENGTH), AfterValidator(_printable)] = ""
    kind: Kind = ""
    boxes: Annotated[list[tuple[Edge, Edge, Edge, Edge]], Field(max_length=MOST_PLACES)] = Field(default_factory=list)
    kinds: Annotated[list[Kind], Field(max_length=MOST_PLACES)] = Field(default_factory=list)
    told: Annotated[list[Id], Field(max_length=MOST_ADDED), AfterValidator(_distinct)] | None = None
    preview: bool = False
    previewed: PreviewInfo | None = None


RECORD: TypeAdapter[Record] = TypeAdapter(Record)


def read_record(path: Path) -> Job:
    """Return the job of a record, whose folder has its id as its name. Raises OSError, or ValueError naming a field."""
    with os.fdopen(open_regular(path), "rb") as file:
        text = file.read(RECORD_BYTES + 1)
    if len(text) > RECORD_BYTES:
        raise ValueError(f"it is larger than {RECORD_BYTES >> 20} MiB")
    try:
        read_json(text.decode())  # more strictly: no name twice
        values: dict[str, Any] = vars(RECORD.validate_json(text))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise ValueError(f"{'.'.join(map(str, first['loc'])) or 'the record'}: {first['msg']}") from None
    if values["id"] != path.parent.name:
        raise ValueError("id: it is not the name of its folder")
    if not values["kinds"]:  # in earlier versions, all defects were of one kind
        values["kinds"] = [values["kind"]] * len(values["boxes"])
    if len(values["kinds"]) != len(values["boxes"]):
        raise ValueError("kinds: there is not one for each box")
    if (fault := kind_fault(values["verdict"], values["kind"], values["kinds"])) is not None:
        raise ValueError(f"kind: {fault}")
    return Job(**{name: values[name] for name in Record.__dataclass_fields__})
