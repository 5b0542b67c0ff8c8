"""Examples side by side in one picture, for a README or a talk."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from .example import HEAT_MAP, IMAGE, MATCH, Example, columns_of, pictures_of
from .files import encode, write_whole
from .text import text_of


def montage(examples: Sequence[Example], path: str | Path, edge: int = 220) -> None:
    """Write a PNG with a row of pictures for each example: image, heat map, ground truth, nearest normal image.

    Args:
        examples: at least one.
        path: of the picture; missing folders are made.
        edge: of one picture, in pixels.

    Raises:
        OSError: the file cannot be written.
    """
    gap, label, head = 12, 24, 30
    columns = columns_of(examples)
    size = (gap + len(columns) * (edge + gap), head + len(examples) * (edge + label + gap))
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    for column, name in enumerate(columns):
        draw.text((gap + column * (edge + gap), 7), name, fill="#1b1f24", font=ImageFont.load_default(15))
    for row, example in enumerate(examples):
        pictures = pictures_of(example, edge)
        captions = {IMAGE: example.kind, HEAT_MAP: f"score {text_of(example.score)}", MATCH: example.match_id or ""}
        for column, name in enumerate(columns):
            picture, caption = pictures[name], captions.get(name, "")
            left, top = gap + column * (edge + gap), head + row * (edge + label + gap)
            draw.rectangle((left, top, left + edge - 1, top + edge - 1), fill="#f0f1f3")
            if picture is not None:
                sheet.paste(picture, (left + (edge - picture.width) // 2, top + (edge - picture.height) // 2))
            # Cut at the start: the end of a long id tells more.
            text = caption if len(caption) <= edge // 7 else "…" + caption[1 - edge // 7 :]
            draw.text((left, top + edge + 3), text, fill="#57606a", font=ImageFont.load_default(13))
    write_whole(Path(path), encode(sheet, "PNG"))
