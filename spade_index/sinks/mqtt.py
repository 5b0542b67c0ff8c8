"""Publish verdicts to a broker of MQTT 5, one at a time and in order, each until the broker has acknowledged it."""

import json
import ssl
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit

from spade_index.errors import InputError

from .contract import Unreachable, stamped
from .mqtt_connection import FAILED, NOBODY, OF_MESSAGE, BrokerError, Connection
from .refusals import Refusals
from .secrets import LARGEST, read_secret

VARIABLE = "SPADE_INDEX_MQTT_LOGIN"
PORTS = {"mqtt": 1883, "mqtts": 8883}
LONGEST = 65_535  # bytes of a topic


class Mqtt:
    """Publishes records in JSON, QoS 1. What the broker refuses for good is set aside in a file."""

    name = "mqtt"
    batch = 1

    def __init__(
        self,
        url: str,
        login: tuple[str, str] | None,
        refused: Path,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        """Prepare to publish, and connect when there is something. Raises InputError for a URL that is none.

        Args:
            url: mqtt or mqtts://HOST[:PORT]/TOPIC. The certificate of mqtts is verified, as OpenSSL is set up.
            login: user and password.
            refused: JSON lines of the verdicts that the broker refuses.
            say: prints a line, for a person, when it refuses one or when nobody subscribes, for the first time.
        """
        self._host, self._port, self.topic, secure = _parsed(url)
        self._tls = ssl.create_default_context() if secure else None
        self._login = login
        self._connection: Connection | None = None
        self._where = f"MQTT broker at {self._host}"
        self._refused = Refusals(refused, self._where, say)
        self._say = say
        self._said_nobody = False

    def deliver(self, verdicts: Sequence[str]) -> None:
        """Publish records. Raises Unreachable if one has to be published again."""
        for record in verdicts:
            code = self._published(json.dumps(stamped(record, self.name)).encode())
            if code in OF_MESSAGE:
                self._refused.keep(record, code)
            elif code >= FAILED:
                raise Unreachable(f"{self._where}: refuses what is published, with reason code {code}")
            elif code == NOBODY and not self._said_nobody:
                self._said_nobody = True
                self._say(f"{self._where}: nobody subscribes to the topic, so nobody gets the verdict")

    def close(self) -> None:
        """Close the connection and the file."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        self._refused.close()

    def _published(self, payload: bytes) -> int:
        """Return the reason code of an acknowledgement; a connection that was idle may have been closed by now."""
        was_open = self._connection is not None
        try:
            if self._connection is None:
                self._connection = Connection(self._host, self._port, self._login, self._tls)
            return self._connection.publish(self.topic, payload)
        except BrokerError as error:
            if self._connection is not None:
                self._connection.close()
                self._connection = None
            if error.code in OF_MESSAGE:
                return error.code
            if was_open:
                return self._published(payload)
            raise Unreachable(f"{self._where}: {error}") from error


def _parsed(url: str) -> tuple[str, int, str, bool]:
    """Return host, port, topic, and whether the connection is encrypted. Raises InputError."""
    try:
        parts = urlsplit(url)
        port = parts.port
        topic = unquote(parts.path.removeprefix("/"), errors="strict")
    except ValueError as error:
        raise InputError("--mqtt: is not a URL") from error
    if parts.scheme not in PORTS or not parts.hostname or "@" in parts.netloc or parts.fragment or parts.query:
        raise InputError(f"--mqtt: give mqtt:// or mqtts://HOST/TOPIC, without a user: that is in ${VARIABLE}")
    if not topic or set(topic) & set("#+\0") or topic.startswith("$") or len(topic.encode()) > LONGEST:
        raise InputError("--mqtt: the topic is behind the host, without #, + or a leading $")
    return parts.hostname, port or PORTS[parts.scheme], topic, parts.scheme == "mqtts"


def read_login(path: Path | None) -> tuple[str, str] | None:
    """Return user and password, as USER:PASSWORD in a file that others cannot read, or the environment.

    Raises InputError.
    """
    found = read_secret(path, VARIABLE)
    if found is None:
        return None
    login, place = found
    user, colon, password = login.decode("utf-8", "replace").partition(":")
    if not user or not colon or len(login) > LARGEST or "\ufffd" in user + password:
        raise InputError(f"{place}: a login is USER:PASSWORD in UTF-8, at most {LARGEST} bytes")
    return user, password
