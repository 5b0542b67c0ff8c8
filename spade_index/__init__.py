"""SPADE at scale: a gallery of normal images, searched image by image and pixel by pixel."""
