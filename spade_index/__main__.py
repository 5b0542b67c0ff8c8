"""`python -m spade_index` is `spade-index`."""

from .cli import main

if __name__ == "__main__":
    main()
