"""Adding images on several machines: Ray runs the workers, and the writer alone commits what they have made."""
