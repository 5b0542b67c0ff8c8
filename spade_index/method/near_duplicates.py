"""Near-duplicates, such as frames of a film or crops: how near two images must be to be as good as one."""

import numpy as np

NEAR = 0.02  # of the median distance between two images: below it they are near-duplicates
PAIRS = 200  # images whose distances to each other give that median


def near_of(pooled: np.ndarray) -> float:
    """Return the squared distance below which two images are near-duplicates.

    Args:
        pooled: float32 [n, D], the descriptors of a sample of images; of fewer than two, the distance is 0.
    """
    pooled = pooled.astype(np.float64)
    squared = (pooled**2).sum(1)
    distances = squared[:, None] + squared - 2 * pooled @ pooled.T
    return NEAR * float(np.median(distances[np.triu_indices(len(pooled), 1)])) if len(pooled) > 1 else 0.0
