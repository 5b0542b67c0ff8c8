"""The HTTP service from Python. Imports nothing of the rest but `errors` and `wire`."""

try:
    from .client import Client
except ModuleNotFoundError as error:
    if error.name not in ("httpx", "pydantic"):
        raise
    message = f"the client needs {error.name}: pip install 'spade_index[serve]'"
    raise ModuleNotFoundError(message, name=error.name) from error

__all__ = ["Client"]
