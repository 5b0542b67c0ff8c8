"""Backbones of a service under test: they count images and can be held."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from spade_index.features.backbone import Backbone, Features
from spade_index.gallery import Gallery

from .tiny import TinyCNN
from .waiting import PATIENCE, eventually


class WatchedBackbone(Backbone):
    """Counts its images, and waits before each batch while it is held."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.batches: list[int] = []
        self.free = threading.Event()
        self.free.set()
        self.entered = threading.Event()  # a batch waits, or has

    def __call__(self, pixels: np.ndarray) -> Features:
        self._come(pixels)
        return super().__call__(pixels)

    def _stored_features(self, pixels: np.ndarray) -> Features:  # of images that are added
        self._come(pixels)
        return super()._stored_features(pixels)

    def _come(self, pixels: np.ndarray) -> None:
        self.batches.append(len(pixels))
        self.entered.set()
        assert self.free.wait(PATIENCE)


class Watch:
    """Loads the backbones of a service under test, counts their images and holds them."""

    def __init__(self) -> None:
        self.backbones: list[WatchedBackbone] = []
        self._held = False

    def load(self, gallery: Gallery, device: str) -> Backbone:
        """Return the tiny backbone that a gallery was built with."""
        name = gallery.settings.backbone
        model = TinyCNN(int(name.removeprefix("tiny-")))
        backbone = WatchedBackbone(name, model, gallery.settings.preprocessing, device="cpu", precision="float32")
        if self._held:
            backbone.free.clear()
        self.backbones.append(backbone)
        return backbone

    @property
    def images(self) -> int:
        """The number of images that went through a backbone."""
        return sum(sum(backbone.batches) for backbone in self.backbones)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold all backbones inside the `with` block."""
        self._hold(True)
        try:
            yield
        finally:
            self._hold(False)

    def wait_until_entered(self) -> None:
        """Wait until a batch waits in a held backbone."""
        eventually(lambda: any(b.entered.is_set() and not b.free.is_set() for b in self.backbones))

    def release(self) -> None:
        """Release the backbones before the end of `held`."""
        self._hold(False)

    def _hold(self, hold: bool) -> None:
        self._held = hold
        for backbone in self.backbones:
            backbone.entered.clear()
            (backbone.free.clear if hold else backbone.free.set)()
