"""`spade-index info`: describe a gallery."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .cache_options import CacheOptions
from .options import any_gallery_argument, takes
from .strict import strict_json

if TYPE_CHECKING:  # it takes long to import
    from spade_index.gallery.location import Location


@click.command()
@any_gallery_argument
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
@takes("cache", CacheOptions)
def info(gallery: "Path | Location", as_json: bool, cache: CacheOptions) -> None:
    """Describe GALLERY: images, settings, index, thresholds, snapshots."""
    from spade_index.method.tuned import calibration_for, tuned_search

    with cache.open(gallery) as opened:
        facts = opened.info() | {"calibration": calibration_for(opened, tuned_search(opened))}
        if opened.settings.preprocessing.tile is not None:
            facts["pictures"] = opened.catalog.picture_count(opened.snapshot)
    click.echo(strict_json(facts, indent=2) if as_json else description(facts))


def region_line(region: dict[str, Any]) -> str:
    """Return a region of interest, as `info` describes it, in words."""
    share = "" if region["area"] is None else f", {region['area']:.1%} of the picture"
    return f"{region['source']}{share}"


def description(facts: dict[str, Any]) -> str:
    """Return a gallery's `info` as text."""
    settings, index = facts["settings"], facts["index"]
    shapes = ", ".join(
        f"{level} {channels}x{height}x{width}"
        for level, (channels, height, width) in zip(settings["levels"], settings["level_shapes"], strict=True)
    )
    preprocessing = settings["preprocessing"]
    height, width = preprocessing["input_size"]
    crop = f", centre of images resized to {preprocessing['resize']}" if preprocessing["resize"] else ""
    pixels = ""
    if preprocessing["pixel_range"] is not None:
        pixels = ", pixels from {:g} to {:g}".format(*preprocessing["pixel_range"])
    elif preprocessing["bits"] is not None:
        pixels = f", pixels of {preprocessing['bits']} bits"
    tiles, pictures, row = "", "", "image"
    if preprocessing["tile"] is not None:
        pictures, row = f" tiles of {facts['pictures']:,} pictures", "tile"
        tiles = f", of tiles of {preprocessing['tile']} pixels, overlap {preprocessing['overlap']:g}"
        tiles += ", and whole" if preprocessing["whole"] else ""
    gone = [level for level in range(len(settings["levels"])) if level not in facts["stored_levels"]]
    dropped = f", level{'s' * (len(gone) > 1)} {', '.join(map(str, gone))} dropped" if gone else ""
    snapshots = [str(row["snapshot"]) for row in facts["snapshots"]]
    lines = {
        "gallery": facts["path"],
        "images": f"{facts['images']:,}{pictures}, and {facts['removed_images']:,} removed",
        "snapshot": f"{facts['snapshot']} (kept: {snapshots[0]} to {snapshots[-1]})",
        "shards": f"{facts['shards']:,}, {facts['shard_bytes'] / 1e6:,.1f} MB",
        "backbone": f"{settings['backbone']} ({settings['precision']}, weights {settings['weights'][:12]})",
        "levels": shapes,
        "pooled": f"{settings['pooled_dim']} values",
        "maps": f"{facts['maps']}{dropped}, {facts['bytes_per_image']:,} bytes per {row} with the descriptor"
        + (f": not all yet, `spade-index compact {facts['path']}` goes on" if facts["transcoding"] else ""),
        "input": f"{height}x{width}{crop}{tiles}{pixels}",
        "index": "none: searched by scanning",
    }
    if index is not None:
        storage = f" of {index['storage']}" if index["kind"] != "flat" else ""
        storage += f", {index['dimensions']} components" if index["kind"] == "pca-ivf" else ""
        lines["index"] = (
            f"{index['kind']}{storage}, snapshot {index['snapshot']}, {index['images']:,} {row}s, "
            f"recall {index['recall']:.4f}, {index['added_since']:,} added and {index['removed_since']:,} removed since"
            + (": stale, `spade-index index` builds it again" if index["stale"] else "")
        )
    if (region := facts["region_of_interest"]) is not None:
        lines["region"] = f"of interest: {region_line(region)}"
    tuned = facts["tuned"]
    lines["tuned"] = "no: `spade-index tune` chooses how to compare" if tuned is None else tuned["why"]
    printed = list(lines.items())
    for calibration in facts["calibrations"]:
        thresholds = ", ".join(f"{kind} {value:.6g}" for kind, value in calibration["thresholds"].items())
        of = f"quantile {calibration['quantile']:.4g}, snapshot {calibration['snapshot']}, {calibration['search']}"
        printed.append(("thresholds", f"{thresholds} ({of})"))
    return "\n".join(f"{name:12} {value}" for name, value in printed)
