"""Queries about regions of interest that images have of their own, where a rule names a mask for each image."""

from collections.abc import Iterator, Sequence

from spade_index.errors import GalleryDamaged
from spade_index.images.interest import RegionOfInterest
from spade_index.images.region_rule import RegionRule

from .connection import CatalogFile
from .tables import RegionRow
from .transaction import REGION_RULE

PART = 500  # keys that are asked for at once


class RegionQueries(CatalogFile):
    """A catalog that can be asked about the regions of its images."""

    def region_rule(self) -> RegionRule | None:
        """Return the rule by which images have regions of their own, or None. Raises GalleryDamaged."""
        text = self.meta(REGION_RULE)
        try:
            return None if text is None else RegionRule.from_json(text)
        except ValueError as error:
            raise self._damaged(str(error)) from error

    def region_numbers(self, rule: RegionRule, keys: Sequence[int]) -> dict[int, int]:
        """Return the numbers of the regions by a rule of the images with these keys, of those that have one, by key."""
        found: dict[int, int] = {}
        for start in range(0, len(keys), PART):
            part = [int(key) for key in keys[start : start + PART]]
            marks = ", ".join("?" * len(part))
            query = f"SELECT key, region FROM image_regions WHERE rule = ? AND key IN ({marks})"
            found |= dict(self._typed((int, int), query, [rule.digest, *part]))
        return found

    def region(self, number: int) -> RegionOfInterest:
        """Return a region by its number. Raises GalleryDamaged."""
        row = self._row(RegionRow, "WHERE region = ?", (number,))
        if row is None:
            raise self._damaged(f"region {number} of images is missing")
        try:
            return RegionOfInterest.from_json(row.value)
        except ValueError as error:
            raise self._damaged(f"region {number}: {error}") from error

    def region_problems(self) -> Iterator[str]:
        """Yield one line for each region that cannot be read."""
        if not self._has_table(RegionRow.table):
            return
        for (number,) in self._typed((int,), "SELECT DISTINCT region FROM image_regions ORDER BY region"):
            try:
                self.region(number)
            except GalleryDamaged as error:
                yield str(error)
