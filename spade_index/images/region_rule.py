"""Rules that name a region of interest for each image: `masks/{parent}/{stem}.png`.

The path is relative to the source: the folder that was given, or the one that a list, an archive or a single image
lies in. `{name}` is the name of the image, `{stem}` that without its suffix, `{parent}` its folder below the source.
"""

import json
import os
import posixpath
import re
from collections.abc import Callable
from dataclasses import dataclass

import xxhash

from spade_index.errors import InputError

from .files import as_path, as_text
from .pages import without_page

PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
KNOWN = ("stem", "name", "parent")
MOST_CHARACTERS = 4000


@dataclass(frozen=True)
class RegionRule:
    """The rule by which the images of a gallery have regions of interest of their own."""

    text: str  # a path with placeholders
    digest: str  # changes where the regions of images are changed by it

    def __post_init__(self) -> None:
        """Raise InputError for a rule that names no file."""
        unknown = [name for name in PLACEHOLDER.findall(self.text) if name not in KNOWN]
        if unknown:
            known = ", ".join(f"{{{name}}}" for name in KNOWN)
            raise InputError(f"--roi {self.text}: {{{unknown[0]}}} stands for nothing: use {known}")
        if not PLACEHOLDER.search(self.text) or len(self.text) > MOST_CHARACTERS or not self.text.isprintable():
            raise InputError(f"--roi {self.text[:100]!a}: is no rule that names a mask for each image")

    @classmethod
    def of(cls, text: str, regions: list[tuple[int, str]] | None = None) -> "RegionRule":
        """Return a rule, for a gallery whose images have these regions: key and digest of each."""
        return cls(text, xxhash.xxh3_128_hexdigest(json.dumps([text, regions or []]).encode()))

    def path_of(self, image: str, root: str) -> str:
        """Return the path of an image's mask.

        Args:
            image: its path below the source, as in an id without a prefix.
            root: the folder that the rule is relative to.
        """
        path = as_path(without_page(image))
        name = posixpath.basename(path)
        values = {"name": name, "stem": os.path.splitext(name)[0], "parent": posixpath.dirname(path) or "."}
        named = PLACEHOLDER.sub(lambda found: values[found[1]], os.path.expanduser(self.text))
        return os.path.normpath(os.path.join(root, named))

    def masks_below(self, root: str) -> Callable[[str], bool]:
        """Return a function that says whether a file of a path below a source may be a mask by this rule."""
        top = os.path.abspath(root)
        pattern = _pattern(os.path.join(top, os.path.expanduser(self.text)))
        return lambda below: pattern.fullmatch(os.path.normpath(os.path.join(top, below))) is not None

    def masks_within(self) -> Callable[[str], bool]:
        """Return a function that says whether a member of an archive may be a mask by this rule."""
        rule = os.path.expanduser(self.text)
        if os.path.isabs(rule) or os.path.normpath(rule).startswith(".."):
            return lambda below: False
        return self.masks_below("/")

    def to_json(self) -> str:
        """Return this rule as one line of JSON."""
        return json.dumps({"rule": self.text, "digest": self.digest})

    @classmethod
    def from_json(cls, text: str) -> "RegionRule":
        """Return the rule that `to_json` wrote. Raises ValueError for anything else."""
        try:
            value = json.loads(text)
            rule, digest = value["rule"], value["digest"]
            if not isinstance(rule, str) or not isinstance(digest, str):
                raise TypeError("unexpected values")
            return cls(rule, digest)
        except (InputError, KeyError, RecursionError, TypeError, ValueError) as error:
            raise ValueError(f"not a rule of regions of interest: {error}") from error

    def described(self) -> dict[str, object]:
        """Describe this rule in values that JSON knows."""
        return {"source": f"a mask for each image, {as_text(self.text)}", "area": None, "digest": self.digest}


def no_mask(path: str) -> bool:
    """Say of a path, as `masks_below` and `masks_within` do, that it is no mask: without a rule, none is."""
    return False


def _pattern(rule: str) -> re.Pattern[str]:
    """Return what the paths of masks match: `{parent}` any folders, the others anything within a name."""
    folders: list[str] = []
    for part in rule.split("/"):
        if part == ".." and folders and folders[-1] != "{parent}":  # what is above any folder is any folder
            folders.pop()
        elif part not in ("", ".", ".."):
            folders.append(part)
    parts = PLACEHOLDER.split("/" + "/".join(folders))  # text, name, text, name, ... text
    anything = {"name": "[^/]+", "stem": "[^/]+", "parent": ".+"}
    made = "".join(anything[part] if place % 2 else re.escape(part) for place, part in enumerate(parts))
    return re.compile(made.replace("/.+/", "/(?:.+/)?"), re.DOTALL)


def is_rule(text: str) -> bool:
    """Return whether a path has a placeholder, so that it names a file for each image."""
    return PLACEHOLDER.search(text) is not None and not os.path.exists(text)
