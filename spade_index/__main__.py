"""`python -m spade_index` is `spade-index`."""

from spade_index.cli import main

if __name__ == "__main__":
    main()
