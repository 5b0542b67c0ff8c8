"""Images to features: pooled descriptors and feature pyramids."""
