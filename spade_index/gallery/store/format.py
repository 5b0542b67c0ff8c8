"""The format of a gallery's files: its name and version, which every HDF5 file and the catalog state."""

FORMAT = "spade-index"
VERSION = 1
# Of a catalog whose images have regions of interest of their own, which readers of version 1 would take for whole ones.
# No version 2 was ever written.
WITH_REGIONS = 3
