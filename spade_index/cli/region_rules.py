"""Options that name a region of interest for each image: `--roi 'masks/{stem}.png'`."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import click

from spade_index.errors import InputError

from .progress import Progress
from .values import PATH

if TYPE_CHECKING:  # all take long to import
    from spade_index.gallery.reader import Gallery
    from spade_index.gallery.write.writer import GalleryWriter
    from spade_index.images.files import ImageFile, MaskFile
    from spade_index.images.region_rule import RegionRule

AUTO, NONE = "auto", "none"
own_roi_option = click.option(
    "--roi",
    type=PATH,
    help="Masks of what counts of IMAGES: a file for all of them, a rule such as 'masks/{stem}.png', or `none` "
    "[the gallery's rule, if it has one]",
)


class Limited(Protocol):
    """Images that take regions of interest: see `Sources.limit_to`."""

    def limit_to(
        self, rule: "RegionRule | None", region: "Callable[[ImageFile], MaskFile | None] | None" = None
    ) -> None:
        """Give images regions of interest of their own, by a rule or a function."""


def rule_in(path: Path | None) -> "RegionRule | None":
    """Return the rule that an option gives, if it is one. Raises InputError."""
    from spade_index.images.region_rule import RegionRule, is_rule

    return RegionRule.of(str(path)) if path is not None and is_rule(str(path)) else None


def limit_sources(sources: Limited, gallery: "Gallery", path: Path | None) -> None:
    """Give images that are added to a gallery, or searched for in it, the regions of an option. Raises InputError."""
    from spade_index.images.files import MaskFile
    from spade_index.images.region_files import read_region

    if path is None:
        sources.limit_to(gallery.region_rule)
        return
    if str(path) == AUTO:
        raise click.UsageError("--roi auto is of a gallery: `spade-index roi GALLERY auto`")
    if str(path) == NONE:
        sources.limit_to(gallery.region_rule, lambda file: None)
        return
    if not gallery.is_limited:
        raise InputError(
            f"{gallery.path}: has no region of interest, so its images cannot have one: see `spade-index roi`"
        )
    if (rule := rule_in(path)) is not None:
        sources.limit_to(rule)
        return
    read_region(path)
    sources.limit_to(gallery.region_rule, lambda file: MaskFile.at(path))


def require_same_rule(gallery: "Gallery", rule: "RegionRule | None") -> None:
    """Raise InputError if a rule is given for a gallery that has not the same."""
    if rule is None:
        return
    known = gallery.region_rule
    if known is None:
        raise InputError(
            f"{gallery.path}: its images have no regions of interest: `spade-index roi {gallery.path}` sets them"
        )
    if known.text != rule.text:
        raise InputError(
            f"{gallery.path}: has another rule of regions of interest ({known.text}): `spade-index roi` changes it"
        )


def set_rule(writer: "GalleryWriter", rule: "RegionRule") -> None:
    """Give all images of a gallery regions of interest by a rule. Raises InputError, and then nothing was changed."""
    from spade_index.method.own_regions import regions_by_rule

    with Progress("read regions", len(writer.gallery)) as progress:
        writer.set_region_rule(rule.text, regions_by_rule(writer.gallery, rule, progress))
