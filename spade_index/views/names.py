"""Names of the files about images: below a folder, and no longer than file systems take."""

import errno
from pathlib import PurePosixPath

import xxhash

from spade_index.images.files import as_path

LONGEST = 180  # bytes of a part; file systems take 255, and suffixes are added
LONGEST_PATH = 1000  # bytes; Linux takes 4,096 with all folders
# What a file system says to a name that it does not take, or that is that of a folder already.
REFUSED = (errno.ENAMETOOLONG, errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.EINVAL, errno.EILSEQ)


def file_name(id: str) -> str:
    """Return a path for the files of an image: always below a folder, with parts that are too long shortened."""
    parts = [_short(part.replace("\0", "_")) for part in PurePosixPath(id).parts if part not in ("/", "//", "..")]
    name = "/".join(parts) or "image"
    return as_path(name if len(_bytes(name)) <= LONGEST_PATH else f"{_digest(name)}/{parts[-1]}")


def _short(part: str) -> str:
    data = _bytes(part)
    if len(data) <= LONGEST:
        return part
    return f"{data[: LONGEST - 17].decode('utf-8', 'ignore')}~{_digest(part)}"


def _digest(text: str) -> str:
    return xxhash.xxh3_64_hexdigest(_bytes(text))


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
