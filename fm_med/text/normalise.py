"""One spelling per report, so that equal reports are recognised as equal."""

import unicodedata
from hashlib import blake2b


def normalise(text: str) -> str:
    """Return the text in Unicode NFC with every run of white space as one space, stripped.

    Letter case is kept: cased models read it, and an uncased model's tokenizer lowers it anyway.
    """
    return " ".join(unicodedata.normalize("NFC", text).split())


def text_digest(text: str) -> bytes:
    """Return the 128-bit hash (BLAKE2b) of a text after `normalise`."""
    return blake2b(normalise(text).encode(), digest_size=16).digest()


def text_hash(text: str) -> int:
    """Return a signed 64-bit hash of a text after `normalise`; equal reports have equal hashes."""
    return int.from_bytes(text_digest(text)[:8], "little", signed=True)
