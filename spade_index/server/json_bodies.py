"""JSON that strangers send: UTF-8, read strictly (see `exact`), and few objects, counted before any is made."""

from typing import Any

from spade_index.exact import JsonError, read_json


def parse_json(text: bytes, most: int) -> Any:
    """Return the value of a JSON text whose arrays and objects have at most so many elements. Raises JsonError.

    Brackets and commas are counted, those within strings too.
    """
    if sum(map(text.count, (b",", b"[", b"{"))) > most:
        raise JsonError(f"the JSON has more than {most:,} elements")
    try:
        return read_json(text.decode())
    except UnicodeDecodeError as error:
        raise JsonError("the body is not JSON: it is not UTF-8") from error
