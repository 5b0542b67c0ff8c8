"""Read the labeling config of a project: which of its tags predictions are for, and where a task names its image."""

from dataclasses import dataclass, field
from xml.parsers import expat

from ..limits import CONFIG_BYTES, NAME_LENGTH

NORMAL, ANOMALOUS = "Normal", "Anomalous"  # choices, in any capitals
REGION_TAGS = ("brushlabels", "polygonlabels")
TAGS = ("image", "choices", *REGION_TAGS)
VALUES = ("choice", "label")
WANTED = f"<Choices> with {NORMAL} and {ANOMALOUS}, <BrushLabels> or <PolygonLabels> for an <Image>"


class ConfigError(ValueError):
    """A labeling config that predictions cannot be made for, in one line."""


@dataclass(frozen=True)
class RegionTag:
    """A tag that regions are drawn with, and the label that they get: its first."""

    name: str
    label: str


@dataclass(frozen=True)
class ChoiceTag:
    """A tag that says whether an image is normal, and its two answers as results state them."""

    name: str
    normal: str
    anomalous: str


@dataclass(frozen=True)
class Controls:
    """The tags for one image that predictions are for."""

    image: str  # the name of its tag
    key: str  # of a task's data that names its file
    choice: ChoiceTag | None
    brush: RegionTag | None
    polygon: RegionTag | None


@dataclass
class _Tag:
    kind: str
    attributes: dict[str, str]
    values: dict[str, str] = field(default_factory=dict)  # what labels and choices are called, and what results state


def controls_of(config: str) -> Controls:
    """Return the tags of a labeling config that predictions are for. Raises ConfigError."""
    tags = _tags(config)
    for image in tags:
        key = image.attributes.get("value", "")
        if image.kind == "image" and key.startswith("$"):
            name = image.attributes.get("name", "")
            of = [tag for tag in tags if tag.attributes.get("toName") == name and "name" in tag.attributes]
            choice, brush, polygon = _choice(of), _region(of, "brushlabels"), _region(of, "polygonlabels")
            if choice or brush or polygon:
                return Controls(name, key[1:], choice, brush, polygon)
    raise ConfigError(f"the labeling config has nothing to predict: it needs {WANTED}")


def _tags(config: str) -> list[_Tag]:
    """Return the tags that matter, in order. Raises ConfigError.

    There is no document type, so no entity is declared that could name a file or grow.
    """
    if len(config) > CONFIG_BYTES:
        raise ConfigError(f"the labeling config has more than {CONFIG_BYTES:,} characters")
    found: list[_Tag] = []
    within: list[_Tag] = []

    def refuse(*declared: object) -> None:
        raise ConfigError("the labeling config has a document type, which is not read")

    def start(name: str, attributes: dict[str, str]) -> None:
        kind = name.lower()
        if kind in (*TAGS, *VALUES) and max(map(len, attributes.values()), default=0) > NAME_LENGTH:
            raise ConfigError(f"an attribute of <{name}> has more than {NAME_LENGTH:,} characters")
        if kind in TAGS:
            found.append(_Tag(kind, attributes))
            within.append(found[-1])
        elif kind in VALUES and within:
            value = attributes.get("value", "")
            within[-1].values[value] = attributes.get("alias") or value

    def end(name: str) -> None:
        if name.lower() in TAGS:
            within.pop()

    parser = expat.ParserCreate()
    parser.StartDoctypeDeclHandler = refuse
    parser.StartElementHandler, parser.EndElementHandler = start, end
    try:
        parser.Parse(config, True)
    except expat.ExpatError as error:
        raise ConfigError(f"the labeling config is not XML ({error})") from error
    return found


def _choice(tags: list[_Tag]) -> ChoiceTag | None:
    for tag in tags:
        answers = {value.strip().casefold(): stated for value, stated in tag.values.items()}
        of_image = tag.kind == "choices" and tag.attributes.get("perRegion") != "true"
        if of_image and {"normal", "anomalous"} <= answers.keys():
            return ChoiceTag(tag.attributes["name"], answers["normal"], answers["anomalous"])
    return None


def _region(tags: list[_Tag], kind: str) -> RegionTag | None:
    for tag in tags:
        if tag.kind == kind and tag.values:
            return RegionTag(tag.attributes["name"], next(iter(tag.values.values())))
    return None
