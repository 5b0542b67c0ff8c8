"""A real mosquitto on loopback, and a subscriber that notes what comes."""

import json
import secrets
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from .waiting import PATIENCE, eventually

MOSQUITTO = "/usr/sbin/mosquitto"
HOST = "127.0.0.1"
TOPIC = "plant/line-3/verdicts"


def free_port() -> int:
    """Return a free port that stays so: the system gives it to no connection while who listens there is away."""
    given = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])  # from here on
    while True:
        port = given // 2 + secrets.randbelow(given // 2)
        with suppress(OSError), socket.create_server((HOST, port)):
            return port


class Broker:
    """A broker that is started, stopped and started again at one port."""

    def __init__(self, folder: Path, *settings: str, anonymous: bool = True) -> None:
        """Write its configuration, which keeps nothing on disk unless the settings, lines of it, say so."""
        self.port = free_port()
        lines = [f"listener {self.port} {HOST}", f"allow_anonymous {str(anonymous).lower()}", *settings]
        if not any(line.startswith("persistence ") for line in settings):
            lines.append("persistence false")
        self._file = folder / f"mosquitto-{self.port}.conf"
        self._file.write_text("\n".join(lines) + "\n")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it listens."""
        self._process = process = subprocess.Popen([MOSQUITTO, "-c", self._file], stderr=subprocess.DEVNULL)
        eventually(lambda: self._listens() or process.poll() is not None)
        assert process.poll() is None

    def _listens(self) -> bool:
        with socket.socket() as asking:
            return asking.connect_ex((HOST, self.port)) == 0

    def stop(self) -> None:
        """Ask it to end, and wait for that."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(PATIENCE)
            self._process = None

    def url(self, scheme: str = "mqtt", host: str = HOST) -> str:
        """Return the URL of the topic."""
        return f"{scheme}://{host}:{self.port}/{TOPIC}"


@contextmanager
def broker(folder: Path, *settings: str, anonymous: bool = True) -> Iterator[Broker]:
    """A broker that runs."""
    running = Broker(folder, *settings, anonymous=anonymous)
    running.start()
    try:
        yield running
    finally:
        running.stop()


class Subscriber:
    """Notes the verdicts that come; connects again by itself, to a session that the broker keeps if it can."""

    def __init__(self, port: int, topic: str = TOPIC, login: tuple[str, str] | None = None) -> None:
        self.got: list[dict[str, Any]] = []
        subscribed = threading.Event()
        name, protocol = f"subscriber-{port}", MQTTProtocolVersion.MQTTv311
        self._client = client = Client(CallbackAPIVersion.VERSION2, name, clean_session=False, protocol=protocol)
        client.on_connect = lambda *_: client.subscribe(topic, qos=1)
        client.on_subscribe = lambda *_: subscribed.set()
        client.on_message = lambda _, __, message: self.got.append(json.loads(message.payload))
        client.reconnect_delay_set(1, 1)
        if login is not None:
            client.username_pw_set(*login)
        client.connect(HOST, port)
        client.loop_start()
        assert subscribed.wait(PATIENCE)

    def __enter__(self) -> "Subscriber":
        return self

    def __exit__(self, *exception: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()
