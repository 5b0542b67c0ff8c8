"""The page at /docs: the OpenAPI document for people, with a curl command for every route.

It works without a network and without a script. FastAPI's own page loads Swagger UI from a CDN, and begins with an
inline script, which the Content-Security-Policy of the service forbids. The commands at the top of each section set the
variables that its other commands use (ids of a result, a job or an image).
"""

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request, Response
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape
from starlette.responses import HTMLResponse

from .service import service_of

FOLDER = Path(__file__).parent / "templates"
TEMPLATES = Environment(
    loader=FileSystemLoader(FOLDER), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
)
Json = Mapping[str, Any]

SANE_HOST = re.compile(r"[A-Za-z0-9._:\[\]-]+")
PLACES = {
    "/{gallery}": "/$GALLERY",
    "/{model}:": "/${GALLERY}:",
    "/{model}": "/$GALLERY",
    "/{version}": "/$SNAPSHOT",
    "/defects/{number}": "/defects/1",
    "/judged/{id}": "/judged/1",
    "/results/{id}": "/results/$RESULT",
    "/jobs/{id}": "/jobs/$JOB",
}
QUERY = {"id": '-G --data-urlencode "id=$ID"', "x": "-G -d x=10", "y": "-d y=20"}  # required parameters
IDS = r"""-H 'Content-Type: application/json' -d "{\"ids\": [\"$ID\"]}" """.strip()
IMAGE = """printf '{"inputs": [{"name": "image", "datatype": "BYTES", "shape": [1], "data": ["%s"]}]}' """
INSTANCE = """printf '{"instances": [{"image_bytes": {"b64": "%s"}}]}' """
STDIN = "-H 'Content-Type: application/json' -d @-"
BODIES = {"remove": IDS, "restore": IDS, "infer": STDIN, "predict": STDIN}
BASE64 = """"$(base64 < "$IMAGE" | tr -d '\\n')" |\n  """
BEFORE = {"infer": IMAGE + BASE64, "predict": INSTANCE + BASE64}
SECTIONS: dict[
    str, tuple[str, str, list[str | int], str]
] = {  # commands at the top of a section, by its tag: what the others there need
    "images": ("ID", "/v1/galleries/$GALLERY/images?limit=1", ["images", 0, "id"], ""),
    "results": ("RESULT", "/v1/galleries/$GALLERY/query?maps=always", ["results", 0, "score_map", "id"], "images"),
    "jobs": ("JOB", "/v1/galleries/$GALLERY/images", ["id"], "images"),
    "open inference protocol": ("SNAPSHOT", "/v1/galleries/$GALLERY", ["snapshot"], ""),
}

router = APIRouter(include_in_schema=False)


@router.get("/docs", response_class=HTMLResponse)
def docs(request: Request) -> str:
    """Return the page that describes all routes."""
    key = ' -H "Authorization: Bearer $KEY"' if service_of(request).keys else ""
    host = request.headers.get("host", "")
    secure = request.headers.get("x-forwarded-proto", request.url.scheme) == "https"
    url = f"{'https' if secure else 'http'}://{host if SANE_HOST.fullmatch(host) else 'localhost:8765'}"
    return TEMPLATES.get_template("docs.html").render(url=url, key=bool(key), **described(request.app.openapi(), key))


@router.get("/docs.css")
def style() -> Response:
    """Return the style sheet of the page."""
    return Response((FOLDER / "docs.css").read_bytes(), media_type="text/css")


def described(openapi: Json, key: str = "") -> dict[str, Any]:
    """Convert an OpenAPI document for the template; `key` is the option that gives curl an API key."""
    sections: dict[str, list[dict[str, Any]]] = {}
    for path, methods in openapi["paths"].items():
        for method, operation in methods.items():
            (tag,) = operation["tags"]
            sections.setdefault(tag, []).append(_operation(path, method, operation, key))
    schemas = openapi["components"]["schemas"]
    return {
        "info": openapi["info"],
        "sections": [{"tag": tag, "operations": found, "before": _before(tag, key)} for tag, found in sections.items()],
        "schemas": [_schema(name, schema) for name, schema in schemas.items() if "properties" in schema],
    }


def _operation(path: str, method: str, operation: Json, key: str) -> dict[str, Any]:
    answers = operation["responses"].items()
    return {
        "id": re.sub(r"\W+", "-", f"{method}{path}").strip("-"),
        "method": method.upper(),
        "path": path,
        "text": _text(operation["description"]),
        "parameters": [_parameter(one) for one in operation.get("parameters", ())],
        "bodies": _contents(operation.get("requestBody", {}).get("content", {})),
        "answers": [(status, _contents(a.get("content", {}))) for status, a in answers if status.startswith("2")],
        "curl": _curl(path, method, operation, key),
    }


def _parameter(parameter: Json) -> dict[str, Any]:
    schema = parameter["schema"]
    return {
        "name": parameter["name"],
        "where": parameter["in"],
        "type": _type(schema),
        "default": "" if schema.get("default") in (None, []) else str(schema["default"]).lower(),
        "required": parameter.get("required", False),
        "text": _text(parameter.get("description", "")),
    }


def _contents(content: Json) -> list[tuple[str, Markup]]:
    """Return media types and their schemas."""
    return [(media_type, _type(described.get("schema", {}))) for media_type, described in content.items()]


def _schema(name: str, schema: Json) -> dict[str, Any]:
    fields = [(field, _type(of), of.get("description", "")) for field, of in schema["properties"].items()]
    return {"name": name, "text": _text(schema.get("description", "")), "fields": fields}


def _type(schema: Json) -> Markup:
    """Describe the type of a value in words, with links to the schemas below."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return Markup('<a href="#{0}">{0}</a>').format(name)
    if "anyOf" in schema:
        return Markup(" or ").join(_type(one) for one in schema["anyOf"])
    if "const" in schema or "enum" in schema:
        values = schema.get("enum") or [schema["const"]]
        return Markup(" | ").join(Markup("<code>{}</code>").format(value) for value in values)
    if schema.get("format") == "binary":
        return Markup("file")
    kind = schema.get("type", "any")
    if kind == "array":
        if "prefixItems" in schema:
            return Markup("[{}]").format(Markup(", ").join(_type(one) for one in schema["prefixItems"]))
        return Markup("list of {}").format(_type(schema["items"]))
    if kind == "object" and "properties" in schema:
        fields = (Markup("<code>{}</code>: {}").format(name, _type(of)) for name, of in schema["properties"].items())
        return Markup(", ").join(fields)
    if kind == "object" and isinstance(schema.get("additionalProperties"), dict):
        return Markup("object of {}").format(_type(schema["additionalProperties"]))
    return escape(kind) + _bounds(schema)


def _bounds(schema: Json) -> str:
    words = {"minimum": "at least", "maximum": "at most", "maxLength": "length at most"}
    found = [f"{word} {schema[name]}" for name, word in words.items() if abs(schema.get(name, 2**62)) < 2**62]
    return f" ({', '.join(found)})" if found else ""


def _curl(path: str, method: str, operation: Json, key: str) -> str:
    """Return a command that runs as written, after the commands at the top of the page."""
    name = path.rpartition("/")[2].rpartition(":")[2]
    required = [one["name"] for one in operation.get("parameters", ()) if one["in"] == "query" and one.get("required")]
    options = [QUERY[parameter] for parameter in required]
    content = operation.get("requestBody", {}).get("content", {})
    if "multipart/form-data" in content:
        options.append('-F "images=@$IMAGE"')
    elif name in BODIES:
        options.append(BODIES[name])
    elif method != "get":
        options.append(f"-X {method.upper()}")
    if file := _file(name, operation):
        options.append(f"-o {file}")
    return BEFORE.get(name, "") + _command(path, options, key)


def _file(name: str, operation: Json) -> str:
    """Return the name under which to save the answer of a route, if it is a file."""
    suffixes = {"image/png": ".png", "image/jpeg": ".jpg", "application/x-npy": ".npy"}
    for answer in operation["responses"].values():
        for media_type in answer.get("content", {}):
            if media_type in suffixes:
                return name if "." in name else name + suffixes[media_type]
    return ""


def _command(path: str, options: Iterable[str], key: str) -> str:
    for place, value in PLACES.items():
        path = path.replace(place, value)
    return " ".join([f'curl -sS{key} "$URL{path}"', *options])


def _before(tag: str, key: str) -> str:
    if tag not in SECTIONS:
        return ""
    variable, path, where, file = SECTIONS[tag]
    command = _command(path, [f'-F "{file}=@$IMAGE"'] if file else [], key)
    value = "json.load(sys.stdin)" + "".join(f"[{json.dumps(part)}]" for part in where)
    return f"{variable}=$({command} |\n  python3 -c 'import json, sys; print({value})')"


def _text(text: str) -> Markup:
    """Convert the Markdown of docstrings."""
    return Markup(re.sub("`([^`]*)`", r"<code>\1</code>", str(escape(text))))
