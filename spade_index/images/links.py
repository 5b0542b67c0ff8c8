"""Follow the links of an archive within it."""

import posixpath
from collections.abc import Collection, Iterable, Iterator, Mapping

MOST_LINKS = 40  # one after the other, as Linux follows them


def followed(path: str, links: Mapping[str, str], files: Collection[str]) -> str | None:
    """Return the path that links lead to, or None if they lead out of the archive or never end.

    Args:
        path: of a member, plain as `member_path` returns it.
        links: paths that they lead to, by their own path.
        files: paths of the members that are no links.
    """
    for _ in range(MOST_LINKS):
        if path in files:
            return path
        link = next((place for place in (path, *_above(path)) if place in links), None)
        if link is None:
            return None if path.startswith(("../", "/")) or path == ".." else path
        path = posixpath.normpath(links[link] + path[len(link) :])
    return None


def member_path(name: str) -> str:
    """Return the path of a member without what does not matter: `./a//b` is `a/b`."""
    return posixpath.normpath(name)


def folders_of(paths: Iterable[str]) -> set[str]:
    """Return the folders that members lie in, and those above them, of plain paths as `member_path` returns them."""
    return {folder for path in paths for folder in _above(path)}


def link_target(name: str, target: str) -> str:
    """Return the path in an archive that a symbolic link leads to."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(name), target))


def _above(path: str) -> Iterator[str]:
    """Yield the folders above a path, the nearest first."""
    while path := path.rpartition("/")[0]:
        yield path
