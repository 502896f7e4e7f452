"""Pictures in base64, as JSON carries them."""

from __future__ import annotations

import base64
import re
import string

from service.errors import InvalidImage

__all__ = ["decoded", "picture_of"]

_CHUNK = 2**20  # a multiple of four
_DATA_URI = re.compile(r"data:[^,]{0,200};base64,", re.IGNORECASE)


def picture_of(text: str, where: str) -> bytes:
    """Return the file that ``text`` is in base64, or the data URI of.

    Args:
        text: as it came.
        where: in the request, for whoever has to find it.

    Raises:
        InvalidImage: it is neither.
    """
    payload = text[match.end() :] if (match := _DATA_URI.match(text)) else text
    try:
        return decoded(payload)
    except ValueError:  # binascii.Error is one
        raise InvalidImage(f"{where!r} is not valid base64. Encode the file's bytes as they are.") from None


def decoded(base64_text: str) -> bytes:
    """Decode base64, white space aside; piece by piece, so that no thread has to wait long for this one.

    Raises:
        ValueError: it is not valid; binascii.Error is one.
    """
    text = base64_text.encode("ascii").translate(None, string.whitespace.encode())
    pieces = (text[begin : begin + _CHUNK] for begin in range(0, len(text), _CHUNK))
    decoded = [base64.b64decode(piece, validate=True) for piece in pieces]
    if any(len(piece) < _CHUNK // 4 * 3 for piece in decoded[:-1]):
        raise ValueError("there is padding before the end")
    return b"".join(decoded)
