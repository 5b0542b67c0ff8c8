"""The flow of examples/ in a real Node-RED: verdicts go in at a broker, and alarms come out.

    make node-red

It needs Node.js and a folder in which `npm install node-red` was run.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from spade_index.sinks.mqtt import Mqtt

from helpers.broker import HOST, Subscriber, broker, free_port
from helpers.documents import ROOT
from helpers.waiting import eventually

LONGEST = 120.0  # seconds of its start


def verdict(id: str, **more: Any) -> str:
    """Return a record, of a good image unless more is said."""
    good = {"error": None, "gallery": "tiles", "image": f"{id}.png", "score": 1.0, "threshold": 2.0}
    return json.dumps({"id": id, "arrival": "now", **good, "anomalous": False, "regions": [], **more})


def alarms(program: Path, folder: Path) -> list[str]:
    """Return the ids of the alarms that the flow gives for five verdicts, two of them with one id."""
    nodes = json.loads((ROOT / "examples" / "node-red-flow.json").read_text())
    with broker(folder) as running, Subscriber(running.port, "spade-index/alarms") as subscriber:
        for node in nodes:
            if node["type"] == "mqtt-broker":
                node["port"] = str(running.port)
        (folder / "flow.json").write_text(json.dumps(nodes))
        (folder / "settings.js").write_text(f"module.exports = {{uiHost: '{HOST}', flowFile: 'flow.json'}};\n")
        log, port = folder / "log", str(free_port())
        with log.open("wb") as out:
            process = subprocess.Popen(["node", program, "-u", folder, "-p", port], stdout=out, stderr=out)
        try:
            eventually(lambda: "Connected to broker" in log.read_text(), LONGEST)
            mqtt = Mqtt(f"mqtt://{HOST}:{running.port}/spade-index/verdicts", None, folder / "refused")
            said: list[str] = []
            eventually(lambda: _subscribed(running.port, folder, said))
            mqtt.deliver([verdict("first", anomalous=True), verdict("first", anomalous=True), verdict("good")])
            mqtt.deliver([verdict("broken", error="cut off"), verdict("last", anomalous=True)])
            mqtt.close()
            eventually(lambda: "last" in [alarm["id"] for alarm in subscriber.got])
        finally:
            process.terminate()
            process.wait()
        return [alarm["id"] for alarm in subscriber.got]


def _subscribed(port: int, folder: Path, said: list[str]) -> bool:
    """Return whether somebody subscribes to the verdicts, by publishing one that is good."""
    said.clear()
    probe = Mqtt(f"mqtt://{HOST}:{port}/spade-index/verdicts", None, folder / "refused", said.append)
    probe.deliver([verdict("probe")])
    probe.close()
    return not said


def main() -> None:
    """Run it."""
    program = Path(sys.argv[1]) / "node_modules" / "node-red" / "red.js"
    with tempfile.TemporaryDirectory() as folder:
        got = alarms(program, Path(folder))
    print("alarms:", *got)
    raise SystemExit(got != ["first", "last"])


if __name__ == "__main__":
    main()
