"""Tests of the page at /docs: it is complete, plain, and its commands work."""

import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from helpers.commands import photographs, run
from helpers.serving import Server

KEY = "a-key-that-may-write"


class Page(HTMLParser):
    """Tags, links, headings and commands of the page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.attributes: set[str] = set()
        self.headings: list[str] = []
        self.commands: list[tuple[str, str]] = []  # of which kind: before others, or curl for a route
        self._into: list[str] | None = None
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """A tag begins."""
        of = {name: value or "" for name, value in attrs}
        self.tags.append(tag)
        self.attributes |= of.keys()
        self.ids += [of["id"]] if "id" in of else []
        self.links += [of[name] for name in ("href", "src") if name in of]
        if tag in ("h3", "pre"):
            self._kind, self._into = of.get("class", tag), []

    def handle_data(self, data: str) -> None:
        """Text."""
        if self._into is not None:
            self._into.append(data)

    def handle_endtag(self, tag: str) -> None:
        """A tag ends."""
        if tag in ("h3", "pre") and self._into is not None:
            text, self._into = "".join(self._into), None
            if self._kind == "h3":
                self.headings.append(text)
            elif self._kind != "pre":
                self.commands.append((self._kind, text))


@pytest.fixture
def tiles(root: Path) -> Path:
    """A root with the gallery that the commands are about."""
    shutil.copytree(root / "calibrated", root / "tiles")
    return root


def test_every_route_has_a_command(shared_server: Server) -> None:
    paths = shared_server.http.get("/openapi.json").json()["paths"]
    routes = [f"{method.upper()} {path}" for path, methods in paths.items() for method in methods]
    page = Page(shared_server.http.get("/docs").text)
    assert len(routes) > 30
    assert set(routes) <= set(page.headings)
    assert len([text for kind, text in page.commands if kind == "curl"]) == len(routes)


def test_every_route_is_described(shared_server: Server) -> None:
    described = shared_server.http.get("/openapi.json").json()["paths"]
    for path, methods in described.items():
        for method, operation in methods.items():
            assert operation["description"], (method, path)
            assert all(one["schema"] for one in operation.get("parameters", [])), (method, path)


def test_the_page_has_no_script_and_loads_nothing_external(shared_server: Server) -> None:
    answer = shared_server.http.get("/docs")
    page = Page(answer.text)
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert not {"script", "style", "img", "iframe"} & set(page.tags)
    assert not [name for name in page.attributes if name == "style" or name.startswith("on")]
    assert len(page.ids) == len(set(page.ids))
    for link in page.links:
        assert link.removeprefix("#") in page.ids if link.startswith("#") else "/" not in link
    for file, media_type in (("docs.css", "text/css"), ("openapi.json", "application/json"), ("metrics", "text/plain")):
        assert file in page.links
        assert shared_server.http.get(f"/{file}").headers["content-type"].startswith(media_type)
    assert "url(" not in shared_server.http.get("/docs.css").text


@pytest.mark.parametrize("keys", ["", f"{KEY} * write"])
def test_every_command_works(serve: Callable[..., Server], tiles: Path, tmp_path: Path, keys: str) -> None:
    server = serve(keys=keys)
    page = Page(server.http.get("/docs").text)
    assert ("Bearer" in page.commands[-1][1]) == bool(keys)
    commands = [text.replace("KEY=...", f"KEY={KEY}") for _, text in page.commands]
    for command, (status, output) in zip(commands, run(commands, photographs(tmp_path)), strict=True):
        if command.endswith('/resume" -X POST'):  # of a job that was not interrupted
            assert status == 22, output
            assert "only an interrupted one can be resumed" in output
        elif "/feedback" in command and command.endswith("-X DELETE"):  # of an image that no feedback added
            assert status == 22, output
            assert "no feedback about an image" in output
        elif "/defects/1/" in command or "/judged/1/" in command:  # the gallery knows no defects; nobody previewed
            assert status == 22, output
            assert "404" in output
        else:
            assert status == 0, (command, output)
    assert (tmp_path / "overlay.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "score_map.npy").read_bytes().startswith(b"\x93NUMPY")


def test_commands_use_the_host_of_the_request(shared_server: Server) -> None:
    host = f"localhost:{shared_server.port}"
    for headers, url in (({"Host": host}, f"http://{host}"), ({"X-Forwarded-Proto": "https"}, "https://127.0.0.1")):
        page = Page(shared_server.http.get("/docs", headers=headers).text)
        assert re.match(rf"URL={re.escape(url)}", page.commands[0][1])
