"""Queries about feedback: what a person said of images that were added because of it."""

from .connection import CatalogFile
from .tables import FeedbackRow


class FeedbackQueries(CatalogFile):
    """A catalog that can be asked about feedback."""

    def feedback(self) -> list[FeedbackRow]:
        """Return all feedback, the oldest first, also about images that were removed since."""
        return self._feedback("ORDER BY rowid")

    def feedback_about(self, id: str) -> FeedbackRow | None:
        """Return the feedback about an image, or None."""
        return next(iter(self._feedback("WHERE id = ?", id)), None)

    def _feedback(self, condition: str, *values: str) -> list[FeedbackRow]:
        if not self._has_table(FeedbackRow.table):
            return []
        return self._rows(FeedbackRow, condition, values)
