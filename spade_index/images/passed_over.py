"""What is found beside images and passed over: counted by kind, and named if that is asked for."""

import os
import shlex
from collections import Counter
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from pathlib import PurePosixPath

from .files import as_text, suffix_of

SUFFIX = "with another suffix"
HIDDEN = "hidden"
SYSTEM = "left by the system"
OWN = "drawn by spade-index"
GALLERY = "galleries of spade-index"
EXCLUDED = "excluded"
SPECIAL = "pipes, sockets or devices"
TWICE = "folders that were read already"
MASK = "regions of interest by --roi"
COMMENT = "comments in lists"
DEAD_LINK = "links to nothing in their archive"
AFTER_END = "archives joined to the end of another"

OFFICE = "~$"  # before the names of files that office programs have open
SHOWN_NAMES = 3
SHOWN_SUFFIXES = 8  # in the line, the most frequent
SYSTEM_NAMES = frozenset(
    {
        "@eadir", "@tmp", "#recycle", "@recycle", "@recently-snapshot", "#snapshot", "__macosx", "lost+found",
        "thumbs.db", "ehthumbs.db", "desktop.ini", "$recycle.bin", "recycler", "system volume information", "found.000",
        "@__thumb", ".@__thumb", "network trash folder", "temporary items", "icon\r",
    }
)  # fmt: skip


def is_debris(name: str) -> bool:
    """Return whether a file or folder of this name is hidden, or left behind by a system."""
    return name.startswith((".", OFFICE)) or name.lower() in SYSTEM_NAMES


class PassedOver:
    """Decides which names are passed over, and counts them by kind."""

    def __init__(
        self, exclude: Sequence[str] = (), show: Callable[[str], None] | None = None, base: str | None = None
    ) -> None:
        """Leave out paths that match a pattern of `exclude`, and tell `show` each name that is passed over.

        A pattern without a slash is compared with each name on the path of a file, one with a slash with the path
        below its source, or below the folder `base` of several sources, or with the path as it was given. `*` stands
        for any characters.
        """
        self._base = None if base is None else os.path.join(base, "")
        self._exclude = [_Pattern(pattern) for pattern in dict.fromkeys(exclude)]
        self._matched: set[_Pattern] = set()
        self._show = show
        self._counts: Counter[str] = Counter()
        self._suffixes: Counter[str] = Counter()
        self._drawn: list[str] = []

    def __bool__(self) -> bool:
        return bool(self._counts or self._unmatched)

    def __str__(self) -> str:
        """One line: the number of names of each kind, and the patterns that match none."""
        kinds = [
            f"{count:,} {kind}" + (self._by_suffix() if kind == SUFFIX else "") for kind, count in self._counts.items()
        ]
        hint = "" if self._show else " (--show-skipped names them)"
        counted = [f"passed over: {', '.join(kinds)}{hint}"] if kinds else []
        return "; ".join([*counted, *(f"--exclude {shlex.quote(given)} matched nothing" for given in self._unmatched)])

    def add(self, kind: str, name: str) -> None:
        """Count a name."""
        self._counts[kind] += 1
        if kind == SUFFIX:
            self._suffixes[suffix_of(name) or "none"] += 1
        if self._show:
            self._show(f"passed over {as_text(name)}: {kind}")

    def take_drawn(self, name: str) -> None:
        """Note a picture that this package drew, and that is taken because it was named itself."""
        self._drawn.append(name)

    @property
    def drawn(self) -> str | None:
        """One line on what `take_drawn` noted, or None."""
        if not self._drawn:
            return None
        names = ", ".join(map(as_text, self._drawn[:SHOWN_NAMES])) + (", ..." if len(self._drawn) > SHOWN_NAMES else "")
        return f"taken although spade-index drew them, for they are named: {len(self._drawn):,} ({names})"

    def leaves_out(self, name: str, below: str, shown: str) -> bool:
        """Return whether a file or folder is left out by its name, and count it.

        Args:
            name: its own, the last of its path.
            below: its path below the source.
            shown: its path as it can be given.
        """
        kind = self._kind(name, below, shown)
        if kind is not None:
            self.add(kind, shown)
        return kind is not None

    def leaves_out_member(self, name: str, archive: str) -> bool:
        """Return whether a member of an archive, or a folder that it lies in, is left out by its name."""
        parts = [part for part in name.split("/") if part not in ("", ".", "..")]
        for depth, part in enumerate(parts, start=1):
            if kind := self._kind(part, "/".join(parts[:depth]), f"{archive}/{'/'.join(parts[:depth])}"):
                self.add(kind, f"{archive}::{name}")
                return True
        return False

    def excludes(self, path: str) -> bool:
        """Return whether a file that was named itself is excluded, and count it."""
        parts = PurePosixPath(path).parts
        if self._excluded(parts[-1] if parts else path, path, path):
            self.add(EXCLUDED, path)
            return True
        return False

    @property
    def _unmatched(self) -> list[str]:
        return [as_text(pattern.given) for pattern in self._exclude if pattern not in self._matched]

    def _kind(self, name: str, below: str, shown: str) -> str | None:
        excluded = self._excluded(name, below, shown)  # first, so that its patterns count as matched
        if name.lower() in SYSTEM_NAMES or name.startswith(OFFICE):
            return SYSTEM
        if name.startswith("."):
            return HIDDEN
        return EXCLUDED if excluded else None

    def _excluded(self, name: str, below: str, shown: str) -> bool:
        inside = self._base is not None and shown.startswith(self._base)
        places = (below, shown[len(self._base or "") :]) if inside else (below,)
        matching = [
            pattern for pattern in self._exclude if any(pattern.matches(name, place, shown) for place in places)
        ]
        self._matched.update(matching)
        return bool(matching)

    def _by_suffix(self) -> str:
        common = sorted(self._suffixes.items(), key=lambda item: (-item[1], item[0]))[:SHOWN_SUFFIXES]
        more = ", ..." if len(common) < len(self._suffixes) else ""
        return f" ({', '.join(f'{suffix} {count:,}' for suffix, count in common)}{more})"


class _Pattern:
    """A pattern of names, or with a slash, of paths; see `PassedOver`."""

    def __init__(self, given: str) -> None:
        self.given = given
        plain = _plain(given)
        forms = {plain, plain.removeprefix("**/").replace("/**/", "/")}
        self._names = [form for form in forms if "/" not in form]
        self._below = [form for form in forms if "/" in form]
        self._shown = [form for form in self._below if not form.startswith("*")]  # else of folders above

    def matches(self, name: str, below: str, shown: str) -> bool:
        """Return whether a file or folder matches; arguments as for `PassedOver.leaves_out`."""
        return (
            any(fnmatchcase(name, form) for form in self._names)
            or any(fnmatchcase(_plain(below), form) for form in self._below)
            or any(fnmatchcase(_plain(shown), form) for form in self._shown)
        )


def _plain(path: str) -> str:
    """Return a path or pattern without what does not matter: `./` before it and a slash at its end."""
    return path.removeprefix("./").rstrip("/")
