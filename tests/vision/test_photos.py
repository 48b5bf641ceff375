"""Photos of every kind become the square that the encoder sees, or a ValueError."""

import struct
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from captioner.vision import photos
from captioner.vision.photos import load_photo, upright_size
from tests.support.worlds import encoded, jpeg

NOISE = np.random.default_rng(1).integers(0, 256, (32, 32, 3), dtype=np.uint8)
RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)
CORNERS = {"TL": RED, "TR": GREEN, "BL": BLUE, "BR": WHITE}
# EXIF's definition by hand: what the stored file has at its own TL, TR, BL, BR for each orientation
STORED = {
    1: "TL TR BL BR",
    2: "TR TL BR BL",
    3: "BR BL TR TL",
    4: "BL BR TL TR",
    5: "TL BL TR BR",
    6: "TR BR TL BL",
    7: "BR TR BL TL",
    8: "BL TL BR TR",
}


def load(data, size=32, fit="squash"):
    found = load_photo(data, size=size, fit=fit)
    assert found.shape == (size, size, 3)
    assert found.dtype == np.uint8
    return found


def near(found, colour, within=4):
    """Say whether every pixel of `found` is this colour, up to what a JPEG loses."""
    return bool((np.abs(found.astype(int) - colour) <= within).all())


def header(width, height, pixels=b""):
    """Return a PNG that says it is so large, whatever pixels it holds."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    size = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")


def turned(orientation, side, kind="JPEG"):
    """Return a photo of four coloured quarters that is upright once it is turned as its EXIF says."""
    picture, half = Image.new("RGB", (side, side)), side // 2
    for corner, at in zip(STORED[orientation].split(), [(0, 0), (half, 0), (0, half), (half, half)], strict=True):
        picture.paste(CORNERS[corner], (*at, at[0] + half, at[1] + half))
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(picture, kind, exif=exif, **({"quality": 95, "subsampling": 0} if kind == "JPEG" else {}))


@pytest.mark.parametrize("fit", ["squash", "crop"])
def test_a_photo_of_the_right_size_is_returned_as_it_is(fit):
    assert np.array_equal(load(encoded(Image.fromarray(NOISE)), fit=fit), NOISE)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF"])
def test_the_content_says_what_it_is_not_the_name(kind):
    assert near(load(encoded(Image.new("RGB", (40, 30), GREEN), kind)), GREEN)


@pytest.mark.parametrize(
    ("mode", "colour", "kind", "seen"),
    [
        ("RGB", (10, 200, 30), "PNG", (10, 200, 30)),
        ("L", 90, "PNG", (90, 90, 90)),
        ("L", 90, "JPEG", (90, 90, 90)),
        ("CMYK", (255, 0, 0, 0), "JPEG", (0, 255, 255)),
        ("CMYK", (0, 0, 0, 255), "JPEG", (0, 0, 0)),
        ("RGBA", (255, 0, 0, 255), "PNG", RED),
        ("RGBA", (0, 0, 0, 0), "PNG", WHITE),
        ("RGBA", (255, 0, 0, 51), "PNG", (255, 204, 204)),
        ("LA", (0, 255), "PNG", (0, 0, 0)),
        ("LA", (0, 0), "PNG", WHITE),
        ("LA", (0, 51), "PNG", (204, 204, 204)),
        ("1", 0, "PNG", (0, 0, 0)),
        ("1", 1, "PNG", WHITE),
        ("YCbCr", (128, 128, 128), "JPEG", (128, 128, 128)),
    ],
)
def test_every_mode_becomes_rgb_on_white(mode, colour, kind, seen):
    assert near(load(encoded(Image.new(mode, (40, 40), colour), kind)), seen)


def test_a_palette_is_looked_up_and_its_transparent_colour_is_white():
    picture = Image.new("P", (32, 32), 0)
    picture.putpalette([*RED, *BLUE])
    picture.paste(1, (16, 0, 32, 32))
    plain, transparent = load(encoded(picture)), load(encoded(picture, transparency=1))
    assert near(plain[:, :16], RED, 0)
    assert near(plain[:, 16:], BLUE, 0)
    assert near(transparent[:, :16], RED, 0)
    assert near(transparent[:, 16:], WHITE, 0)


@pytest.mark.parametrize(("mode", "colour"), [("RGB", (1, 2, 3)), ("L", 7)])
def test_a_transparent_colour_without_an_alpha_channel_is_white(mode, colour):
    assert near(load(encoded(Image.new(mode, (32, 32), colour), transparency=colour)), WHITE, 0)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_grey_keeps_its_tones(kind):
    tones = np.repeat(np.array([0, 8224, 32768, 65535], dtype=np.uint16), 8)
    found = load(encoded(Image.fromarray(np.tile(tones, (32, 1))), kind))
    assert np.abs(found[:, ::8].astype(int) - np.array([0, 32, 127.5, 255])[:, None]).max() <= 1


def test_floating_point_pixels_are_refused():
    with pytest.raises(ValueError, match="floating-point"):
        load(encoded(Image.new("F", (32, 32), 0.5), "TIFF"))


def test_1_bit_photos_keep_black_and_white_apart():
    picture = Image.new("1", (32, 32), 0)
    picture.paste(1, (0, 16, 32, 32))
    found = load(encoded(picture))
    assert near(found[:16], (0, 0, 0), 0)
    assert near(found[16:], WHITE, 0)


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("fit", ["squash", "crop"])
@pytest.mark.parametrize(("side", "kind"), [(32, "JPEG"), (256, "JPEG"), (32, "PNG"), (32, "TIFF")])
def test_exif_turns_the_photo_upright(orientation, fit, side, kind):  # of 256 is decoded at a quarter of its size
    found = load(turned(orientation, side, kind), fit=fit)
    corners = {"TL": found[2:14, 2:14], "TR": found[2:14, 18:30], "BL": found[18:30, 2:14], "BR": found[18:30, 18:30]}
    for corner, colour in CORNERS.items():
        assert near(corners[corner], colour, 24), corner


@pytest.mark.parametrize(("kind", "value"), [(2, b"6\0\0\0"), (3, struct.pack("<HH", 9, 0)), (4, bytes(4))])
def test_an_orientation_that_is_none_leaves_the_size(kind, value):  # text, one too high, a long zero
    entry = struct.pack("<HHI", 0x0112, kind, len(value.rstrip(b"\0")) + 1 if kind == 2 else 1) + value
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 1) + entry + bytes(4)
    wide = encoded(Image.new("RGB", (40, 20)), "JPEG", exif=exif)
    assert upright_size(wide) == (40, 20)
    assert load(wide).shape == (32, 32, 3)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
@pytest.mark.parametrize("orientation", STORED)
def test_the_size_is_that_of_the_upright_photo(orientation, kind):
    exif = Image.Exif()
    exif[0x0112] = orientation
    wide = encoded(Image.new("RGB", (40, 20)), kind, exif=exif)
    assert upright_size(wide) == ((20, 40) if orientation >= 5 else (40, 20))


@pytest.mark.parametrize("orientation", [0, 9, 60000])
def test_an_orientation_that_does_not_exist_turns_nothing(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(Image.fromarray(NOISE), exif=exif)
    assert np.array_equal(load(data), NOISE)


@pytest.mark.parametrize(
    ("tag", "kind", "value"),
    [
        (0x0100, 2, 8),  # the width as text
        (0x010F, 5, 8),  # the camera's maker as a fraction
        (0x011A, 2, 8),  # the resolution as text
        (0x0128, 4, 0x41414141),  # a short number that is too long
        (0x8769, 2, 8),  # the place of more EXIF as text
    ],
)
def test_exif_of_wrong_types_turns_the_photo_or_is_a_value_error(tag, kind, value):
    half = Image.new("RGB", (32, 32), RED)
    half.paste(BLUE, (0, 16, 32, 32))
    entries = [struct.pack("<HHIHH", 0x0112, 3, 1, 6, 0), struct.pack("<HHII", tag, kind, 1, value)]
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2) + b"".join(entries) + bytes(4)
    try:
        assert upright_size(encoded(half, exif=exif)) == (32, 32)
        found = load(encoded(half, exif=exif))
    except ValueError:
        return
    assert near(found[:, :8], BLUE)
    assert near(found[:, 24:], RED)


@pytest.mark.parametrize("fit", ["squash", "crop"])
@pytest.mark.parametrize(("width", "height"), [(1, 1), (1, 999), (20_000, 10), (10, 20_000), (33, 31), (31, 33)])
def test_any_shape_becomes_the_square(width, height, fit):
    assert near(load(jpeg(width, height, BLUE), fit=fit), BLUE)


@pytest.mark.parametrize("upright", [False, True])
def test_squash_keeps_the_whole_photo_and_crop_its_middle(upright):
    picture = Image.new("RGB", (96, 32), GREEN)
    picture.paste(RED, (0, 0, 32, 32))
    picture.paste(BLUE, (64, 0, 96, 32))
    data = encoded(picture.transpose(Image.Transpose.ROTATE_270) if upright else picture)
    squashed, cropped = load(data), load(data, fit="crop")
    if upright:
        squashed = squashed.transpose(1, 0, 2)
    assert near(squashed[:, :8], RED)
    assert near(squashed[:, 13:19], GREEN)
    assert near(squashed[:, -8:], BLUE)
    assert near(cropped, GREEN)


def test_a_jpeg_decoded_small_looks_like_one_decoded_whole():
    wave = (np.sin(np.linspace(0, 12, 512))[None] * np.cos(np.linspace(0, 9, 512))[:, None] * 120 + 128).astype(
        np.uint8
    )
    picture = Image.fromarray(np.stack([wave, wave.T, 255 - wave], axis=-1))
    small, whole = load(encoded(picture, "JPEG", quality=95)), load(encoded(picture))
    assert np.abs(small.astype(int) - whole).mean() < 3


def test_the_same_bytes_give_the_same_pixels():
    data = encoded(Image.fromarray(NOISE).resize((300, 200)), "JPEG")
    first = load(data, size=64)
    with ThreadPoolExecutor(4) as pool:
        assert all(np.array_equal(first, again) for again in pool.map(lambda _: load(data, size=64), range(12)))


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.95])
def test_a_truncated_photo_is_a_value_error(kind, share):
    data = encoded(Image.fromarray(NOISE).resize((200, 200)), kind)
    with pytest.raises(ValueError, match=r"."):
        load(data[: int(len(data) * share)])


@pytest.mark.parametrize(
    "data",
    [b"", bytes(500), b"<html>not found</html>", b"\xff\xd8\xff", header(0, 5)],
    ids=["empty", "zeros", "text", "three bytes", "no width"],
)
def test_what_is_no_photo_is_a_value_error_that_means_something(data):
    with pytest.raises(ValueError, match=r".") as caught:
        load(data)
    assert " at 0x" not in str(caught.value)  # the address of an object helps nobody, and differs in each run


def test_a_damaged_png_is_a_value_error():
    data = bytearray(encoded(Image.fromarray(NOISE)))
    data[len(data) // 2] ^= 255
    with pytest.raises(ValueError, match=r"."):
        load(bytes(data))


@pytest.mark.parametrize(("width", "height"), [(100_000, 100_000), (12_000, 8_000), (1, 200_000_000)])
def test_a_decompression_bomb_is_refused_before_it_is_decoded(width, height):
    with pytest.raises(ValueError, match="pixels"):
        load(header(width, height))


def test_a_decompression_bomb_is_refused_while_another_thread_decodes(monkeypatch):
    """One thread opens a photo, a second a bomb; the first one is done before the second goes on."""
    photo, bomb, opened = jpeg(), header(12_000, 8_000), Image.open
    photo_opens, bomb_opens, photo_done = threading.Event(), threading.Event(), threading.Event()

    def interleaved(file):
        if file.getvalue() == bomb:
            bomb_opens.set()
            photo_done.wait(1)
        else:
            photo_opens.set()
            bomb_opens.wait(1)
        return opened(file)

    def decode_photo():
        load(photo)
        photo_done.set()

    monkeypatch.setattr(photos.Image, "open", interleaved)
    with ThreadPoolExecutor(2) as pool:
        done = pool.submit(decode_photo)
        assert photo_opens.wait(5)
        refused = pool.submit(load, bomb)
        done.result()
        with pytest.raises(ValueError, match="pixels"):
            refused.result()
