"""One connection to a broker, whose user waits for each answer: paho's client without its thread and its retries."""

import secrets
import select
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

WAIT = 10.0  # seconds for the broker to answer
IDLE = 30  # seconds of silence, and half as many, after which a broker ends a connection
HEAD = 100  # bytes of a packet beside topic and payload, at most
FAILED = 0x80  # the first reason code that is a failure
NOBODY = 0x10  # no matching subscribers
TOO_LARGE = 0x95
OF_MESSAGE = (TOO_LARGE, 0x99)  # failures that another attempt does not mend: the size, the format


class BrokerError(Exception):
    """The connection has ended, or there is none. The text says why; `code` is the reason of the end, or 0."""

    def __init__(self, reason: str, code: int = 0) -> None:
        super().__init__(reason)
        self.code = code


class Connection:
    """An open connection, for one thread."""

    def __init__(self, host: str, port: int, login: tuple[str, str] | None, tls: ssl.SSLContext | None) -> None:
        """Connect. Raises BrokerError."""
        self._client = client = Client(
            CallbackAPIVersion.VERSION2, f"spade-index-{secrets.token_hex(8)}", protocol=MQTTProtocolVersion.MQTTv5
        )
        self._largest = 0  # bytes of a packet; 0: any
        self._greeted: ReasonCode | None = None
        self._codes: dict[int, int] = {}  # of messages that are acknowledged
        self._ended: ReasonCode | None = None
        client.connect_timeout = WAIT
        client.on_connect, client.on_publish, client.on_disconnect = self._greet, self._acknowledge, self._end
        if login is not None:
            client.username_pw_set(*login)
        if tls is not None:
            client.tls_set_context(tls)
        try:
            with _told():
                client.connect(host, port, IDLE, clean_start=True)
                self._wait_for(lambda: self._greeted is not None)
        except BrokerError:
            self.close()
            raise

    def publish(self, topic: str, payload: bytes) -> int:
        """Publish a message, QoS 1; return the reason code of its acknowledgement. Raises BrokerError."""
        if 0 < self._largest < len(topic.encode()) + len(payload) + HEAD:
            return TOO_LARGE
        about = Properties(PacketTypes.PUBLISH)
        about.ContentType = "application/json"
        about.PayloadFormatIndicator = 1  # UTF-8
        with _told():
            self._step(0)  # which finds that it was closed meanwhile
            sent = self._client.publish(topic, payload, qos=1, properties=about)
            self._wait_for(lambda: sent.mid in self._codes)
        return self._codes.pop(sent.mid)

    def close(self) -> None:
        """Take leave, if the connection lives, and close it."""
        with suppress(Exception):
            self._client.disconnect()
            self._client.loop_write()
        with suppress(Exception):  # what `disconnect` leaves open
            if (socket := self._client.socket()) is not None:
                socket.close()

    def _wait_for(self, done: Callable[[], bool]) -> None:
        """Read and write until something has happened. Raises BrokerError."""
        until = time.monotonic() + WAIT
        while not done():
            if (left := until - time.monotonic()) <= 0:
                raise BrokerError("does not answer")
            self._step(left)

    def _step(self, seconds: float) -> None:
        """Write, and read one packet, if there is one within some seconds. Raises BrokerError."""
        socket = self._client.socket()
        if socket is None:
            raise self._why()
        poll = select.poll()  # which knows any number of files, unlike the `select` of paho's own loop
        poll.register(socket.fileno(), select.POLLIN | (select.POLLOUT if self._client.want_write() else 0))
        buffered = isinstance(socket, ssl.SSLSocket) and socket.pending() > 0
        for _, event in poll.poll(0 if buffered else seconds * 1000):
            if event & select.POLLOUT and self._client.loop_write() != MQTTErrorCode.MQTT_ERR_SUCCESS:
                raise self._why()
            buffered |= bool(event & ~select.POLLOUT)
        if buffered and self._client.loop_read() != MQTTErrorCode.MQTT_ERR_SUCCESS:
            raise self._why()

    def _why(self) -> BrokerError:
        if self._greeted is not None and self._greeted.is_failure:
            return BrokerError(str(self._greeted))
        if self._ended is not None and self._ended.is_failure:
            return BrokerError(str(self._ended), int(self._ended.value))
        return BrokerError("has closed the connection")

    def _greet(self, client: Client, user: Any, flags: Any, code: ReasonCode, properties: Properties | None) -> None:
        self._greeted = code
        self._largest = getattr(properties, "MaximumPacketSize", 0)

    def _acknowledge(self, client: Client, user: Any, mid: int, code: ReasonCode, properties: Any) -> None:
        self._codes[mid] = int(code.value)

    def _end(self, client: Client, user: Any, flags: Any, code: ReasonCode, properties: Any) -> None:
        if flags.is_disconnect_packet_from_server:
            self._ended = code


@contextmanager
def _told() -> Iterator[None]:
    """Raise a BrokerError for any other error: what is no broker makes paho fail in many ways."""
    try:
        yield
    except BrokerError:
        raise
    except ssl.SSLCertVerificationError as error:
        raise BrokerError(f"its certificate is not trusted ({error.verify_message})") from error
    except OSError as error:
        raise BrokerError(error.strerror or type(error).__name__) from error
    except Exception as error:
        raise BrokerError(f"does not speak MQTT 5 ({type(error).__name__})") from error
