"""`spade-index roi`: the region of interest of a gallery."""

import math
from pathlib import Path
from typing import TYPE_CHECKING

import click

from spade_index.errors import InputError
from spade_index.settings import FALSE_ALARMS

from .info import region_line
from .options import KernelOptions, device_option, gallery_argument, takes
from .outputs import require_writable
from .progress import Progress
from .region_rules import AUTO, NONE, rule_in, set_rule
from .values import PATH

if TYPE_CHECKING:  # both take long to import
    from spade_index.gallery.reader import Gallery
    from spade_index.gallery.write.writer import GalleryWriter
    from spade_index.images.interest import RegionOfInterest

ACROSS, ALIKE = 0.05, 0.03  # logarithms of the ratio of edges: of what is not square, and of what has one shape

roi_option = click.option(
    "--roi",
    type=PATH,
    help="Region of interest: only what is inside scores and is matched. A mask picture (not zero: inside), polygons "
    "in JSON, a rule that names one for each image ('masks/{parent}/{stem}.png'), or `auto`: the foreground of images "
    "of aligned products.",
)


@click.command()
@gallery_argument
@click.argument("region", type=PATH, required=False)
@click.option("--show", type=PATH, help="Write the region to this file, a PNG picture: white inside.")
@click.option("--no-calibrate", is_flag=True, help="Do not calibrate again.")
@device_option
@takes("kernel", KernelOptions)
def roi(
    gallery: Path, region: Path | None, show: Path | None, no_calibrate: bool, device: str, kernel: KernelOptions
) -> None:
    """Set the region of interest of GALLERY to REGION: a mask picture, polygons in JSON, `auto` or `none`.

    A rule such as 'masks/{parent}/{stem}.png' gives each image its own: the path of its mask, relative to the folder
    that it was added from.

    What is outside is neither scored nor matched, from then on. A gallery that was calibrated is calibrated again.
    Without REGION, say what it is.
    """
    from spade_index.features.backbone import choose_device
    from spade_index.gallery.reader import Gallery
    from spade_index.gallery.write.writer import GalleryWriter
    from spade_index.method.judgement import carry_on
    from spade_index.method.tuned import calibration_for, tuned_search

    require_writable([show], inputs=[gallery, *filter(None, [region])])
    if region is None:
        with Gallery(gallery) as opened:
            _report(opened, show)
        return
    if str(region) == NONE and show is not None:
        raise click.UsageError("--show has no region to show after `none`")
    given = None if str(region) == NONE else require_region(region)
    with GalleryWriter(gallery) as writer:
        calibrated = calibration_for(writer.gallery, tuned_search(writer.gallery))
        if str(region) == NONE:
            writer.set_interest(None)
        elif (rule := rule_in(region)) is not None:
            set_rule(writer, rule)
        else:
            set_region(writer, given or found_region(writer.gallery))
            if given is not None:
                say_turned(writer.gallery, given)
        _report(writer.gallery, show)
        if calibrated is None or _is_calibrated(writer.gallery):
            return
        if no_calibrate:
            click.echo(f"not calibrated for this region: `spade-index calibrate {gallery}` does that")
            return
        rate = float(calibrated.get("false_alarms", FALSE_ALARMS))
        with Progress("calibrate", len(writer.gallery)) as progress:
            carry_on(
                writer,
                tuned_search(writer.gallery),
                false_alarms=rate,
                progress=progress,
                device=choose_device(device),
                kernel=kernel.kernel,
            )


def require_region(path: Path | None) -> "RegionOfInterest | None":
    """Return the region in a file; None without one, for a rule, and for `auto`. Raises InputError."""
    from spade_index.images.region_files import read_region

    return None if path is None or str(path) == AUTO or rule_in(path) is not None else read_region(path)


def found_region(gallery: "Gallery") -> "RegionOfInterest":
    """Return the foreground of a gallery's images. Raises InputError."""
    from spade_index.method.foreground import foreground

    return foreground(gallery)


def require_new_region(gallery: "Gallery", region: "RegionOfInterest | None") -> None:
    """Raise InputError if a gallery has another region of interest already."""
    known = gallery.interest or gallery.region_rule
    if region is not None and known is not None and known.digest != region.digest:
        source = known.described()["source"]
        raise InputError(f"{gallery.path}: has another region of interest ({source}): `spade-index roi` changes it")


def require_same_region(gallery: "Gallery", path: Path | None) -> None:
    """Raise InputError if a region is given for a gallery that has not the same."""
    region = require_region(path)
    if path is not None and (region is None or gallery.interest is None or gallery.interest.digest != region.digest):
        raise InputError(f"{gallery.path}: has not this region of interest: `spade-index roi {gallery.path} {path}`")


def set_region(writer: "GalleryWriter", region: "RegionOfInterest") -> None:
    """Set a gallery's region of interest, unless it has the same already. Raises InputError if no cell is inside."""
    from spade_index.method.interest import require_cells

    require_cells(writer.gallery, region)
    if writer.gallery.interest is None or writer.gallery.interest.digest != region.digest:
        writer.set_interest(region)


def say_turned(gallery: "Gallery", region: "RegionOfInterest") -> None:
    """Say if a region lies across the first picture of a gallery, as one drawn before EXIF's turn does."""
    first = next(iter(gallery.images()), None)
    if first is None or not first.width or not first.height:
        return
    height, width = region.mask.shape
    if abs(math.log(width / height)) > ACROSS and abs(math.log(width / height * first.width / first.height)) < ALIKE:
        Progress.say(
            f"the region of interest ({region.source}) lies across {first.id} of {first.width}x{first.height} pixels, "
            "and is stretched over it: if the pictures are turned by EXIF, draw it over a turned one"
        )


def _report(gallery: "Gallery", show: Path | None) -> None:
    """Say what the region of interest is, and write it to a picture."""
    from spade_index.views.files import encode, write_whole

    if (rule := gallery.region_rule) is not None:
        if show is not None:
            raise InputError(
                f"{gallery.path}: each image has a region of interest of its own: see the masks themselves"
            )
        click.echo(f"region of interest: {region_line(rule.described())}")
        return
    region = gallery.interest
    if region is None:
        if show is not None:
            raise InputError(f"{gallery.path}: has no region of interest to show")
        click.echo("no region of interest: all of every picture counts")
        return
    click.echo(f"region of interest: {region_line(region.described())}")
    if show is not None:
        write_whole(show, encode(region.picture(), "PNG"))


def _is_calibrated(gallery: "Gallery") -> bool:
    """Return whether a gallery is calibrated for its region of interest, as it is now."""
    from spade_index.method.tuned import calibration_for, tuned_search

    known = calibration_for(gallery, tuned_search(gallery))
    return known is not None and known["snapshot"] == gallery.snapshot
