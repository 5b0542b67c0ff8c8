"""The format of a gallery's files: its name and version, which every HDF5 file and the catalog state."""

FORMAT = "spade-index"
VERSION = 1
