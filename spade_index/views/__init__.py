"""Heat maps and report pages."""
