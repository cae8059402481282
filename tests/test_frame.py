from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from fpsgan.video.frame import SITING, Color, Frame, PixelFormat, from_rgb, rotate, rotated, to_rgb

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


@pytest.mark.parametrize("degrees", [90, 180, 270])
@pytest.mark.parametrize("name", ["yuv420p", "yuv422p", "yuv444p"])
def test_rotation_turns_the_colours_with_the_picture(degrees: int, name: str) -> None:
    generator = np.random.default_rng(1)
    smooth = np.cumsum(generator.normal(0, 0.004, (48, 64, 3)), axis=1).astype(np.float32) + 0.5
    format, color = PixelFormat.of(name), Color("bt709")
    planes = from_rgb(smooth, format, color)
    turned = to_rgb(rotate(planes, format, color, degrees), *rotated(format, color, degrees))
    expected = np.rot90(to_rgb(planes, format, color), degrees // 90)
    assert turned.shape == expected.shape
    assert np.abs(turned - expected)[4:-4, 4:-4].mean() < 0.006


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


@pytest.mark.parametrize("name", ["gbrpf32le", "grayf32le", "no_such_format"])
def test_formats_we_cannot_hold_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        PixelFormat.of(name)
