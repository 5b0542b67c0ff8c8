"""Judge the images that appear in a folder, and deliver their verdicts, each at least once."""
