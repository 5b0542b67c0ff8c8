"""The image, built and run by podman: `make test-container`. Not collected with the other tests: it takes minutes.

Images cannot be pulled everywhere, so its base is made of Debian's packages.
"""

import json
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from spade_index.server.limits import END_SECONDS

from helpers.documents import ROOT
from helpers.podman import BASE, Podman
from helpers.tiny import random_image, write_images
from helpers.waiting import eventually

KEY = "the-key-of-the-tests"
USER = 10001
CONFINED = ["--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"]


@pytest.fixture(scope="session")
def podman() -> Podman:
    """Podman, with the image built."""
    podman = Podman(ROOT / "build" / "container")
    podman.make_base()
    podman.build(ROOT, "spade_index", BASE=f"localhost/{BASE}", CPU_INDEX="")
    return podman


class Service:
    """A running container. `volumes` are the options that mount the galleries and the keys."""

    def __init__(self, podman: Podman, volumes: list[str]) -> None:
        self._podman = podman
        self.volumes = volumes
        self.id = podman("run", "--detach", "--publish", "127.0.0.1::8765", *CONFINED, *volumes, "spade_index").strip()
        address = podman("port", self.id, "8765").strip()
        assert address.startswith("127.0.0.1:")
        self.http = httpx.Client(base_url=f"http://{address}", headers={"X-Api-Key": KEY}, timeout=60)
        eventually(self._ready, 120)

    def _ready(self) -> bool:
        try:
            return self.http.get("/v2/health/ready").is_success
        except httpx.TransportError:
            return False

    def inspected(self, path: str) -> str:
        """Return what podman knows of the container, in the words of its templates."""
        return self._podman("inspect", self.id, "--format", "{{" + path + "}}").strip()

    def inside(self, *command: str) -> str:
        """Run a command in the container; return its output, whether it succeeds or not."""
        return self._podman("exec", self.id, *command, check=False)

    def stop(self) -> None:
        """Send SIGTERM, and SIGKILL when the stated time is over."""
        self._podman("stop", "--time", int(60 + END_SECONDS), self.id)


@pytest.fixture(scope="module")
def folder(podman: Podman, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of galleries, one of them built in a container, and of secrets, as the user of the image may use them."""
    folder = tmp_path_factory.mktemp("mounted")
    (folder / "galleries").mkdir()
    (folder / "secrets").mkdir()
    keys = folder / "secrets" / "keys"
    keys.write_text(f"{KEY}  *  write  # the tests\n")
    keys.chmod(0o400)
    write_images(folder / "good", 20)
    for path in folder.rglob("*"):
        os.chown(path, USER, USER)
    build = ["build", "/good", "/galleries/tiles", "--backbone", "efficientnet-lite0", "--no-tune"]
    mounted = ["--volume", f"{folder / 'galleries'}:/galleries", "--volume", f"{folder / 'good'}:/good:ro"]
    podman("run", "--rm", *CONFINED, *mounted, "spade_index", *build)
    podman("run", "--rm", *CONFINED, *mounted, "spade_index", "calibrate", "/galleries/tiles")
    return folder


@pytest.fixture
def service(podman: Podman, folder: Path) -> Iterator[Service]:
    """A service of these galleries."""
    mounts = {"galleries": "/galleries", "secrets": "/run/secrets:ro"}
    service = Service(podman, [part for name, at in mounts.items() for part in ("--volume", f"{folder / name}:{at}")])
    yield service
    service.http.close()
    podman("rm", "--force", service.id)


def test_the_service_answers_queries_as_a_user_without_rights(service: Service, tmp_path: Path) -> None:
    random_image(3).save(tmp_path / "suspect.png")
    with open(tmp_path / "suspect.png", "rb") as file:
        answer = service.http.post("/v1/galleries/tiles/query", files={"images": file})
    assert answer.status_code == 200, answer.text
    (result,) = answer.json()["results"]
    assert result["neighbours"]
    assert result["anomalous"] in (True, False)
    assert service.inside("id", "-u").strip() == str(USER)
    assert "CapEff:\t0000000000000000" in service.inside("cat", "/proc/1/status")


def test_images_are_added_with_a_root_that_is_read_only(service: Service, tmp_path: Path) -> None:
    assert service.inside("sh", "-c", "touch /opt/spade_index/x /x 2>/dev/null && echo written") == ""
    random_image(4).save(tmp_path / "new.png")
    with open(tmp_path / "new.png", "rb") as file:
        job = service.http.post("/v1/galleries/tiles/images", files={"images": file}).json()
    eventually(lambda: service.http.get(f"/v1/jobs/{job['id']}").json()["state"] == "done", 60)


def test_a_key_is_needed(service: Service) -> None:
    assert service.http.get("/v1/galleries", headers={"X-Api-Key": "another"}).status_code == 401


def test_the_health_check_is_that_of_the_service(podman: Podman, service: Service) -> None:
    podman("healthcheck", "run", service.id)
    assert "/v2/health/ready" in service.inspected("json .Config.Healthcheck.Test")


def test_sigterm_ends_it_within_the_stated_time(service: Service) -> None:
    began = time.monotonic()
    service.stop()
    assert time.monotonic() - began < 60 + END_SECONDS  # the documented time, not a measurement
    assert service.inspected(".State.ExitCode") == "0"


def test_it_is_installed_in_the_versions_of_the_lock(service: Service) -> None:
    pins = dict(re.findall(r"^([\w-]+)==(\S+)", (ROOT / "requirements" / "lock.txt").read_text(), re.MULTILINE))
    listed = json.loads(service.inside("pip", "list", "--format", "json"))
    versions = {re.sub(r"[-_.]+", "-", one["name"]).lower(): one["version"].partition("+")[0] for one in listed}
    assert {"torch", "faiss-cpu", "fastapi", "paho-mqtt"} <= versions.keys()
    assert versions.pop("spade-index")
    assert versions == {name: pins.get(name) for name in versions}


def test_the_image_has_no_keys_and_no_sources(service: Service) -> None:
    assert service.inspected("json .Config.Env").find("KEY") < 0
    assert service.inside("sh", "-c", "ls -d /source /wheel /root/.cache 2>/dev/null") == ""
