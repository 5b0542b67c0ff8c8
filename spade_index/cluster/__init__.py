"""Several machines: Ray runs workers that add images, whose shards the writer commits, and workers that search maps."""
