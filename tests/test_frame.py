from __future__ import annotations

import dataclasses
from fractions import Fraction

import av
import av.video.format
import numpy as np
import pytest

from fpsgan.errors import InputError
from fpsgan.video.frame import (
    SITING,
    SMALLEST_SIDE,
    Color,
    Frame,
    Orientation,
    PixelFormat,
    check_size,
    from_rgb,
    to_rgb,
)

FORMATS = [
    "yuv420p", "yuv422p", "yuv444p", "yuv440p", "yuv411p", "yuv410p", "yuv420p10le", "yuv422p10le", "yuv444p10le",
    "yuv444p12le", "gray", "gray10le", "gbrp", "gbrp10le", "gbrp16le",
]  # fmt: skip


def noise(format: PixelFormat, width: int, height: int) -> tuple[np.ndarray, ...]:
    generator = np.random.default_rng(0)
    top = 1 << format.depth
    shapes = [format.plane_shape(k, width, height) for k in range(format.planes)]
    return tuple(generator.integers(0, top, shape).astype(format.dtype) for shape in shapes)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("matrix", ["bt709", "smpte170m", "bt2020nc"])
@pytest.mark.parametrize("full_range", [False, True])
@pytest.mark.parametrize("location", SITING)
@pytest.mark.parametrize("size", [(64, 48), (63, 47)])
def test_round_trip_returns_every_code(
    name: str, matrix: str, full_range: bool, location: str, size: tuple[int, int]
) -> None:
    """Noise over all codes, most of it outside the RGB cube, is the hardest picture; the contract asks 55 dB."""
    format, color = PixelFormat.of(name), Color(matrix, "bt709", "bt709", full_range, location)
    planes = noise(format, *size)
    back = from_rgb(to_rgb(planes, format, color), format, color)
    wrong = np.mean([np.mean(before != after) for before, after in zip(planes, back, strict=True)])
    assert wrong < 1e-3
    for before, after in zip(planes, back, strict=True):
        error = after.astype(float) - before
        assert np.abs(error).max() <= 1
        assert abs(error.mean()) < 0.05


@pytest.mark.parametrize(
    ("matrix", "code", "rgb"),
    [
        ("bt709", (63, 102, 240), (1, 0, 0)),  # the 8-bit colour bars of BT.709
        ("bt709", (173, 42, 26), (0, 1, 0)),
        ("smpte170m", (81, 90, 240), (1, 0, 0)),  # and of BT.601
        ("smpte170m", (41, 240, 110), (0, 0, 1)),
        ("bt709", (235, 128, 128), (1, 1, 1)),
        ("bt709", (16, 128, 128), (0, 0, 0)),
    ],
)
def test_known_colours(matrix: str, code: tuple[int, ...], rgb: tuple[int, ...]) -> None:
    format = PixelFormat.of("yuv444p")
    planes = tuple(np.full((16, 16), value, np.uint8) for value in code)
    assert np.abs(to_rgb(planes, format, Color(matrix)) - np.array(rgb)).max() < 0.006


def test_chroma_is_sited_where_the_tag_says() -> None:
    """A horizontal ramp of chroma comes out as the same ramp, unshifted, for each siting."""
    format = PixelFormat.of("yuv420p")
    for location, (x, _) in SITING.items():
        columns = 2 * np.arange(32) + x
        chroma = np.tile((64 + columns).astype(np.float32), (16, 1))
        luma = np.full((32, 64), 128, np.uint8)
        rgb = to_rgb((luma, np.rint(chroma * 2).astype(np.uint8), np.full((16, 32), 128, np.uint8)), format,
                     Color("bt709", full_range=True, chroma_location=location))  # fmt: skip
        blue = (rgb[16, 4:-4, 2] * 255 - 128) / (2 * (1 - 0.0722)) + 128
        expected = np.clip(2 * (64 + np.arange(4, 60)), 0, 255)
        assert np.abs(blue - expected).max() < 1.01, location


@pytest.mark.parametrize(
    ("name", "planar"),
    [("yuvj420p", "yuv420p"), ("nv12", "yuv420p"), ("p010le", "yuv420p10le"), ("rgb24", "gbrp"), ("bgra", "gbrap"),
     ("pal8", "gbrap"), ("yuyv422", "yuv422p"), ("rgb48be", "gbrp16le"), ("gray16be", "gray16le"),
     ("ya8", "gbrap"), ("yuva444p10le", "yuva444p10le")],
)  # fmt: skip
def test_packed_formats_have_a_planar_home(name: str, planar: str) -> None:
    assert PixelFormat.of(name).name == planar


def test_every_format_has_a_home_that_ffmpeg_knows_and_that_holds_all_of_it_or_is_refused() -> None:
    held = 0
    for name in av.video.format.names:
        try:
            home = PixelFormat.of(name)
        except ValueError:
            continue
        held += 1
        mine, other = (av.VideoFormat(each, 16, 16) for each in (home.name, name))
        assert PixelFormat.of(home.name) == home
        assert mine.components[0].bits == home.depth >= max(part.bits for part in other.components), name
        assert home.alpha == (len(mine.components) in (2, 4)) >= (len(other.components) in (2, 4)), name
    assert held > 150


ORIENTATIONS = [Orientation(rotation, mirrored) for rotation in (0, 90, 180, 270) for mirrored in (False, True)]


def shown(picture: np.ndarray, orientation: Orientation) -> np.ndarray:
    turned = np.rot90(picture, orientation.rotation // 90)
    return np.fliplr(turned) if orientation.mirrored else turned


@pytest.mark.parametrize("orientation", ORIENTATIONS, ids=str)
@pytest.mark.parametrize("size", [(64, 48), (63, 47)], ids=["even", "odd"])
@pytest.mark.parametrize(
    ("name", "location"),
    [("yuv420p", place) for place in SITING] + [("yuv420p10le", "left"), ("yuv422p", "left"), ("yuv422p10le", "left"),
     ("yuv411p", "left"), ("yuv410p", "left"), ("yuv440p", "left"), ("yuv444p", "left"), ("gbrp", "left")],
)  # fmt: skip
def test_an_orientation_turns_the_colours_with_the_picture(
    orientation: Orientation, size: tuple[int, int], name: str, location: str
) -> None:
    """A bent surface in each channel, not the same in any two orientations, must come out as if RGB had been turned."""
    y, x = np.mgrid[: size[1], : size[0]].astype(np.float32) / size[0]
    smooth = np.stack([0.2 + 0.5 * x * x, 0.3 + 0.4 * y, 0.2 + 0.3 * x + 0.3 * y * y], 2)
    format, color = PixelFormat.of(name), Color("bt709", chroma_location=location)
    planes = from_rgb(smooth, format, color)
    new_format, new_color = orientation.described(format, color)
    turned = orientation.planes(planes, format, color)
    assert [plane.shape for plane in turned] == [
        new_format.plane_shape(k, turned[0].shape[1], turned[0].shape[0]) for k in range(new_format.planes)
    ]
    assert np.array_equal(turned[0], shown(planes[0], orientation))
    error = np.abs(to_rgb(turned, new_format, new_color) - shown(to_rgb(planes, format, color), orientation))
    middle = error[8:-8, 8:-8]  # at the edges a resampled plane has no neighbours to go by
    assert middle.max() < (0.010 if format.depth == 8 else 0.003)  # one code of chroma, doubled by the matrix
    assert middle.mean() < 0.003


@pytest.mark.parametrize("orientation", ORIENTATIONS, ids=str)
@pytest.mark.parametrize("name", ["yuv420p", "yuv422p", "yuv420p10le", "gbrp"])
def test_where_the_sites_have_a_tag_the_picture_is_turned_exactly(orientation: Orientation, name: str) -> None:
    """Noise, the hardest picture, with chroma in the middle of its cell: it has a tag whichever way it is turned."""
    format, color = PixelFormat.of(name), Color("bt709", chroma_location="center")
    planes = noise(format, 64, 48)
    after = to_rgb(orientation.planes(planes, format, color), *orientation.described(format, color))
    assert np.abs(after - shown(to_rgb(planes, format, color), orientation)).max() < 1e-5


def test_orientation_from_a_display_matrix() -> None:
    """Of each the matrix is built from what it does to the corners, with a scale and an offset that mean nothing."""
    for orientation in ORIENTATIONS:
        corners = shown(np.arange(4).reshape(2, 2), orientation)
        at = {int(corners[row, column]): (column, row) for row in (0, 1) for column in (0, 1)}
        (x0, y0), (x1, y1), (x2, y2) = at[0], at[1], at[2]
        matrix = [(x1 - x0) << 17, (y1 - y0) << 17, 0, (x2 - x0) << 17, (y2 - y0) << 17, 0, 5 << 16, 7 << 16, 1 << 30]
        assert Orientation.of(matrix) == orientation
    assert Orientation.of([46341, 46341, 0, -46341, 46341, 0, 0, 0, 1 << 30]) == Orientation()  # by 45 degrees


def test_an_unchanged_frame_keeps_its_planes() -> None:
    format, color = PixelFormat.of("yuv422p10le"), Color("bt709")
    planes = noise(format, 32, 32)
    frame = Frame(planes, format, color, Fraction(0), Fraction(1, 24))
    assert all(a is b for a, b in zip(frame.as_planes(format, color), planes, strict=True))


def test_alpha_survives_a_change_of_depth() -> None:
    source, target = PixelFormat.of("yuva420p"), PixelFormat.of("yuva444p10le")
    planes = noise(source, 32, 32)
    frame = Frame(planes, source, Color("bt709"), Fraction(0), Fraction(1))
    alpha = frame.as_planes(target, Color("bt709"))[-1]
    assert alpha.max() <= 1023 and np.abs(alpha / 1023 - planes[-1] / 255).max() < 0.001


@pytest.mark.parametrize("name", ["yuv420p", "yuv420p10le", "gbrp", "gbrp10le", "gray", "gray16le"])
def test_luma_weighs_the_colours_whatever_the_format(name: str) -> None:
    """The grey picture of full red is darker than that of full green, in the shares of BT.709."""
    format, color = PixelFormat.of(name), Color("bt709", full_range=True)
    for rgb, grey in (((1, 0, 0), 54), ((0, 1, 0), 182), ((0, 0, 1), 18), ((1, 1, 1), 255)):
        picture = np.broadcast_to(np.array(rgb, np.float32), (16, 16, 3))
        planes = from_rgb(picture, format, color)
        frame = Frame(planes, format, color, Fraction(0), Fraction(1))
        assert frame.luma.dtype == np.uint8 and abs(int(frame.luma[8, 8]) - grey) <= 1


def test_the_luma_of_a_changed_frame_is_that_of_its_picture() -> None:
    format, color = PixelFormat.of("yuv420p"), Color("bt709", full_range=True)
    black = from_rgb(np.zeros((16, 16, 3), np.float32), format, color)
    white = np.ones((16, 16, 3), np.float32)
    assert Frame(black, format, color, Fraction(0), Fraction(1), white).luma.min() == 255


def test_a_picture_as_a_frame_and_back() -> None:
    image = np.random.default_rng(0).integers(0, 256, (17, 24, 3), np.uint8)
    frame = Frame.of_image(image, Fraction(3))
    assert np.array_equal(frame.image, image) and frame.pts == 3
    assert np.allclose(frame.as_rgb(), image / 255, atol=1e-6)
    beyond = np.float32([-0.1, 0.5, 1.1]) * np.ones((16, 16, 1), np.float32)
    assert [*dataclasses.replace(frame, rgb=beyond).image[0, 0]] == [0, 128, 255]


def test_another_matrix_or_range_is_another_picture() -> None:
    """The planes pass as they are only where format and colour are both the same."""
    format, limited, full = PixelFormat.of("yuv444p"), Color("bt709"), Color("bt709", full_range=True)
    planes = from_rgb(np.ones((16, 16, 3), np.float32), format, limited)
    frame = Frame(planes, format, limited, Fraction(0), Fraction(1))
    assert int(planes[0][8, 8]) == 235 and int(frame.as_planes(format, full)[0][8, 8]) == 255


@pytest.mark.parametrize(("transfer", "hdr"), [("smpte2084", True), ("arib-std-b67", True), ("bt709", False)])
def test_which_transfers_are_hdr(transfer: str, hdr: bool) -> None:
    assert Color(transfer=transfer).hdr is hdr


def test_untagged_colours_are_bt709_from_720_lines_up() -> None:
    format = PixelFormat.of("yuv444p")
    for lines, matrix in ((719, "smpte170m"), (720, "bt709")):
        planes = noise(format, 16, lines)
        assert np.array_equal(to_rgb(planes, format, Color()), to_rgb(planes, format, Color(matrix)))


def test_the_smallest_picture() -> None:
    check_size(SMALLEST_SIDE, SMALLEST_SIDE, "clip")
    with pytest.raises(InputError, match="clip: 16×15 is too small"):
        check_size(SMALLEST_SIDE, SMALLEST_SIDE - 1, "clip")


@pytest.mark.parametrize("name", ["gbrpf32le", "grayf32le", "no_such_format"])
def test_formats_we_cannot_hold_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        PixelFormat.of(name)
