"""Photos of every kind become the square that the encoder sees, or a ValueError."""

import io
import struct
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image, ImageCms, features

from captioner.vision.photos import ORIENTATION, load_photo, upright_size
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
    result = load_photo(data, size=size, fit=fit)
    assert result.shape == (size, size, 3)
    assert result.dtype == np.uint8
    return result


def near(result, colour, within=4):
    """Say whether every pixel of `found` is this colour, up to what a JPEG loses."""
    return bool((np.abs(result.astype(int) - colour) <= within).all())


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


@pytest.mark.parametrize("kind", ["JPEG", "MPO", "PNG", "GIF", "BMP", "WEBP", "TIFF"])
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
    result = load(encoded(Image.fromarray(np.tile(tones, (32, 1))), kind))
    assert np.abs(result[:, ::8].astype(int) - np.array([0, 32, 127.5, 255])[:, None]).max() <= 1


def tiff_of(bits, pixels, white_is_zero=False):
    """Return a grey TIFF of 8 x 1 pixels; Pillow writes neither 12 bits nor white as zero."""
    fields = [(256, 8), (257, 1), (258, bits), (259, 1), (262, 0 if white_is_zero else 1), (273, 8), (277, 1), (278, 1)]
    fields.append((279, len(pixels)))
    entries = b"".join(struct.pack("<HHIHH", tag, 3, 1, value, 0) for tag, value in fields)
    directory = struct.pack("<H", len(fields)) + entries + bytes(4)
    return b"II*\0" + struct.pack("<I", 8 + len(pixels)) + pixels + directory


def test_12_bit_grey_keeps_its_tones():
    packed = b"".join(((a << 12) | b).to_bytes(3, "big") for a, b in [(0, 4095), (4095, 4095), (2048, 2048), (0, 0)])
    row = load_photo(tiff_of(12, packed), size=8, fit="squash")[0, :, 0].tolist()
    assert row == [0, 255, 255, 255, 127, 127, 0, 0]


def test_16_bit_grey_whose_white_is_zero_is_inverted():
    row = load_photo(tiff_of(16, struct.pack("<8H", *[0] * 4, *[65535] * 4), True), size=8, fit="squash")[0, :, 0]
    assert row.tolist() == [255] * 4 + [0] * 4


def test_grey_of_32_bits_is_refused():
    with pytest.raises(ValueError, match="its pixels are 32-bit numbers, of which no one range is white"):
        load_photo(tiff_of(32, bytes(32)), size=8, fit="squash")


def test_a_transparent_colour_of_16_bit_grey_is_white():
    picture = Image.fromarray(np.full((32, 32), 5000, dtype=np.uint16))
    assert near(load(encoded(picture, transparency=5000)), WHITE, 0)
    assert near(load(encoded(picture, transparency=5001)), (19, 19, 19), 0)


def test_too_little_memory_is_no_fault_of_the_photo(monkeypatch):
    def exhausted(photo, profile):
        raise MemoryError

    monkeypatch.setattr("captioner.vision.photos._to_srgb", exhausted)
    with pytest.raises(MemoryError):
        load(jpeg(40, 30))


def test_floating_point_pixels_are_refused():
    with pytest.raises(ValueError, match="floating-point"):
        load(encoded(Image.new("F", (32, 32), 0.5), "TIFF"))


def test_1_bit_photos_keep_black_and_white_apart():
    picture = Image.new("1", (32, 32), 0)
    picture.paste(1, (0, 16, 32, 32))
    result = load(encoded(picture))
    assert near(result[:16], (0, 0, 0), 0)
    assert near(result[16:], WHITE, 0)


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("fit", ["squash", "crop"])
@pytest.mark.parametrize(("side", "kind"), [(32, "JPEG"), (256, "JPEG"), (32, "PNG"), (32, "TIFF")])
def test_exif_turns_the_photo_upright(orientation, fit, side, kind):  # of 256 is decoded at a quarter of its size
    result = load(turned(orientation, side, kind), fit=fit)
    corners = {
        "TL": result[2:14, 2:14],
        "TR": result[2:14, 18:30],
        "BL": result[18:30, 2:14],
        "BR": result[18:30, 18:30],
    }
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
        result = load(encoded(half, exif=exif))
    except ValueError:
        return
    assert near(result[:, :8], BLUE)
    assert near(result[:, 24:], RED)


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
    small, large = load(encoded(picture, "JPEG", quality=95)), load(encoded(picture))
    assert np.abs(small.astype(int) - large).mean() < 3


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


@pytest.mark.parametrize(("width", "height"), [(12_000, 9_000), (30_000, 30_000)])
def test_a_bomb_is_refused_without_a_warning(width, height, recwarn):
    with pytest.raises(ValueError, match=rf"{width} x {height} pixels, more than 80 million; save it smaller"):
        load(header(width, height))
    assert not recwarn.list  # Pillow's own warns, by filters that all threads share


def as_large(data, width, height):
    """Return a JPEG whose header says another size."""
    at = data.index(b"\xff\xc0") + 5
    return data[:at] + struct.pack(">HH", height, width) + data[at + 4 :]


def test_a_photo_of_108_million_pixels_is_decoded_at_a_fraction_of_its_size(recwarn):
    picture = Image.new("L", (12_000, 9_000), 200)
    picture.paste(30, (6_000, 0, 12_000, 9_000))
    data = encoded(picture, "JPEG")
    result = load(data)
    assert near(result[:, :14], (200, 200, 200))
    assert near(result[:, 18:], (30, 30, 30))
    with pytest.raises(ValueError, match=r"12000 x 9000 pixels, more than 80 million"):
        load_photo(data, size=9_000, fit="squash")
    with pytest.raises(ValueError, match=r"60000 x 60000 pixels, more than 300 million; save it smaller"):
        load(as_large(jpeg(), 60_000, 60_000))
    assert not recwarn.list


def test_a_progressive_photo_is_held_whole_so_its_limit_is_the_usual_one():
    data = jpeg(64, 64, progressive=True)
    at = data.index(b"\xff\xc2") + 5
    with pytest.raises(ValueError, match="more than 80 million"):
        load(data[:at] + struct.pack(">HH", 9_000, 12_000) + data[at + 4 :])


# colour profiles, made by hand: Pillow makes none with other primaries


def fixed(value):
    return struct.pack(">i", round(value * 65536))


def matrix_profile(red, green, blue, gamma=2.2):
    """Return an ICC profile (version 2) of an RGB space by the XYZ of its primaries, adapted to D50."""
    curve = b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256)) + bytes(2)
    tags = {b"wtpt": (0.9642, 1.0, 0.8249), b"rXYZ": red, b"gXYZ": green, b"bXYZ": blue}
    bodies = {tag: b"XYZ " + bytes(4) + b"".join(map(fixed, xyz)) for tag, xyz in tags.items()}
    bodies |= dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve)
    return profile_of(b"RGB ", bodies)


def grey_profile(gamma):
    curve = b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256)) + bytes(2)
    white = b"XYZ " + bytes(4) + b"".join(map(fixed, (0.9642, 1.0, 0.8249)))
    return profile_of(b"GRAY", {b"wtpt": white, b"kTRC": curve})


def profile_of(space, bodies):
    bodies = {b"desc": b"desc" + bytes(4) + struct.pack(">I", 5) + b"test\0" + bytes(78 + 1), **bodies}
    at, table, data = 128 + 4 + 12 * len(bodies), b"", b""
    for tag, body in bodies.items():
        body += bytes(-len(body) % 4)
        table += tag + struct.pack(">II", at + len(data), len(body))
        data += body
    head = struct.pack(">I4sI4s4s4s", at + len(data), b"lcms", 0x02400000, b"mntr", space, b"XYZ ")
    head += struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + b"".join(map(fixed, (0.9642, 1.0, 0.8249)))
    return head.ljust(128, b"\0") + struct.pack(">I", len(bodies)) + table + data


SRGB = [(0.4361, 0.2225, 0.0139), (0.3851, 0.7169, 0.0971), (0.1431, 0.0606, 0.7141)]  # D50
DISPLAY_P3 = [(0.5151, 0.2412, -0.0011), (0.2919, 0.6922, 0.0419), (0.1572, 0.0666, 0.7841)]
SWAPPED = matrix_profile(SRGB[2], SRGB[1], SRGB[0])  # its red is what others call blue
WIDE = matrix_profile(*DISPLAY_P3)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_the_colours_are_those_that_the_profile_means(kind):
    options = {"quality": 100} if kind in ("JPEG", "WEBP") else {}
    blue = load(encoded(Image.new("RGB", (64, 64), RED), kind, icc_profile=SWAPPED, **options))
    assert near(blue, BLUE, 6)


def test_a_photo_of_a_phone_is_less_dull_in_srgb():
    seen = load(encoded(Image.new("RGB", (64, 64), (200, 60, 60)), icc_profile=WIDE))
    assert near(seen, (219, 37, 49), 3)  # by hand: gamma 2.2, P3 to XYZ to sRGB, its curve


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_a_profile_counts_in_every_mode_and_leaves_what_is_transparent(mode):
    picture = Image.new("RGBA", (32, 32), (*RED, 255))
    if mode == "RGBA":
        picture.paste((*RED, 0), (16, 0, 32, 32))
    result = load(encoded(picture.convert(mode), icc_profile=SWAPPED))
    assert near(result[:, :16], BLUE, 6)
    assert near(result[:, 16:], WHITE if mode == "RGBA" else BLUE, 6)


def test_grey_and_cmyk_photos_have_profiles_of_their_own():
    grey = Image.new("L", (32, 32), 128)
    dark = load(encoded(grey, icc_profile=grey_profile(3.0)))
    assert near(dark, (100, 100, 100), 2)  # 255 * srgb((128 / 255) ** 3)
    assert near(load(encoded(grey, icc_profile=SWAPPED)), (128, 128, 128), 0)  # a profile of RGB says nothing of grey
    cmyk = Image.new("CMYK", (32, 32), (255, 0, 0, 0))
    assert near(load(encoded(cmyk, "JPEG", icc_profile=SWAPPED)), (0, 255, 255))


@pytest.mark.parametrize(
    "profile",
    [
        ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(),
        b"no profile",
        SWAPPED[:200],
        SWAPPED[:128] + bytes(len(SWAPPED) - 128),
        bytes(400),
        grey_profile(3.0),
    ],
    ids=["sRGB", "text", "cut", "without tags", "zeros", "of grey"],
)
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_profile_of_srgb_or_a_broken_one_changes_no_byte(kind, profile):
    picture = Image.fromarray(NOISE)
    assert np.array_equal(load(encoded(picture, kind, icc_profile=profile)), load(encoded(picture, kind)))


# metadata never decides


def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


HUGE = zlib.compress(bytes(70 << 20))
CHUNKS = {
    "long text": chunk(b"zTXt", b"a\0\0" + HUGE),
    "much text": b"".join(chunk(b"tEXt", b"a\0" + bytes(1 << 20)) for _ in range(66)),
    "many chunks": 70_000 * chunk(b"tEXt", b"key\0some text"),
    "a profile that unpacks to 70 MB": chunk(b"iCCP", b"a\0\0" + HUGE),
    "a profile of another compression": chunk(b"iCCP", b"a\0\7" + b"x"),
    "an empty profile": chunk(b"iCCP", b""),
    "a gamma of two bytes": chunk(b"gAMA", b"ab"),
    "an empty resolution": chunk(b"pHYs", b""),
    "broken chromaticities": chunk(b"cHRM", b"abc"),
    "an intent of nothing": chunk(b"sRGB", b""),
    "an animation of nothing": chunk(b"acTL", b"") + chunk(b"fcTL", b"abc"),
    "a chunk of one's own": chunk(b"prVt", bytes(99)),
    "a wrong checksum": chunk(b"tEXt", b"a\0b")[:-1] + b"?",
    "text of no language": chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0"),
    "broken EXIF": chunk(b"eXIf", b"II*\0\xff\xff\xff\xff"),
}


@pytest.mark.parametrize("added", CHUNKS.values(), ids=list(CHUNKS))
def test_a_png_is_read_whatever_else_is_in_it(added):
    exif = Image.Exif()
    exif[ORIENTATION] = 3
    data = encoded(Image.fromarray(NOISE), exif=exif)
    wanted = NOISE[::-1, ::-1]
    if added == CHUNKS["broken EXIF"]:
        data, wanted = encoded(Image.fromarray(NOISE)), NOISE
    assert np.array_equal(load(data[:33] + added + data[33:]), wanted)
    assert upright_size(data[:33] + added + data[33:]) == (32, 32)


def segment(marker, body):
    return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body


SEGMENTS = {
    "broken EXIF": segment(0xE1, b"Exif\0\0II*\0\xff\xff\xff\xff"),
    "no EXIF": segment(0xE1, b"Exif\0\0"),
    "pictures of nothing": segment(0xE2, b"MPF\0II*\0\x08\0\0\0\x01\0\x01\xb0\4\0\1\0\0\0\5\0\0\0\0\0\0\0"),
    "a profile in two parts of one": segment(0xE2, b"ICC_PROFILE\0\1\2" + SWAPPED[:99]),
    "a profile of no part": segment(0xE2, b"ICC_PROFILE\0"),
    "broken Photoshop records": segment(0xED, b"Photoshop 3.0\x008BIM\x03\xed\0\0\0\0\xff\xff"),
    "XMP that is no XML": segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0<x:xmpmeta <tiff:Orientation>z"),
    "a comment": segment(0xFE, b"\xff\xd9\xff\xda"),
    "an empty JFIF": segment(0xE0, b"JFIF"),
}


@pytest.mark.parametrize("added", SEGMENTS.values(), ids=list(SEGMENTS))
def test_a_jpeg_is_read_whatever_else_is_in_it(added):
    data = encoded(Image.fromarray(NOISE), "JPEG")
    assert np.array_equal(load(data[:2] + added + data[2:]), load(data))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_no_byte_of_the_metadata_stops_a_photo_from_being_read(kind):
    exif = Image.Exif()
    exif[ORIENTATION], exif[0x010F], exif[0x011A] = 6, "a camera", 72.0
    options = {"exif": exif, "icc_profile": WIDE}
    picture = Image.fromarray(NOISE)
    data, plain = encoded(picture, kind, **options), encoded(picture, kind)
    assert len(data) > len(plain) + 200
    starts = [data.index(b"MM\0*"), data.index(b"iCCP" if kind == "PNG" else WIDE[:40])]
    rng = np.random.default_rng(0)
    for _ in range(150):
        mutated = bytearray(data)
        start = int(rng.choice(starts))
        for at in rng.integers(start + 4, start + 60, 4):
            mutated[at] = rng.integers(256)
        assert load(bytes(mutated)).shape == (32, 32, 3)


def test_a_tiff_of_broken_exif_is_read_and_turned():
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    exif[0x8298] = "a name"
    data = encoded(Image.new("RGB", (40, 20)), "TIFF", exif=exif)
    entry = data.index(struct.pack("<HHI", 0x8298, 2, 7))
    broken = data[:entry] + struct.pack("<HHII", 0x8769, 4, 1, 0xFFFFFFFF) + data[entry + 12 :]  # where EXIF lies
    assert upright_size(broken) == (20, 40)
    assert load(broken).shape == (32, 32, 3)


# kinds


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n0 0 moveto\nshowpage\n%%EOF\n"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (EPS, "it is PostScript"),
        (b"%PDF-1.7\n", "it is a PDF"),
        (b"\n<!DOCTYPE html><html>", "it is a web page"),
        (b"<svg xmlns=''/>", "it is an SVG drawing"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "it is JPEG XL"),
        (b"\0\0\0\x0cjP  \r\n\x87\n", "it is JPEG 2000"),
        (b"P6 1 1 255\nabc", "no photo"),
        (b"8BPS\0\1", "it is a Photoshop file"),
    ],
)
def test_a_kind_that_is_not_read_is_refused_before_any_reader_runs(data, message, monkeypatch):
    monkeypatch.setattr(Image, "open", lambda *given, **options: pytest.fail("Pillow chose a reader"))
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *given: pytest.fail("Ghostscript was started"))
    with pytest.raises(ValueError, match=rf"not a photo that can be read \({message}.*expected JPEG, PNG"):
        load(data)


def heif():
    heif = pytest.importorskip("pillow_heif")
    file = io.BytesIO()
    heif.from_pillow(Image.new("RGB", (64, 64), (200, 60, 60))).save(file, quality=95)
    return file.getvalue()


def test_a_heic_photo_is_read_where_its_package_is_installed_and_named_where_not(monkeypatch):
    data = heif()
    assert near(load(data), (200, 60, 60), 8)
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(ValueError, match=r"it is HEIC, which .* pillow-heif reads: .*captioner\[heic\]"):
        load(data)


def test_an_avif_photo_is_read_where_pillow_has_it_and_named_where_not(monkeypatch):
    if not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    data = encoded(Image.new("RGB", (64, 32), (200, 60, 60)), "AVIF", exif=exif)
    assert near(load(data), (200, 60, 60), 8)
    assert upright_size(data) == (32, 64)
    monkeypatch.setattr(features, "check", lambda name: False)
    with pytest.raises(ValueError, match=r"it is AVIF, which Pillow reads from 11\.3"):
        load(data)
