"""What runs short on a machine: its errors are of many kinds, and mean the same."""

import errno

ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM)
WORDS = (  # in messages of errors without a kind of their own: of threads, torch on a CPU and a GPU, and oneDNN
    "can't start new thread",
    "can't allocate memory",
    "out of memory",
    "could not create a primitive",
)


def is_shortage(error: BaseException) -> bool:
    """Return whether something of the machine has run out, which may be there again."""
    if isinstance(error, OSError):
        return error.errno in ERRORS
    return isinstance(error, MemoryError) or any(words in str(error) for words in WORDS)
