"""Change a gallery: one writer at a time, one transaction a change."""
