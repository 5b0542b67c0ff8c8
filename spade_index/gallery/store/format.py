"""The format of a gallery's files: its name and version, which every HDF5 file and the catalog state."""

FORMAT = "spade-index"
VERSION = 4  # the newest that this program reads; 2 knows maps that are stored as codes, 4 codes with tables
SOME_LEVELS = 3  # of galleries and shards that have dropped levels of their maps
PLAIN = 1  # of files that any version reads, and of galleries all of whose maps are float16
# Added to the version of a gallery whose images have regions of interest of their own: earlier programs, which would
# take these images for whole ones, refuse it.
REGIONS = 100


def is_too_new(version: int) -> bool:
    """Return whether a version is of a later program, so that this one cannot read its gallery."""
    return version % REGIONS > VERSION or version >= 2 * REGIONS
