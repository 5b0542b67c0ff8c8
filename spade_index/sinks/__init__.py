"""Deliver verdicts, each at least once and in order: a spool on disk, and the sinks that it is emptied into."""
