"""Label Studio's ML backend: a gallery predicts for its tasks, and its annotations come back as feedback."""
