"""The catalog: the gallery's SQLite file, and its commit point."""
