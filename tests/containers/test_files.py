"""What Dockerfile and compose.yaml say fits the project. `in_podman.py` builds and runs them."""

import json
import re
import shlex
from typing import Any

import click
import yaml

from spade_index.cli.serve import serve
from spade_index.server.limits import END_SECONDS
from spade_index.server.settings import ServeSettings

from helpers.documents import ROOT

DOCKERFILE = (ROOT / "Dockerfile").read_text()
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]


def options(arguments: list[str]) -> dict[str, Any]:
    """Return what `spade-index serve` takes these arguments for. Raises click.UsageError."""
    command, *rest = arguments
    assert command == "serve"
    parsed, left, _ = serve.make_parser(click.Context(serve)).parse_args(rest)
    assert left == []
    return parsed


def test_the_service_takes_the_options_of_the_image_and_of_compose() -> None:
    image = options(json.loads(re.findall(r"^CMD (\[.*\])$", DOCKERFILE, re.MULTILINE)[-1]))
    assert (image["host"], image["api_keys"]) == ("0.0.0.0", "/run/secrets/keys")
    composed = options(shlex.split(SERVICES["spade-index"]["command"].replace("${OPTIONS:-}", "")))
    assert {**composed, "mqtt": None} == {**image, "mqtt": None}
    assert composed["mqtt"].startswith("mqtt://mosquitto:1883/")


def test_the_ports_are_those_of_the_service_and_open_to_this_machine_alone() -> None:
    for service in SERVICES.values():
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    port = ServeSettings.port
    assert SERVICES["spade-index"]["ports"] == [f"127.0.0.1:{port}:{port}"]
    assert f"EXPOSE {port}\n" in DOCKERFILE
    assert f"http://127.0.0.1:{port}/v2/health/ready" in DOCKERFILE


def test_the_service_has_no_rights_and_the_time_to_stop() -> None:
    service = SERVICES["spade-index"]
    assert re.search(r"^USER [1-9]\d+$", DOCKERFILE, re.MULTILINE)
    assert service["read_only"]
    assert service["cap_drop"] == ["ALL"]
    grace = float(service["stop_grace_period"].removesuffix("s"))
    assert grace > ServeSettings.request_seconds + END_SECONDS


def test_label_studio_is_the_version_that_is_tested() -> None:
    (version,) = re.findall(
        r"^label-studio==(.*)$", (ROOT / "requirements" / "label-studio.txt").read_text(), re.MULTILINE
    )
    assert SERVICES["label-studio"]["image"].endswith(f":{version}")


def test_the_gpu_is_an_extra_and_a_service_of_compose() -> None:
    services = yaml.safe_load((ROOT / "compose.gpu.yaml").read_text())["services"]
    assert services.keys() <= SERVICES.keys()
    device = services["spade-index"]["build"]["args"]["DEVICE"]
    assert f'"{device}": [' in (ROOT / "setup.py").read_text()
