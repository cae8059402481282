"""What PyAV cannot write into a Matroska header: arbitrary raw pixel formats, and non-square pixels."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

__all__ = ["described"]

SEEK_HEAD = b"\x11\x4d\x9b\x74"
SEGMENT, TRACKS, ENTRY, VIDEO = b"\x18\x53\x80\x67", b"\x16\x54\xae\x6b", b"\xae", b"\xe0"
COLOUR_SPACE, DISPLAY_WIDTH, DISPLAY_HEIGHT, DISPLAY_UNIT = b"\x2e\xb5\x24", b"\x54\xb0", b"\x54\xba", b"\x54\xb2"
ASPECT = b"\x03"  # the DisplayUnit in which only the ratio of width and height counts


def described(header: bytes, fourcc: bytes, aspect: Fraction) -> bytes:
    """A header, from its first byte on, with the FourCC and the aspect ratio (width to height) set in its first track,
    which is of raw pictures. RFC 9559, sections 5.1.4.1.28 and on."""
    width, height = (number.to_bytes(4, "big") for number in aspect.as_integer_ratio())
    told = {COLOUR_SPACE: fourcc, DISPLAY_WIDTH: width, DISPLAY_HEIGHT: height, DISPLAY_UNIT: ASPECT}

    def video(old: bytes) -> bytes:
        return _without(old, set(told)) + b"".join(name + _size(body) + body for name, body in told.items())

    def segment(old: bytes) -> bytes:  # positions in the file are no longer valid
        return _changed(_without(old, {SEEK_HEAD}), (TRACKS, ENTRY, VIDEO), video)

    return _changed(header, (SEGMENT,), segment)


def _without(data: bytes, names: set[bytes]) -> bytes:
    return b"".join(data[begin:end] for name, begin, _, end in _elements(data) if name not in names)


def _changed(data: bytes, path: tuple[bytes, ...], change: Callable[[bytes], bytes]) -> bytes:
    """With the body of the first element at ``path`` changed, and the sizes of the enclosing ones."""
    name, begin, body, end = next(element for element in _elements(data) if element[0] == path[0])
    inner = _changed(data[body:end], path[1:], change) if path[1:] else change(data[body:end])
    size = data[begin + len(name) : body] if name == SEGMENT else _size(inner)  # a segment's stays unknown
    return data[:begin] + name + size + inner + data[end:]


def _elements(data: bytes) -> list[tuple[bytes, int, int, int]]:
    """(name, first byte, first byte of the body, end) of consecutive EBML elements; RFC 8794."""
    found: list[tuple[bytes, int, int, int]] = []
    at = 0
    while at < len(data):
        name = data[at : at + _width(data[at])]
        width = _width(data[at + len(name)])
        body = at + len(name) + width
        size = int.from_bytes(data[body - width : body], "big") - (1 << 7 * width)
        end = len(data) if size == (1 << 7 * width) - 1 else body + size  # all ones: unknown
        found.append((name, at, body, end))
        at = end
    return found


def _width(first: int) -> int:
    """The length in bytes of a variable-size integer, from its first byte."""
    return 9 - first.bit_length()


def _size(body: bytes) -> bytes:
    return (len(body) | 1 << 56).to_bytes(8, "big")
