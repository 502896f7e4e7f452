"""The run lengths that Label Studio keeps brush strokes in: those of ``@thi.ng/rle-pack``, of RGBA bytes.

A stream of bits: 32 for the number of bytes, 5 for the bits of a byte less one, four times 4 for the sizes of lengths
less one; then runs. A run is a bit (1: one byte repeated, 0: bytes as they are), two for which size its length has,
the length less one, and the byte or bytes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from service.errors import InvalidOption

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

__all__ = ["decode", "encode"]

_SIZES = (3, 4, 8, 16)
_WORD = 8
_CHANNELS = 4
_LONGEST = 2**16
_HEADER = "".join([f"{_WORD - 1:05b}", *(f"{size - 1:04b}" for size in _SIZES)])
_MAX_BYTES = 2**20  # of strokes that somebody drew by hand


def encode(mask: NDArray[np.bool_]) -> list[int]:
    """Return the run lengths of a mask (h, w): its pixels are opaque, all others transparent."""
    flat = mask.reshape(-1)
    begins = np.flatnonzero(np.diff(flat, prepend=~flat[:1]))
    lengths = np.diff(begins, append=flat.size) * _CHANNELS
    runs = [
        _run(length, 255 if flat[begin] else 0) for begin, length in zip(begins.tolist(), lengths.tolist(), strict=True)
    ]
    bits = f"{flat.size * _CHANNELS:032b}{_HEADER}{''.join(runs)}"
    bits += "0" * (-len(bits) % 8)
    return list(int(bits, 2).to_bytes(len(bits) // 8, "big"))


def _run(length: int, value: int) -> str:
    whole, rest = divmod(length, _LONGEST)
    longest = f"111{_LONGEST - 1:016b}{value:08b}" * whole
    if not rest:
        return longest
    which = next(index for index, size in enumerate(_SIZES) if rest <= 2**size)
    return f"{longest}1{which:02b}{rest - 1:0{_SIZES[which]}b}{value:08b}"


def decode(rle: Any, height: int, width: int) -> NDArray[np.bool_]:
    """Read the run lengths of a mask (height, width): True where it is not transparent.

    Raises:
        InvalidOption: they are none, or of another size.
    """
    known = isinstance(rle, list) and 1 <= len(rle) <= _MAX_BYTES
    if not (known and all(isinstance(byte, int) and 0 <= byte < 256 for byte in rle)):
        raise InvalidOption(f"A brush's 'rle' is a list of up to {_MAX_BYTES} bytes.")
    stream = _Bits(bytes(rle))
    count = height * width * _CHANNELS
    if stream.read(32) != count:
        raise InvalidOption(f"A brush's 'rle' is that of another size than {width} × {height} pixels.")
    word = stream.read(5) + 1
    sizes = [stream.read(4) + 1 for _ in _SIZES]
    opaque = np.zeros(height * width, np.bool_)
    begin = 0
    for length, repeated in _lengths(stream, sizes, count):
        end = min(count, begin + length)
        pixels = slice(begin // _CHANNELS, end // _CHANNELS)  # whose opacity, their last byte, is in the run
        if repeated:
            opaque[pixels] = stream.read(word) & 255
        else:
            values = [stream.read(word) & 255 for _ in range(end - begin)]
            opaque[pixels] = values[(_CHANNELS - 1 - begin) % _CHANNELS :: _CHANNELS]
        begin = end
    return opaque.reshape(height, width)


def _lengths(stream: _Bits, sizes: Sequence[int], count: int) -> Iterator[tuple[int, bool]]:
    done = 0
    while done < count and not stream.ended:
        repeated = stream.read(1) == 1
        length = stream.read(sizes[stream.read(2)]) + 1
        done += length
        yield length, repeated


class _Bits:
    """Bits of some bytes; zeros behind their end."""

    def __init__(self, data: bytes) -> None:
        self._data, self._position = data, 0

    @property
    def ended(self) -> bool:
        return self._position >= 8 * len(self._data)

    def read(self, bits: int) -> int:
        """Return the next bits as a number."""
        first, last = self._position // 8, (self._position + bits + 7) // 8
        piece = self._data[first:last].ljust(last - first, b"\0")
        shift = 8 * last - self._position - bits
        self._position += bits
        return int.from_bytes(piece, "big") >> shift & ((1 << bits) - 1)
