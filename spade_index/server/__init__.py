"""HTTP over gallery and detector: `spade-index serve`. Needs the extra `serve`."""
