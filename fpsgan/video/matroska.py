"""What PyAV cannot have written into a Matroska header: any raw pixel format, and pixels that are not square."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

__all__ = ["described"]

SEEK_HEAD = b"\x11\x4d\x9b\x74"
SEGMENT, TRACKS, ENTRY, VIDEO = b"\x18\x53\x80\x67", b"\x16\x54\xae\x6b", b"\xae", b"\xe0"
COLOUR_SPACE, DISPLAY_WIDTH, DISPLAY_HEIGHT, DISPLAY_UNIT = b"\x2e\xb5\x24", b"\x54\xb0", b"\x54\xba", b"\x54\xb2"
ASPECT = b"\x03"  # a DisplayUnit: width and height tell no more than their ratio


def described(header: bytes, fourcc: bytes, aspect: Fraction) -> bytes:
    """A header, from its first byte on, whose first track is of raw pictures: those now have this code of four bytes,
    and are shown with this ratio of width to height. RFC 9559, sections 5.1.4.1.28 and on."""
    width, height = (number.to_bytes(4, "big") for number in aspect.as_integer_ratio())
    told = {COLOUR_SPACE: fourcc, DISPLAY_WIDTH: width, DISPLAY_HEIGHT: height, DISPLAY_UNIT: ASPECT}

    def video(old: bytes) -> bytes:
        return _without(old, set(told)) + b"".join(name + _size(body) + body for name, body in told.items())

    def segment(old: bytes) -> bytes:  # where things are in the file is no longer true
        return _changed(_without(old, {SEEK_HEAD}), (TRACKS, ENTRY, VIDEO), video)

    return _changed(header, (SEGMENT,), segment)


def _without(data: bytes, names: set[bytes]) -> bytes:
    return b"".join(data[begin:end] for name, begin, _, end in _elements(data) if name not in names)


def _changed(data: bytes, path: tuple[bytes, ...], change: Callable[[bytes], bytes]) -> bytes:
    """With what is in the first element at ``path`` changed, and the sizes of those around it."""
    name, begin, body, end = next(element for element in _elements(data) if element[0] == path[0])
    inner = _changed(data[body:end], path[1:], change) if path[1:] else change(data[body:end])
    size = data[begin + len(name) : body] if name == SEGMENT else _size(inner)  # unknown, and stays so
    return data[:begin] + name + size + inner + data[end:]


def _elements(data: bytes) -> list[tuple[bytes, int, int, int]]:
    """(name, first byte, first byte of what is in it, end) of EBML elements that follow one another; RFC 8794."""
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
    """Bytes of a variable-size integer, by its first one."""
    return 9 - first.bit_length()


def _size(body: bytes) -> bytes:
    return (len(body) | 1 << 56).to_bytes(8, "big")
