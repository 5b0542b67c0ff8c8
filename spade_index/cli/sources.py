"""The images that a command names: folders, archives, text lists and single files."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import click

from spade_index.errors import InputError

from .progress import Progress
from .values import GLOB

if TYPE_CHECKING:  # they import numpy and Pillow
    from spade_index.images.files import ImageFile, MaskFile
    from spade_index.images.lists import TextList
    from spade_index.images.marks import OwnOutput
    from spade_index.images.passed_over import PassedOver
    from spade_index.images.region_rule import RegionRule


@dataclass(frozen=True)
class SourceOptions:
    """Options of finding images."""

    exclude: Annotated[
        tuple[str, ...],
        click.option(
            "--exclude",
            type=GLOB,
            multiple=True,
            help="Leave out files and folders of this name, or, with a slash, of this path below IMAGES; repeatable.",
        ),
    ]
    show_skipped: Annotated[
        bool, click.option("--show-skipped", is_flag=True, help="Name what is passed over, one by one.")
    ]

    def passed_over(self, base: Path | None = None) -> "PassedOver":
        """Return a new count of what is passed over; `base` is the folder of several sources."""
        from spade_index.images.passed_over import PassedOver

        shown = Progress.say if self.show_skipped else None
        return PassedOver(self.exclude, shown, None if base is None else str(base))


class Sources:
    """The sources of a command. They are looked through several times, so pipes are read once, in the beginning."""

    def __init__(self, paths: Iterable[Path], options: SourceOptions) -> None:
        """Read the lists that come through pipes. Raises InputError if one cannot be read."""
        from spade_index.images.lists import STDIN, is_stream, read_list
        from spade_index.images.passed_over import PassedOver

        self._sources: list[Path | TextList] = [
            read_list(path) if str(path) == STDIN or is_stream(path) else path for path in paths
        ]
        self._rule: RegionRule | None = None
        self._region: Callable[[ImageFile], MaskFile | None] | None = None
        self._silent: Callable[[], PassedOver] = lambda: PassedOver(options.exclude)
        self.passed_over = options.passed_over()

    def limit_to(
        self, rule: "RegionRule | None", region: "Callable[[ImageFile], MaskFile | None] | None" = None
    ) -> None:
        """Give images from now on regions of interest of their own, by a rule, whose masks are no images.

        `region` names the mask of an image in place of the rule.
        """
        self._rule, self._region = rule, region

    def require_images(self) -> None:
        """Raise InputError for the first source without images."""
        for source in self._sources:
            passed_over = self._silent()
            if next(self._find([source], "", passed_over), None) is None:
                name = source if isinstance(source, Path) else source.name
                beside = f"; {passed_over}" if passed_over else ""
                raise InputError(
                    f"{name}: no images in it (JPEG, PNG, BMP, TIFF, WebP, GIF, PNM, JPEG 2000, AVIF, HEIC){beside}"
                )

    def files(self, prefix: str = "") -> "Iterator[ImageFile]":
        """Yield the images of all sources; `prefix` is put before each id."""
        return self._find(self._sources, prefix, self._silent())

    def counted_files(self, prefix: str = "") -> "Iterator[ImageFile]":
        """Yield the images as `files` does, and count what is passed over; to be used once."""
        return self._find(self._sources, prefix, self.passed_over)

    def leave_out(self, drawn: "OwnOutput") -> None:
        """Count a picture that this package drew, which is known when it is read."""
        from spade_index.images.passed_over import OWN

        self.passed_over.add(OWN, drawn.path)

    def require_some(self, count: int) -> None:
        """Raise InputError if there was no image: all of them were passed over."""
        if not count:
            raise InputError("no images but what was passed over; name a file itself to have it taken")

    def say_passed_over(self) -> None:
        """Print one line on what was passed over, if anything was."""
        if self.passed_over:
            Progress.say(str(self.passed_over))
        if drawn := self.passed_over.drawn:
            Progress.say(drawn)

    def _find(
        self, sources: "Iterable[Path | TextList]", prefix: str, passed_over: "PassedOver"
    ) -> "Iterator[ImageFile]":
        from spade_index.images.find import find_images

        found = chain.from_iterable(find_images(source, prefix, passed_over, rule=self._rule) for source in sources)
        return found if (region := self._region) is None else (replace(file, region=region(file)) for file in found)
