"""A backbone that takes its time as one on a GPU does: by waiting, one batch at a time."""

import threading
import time

from torch import Tensor, nn

from spade_index.features.backbone import Backbone
from spade_index.settings import Preprocessing

DEVICE = threading.Lock()  # a process has one


class Waiting(nn.Module):
    """Averages an image over cells of 4, 8 and 16 pixels, and waits."""

    def __init__(self, seconds: float) -> None:
        """Wait for `seconds` for each image."""
        super().__init__()
        self._seconds = seconds
        self.fine, self.middle, self.coarse = nn.AvgPool2d(4), nn.AvgPool2d(2), nn.AvgPool2d(2)

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W] to the last map [B, 3, H/16, W/16]."""
        with DEVICE:
            time.sleep(self._seconds * len(images))
        coarse: Tensor = self.coarse(self.middle(self.fine(images)))
        return coarse


def waiting_backbone(seconds: float) -> Backbone:
    """Return a backbone of 64x64 inputs that waits for `seconds` for each image."""
    return Backbone("waiting", Waiting(seconds), Preprocessing(input_size=(64, 64)), device="cpu")
