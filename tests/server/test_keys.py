"""Tests of API keys: who may read, and who may change."""

import hmac
import os
import re
from base64 import b64encode
from pathlib import Path

import pytest

from spade_index.errors import InputError
from spade_index.server.keys import read_keys

from helpers.cli_runs import refused
from helpers.http_answers import problem
from helpers.serving import Server
from helpers.tiny import png
from helpers.uploads import parts

pytestmark = pytest.mark.usefixtures("decoding_here")


READER, WRITER, ALL = "reader-0123456789", "writer-0123456789", "all-galleries-0123456789"
KEYS = f"{READER} plain,calibrated read; {WRITER} plain write; {ALL} * read"


@pytest.fixture
def locked(serve) -> Server:
    """A service with three keys."""
    return serve(keys=KEYS)


def key(value: str) -> dict[str, dict[str, str]]:
    return {"headers": {"Authorization": f"Bearer {value}"}}


ROUTES = [
    ("GET", "/v1", {}),
    ("GET", "/v1/galleries", {}),
    ("GET", "/v1/galleries/plain", {}),
    ("GET", "/v1/galleries/nothing", {}),
    ("GET", "/v1/galleries/plain/images", {}),
    ("GET", "/v1/galleries/plain/audit", {}),
    ("GET", "/v1/galleries/plain/audit/heat.png?id=003.png", {}),
    ("GET", "/v1/galleries/plain/thumbnail?id=003.png", {}),
    ("POST", "/v1/galleries/plain/query", {"content": png(3)}),
    ("POST", "/v1/galleries/plain/score-map", {"content": png(3)}),
    ("POST", "/v1/galleries/plain/images", {"files": parts(("a.png", png(50)))}),
    ("POST", "/v1/galleries/plain/remove", {"json": {"ids": ["003.png"]}}),
    ("POST", "/v1/galleries/plain/restore", {"json": {"ids": ["003.png"]}}),
    ("POST", "/v1/galleries/plain/reload", {}),
    ("GET", "/v1/galleries/plain/feedback", {}),
    ("POST", "/v1/galleries/plain/feedback", {"files": parts(("a.png", png(50)))}),
    ("DELETE", "/v1/galleries/plain/feedback?id=a.png", {}),
    ("GET", "/v1/galleries/plain/drift", {}),
    ("GET", "/v1/galleries/plain/defects/nothing/picture", {}),
    ("GET", "/v1/galleries/plain/judged/nothing/picture", {}),
    ("POST", "/v1/query", {"content": png(3)}),
    ("GET", "/v1/models", {}),
    ("GET", "/v1/models/plain", {}),
    ("POST", "/v1/models/plain:predict", {"json": {"instances": [{"b64": b64encode(png(3)).decode()}]}}),
    ("GET", "/label-studio/plain/health", {}),
    ("POST", "/label-studio/plain/setup", {"json": {"schema": "<View/>"}}),
    ("POST", "/label-studio/plain/predict", {"json": {"tasks": [], "label_config": "<View/>"}}),
    ("POST", "/label-studio/plain/webhook", {"json": {"action": "ANNOTATION_CREATED"}}),
    ("GET", "/v1/results/nothing", {}),
    ("GET", "/v1/results/nothing/overlay.png", {}),
    ("GET", "/v1/results/nothing/heat.png", {}),
    ("GET", "/v1/results/nothing/grey.png", {}),
    ("GET", "/v1/results/nothing/score_map.npy", {}),
    ("GET", "/v1/results/nothing/match?x=0&y=0", {}),
    ("GET", "/v1/jobs", {}),
    ("GET", "/v1/jobs/nothing", {}),
    ("DELETE", "/v1/jobs/nothing", {}),
    ("POST", "/v1/jobs/nothing/resume", {}),
    ("GET", "/metrics", {}),
]


def test_requests_without_a_known_key_are_refused(locked: Server) -> None:
    for method, path, options in ROUTES:
        for headers in ({}, key("unknown-0123456789")["headers"], {"X-Api-Key": ""}, {"Authorization": READER}):
            answer = locked.http.request(method, path, **options, headers=headers)
            problem(answer, 401)
            assert answer.headers["www-authenticate"].startswith("Bearer")
    assert locked.watch.images == 0


def test_every_documented_route_is_in_the_list(locked: Server) -> None:
    tested = {(method, path.partition("?")[0].replace("nothing", "plain")) for method, path, _ in ROUTES}
    routes = {
        (method.upper(), re.sub(r"\{(gallery|id|model|number)\}", "plain", path))
        for path, methods in locked.http.get("/openapi.json").json()["paths"].items()
        for method in methods
        if path.startswith("/v1")
    }
    assert routes <= tested


def test_a_key_is_read_from_either_header(locked: Server) -> None:
    for headers in (
        {"Authorization": f"Bearer {READER}"},
        {"Authorization": f"bearer {READER}"},
        {"X-Api-Key": READER},
        {"Authorization": "Basic eDp5", "X-Api-Key": READER},
    ):
        assert locked.http.get("/v1/galleries/plain", headers=headers).status_code == 200


def test_a_key_reads_only_its_galleries(locked: Server) -> None:
    listed = locked.http.get("/v1/galleries", **key(READER)).json()["galleries"]
    assert [gallery["name"] for gallery in listed] == ["calibrated", "plain"]
    assert len(locked.http.get("/v1/galleries", **key(ALL)).json()["galleries"]) == 4
    assert locked.http.get("/v1", **key(READER)).json()["galleries"] == 2
    for name in ("other", "nothing"):  # whether it is there, is not told either
        problem(locked.http.get(f"/v1/galleries/{name}", **key(READER)), 403)
        problem(locked.http.post(f"/v1/galleries/{name}/query", content=png(3), **key(READER)), 403)
    assert locked.watch.images == 0


def test_only_a_write_key_changes_a_gallery(locked: Server) -> None:
    at = "/v1/galleries/plain"
    changes = [("remove", {"json": {"ids": ["003.png"]}}), ("images", {"files": parts(("a.png", png(50)))})]
    for path, options in changes:
        for reader in (READER, ALL):
            problem(locked.http.post(f"{at}/{path}", **options, **key(reader)), 403)
        assert locked.http.post(f"{at}/{path}", **options, **key(WRITER)).status_code in (200, 202)
    problem(locked.http.post("/v1/galleries/calibrated/remove", **changes[0][1], **key(WRITER)), 403)
    assert locked.http.get(at, **key(WRITER)).json()["may_write"] is True
    assert locked.http.get(at, **key(READER)).json()["may_write"] is False


def test_results_and_jobs_need_a_key_of_their_gallery(locked: Server) -> None:
    query = locked.http.post("/v1/galleries/other/query", content=png(3), **key(ALL)).json()
    told = query["results"][0]["score_map"]
    for link in (f"/v1/results/{told['id']}", told["overlay"], told["npy"], told["match"] + "?x=1&y=1"):
        assert locked.http.get(link, **key(ALL)).status_code == 200
        problem(locked.http.get(link, **key(READER)), 403)

    files = {"files": parts(("a.png", png(50)))}
    job = locked.http.post("/v1/galleries/plain/images", **files, **key(WRITER)).json()["id"]
    locked.finished(job, **key(WRITER))
    assert locked.http.get(f"/v1/jobs/{job}", **key(READER)).status_code == 200
    problem(locked.http.delete(f"/v1/jobs/{job}", **key(READER)), 403)
    problem(locked.http.post(f"/v1/jobs/{job}/resume", **key(ALL)), 403)


def test_jobs_of_other_galleries_are_not_listed(serve) -> None:
    server = serve(keys=f"{WRITER} plain write; {READER} calibrated read")
    files = {"files": parts(("a.png", png(50)))}
    job = server.http.post("/v1/galleries/plain/images", **files, **key(WRITER)).json()["id"]
    assert len(server.http.get("/v1/jobs", **key(WRITER)).json()["jobs"]) == 1
    assert server.http.get("/v1/jobs", **key(READER)).json()["jobs"] == []
    problem(server.http.get(f"/v1/jobs/{job}", **key(READER)), 403)


def test_health_needs_no_key(locked: Server) -> None:
    assert locked.http.get("/v2/health/live").status_code == 200
    assert locked.http.get("/v2/health/ready").status_code == 200


def test_keys_are_compared_in_constant_time(locked: Server, monkeypatch) -> None:
    compared = []

    monkeypatch.setattr(hmac, "compare_digest", lambda a, b: compare_digest(a, b, compared))
    for value in (READER, ALL, "x", "unknown-0123456789"):
        locked.http.get("/v1", **key(value))
    assert compared == [(32, 32)] * 3 * 4  # digests of one length, each of the three keys, whichever fits


def compare_digest(a: bytes, b: bytes, compared: list) -> bool:
    compared.append((len(a), len(b)))
    return a == b


def test_keys_are_read_from_a_private_file(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"# who may\n\n{READER}  plain,calibrated read  # the screen\n{WRITER} * write\n")
    file.chmod(0o600)
    keys = read_keys(file, {})
    assert not keys.of({"x-api-key": READER}).allows("other", write=False)
    assert keys.of({"x-api-key": READER}).allows("plain", write=False)
    assert not keys.of({"x-api-key": READER}).allows("plain", write=True)
    assert keys.of({"x-api-key": WRITER}).allows("anything", write=True)
    assert keys.of({"x-api-key": READER}).name == "the screen"
    assert keys.of({"x-api-key": WRITER}).name.startswith("key ")


@pytest.mark.parametrize("mode", [0o604, 0o606, 0o602, 0o644, 0o666, 0o777])
def test_a_key_file_accessible_to_others_is_refused(tmp_path: Path, mode: int) -> None:
    file = tmp_path / "keys"
    file.write_text(f"{READER} * read\n")
    file.chmod(mode)
    with pytest.raises(InputError, match="chmod"):
        read_keys(file, {})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no key"),
        ("# nothing\n", "no key"),
        (f"{READER} *", "line 1"),
        (f"\n{READER} * admin", "line 2"),
        (f"{READER} plain, calibrated read", "line 1"),
        ("short * read", "16"),
        ("ünïcödé-0123456789 * read", "ASCII"),
    ],
)
def test_an_invalid_line_is_reported_without_its_key(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "keys"
    file.write_text(text)
    file.chmod(0o600)
    with pytest.raises(InputError, match=said) as error:
        read_keys(file, {})
    assert READER not in str(error.value)


def test_keys_are_read_from_the_environment() -> None:
    keys = read_keys(None, {"SPADE_INDEX_API_KEYS": f"{READER} plain read;{WRITER} * write"})
    assert keys.of({"authorization": f"Bearer {WRITER}"}).writes
    assert not read_keys(None, {})
    assert not read_keys(None, {"SPADE_INDEX_API_KEYS": ""})
    with pytest.raises(InputError, match="SPADE_INDEX_API_KEYS"):
        read_keys(None, {"SPADE_INDEX_API_KEYS": READER})


def test_a_missing_or_binary_key_file_is_reported(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="missing"):
        read_keys(tmp_path / "missing", {})
    (tmp_path / "bytes").write_bytes(os.urandom(100) + b"\xff")
    (tmp_path / "bytes").chmod(0o600)
    with pytest.raises(InputError, match="bytes"):
        read_keys(tmp_path / "bytes", {})


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.7", "example.org", ""])
def test_a_public_address_requires_keys(root: Path, host: str, monkeypatch) -> None:
    monkeypatch.delenv("SPADE_INDEX_API_KEYS", raising=False)
    line = refused("serve", root, "--host", host, "--port", "0")
    assert "--api-keys" in line


def test_an_unusable_key_file_prevents_the_start(root: Path, tmp_path: Path) -> None:
    assert "missing" in refused("serve", root, "--api-keys", tmp_path / "missing")
    (tmp_path / "keys").write_text(f"{READER} * read\n")
    (tmp_path / "keys").chmod(0o644)
    assert "chmod" in refused("serve", root, "--api-keys", tmp_path / "keys")


def test_a_missing_root_prevents_the_start(tmp_path: Path) -> None:
    assert "nowhere" in refused("serve", tmp_path / "nowhere")
