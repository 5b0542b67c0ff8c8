"""`watch`: the records of `query --json`, each once, with an error where an image cannot be decoded."""

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

from helpers.broker import Subscriber, broker
from helpers.cli_runs import objects, refused, run
from helpers.records import VERDICT
from helpers.waiting import eventually
from helpers.warm import PROGRAM, Warm

QUICK = ["--interval", "0.05", "--settle", "0.05", "--workers", "1"]


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_watch_writes_what_query_does_once(built, dataset, tmp_path):
    folder = Path(shutil.copytree(dataset / "test" / "hole", tmp_path / "line"))
    (folder / "broken.png").write_bytes((folder / "000.png").read_bytes()[:200])
    for number, name in enumerate(("002.png", "000.png", "broken.png", "001.png")):
        os.utime(folder / name, (number, number))
    watch = ["watch", folder, built, "--state", tmp_path / "state", "--threshold", "0", "--once", *QUICK]
    run(*watch, "--jsonl", tmp_path / "out")
    verdicts = read(tmp_path / "out")
    assert [verdict["image"] for verdict in verdicts] == ["002.png", "000.png", "broken.png", "001.png"]
    assert [verdict["error"] is None for verdict in verdicts] == [True, True, False, True]
    assert [list(verdict) for verdict in verdicts if not verdict["error"]] == [VERDICT] * 3
    assert [verdict["gallery"] for verdict in verdicts] == [built.name] * 4
    assert verdicts[0]["arrival"] == "1970-01-01T00:00:00+00:00"
    expected = {
        answer["image"]: answer
        for answer in objects(run("query", built, folder / "000.png", "--threshold", "0", "--json"))
    }
    answer = {name: value for name, value in verdicts[1].items() if name in expected["000.png"]}
    assert answer.keys() == expected["000.png"].keys()
    assert answer["anomalous"] is True
    assert abs(answer["score"] / expected["000.png"]["score"] - 1) < 1e-4
    shutil.copy(folder / "001.png", folder / "late.png")
    (late,) = objects(run(*watch))
    assert (late["image"], late["delivered_by"]) == ("late.png", "jsonl")
    assert len(read(tmp_path / "out")) == 4


def test_a_newer_snapshot_is_taken_up_and_sigterm_ends_well(gallery, dataset, tmp_path):
    folder, out = tmp_path / "line", tmp_path / "out"
    folder.mkdir()
    command = ["watch", folder, gallery, "--jsonl", out, *QUICK, "--state", tmp_path / "state"]
    with Warm(PROGRAM, *command) as process:
        try:
            shutil.copy(dataset / "test" / "good" / "000.png", folder / "a.png")
            eventually(lambda: len(read(out)) == 1, 60)
            run("add", gallery, dataset / "test" / "good" / "001.png", "--prefix", "more/", "--workers", "1")
            shutil.copy(dataset / "test" / "good" / "002.png", folder / "b.png")
            eventually(lambda: len(read(out)) == 2)
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
        finally:
            process.kill()
    assert [verdict["snapshot"] for verdict in read(out)] == [1, 2]


def test_watch_publishes_to_a_broker(built, dataset, tmp_path, monkeypatch):
    passwords = tmp_path / "passwords"
    subprocess.run(["mosquitto_passwd", "-b", "-c", passwords, "line", "secret"], check=True)
    monkeypatch.setenv("SPADE_INDEX_MQTT_LOGIN", "line:secret")
    with (
        broker(tmp_path, f"password_file {passwords}", "user root", anonymous=False) as running,
        Subscriber(running.port, login=("line", "secret")) as subscriber,
    ):
        watch = ["watch", dataset / "test" / "hole", built, "--state", tmp_path / "state", "--once", *QUICK]
        run(*watch, "--mqtt", running.url(), "--jsonl", tmp_path / "out")
        eventually(lambda: len(subscriber.got) == 3)
    assert [verdict.pop("delivered_by") for verdict in subscriber.got] == ["mqtt"] * 3
    lines = read(tmp_path / "out")
    assert [line.pop("delivered_by") for line in lines] == ["jsonl"] * 3
    assert lines == subscriber.got


def test_what_cannot_be_watched_is_refused(built, tmp_path):
    assert "--mqtt, which is not given" in refused("watch", tmp_path, built, "--mqtt-login", tmp_path / "login")
    assert "--mqtt: give mqtt://" in refused("watch", tmp_path, built, "--mqtt", "host", "--state", tmp_path / "state")
    assert "no such folder" in refused("watch", tmp_path / "nothing", built)
    assert "no gallery there" in refused("watch", tmp_path, tmp_path / "nothing", "--state", tmp_path / "state")
    assert "--interval" in refused("watch", tmp_path, built, "--interval", "0")
