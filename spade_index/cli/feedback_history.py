"""`spade-index feedback --list`: the history of feedback, filtered."""

from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Annotated, Any

import click

from .lines import printable
from .strict import strict_json
from .values import FIRST_SECOND, LAST_SECOND, TEXT

VERDICTS = ("false_alarm", "missed", "defect")


@dataclass(frozen=True)
class FilterOptions:
    """Which feedback is listed: see `gallery.feedback.FeedbackFilter`."""

    contains: Annotated[
        str | None,
        click.option("--contains", type=TEXT, help="With --list: only what has this in its id, name, note or kind."),
    ]
    verdict: Annotated[
        str | None, click.option("--verdict", type=click.Choice(VERDICTS), help="With --list: only this verdict.")
    ]
    who: Annotated[
        str | None, click.option("--who", type=TEXT, help="With --list: only what exactly this person said.")
    ]
    since: Annotated[
        str | None,
        click.option("--since", type=FIRST_SECOND, help="With --list: only from this date or time on (ISO 8601, UTC)."),
    ]
    until: Annotated[
        str | None,
        click.option("--until", type=LAST_SECOND, help="With --list: only to the end of this date or time."),
    ]
    undone: Annotated[
        bool | None,
        click.option(
            "--undone/--not-undone",
            default=None,
            help="With --list: only what was taken back, or whose image was removed; or only the rest.",
        ),
    ]

    @property
    def given(self) -> bool:
        """Whether any filter is given."""
        return any(value is not None for value in astuple(self))


def list_feedback(path: Path, options: FilterOptions, kind: str | None, as_json: bool) -> None:
    """Print the feedback that is looked for, the oldest first."""
    from spade_index.gallery.feedback import FeedbackFilter, history, in_words, is_there
    from spade_index.gallery.reader import Gallery

    wanted = FeedbackFilter(**vars(options) | {"contains": options.contains or "", "kind": kind})
    with Gallery(path) as opened:
        for row, kinds in history(opened, wanted):
            of_kind = in_words(kinds)
            told = {"kind": of_kind, "kinds": kinds, "there": is_there(opened, row.id)}
            values: dict[str, Any] = vars(row) | told
            if as_json:
                click.echo(strict_json(values))
            else:
                state = "in the gallery" if values["there"] else "removed"
                verdict = f"{row.verdict} ({of_kind})" if of_kind else row.verdict
                click.echo("\t".join(map(printable, (row.id, verdict, row.given, row.who, state, row.note))))
