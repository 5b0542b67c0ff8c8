"""The log of `spade-index serve` is JSON, whoever writes to it."""

import io
import json
import logging
import warnings

import pytest

from spade_index.server.logs import log_to

NAMES = (None, "spade_index", "uvicorn.error", "python_multipart")


def test_what_libraries_and_python_say_is_json(monkeypatch: pytest.MonkeyPatch) -> None:
    loggers = [logging.getLogger(name) for name in NAMES]
    levels = [logger.level for logger in loggers]
    monkeypatch.setattr(loggers[0], "handlers", [])
    stream = io.StringIO()
    logging.captureWarnings(False)  # a service that another test has run left it on, and pytest has undone it
    try:
        log_to(stream)
        warnings.warn("of Python\nin lines", UserWarning, stacklevel=1)
        logging.getLogger("a.library").warning("of a library\nin lines")
        logging.getLogger("spade_index.server").info("of ours")
        logging.getLogger("python_multipart.multipart").warning("what a client is answered")
    finally:
        logging.captureWarnings(False)
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [line["level"] for line in lines] == ["warning", "warning", "info"]
    assert "of Python" in lines[0]["message"]
    assert lines[1]["message"] == "of a library\nin lines"
