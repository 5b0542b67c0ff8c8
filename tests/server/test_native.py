"""Tests of the native API, as somebody's front end uses it."""

import io

import numpy as np
import pytest
from PIL import Image

from helpers.http_answers import problem
from helpers.serving import Server
from helpers.tiny import INPUT, png, random_image
from helpers.uploads import odd, parts

pytestmark = pytest.mark.usefixtures("decoding_here")
MAPS = ("always", "auto", "never")


def test_the_service_describes_itself(shared_server: Server) -> None:
    told = shared_server.http.get("/v1").json()
    assert told["service"] == "spade_index"
    assert told["galleries"] == 4
    assert told["limits"]["body_bytes"] == shared_server.settings.body_bytes
    assert told["limits"]["images"] == shared_server.settings.request_images


def test_galleries_are_listed(shared_server: Server) -> None:
    told = shared_server.http.get("/v1/galleries").json()["galleries"]
    assert [gallery["name"] for gallery in told] == ["calibrated", "cropped", "other", "plain"]
    assert [gallery["calibrated"] for gallery in told] == [True, False, False, False]
    assert {gallery["images"] for gallery in told} == {12}
    assert {gallery["error"] for gallery in told} == {None}


def test_a_gallery_is_described(shared_server: Server) -> None:
    told = shared_server.http.get("/v1/galleries/calibrated").json()
    assert told["name"] == "calibrated"
    assert told["images"] == 12
    assert told["input_size"] == [INPUT, INPUT]
    assert told["snapshot"] == told["snapshots"][-1]["snapshot"]
    assert set(told["thresholds"]) == {"pooled", "map", "both"}
    assert told["index"]["nlist"] >= 0
    assert told["may_write"] is True
    assert told["removed_images"] == 0


def test_a_damaged_gallery_is_listed_with_its_error(serve, root) -> None:
    (root / "plain" / "catalog.sqlite").write_bytes(b"no catalog")
    server = serve()
    told = {gallery["name"]: gallery for gallery in server.http.get("/v1/galleries").json()["galleries"]}
    assert told["plain"]["images"] is None
    assert "plain" in told["plain"]["error"]
    assert str(root) not in told["plain"]["error"]
    assert told["other"]["error"] is None
    assert server.query("other", png(1))["neighbours"][0]["id"] == "001.png"
    problem(server.http.post("/v1/galleries/plain/query", content=png(1)), 500)


def test_a_root_that_is_a_gallery_is_served_by_its_name(serve, root) -> None:
    server = serve(root=root / "plain")
    assert [g["name"] for g in server.http.get("/v1/galleries").json()["galleries"]] == ["plain"]
    assert server.query("plain", png(1))["neighbours"][0]["id"] == "001.png"
    told = server.http.post("/v1/galleries/plain/images", files=parts(("new.png", png(50)))).json()
    server.finished(told["id"])
    assert server.http.get("/v1/galleries/plain").json()["images"] == 13


def test_an_image_is_sent_as_the_body_or_in_a_form(shared_server: Server) -> None:
    http, at = shared_server.http, "/v1/galleries/plain/query"
    raw = http.post(at, content=png(3), headers={"Content-Type": "image/png"}, params={"name": "a.png"}).json()
    octets = http.post(at, content=png(3), headers={"Content-Type": "application/octet-stream"}).json()
    form = http.post(at, files=parts(("a.png", png(3)))).json()
    assert raw["gallery"] == form["gallery"] == "plain"
    assert [raw["results"][0]["image"], octets["results"][0]["image"]] == ["a.png", None]
    assert form["results"][0]["image"] == "a.png"
    for told in (octets, form):
        for field in ("scores", "neighbours", "evidence", "width", "height"):
            assert told["results"][0][field] == raw["results"][0][field]
    assert (raw["results"][0]["width"], raw["results"][0]["height"]) == (40, 36)


def test_results_keep_the_order_of_the_images(shared_server: Server) -> None:
    files = [(f"{seed}.png", png(seed)) for seed in (7, 3, 11, 3)]
    told = shared_server.http.post("/v1/galleries/plain/query", files=parts(*files)).json()
    assert [result["image"] for result in told["results"]] == [name for name, _ in files]
    assert [result["neighbours"][0]["id"] for result in told["results"]] == ["007.png", "003.png", "011.png", "003.png"]
    assert told["snapshot"] == told["results"][0]["snapshot"]


def test_maps_selects_the_images_that_get_a_score_map(shared_server: Server) -> None:
    images = (png(3), odd())
    found = {
        maps: [shared_server.query("calibrated", data, maps=maps)["score_map"] is not None for data in images]
        for maps in MAPS
    }
    assert found == {"always": [True, True], "never": [False, False], "auto": [False, True]}


def test_maps_defaults_to_auto_with_a_threshold_else_to_always(shared_server: Server) -> None:
    assert shared_server.query("calibrated", png(3))["score_map"] is None
    assert shared_server.query("calibrated", odd())["score_map"] is not None
    assert shared_server.query("plain", png(3))["score_map"] is not None


def test_auto_needs_a_threshold(shared_server: Server) -> None:
    at = "/v1/galleries/plain/query"
    told = problem(shared_server.http.post(at, content=png(3), params={"maps": "auto"}), 422)
    assert "threshold" in told["detail"]
    assert shared_server.query("plain", odd(), maps="auto", threshold=0.5)["score_map"] is not None
    assert shared_server.query("plain", odd(), maps="auto", threshold=1e9)["score_map"] is None


def test_a_threshold_decides_the_verdict(shared_server: Server) -> None:
    kept = shared_server.query("plain", png(3))
    assert (kept["threshold"], kept["anomalous"]) == (None, None)
    for threshold, anomalous in ((0.0, True), (1e9, False)):
        told = shared_server.query("plain", odd(), threshold=threshold)
        assert (told["threshold"], told["anomalous"]) == (threshold, anomalous)
    calibrated = shared_server.http.get("/v1/galleries/calibrated").json()["thresholds"]
    told = shared_server.query("calibrated", odd())
    assert told["threshold"] == calibrated[told["kind"]]
    assert told["anomalous"] == (told["score"] > told["threshold"])


def test_the_score_follows_from_its_parts(shared_server: Server) -> None:
    told = shared_server.query("plain", odd())
    distances = [neighbour["distance"] for neighbour in told["neighbours"]]
    assert distances == sorted(distances)
    assert told["scores"]["pooled"] == pytest.approx(np.mean(distances))
    assert told["scores"]["both"] == told["scores"]["pooled"] * told["scores"]["map"]
    assert told["score"] == told["scores"][told["kind"]]
    assert told["score_map"]["max"] == told["scores"]["map"]


def score_map_of(server: Server, told: dict) -> np.ndarray:
    answer = server.http.get(told["score_map"]["npy"])
    assert answer.headers["content-type"] == "application/x-npy"
    return np.load(io.BytesIO(answer.content), allow_pickle=False)


def picture(server: Server, link: str, **parameters: object) -> Image.Image:
    answer = server.http.get(link, params=parameters)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "image/png"
    return Image.open(io.BytesIO(answer.content))


def test_a_score_map_is_served_as_values_grey_and_overlay(shared_server: Server) -> None:
    told = shared_server.query("plain", odd())
    values = score_map_of(shared_server, told)
    assert values.dtype == np.float32
    assert values.shape == (INPUT, INPUT)
    assert float(values.max()) == told["score_map"]["max"]

    low, high = told["score_map"]["limits"]
    grey = picture(shared_server, told["score_map"]["grey"])
    assert (grey.mode, grey.size) == ("L", (INPUT, INPUT))
    expected = np.rint(np.clip((values - low) / (high - low), 0, 1) * 255)
    assert np.abs(np.asarray(grey).astype(int) - expected).max() <= 1

    overlay = picture(shared_server, told["score_map"]["overlay"])
    assert (overlay.mode, overlay.size) == ("RGB", (40, 36))
    bare = picture(shared_server, told["score_map"]["overlay"], opacity=0)
    assert np.array_equal(np.asarray(bare), np.asarray(Image.open(io.BytesIO(odd()))))
    assert not np.array_equal(np.asarray(overlay), np.asarray(bare))

    heat = picture(shared_server, told["score_map"]["heat"])
    assert (heat.mode, heat.size) == ("RGBA", (40, 36))
    assert np.asarray(heat)[..., 3].max() > 0


def test_the_overlay_of_a_large_image_is_reduced(shared_server: Server) -> None:
    buffer = io.BytesIO()
    random_image(5, (3000, 40)).save(buffer, "PNG")
    told = shared_server.query("plain", buffer.getvalue(), maps="always")
    assert (told["width"], told["height"]) == (3000, 40)
    assert picture(shared_server, told["score_map"]["overlay"]).size == (2048, 27)
    assert picture(shared_server, told["score_map"]["heat"]).size == (2048, 27)


def test_a_kept_result_can_be_read_again(shared_server: Server) -> None:
    told = shared_server.query("plain", odd())
    assert shared_server.http.get(f"/v1/results/{told['score_map']['id']}").json() == told


def test_results_expire_by_memory_and_by_age(serve) -> None:
    few = serve(results_bytes=50_000)
    first = few.query("plain", odd())["score_map"]
    assert few.http.get(first["npy"]).status_code == 200
    for seed in range(20):
        last = few.query("plain", png(seed))["score_map"]
    problem(few.http.get(first["npy"]), 404, "id")
    assert few.http.get(last["npy"]).status_code == 200
    assert few.metric("spade_index_results_bytes") <= 50_000

    old = serve(results_seconds=0.05).query("plain", odd())["score_map"]
    problem(few.http.get(old["npy"]), 404, "id")


@pytest.mark.parametrize("gallery", ["plain", "cropped"])
def test_every_pixel_of_the_input_has_a_match(shared_server: Server, gallery: str) -> None:
    told = shared_server.query(gallery, png(3))  # which is in the gallery: each place is matched with itself
    values = score_map_of(shared_server, told)
    seen = 0
    for x, y in [(0, 0), (20, 18), (39, 35), (5, 30), (12, 12), (35, 0)]:
        answer = shared_server.http.get(told["score_map"]["match"], params={"x": x, "y": y})
        if gallery == "cropped" and answer.status_code == 422:
            assert "backbone" in problem(answer, 422, "x")["detail"]
            assert not (6 <= x < 34 and 4 <= y < 32), "the middle is seen"
            continue
        seen += 1
        match = answer.json()
        assert match["pixel"] == [x, y]
        assert match["neighbour"] == "003.png"
        assert match["neighbour_size"] == [40, 36]
        assert match["neighbour_box"] == [0, 0, 40, 36]
        assert np.abs(np.subtract(match["neighbour_pixel"], [x, y])).max() <= 4  # of the same cell
        assert match["score"] in values
        assert match["distance"] >= 0
        thumbnail = shared_server.http.get(match["thumbnail"])
        assert Image.open(io.BytesIO(thumbnail.content)).format == "JPEG"
    assert seen >= 2


def test_a_pixel_outside_of_the_image_has_no_match(shared_server: Server) -> None:
    at = shared_server.query("plain", png(3))["score_map"]["match"]
    for x, y in [(40, 0), (0, 36), (-1, 0), (10**9, 10**9), (10**400, 0)]:
        problem(shared_server.http.get(at, params={"x": x, "y": y}), 422)
    problem(shared_server.http.get(at, params={"x": "a", "y": 0}), 422, "x")
    problem(shared_server.http.get(at, params={"x": 0}), 422, "y")


def test_evidence_is_the_match_of_the_worst_pixel(shared_server: Server) -> None:
    told = shared_server.query("plain", odd())
    x, y = told["evidence"]["pixel"]
    match = shared_server.http.get(told["score_map"]["match"], params={"x": x, "y": y}).json()
    assert match["score"] == told["score_map"]["max"]
    assert {field: match[field] for field in told["evidence"]} == told["evidence"]


def test_a_score_map_is_returned_directly(shared_server: Server) -> None:
    told = shared_server.query("plain", odd())
    at = "/v1/galleries/plain/score-map"
    for form, kept in (("overlay", "overlay"), ("heat", "heat"), ("grey", "grey"), ("npy", "npy")):
        answer = shared_server.http.post(at, content=odd(), params={"format": form})
        assert answer.content == shared_server.http.get(told["score_map"][kept]).content
        assert float(answer.headers["x-score"]) == told["score"]
        assert int(answer.headers["x-snapshot"]) == told["snapshot"]
        assert "x-anomalous" not in answer.headers
    by_form = shared_server.http.post(at, files=parts(("a.png", odd())), params={"format": "npy"})
    assert by_form.content == answer.content
    suspicious = shared_server.http.post("/v1/galleries/calibrated/score-map", content=odd())
    assert suspicious.headers["x-anomalous"] in ("true", "false")


def test_thumbnails_are_small_jpegs(shared_server: Server) -> None:
    answer = shared_server.http.get("/v1/galleries/plain/thumbnail", params={"id": "003.png"})
    assert answer.headers["content-type"] == "image/jpeg"
    assert Image.open(io.BytesIO(answer.content)).size == (40, 36)
    unknown = shared_server.http.get("/v1/galleries/plain/thumbnail", params={"id": "../catalog.sqlite"})
    problem(unknown, 404)


def test_images_are_listed_page_by_page(shared_server: Server) -> None:
    seen, after, pages = [], -1, 0
    while after is not None:
        page = shared_server.http.get("/v1/galleries/plain/images", params={"after": after, "limit": 5}).json()
        seen += [image["id"] for image in page["images"]]
        after, pages = page["next"], pages + 1
    assert seen == [f"{number:03d}.png" for number in range(12)]
    assert pages == 3
    image = page["images"][0]
    assert (image["width"], image["height"]) == (40, 36)
    exact = shared_server.http.get("/v1/galleries/plain/images", params={"limit": 12}).json()
    assert exact["next"] is None


def test_exif_orientation_is_applied(shared_server: Server) -> None:
    turned = random_image(3).transpose(Image.Transpose.ROTATE_90)  # a viewer turns it back by the EXIF tag
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    turned.save(buffer, "PNG", exif=exif)
    told = shared_server.query("plain", buffer.getvalue())
    assert (told["width"], told["height"]) == (40, 36)
    assert told["neighbours"][0] == {"id": "003.png", "distance": 0.0}
    assert picture(shared_server, told["score_map"]["overlay"]).size == (40, 36)
