"""What `spade-index info` prints."""

from typing import Any


def described(facts: dict[str, Any]) -> str:
    """A gallery's `info` for people."""
    settings, index = facts["settings"], facts["index"]
    shapes = ", ".join(
        f"{level} {channels}x{height}x{width}"
        for level, (channels, height, width) in zip(settings["levels"], settings["level_shapes"], strict=True)
    )
    lines = {
        "gallery": facts["path"],
        "images": f"{facts['images']:,}, and {facts['removed_images']:,} removed",
        "snapshot": facts["snapshot"],
        "shards": f"{facts['shards']:,}, {facts['shard_bytes'] / 1e6:,.1f} MB",
        "backbone": f"{settings['backbone']} ({settings['precision']}, weights {settings['weights'][:12]})",
        "levels": shapes,
        "pooled": f"{settings['pooled_dim']} values",
        "input": "x".join(map(str, settings["preprocessing"]["input_size"])),
        "index": "none: searched by scanning",
    }
    if index is not None:
        lines["index"] = (
            f"{index['kind']} of snapshot {index['snapshot']}, {index['images']:,} images, "
            f"recall {index['recall']:.4f}, {index['added_since']:,} added and {index['removed_since']:,} removed since"
        )
    for calibration in facts["calibrations"]:
        thresholds = ", ".join(f"{kind} {value:.6g}" for kind, value in calibration["thresholds"].items())
        lines[f"threshold ({calibration['quantile']:g} of snapshot {calibration['snapshot']})"] = thresholds
    return "\n".join(f"{name:12} {value}" for name, value in lines.items())
