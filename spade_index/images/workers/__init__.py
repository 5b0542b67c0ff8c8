"""Decode images of strangers in processes of their own, within limits of memory and time.

A pool starts processes when they are needed, and keeps them. One that dies, or takes too long, is replaced; the image
it had is refused by one line.
"""

from .calls import Answer, Call, Held, Plain
from .pool import Asker, DecoderPool, DecodersEnded, NoDecoder, answer_or_refuse, limit_decoding, shared_pool

__all__ = [
    "Answer",
    "Asker",
    "Call",
    "DecoderPool",
    "DecodersEnded",
    "Held",
    "NoDecoder",
    "Plain",
    "answer_or_refuse",
    "limit_decoding",
    "shared_pool",
]
