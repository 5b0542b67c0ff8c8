"""The sinks of verdicts, and what is remembered for them, in `watch` and `serve`."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import click

from spade_index.errors import InputError

from .values import PATH

if TYPE_CHECKING:  # they take long to import
    from spade_index.gallery.location import Location
    from spade_index.sinks.contract import Sink

MISSING = "--mqtt needs one more package: pip install 'spade_index[mqtt]'"


@dataclass(frozen=True)
class SinkOptions:
    """Receivers of verdicts, their secrets, and the folder of what is not delivered."""

    webhook: Annotated[
        str | None,
        click.option("--webhook", metavar="URL", help="Post verdicts to this address, signed if there is a key."),
    ]
    webhook_key: Annotated[
        Path | None,
        click.option("--webhook-key", type=PATH, help="File of the key of X-Signature [$SPADE_INDEX_WEBHOOK_KEY]"),
    ]
    mqtt: Annotated[
        str | None,
        click.option("--mqtt", metavar="URL", help="Publish verdicts: mqtt:// or mqtts://HOST[:PORT]/TOPIC."),
    ]
    mqtt_login: Annotated[
        Path | None,
        click.option("--mqtt-login", type=PATH, help="File of USER:PASSWORD [$SPADE_INDEX_MQTT_LOGIN]"),
    ]
    state: Annotated[
        Path | None,
        click.option(
            "--state", type=PATH, help="Folder of what must not be forgotten, on a local disk [~/.local/state/...]"
        ),
    ]

    @property
    def are_given(self) -> bool:
        """Whether there is a receiver."""
        return self.webhook is not None or self.mqtt is not None

    def require_used(self) -> None:
        """Raise InputError for a secret of a receiver that is not given."""
        for option, secret, receiver in (
            ("--webhook", self.webhook_key, self.webhook),
            ("--mqtt", self.mqtt_login, self.mqtt),
        ):
            if secret is not None and receiver is None:
                raise InputError(f"{secret}: is of {option}, which is not given")

    def folder(self, *places: "Path | Location") -> Path:
        """Return the folder of the state, which is by default one of what the command works on."""
        if self.state is not None:
            return self.state
        text = "\n".join(os.path.realpath(place) if isinstance(place, Path) else str(place) for place in places)
        base = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
        return Path(base) / "spade-index" / sha256(os.fsencode(text)).hexdigest()[:16]

    @contextmanager
    def opened(self, state: Path, lines: Sequence[Path | None], say: Callable[[str], None]) -> Iterator[list["Sink"]]:
        """Open the sinks, and files of lines, of which None is standard output, until the end. Raises InputError."""
        from spade_index.sinks.lines import JsonLines
        from spade_index.sinks.refusals import NAME
        from spade_index.sinks.webhook import Webhook, read_key

        with ExitStack() as stack:
            sinks: list[Sink] = []

            def add(sink: "Sink") -> None:
                stack.callback(sink.close)
                sinks.append(sink)

            for path in lines:
                add(JsonLines(path))
            if self.webhook is not None:
                add(Webhook(self.webhook, read_key(self.webhook_key), state / NAME, say))
            if self.mqtt is not None:
                try:
                    from spade_index.sinks.mqtt import Mqtt, read_login
                except ModuleNotFoundError as error:
                    raise InputError(f"{MISSING} ({error.name} is not installed)") from error
                add(Mqtt(self.mqtt, read_login(self.mqtt_login), state / NAME, say))
            yield sinks
