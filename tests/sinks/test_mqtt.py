"""MQTT: a real broker gets each verdict in order, also after it was away; what it refuses for good is set aside."""

import json
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from spade_index.errors import InputError
from spade_index.sinks import mqtt_connection
from spade_index.sinks.contract import Unreachable
from spade_index.sinks.mqtt import VARIABLE, Mqtt, read_login

from helpers.broker import HOST, TOPIC, Broker, Subscriber, broker
from helpers.processes import forked, killed
from helpers.waiting import eventually
from helpers.watching import images, watched


def record(number: int, **more: object) -> str:
    return json.dumps({"id": str(number), "arrival": "now", "score": number, **more})


@contextmanager
def sink(url: str, folder: Path, login: tuple[str, str] | None = None, said: list[str] | None = None) -> Iterator[Mqtt]:
    open_sink = Mqtt(url, login, folder / "refused", ([] if said is None else said).append)
    try:
        yield open_sink
    finally:
        open_sink.close()


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Broker]:
    with broker(tmp_path) as started:
        yield started


def test_each_verdict_is_published_in_order(running: Broker, tmp_path: Path) -> None:
    with Subscriber(running.port) as subscriber, sink(running.url(), tmp_path) as mqtt:
        mqtt.deliver([record(number) for number in range(50)])
        eventually(lambda: len(subscriber.got) == 50)
    assert subscriber.got[3] == {"id": "3", "arrival": "now", "delivered_by": "mqtt", "score": 3}
    assert [verdict["score"] for verdict in subscriber.got] == list(range(50))


def test_a_topic_that_nobody_subscribes_to_is_said_once(running: Broker, tmp_path: Path) -> None:
    said: list[str] = []
    with sink(running.url(), tmp_path, said=said) as mqtt:
        mqtt.deliver([record(1), record(2)])
    assert said == [f"MQTT broker at {HOST}: nobody subscribes to the topic, so nobody gets the verdict"]


def test_a_broker_that_was_away_gets_all_in_order(running: Broker, tmp_path: Path) -> None:
    folder, said = images(tmp_path / "images", 20), []
    with Subscriber(running.port) as before, sink(running.url(), tmp_path) as mqtt:
        assert watched(folder, tmp_path / "state", [mqtt], say=said.append)
        eventually(lambda: len(before.got) == 20)
        running.stop()
        images(folder, 20, start=20)
        assert not watched(folder, tmp_path / "state", [mqtt], say=said.append)
    assert said == [f"MQTT broker at {HOST}: Connection refused"]
    running.start()
    with Subscriber(running.port) as after, sink(running.url(), tmp_path) as mqtt:
        assert watched(folder, tmp_path / "state", [mqtt], say=said.append)
        eventually(lambda: len(after.got) == 20)
    got = [verdict["image"] for verdict in before.got + after.got]
    assert got == [f"{number:05d}.png" for number in range(40)]


def test_a_broker_that_was_restarted_in_between_gets_the_next_verdict_at_once(running: Broker, tmp_path: Path) -> None:
    with sink(running.url(), tmp_path) as mqtt:
        mqtt.deliver([record(1)])
        running.stop()
        running.start()
        with Subscriber(running.port) as subscriber:
            mqtt.deliver([record(2)])
            eventually(lambda: [verdict["id"] for verdict in subscriber.got] == ["2"])


class Dying(Mqtt):
    """Kills its process between delivery and note."""

    def deliver(self, verdicts: Sequence[str]) -> None:
        """Deliver, and die."""
        super().deliver(verdicts)
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_kill_between_delivery_and_note_repeats_one_verdict_under_its_id(running: Broker, tmp_path: Path) -> None:
    folder = images(tmp_path / "images", 3)
    with Subscriber(running.port) as subscriber:
        dying = Dying(running.url(), None, tmp_path / "refused")
        assert killed(forked(lambda: watched(folder, tmp_path / "state", [dying])))
        with sink(running.url(), tmp_path) as mqtt:
            assert watched(folder, tmp_path / "state", [mqtt])
        eventually(lambda: len(subscriber.got) == 4)
    assert [verdict["image"] for verdict in subscriber.got] == ["00000.png", *(f"{n:05d}.png" for n in range(3))]
    assert subscriber.got[0]["id"] == subscriber.got[1]["id"]


def test_a_login_is_needed_where_the_broker_asks_for_one(tmp_path: Path) -> None:
    passwords = tmp_path / "passwords"
    subprocess.run(["mosquitto_passwd", "-b", "-c", passwords, "line", "a secret"], check=True)
    with broker(tmp_path, f"password_file {passwords}", "user root", anonymous=False) as running:
        for wrong in (None, ("line", "another secret")):
            with sink(running.url(), tmp_path, wrong) as mqtt, pytest.raises(Unreachable) as error:
                mqtt.deliver([record(1)])
            assert "uthori" in str(error.value)
            assert "secret" not in str(error.value)
        with (
            Subscriber(running.port, login=("line", "a secret")) as subscriber,
            sink(running.url(), tmp_path, ("line", "a secret")) as mqtt,
        ):
            mqtt.deliver([record(1)])
            eventually(lambda: subscriber.got)


def certified(folder: Path) -> list[str]:
    """Make a certificate of `localhost`, and return the broker's settings that use it."""
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    files = ["-keyout", folder / "key.pem", "-out", folder / "cert.pem"]
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    subprocess.run([*command, *names, *files], check=True, capture_output=True)
    return ["user root", f"certfile {folder / 'cert.pem'}", f"keyfile {folder / 'key.pem'}"]


def test_a_certificate_is_verified_and_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    with broker(tmp_path, *certified(tmp_path)) as running:
        for trusted, host, reason in (
            (False, "localhost", "its certificate is not trusted"),
            (True, HOST, "its certificate is not trusted"),
            (True, "localhost", None),
        ):
            if trusted:
                monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "cert.pem"))
            with sink(running.url("mqtts", host), tmp_path) as mqtt:
                if reason is None:
                    mqtt.deliver([record(1), record(2)])
                else:
                    with pytest.raises(Unreachable, match=reason):
                        mqtt.deliver([record(1)])


def test_what_a_rule_of_the_broker_forbids_waits_and_what_is_too_large_is_set_aside(tmp_path: Path) -> None:
    rules, said = tmp_path / "rules", []
    rules.write_text(f"topic write {TOPIC}\n")
    with broker(tmp_path, f"acl_file {rules}", "user root", "max_packet_size 1000") as running:
        with sink(running.url(), tmp_path, said=said) as mqtt:
            mqtt.deliver([record(1, text="x" * 2000), record(2)])
        with sink(running.url() + "/more", tmp_path) as mqtt, pytest.raises(Unreachable, match="reason code 135"):
            mqtt.deliver([record(3)])
    aside = json.loads((tmp_path / "refused").read_text())
    assert (aside["id"], aside["status"], aside["delivered_by"]) == ("1", 0x95, "refused")
    assert f"such verdicts are kept in {tmp_path / 'refused'}" in said[0]


@pytest.mark.parametrize(("says", "reason"), [(b"\x20\x03\xff\xff\xff", "closed|speak"), (b"", "not answer")])
def test_what_is_no_broker_is_unreachable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, says: bytes, reason: str
) -> None:
    monkeypatch.setattr(mqtt_connection, "WAIT", 0.3)
    with socket.create_server((HOST, 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.sendall(says)
                while connection.recv(1000):
                    pass

        threading.Thread(target=answer, daemon=True).start()
        url = f"mqtt://{HOST}:{server.getsockname()[1]}/a"
        with sink(url, tmp_path) as mqtt, pytest.raises(Unreachable, match=reason):
            mqtt.deliver([record(1)])


@pytest.mark.parametrize(
    "url",
    [
        "http://host/a",
        "host/a",
        "mqtt://user:secret@host/a",
        "mqtt://host",
        "mqtt://host/",
        "mqtt://host/a/%23",
        "mqtt://host/+/a",
        "mqtt://host:x/a",
        "mqtt://host/$SYS/a",
        "mqtt://host/a?b=secret",
        "mqtt:///a",
    ],
)
def test_a_url_that_is_none_is_refused_unrepeated(tmp_path: Path, url: str) -> None:
    with pytest.raises(InputError, match="--mqtt") as error:
        Mqtt(url, None, tmp_path / "refused")
    assert "secret" not in str(error.value)


def test_the_topic_is_the_decoded_path(tmp_path: Path) -> None:
    with sink("mqtt://host/plant/line%203", tmp_path) as mqtt:
        assert mqtt.topic == "plant/line 3"


def test_the_login_is_of_a_file_or_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "login"
    path.write_text("line:a:secret\n")
    path.chmod(0o640)
    with pytest.raises(InputError, match="chmod 600"):
        read_login(path)
    path.chmod(0o600)
    assert read_login(path) == ("line", "a:secret")
    monkeypatch.delenv(VARIABLE, raising=False)
    assert read_login(None) is None
    for wrong in ("secret", ":secret"):
        monkeypatch.setenv(VARIABLE, wrong)
        with pytest.raises(InputError, match=VARIABLE) as error:
            read_login(None)
        assert "secret" not in str(error.value)
