"""Bodies of requests and answers as the OpenAPI document describes them, where `wire` does not: ids, images, files."""

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, FailFast, Field

from .forms import MASKS
from .limits import MOST_IDS
from .problems import MEDIA_TYPE

PROBLEMS: dict[int | str, dict[str, Any]] = {
    "4XX": {"description": "What is wrong with the request (RFC 9457)", "content": {MEDIA_TYPE: {}}},
    "5XX": {"description": "What is wrong with the service (RFC 9457)", "content": {MEDIA_TYPE: {}}},
}


def _utf8(text: str) -> str:
    if not text.isascii():
        text.encode()  # JSON can say half of a surrogate pair, which nothing else can; a ValueError
    return text


class Ids(BaseModel):
    """Ids of images."""

    model_config = ConfigDict(extra="forbid", strict=True)

    ids: Annotated[list[Annotated[str, AfterValidator(_utf8)]], FailFast(), Field(min_length=1, max_length=MOST_IDS)]


def binary(*media_types: str) -> dict[int | str, dict[str, Any]]:
    """Describe the successful answer of a route that returns files."""
    content = {media_type: {"schema": {"type": "string", "format": "binary"}} for media_type in media_types}
    return {200: {"description": "The file", "content": content}}


def image_body(field: str, *, many: bool = True, raw: bool = True, masks: bool = False) -> dict[str, Any]:
    """Describe a request body of images: files of a form, with `masks` if they may come, or, if `raw`, one alone."""
    file = {"type": "string", "format": "binary"}
    files = {"type": "array", "items": file, "minItems": 1} if many else file
    fields = {field: files} | ({MASKS: files} if masks else {})
    form = {"type": "object", "properties": fields, "required": [field], "additionalProperties": False}
    content: dict[str, Any] = {"multipart/form-data": {"schema": form}}
    if raw:
        content |= {kind: {"schema": file} for kind in ("image/jpeg", "image/png", "application/octet-stream")}
    return {"requestBody": {"required": True, "content": content}}
