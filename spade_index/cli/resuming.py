"""Carry on an evaluation of several categories where it was interrupted."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # it takes long to import
    from spade_index.method.labelled import Dataset

FORMAT = 2  # of the figures; those kept in another format are computed again


class Finished:
    """The figures of the categories that are done, in FILE.part beside the file of all figures.

    Args:
        file: of all figures; None to keep nothing.
        options: what the figures depend on. Those of a run with other options are not used.
    """

    def __init__(self, file: Path | None, options: Mapping[str, Any]) -> None:
        self.path = None if file is None else file.with_name(f"{file.name}.part")
        self._options = json.loads(json.dumps(options, default=str))
        self._categories: dict[str, dict[str, Any]] = {}
        if self.path is not None and self.path.is_file():
            self._categories = self._read(self.path)

    def __len__(self) -> int:
        return len(self._categories)

    def figures(self, dataset: "Dataset") -> dict[str, Any] | None:
        """Return the figures of a category; None if it is not done, or its images have changed since."""
        done = self._categories.get(dataset.name)
        return done["figures"] if done is not None and done["images"] == _print_of(dataset) else None

    def add(self, dataset: "Dataset", figures: dict[str, Any]) -> None:
        """Keep the figures of a category."""
        self._categories[dataset.name] = {"images": _print_of(dataset), "figures": figures}
        if self.path is not None:
            from spade_index.views.files import write_whole

            content = {"format": FORMAT, "options": self._options, "categories": self._categories}
            write_whole(self.path, (json.dumps(content) + "\n").encode())

    def remove(self) -> None:
        """Forget what was kept: all is done."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)

    def _read(self, path: Path) -> dict[str, dict[str, Any]]:
        try:
            content = json.loads(path.read_text())
            if content.get("format") != FORMAT or content["options"] != self._options:
                return {}
            return {
                str(name): {"images": str(of["images"]), "figures": dict(of["figures"])}
                for name, of in content["categories"].items()
            }
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return {}  # damaged, or not ours: everything is done again


def _print_of(dataset: "Dataset") -> str:
    """Return a fingerprint of the images of a category: their names, sizes and times."""
    import xxhash

    digest = xxhash.xxh3_128()
    for file in (*dataset.normal, *(image.file for image in dataset.test)):
        digest.update(f"{file.id}\0{file.size}\0{file.mtime_ns}\0".encode())
    for image in dataset.test:
        digest.update(f"{image.kind}\0{image.mask}\0".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()
