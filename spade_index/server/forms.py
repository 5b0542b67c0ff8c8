"""Parse a form while it arrives: each part of the body is passed on at once.

Frameworks keep files in memory, or in temporary files of which each is a descriptor, until the last has come; a
thousand images would be too many of either.
"""

import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol
from urllib.parse import unquote

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from .limits import BOUNDARY_LENGTH, NAME_LENGTH, PART_HEADER_BYTES, PART_HEADERS
from .problems import Problem

FIELD = "images"
MASKS = "masks"  # of what counts of the images
QUOTED = re.compile(rb'"(?:\\.|[^"\\])*"')
EXTENDED = re.compile(rb";\s*filename\*\s*=\s*([^\s;\"]*)", re.IGNORECASE)  # which python-multipart leaves out
PARAMETER = re.compile(rb";\s*([^\s;=]+)\s*=")  # of a header, its quoted values left out
ESCAPE = re.compile("%(?![0-9A-Fa-f]{2})")  # of which no character can be made
PLAIN = (b"", b"binary", b"8bit", b"7bit")  # Content-Transfer-Encodings that encode nothing


class Sink(Protocol):
    """Takes the pieces of a file."""

    def write(self, data: bytes, /) -> object:
        """Write the next piece."""

    def close(self) -> object:
        """Close the file, which is complete."""


Begin = Callable[[int, str | None], Sink]  # is called with the number and the name of a file


async def in_place(feed: Callable[[bytes], object], data: bytes) -> None:
    """Process a piece of the body at once."""
    feed(data)


async def read_files(
    request: Request,
    most: int,
    begin: Begin,
    run: Callable[[Callable[[bytes], object], bytes], Awaitable[object]] = in_place,
    begin_mask: Begin | None = None,
) -> int:
    """Pass on the files of the form field `images`; return their number.

    `run` calls a function with a piece of the body: in a thread, where sinks are slow. With `begin_mask`, the form may
    have files in the field `masks`, too, as many at most. Raises Problem (400, 422), and what `begin` raises.
    """
    kind = request.headers.get("content-type", "")
    if repeats_a_parameter(kind.encode("latin-1")):
        raise Problem(400, "it has each parameter once", field="Content-Type")
    _, parameters = parse_options_header(kind)
    boundary = parameters.get(b"boundary", b"")
    if not 0 < len(boundary) <= BOUNDARY_LENGTH:
        raise Problem(400, f"a form has a boundary of 1 to {BOUNDARY_LENGTH} characters", field="Content-Type")
    form = _Form(most, {FIELD: begin} if begin_mask is None else {FIELD: begin, MASKS: begin_mask})
    parser = MultipartParser(
        boundary, form.callbacks(), max_header_count=PART_HEADERS, max_header_size=PART_HEADER_BYTES
    )
    try:
        async for data in request.stream():
            await run(parser.write, data)
    except FormParserError as error:
        raise Problem(400, "the body is not a form as its Content-Type describes it") from error
    finally:
        form.close()
    if not form.whole:
        raise Problem(400, "the form ends early")
    if not form.files[FIELD]:
        raise Problem(422, f"no image: send at least one in the field `{FIELD}`", field=FIELD)
    return form.files[FIELD]


class _Form:
    """Receives what the parser finds."""

    def __init__(self, most: int, begins: Mapping[str, Begin]) -> None:
        self.files = dict.fromkeys(begins, 0)
        self.whole = False
        self._most = most
        self._begins = begins
        self._sink: Sink | None = None
        self._header = b""
        self._value = b""
        self._disposition = b""

    def callbacks(self) -> Any:
        """Return the callbacks for python-multipart."""
        names = ("part_begin", "part_data", "part_end", "header_field", "header_value", "header_end", "end")
        return {f"on_{name}": getattr(self, f"_{name}") for name in (*names, "headers_finished")}

    def close(self) -> None:
        """Close a file that is not complete."""
        if self._sink is not None:
            self._sink.close()
            self._sink = None

    def _part_begin(self) -> None:
        self._disposition = b""

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_end(self) -> None:
        name = self._header.lower()
        if name == b"content-disposition":
            if self._disposition:
                raise Problem(422, "a part has one Content-Disposition", field=FIELD)
            self._disposition = self._value
        elif name == b"content-transfer-encoding" and self._value.strip().lower() not in PLAIN:
            raise Problem(415, "encoded parts are not supported: send bytes as they are", field=FIELD)
        self._header = self._value = b""

    def _headers_finished(self) -> None:
        kind, parameters = parse_options_header(self._disposition)
        if repeats_a_parameter(self._disposition):
            raise Problem(422, "a Content-Disposition has each parameter once", field=FIELD)
        field = _text(parameters.get(b"name", b""))
        if self._disposition and kind != b"form-data":
            raise Problem(422, "the Content-Disposition of a part is form-data", field=FIELD)
        if field == MASKS and field not in self._begins:
            detail = (
                f"unknown field: `{MASKS}` come with queries and score maps of one gallery: here, images count whole"
            )
            raise Problem(422, detail, field=field)
        if field not in self._begins:
            raise Problem(422, f"unknown field: send images in the field `{FIELD}`", field=field[:100] or FIELD)
        extended = EXTENDED.search(QUOTED.sub(b'""', self._disposition))
        given = _extended(extended[1]) if extended else None
        if given is None and b"filename" not in parameters:
            raise Problem(422, "not a file: give it a filename", field=field)
        if self.files[field] == self._most:
            raise Problem(422, f"more {field} than the limit of {self._most:,} of a request", field=field)
        name = _text(parameters[b"filename"]) if given is None else given
        self._sink = self._begins[field](self.files[field], file_name(name))
        self.files[field] += 1

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        if self._sink is not None:
            self._sink.write(data[start:end])

    def _part_end(self) -> None:
        self.close()

    def _end(self) -> None:
        self.whole = True


def repeats_a_parameter(header: bytes) -> bool:
    """Return whether a header has a parameter twice, of which each program may take another."""
    names = PARAMETER.findall(QUOTED.sub(b'""', header.lower()))
    return len({*names}) < len(names)


def file_name(name: str | None) -> str | None:
    """Return a file name that can be shown: one line of limited length."""
    printable = "".join(letter for letter in name or "" if letter.isprintable())[:NAME_LENGTH]
    return printable or None


def _text(name: bytes) -> str:
    return name.decode("utf-8", "replace")


def _extended(value: bytes) -> str:
    """Return the text of a parameter such as filename*=UTF-8''na%C3%AFve.png (RFC 5987). Raises Problem (422)."""
    charset, _, rest = value.decode("latin-1").partition("'")
    _, found, encoded = rest.partition("'")
    if not found or charset.lower() not in ("utf-8", "iso-8859-1") or ESCAPE.search(encoded):
        raise Problem(422, "filename* is UTF-8'' and percent-encoded text (RFC 5987)", field=FIELD)
    try:
        return unquote(encoded, charset, "strict")
    except UnicodeDecodeError as error:
        raise Problem(422, "filename* is not of the charset that it names", field=FIELD) from error
