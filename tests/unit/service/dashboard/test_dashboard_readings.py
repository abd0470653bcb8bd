"""Captured readings: pictures, plots, and bytes that are neither."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from numpy.typing import NDArray

from edgehone.service.dashboard.png import png
from edgehone.service.dashboard.readings import MOST_PIXELS, look, picture
from edgehone.service.dashboard.series import Track, cells, time_ticks, tracks


def npy(array: NDArray[np.generic]) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, array, version=(1, 0), allow_pickle=True)
    return file.getvalue()


def pixels(content: bytes) -> NDArray[np.uint8]:
    """A PNG's pixels, read by the specification; checks of all chunks included."""
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    at, body, head = 8, b"", (0, 0, 0, 0)
    while at < len(content):
        (length,) = struct.unpack(">I", content[at : at + 4])
        kind, inner = content[at + 4 : at + 8], content[at + 8 : at + 8 + length]
        assert zlib.crc32(kind + inner) == struct.unpack(">I", content[at + 8 + length : at + 12 + length])[0]
        if kind == b"IHDR":
            head = struct.unpack(">IIBB", inner[:10])
        body += inner if kind == b"IDAT" else b""
        at += 12 + length
    width, height, _, colour = head
    rows = np.frombuffer(zlib.decompress(body), np.uint8).reshape(height, -1)
    assert not rows[:, 0].any()
    return rows[:, 1:].reshape((height, width) if colour == 0 else (height, width, 3))


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 3), (1, 1)])
def test_a_png_holds_its_pixels(shape: tuple[int, ...]) -> None:
    wanted = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    assert np.array_equal(pixels(png(wanted)), wanted)


@pytest.mark.parametrize("shape", [(0, 4), (4, 4, 2), (4,)])
def test_what_is_no_picture_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="no picture"):
        png(np.zeros(shape, np.uint8))


def test_a_dark_picture_stays_dark_and_channels_stay_in_order() -> None:
    image = np.zeros((3, 8, 8), np.float32)
    image[0], image[1, 2, 3] = 0.2, 1.0
    found = pixels(picture(npy(image)))
    assert found[0, 0].tolist() == [51, 0, 0]
    assert found[2, 3].tolist() == [51, 255, 0]


def test_a_large_picture_is_thinned() -> None:
    shown = look(npy(np.zeros((1, 2000, 300), np.uint8)))
    assert shown.kind == "picture"
    assert max(shown.width, shown.height) <= MOST_PIXELS


@pytest.mark.parametrize("array", [np.arange(20.0), np.zeros((2, 300)), np.array(3.0), np.full((1, 9), np.nan)])
def test_rows_are_plotted(array: NDArray[np.float64]) -> None:
    shown = look(npy(array))
    assert shown.kind == "plot"
    assert shown.plot.startswith("<svg")
    assert "nan" not in shown.plot.replace("Vibration", "")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e308, -1e308])
def test_values_that_are_no_numbers_are_drawn(value: float) -> None:
    image = np.full((1, 8, 8), value)
    image[0, 0, 0] = -value
    assert pixels(picture(npy(image))).shape == (8, 8)
    assert look(npy(np.array([1.0, value, 2.0]))).kind == "plot"


@pytest.mark.parametrize(
    "content",
    [
        b"", b"\x93NUMPY", b"x" * 500, npy(np.zeros((1, 8, 8)))[:-1], npy(np.zeros(0)), npy(np.array([{}, 1], object)),
        npy(np.array(["a"])), npy(np.zeros(3))[:6] + b"\x02\x00" + npy(np.zeros(3))[8:], bytes(5 << 20),
        npy(np.zeros((4, 4))).replace(b"(4, 4)", b"(9**9,)"[:6]),
    ],
)  # fmt: skip
def test_damaged_readings_say_so(content: bytes) -> None:
    assert look(content).kind == "nothing"
    assert look(content).why
    with pytest.raises(ValueError, match="reading"):
        picture(content)


def test_a_strip_carries_a_level_for_two_cells_only() -> None:
    hour = 3600.0
    found = cells([(0.5 * hour, 2), (0.6 * hour, 1), (20.5 * hour, 3), (99 * hour, 3)], 24 * hour)
    assert found[:4] == [2, 2, 2, None]
    assert found[20:] == [3, 3, 3, None]


def test_time_ticks_are_round() -> None:
    assert [said for _, said in time_ticks(0, 24 * 3600, 6)] == ["00:00", "06:00", "12:00", "18:00", "00:00"]
    assert [said for _, said in time_ticks(0, 3 * 86_400, 4)][1] == "02 Jan"


def test_tracks_escape_their_names_and_draw_single_points() -> None:
    drawn = tracks([Track("<b>", 1, ((0.0, 1.0),))], "t", lambda value: f"{value:g}")
    assert "<b>" not in drawn
    assert "&lt;b&gt;" in drawn
    assert tracks([], "t", str) == ""
