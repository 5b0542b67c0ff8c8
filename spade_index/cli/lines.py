"""Lines for a terminal: names and messages that come from files may hold what it would obey."""


def printable(text: str) -> str:
    """Return a text in one line, in which what is not printable is escaped, as Python does."""
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
