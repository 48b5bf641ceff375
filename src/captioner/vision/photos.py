"""Convert photos of any size and mode to the encoder's input: an upright square in sRGB.

The first bytes of a file decide its kind, not its name. Only the reader of that kind runs, because Pillow would start
other programs for some kinds. Broken, long or unknown metadata never stops a photo from being read. An exported
captioner has a copy of this file, so it imports NumPy and Pillow and nothing of the package.
"""

import io
import zlib
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import TypeVar

import numpy as np
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageCms,
    ImageOps,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
    features,
)

T = TypeVar("T")

# by EXIF orientation; ImageOps.exif_transpose also rewrites the EXIF, and fails where that is broken
TURNS: dict[object, Image.Transpose] = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SIDEWAYS = (5, 6, 7, 8)  # orientations that exchange width and height
LARGEST = 80_000_000  # pixels that are decoded; more could exhaust the memory
LARGEST_JPEG = 300_000_000  # pixels of a JPEG, which is decoded at a fraction of its size
LONGEST_PROFILE = 16 << 20  # bytes of a colour profile; a longer one is ignored
SAME_COLOURS = 2  # levels of 255; a profile that changes no colour by more is sRGB

ORIENTATION = 0x0112  # the EXIF tag
KINDS = "JPEG, PNG, WebP, TIFF, BMP, GIF, and with the package pillow-heif HEIC"
CONVERT = "convert it to JPEG"
HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
AVIF_BRANDS = (b"avif", b"avis")
# what is often given instead of a photo, by its first bytes
OTHERS = {
    b"%!PS": "PostScript (EPS)",
    b"\xc5\xd0\xd3\xc6": "PostScript (EPS)",
    b"%PDF": "a PDF",
    b"<svg": "an SVG drawing",
    b"<?xml": "XML or an SVG drawing",
    b"<!doctype html": "a web page",
    b"<html": "a web page",
    b"PK\x03\x04": "a zip archive",
    b"\xff\x0a": "JPEG XL",
    b"\0\0\0\x0cJXL ": "JPEG XL",
    b"\0\0\0\x0cjP  ": "JPEG 2000",
    b"\xff\x4f\xff\x51": "JPEG 2000",
    b"8BPS": "a Photoshop file",
}

PNG_START = b"\x89PNG\r\n\x1a\n"
PNG_PIXELS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")  # the chunks that decide the pixels


class _Tiff(TiffImagePlugin.TiffImageFile):
    """A TIFF that turns upright as it is loaded. Pillow's class does this too, but reads all metadata for it and fails
    if they are broken."""

    def load_end(self) -> None:
        turn = TURNS.get(self.tag_v2.get(ORIENTATION))
        if turn is not None:
            self.im = self.im.transpose(turn)
            self._size = self.im.size


def load_photo(data: bytes, *, size: int, fit: str) -> np.ndarray:
    """Decode a photo's bytes to uint8 [size, size, 3], sRGB.

    `fit` is "squash" (the whole photo, with another aspect ratio) or "crop" (the middle square). Transparent photos get
    a white background, 16-bit photos are scaled to 8 bits, and colours of another valid profile are converted. Raises
    ValueError "not a photo that can be read (...)" for a file that is broken, truncated, not a photo, of an unsupported
    kind, or too large to decode in memory.
    """

    def decode(file: Image.Image) -> Image.Image:
        # JPEG decodes at 1/2, 1/4 or 1/8 where that still leaves twice the pixels needed
        file.draft("RGB", (2 * size, 2 * size))
        if file.width * file.height > LARGEST:
            raise ValueError(f"{_too_many(file)}; save it smaller")
        file.load()
        turn = TURNS.get(_orientation(file))
        return _to_srgb(file if turn is None else file.transpose(turn), file.info.get("icc_profile"))

    rgb = _of_photo(data, decode)
    if fit == "crop":
        rgb = ImageOps.fit(rgb, (size, size), Image.Resampling.BICUBIC)
    elif rgb.size != (size, size):
        rgb = rgb.resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(rgb)


def upright_size(data: bytes) -> tuple[int, int]:
    """Return a photo's width and height once it is turned as EXIF says; raises ValueError as `load_photo` does."""

    def measure(file: Image.Image) -> tuple[int, int]:
        if isinstance(file, _Tiff):
            file.load()  # turns it
        return file.size[::-1] if _orientation(file) in SIDEWAYS else file.size

    return _of_photo(data, measure)


def _of_photo(data: bytes, use: Callable[[Image.Image], T]) -> T:
    """Return what `use` returns for the opened photo, not decoded yet; every error but MemoryError is a ValueError."""
    failed = ""
    for variant in _variants(data):
        try:
            with _reader(variant)(io.BytesIO(variant)) as file:
                limit = LARGEST_JPEG if _decodes_small(file) else LARGEST
                if file.width * file.height > limit:  # the readers do not compare, and would not all refuse
                    raise ValueError(f"{_too_many(file, limit)}; save it smaller")
                if not file.width * file.height:
                    raise ValueError("it has no pixels")
                return use(file)
        except MemoryError:  # says nothing about the photo
            raise
        except Exception as error:  # broken bytes raise much besides OSError
            failed = failed or " ".join(str(error).split()) or type(error).__name__
    raise ValueError(f"not a photo that can be read ({failed})")


def _decodes_small(file: Image.Image) -> bool:
    """Return whether the memory for decoding depends on the size decoded at: a progressive JPEG is held whole."""
    return file.format == "JPEG" and not file.info.get("progressive")


def _too_many(file: Image.Image, limit: int = LARGEST) -> str:
    return f"{file.width} x {file.height} pixels, more than {limit // 1_000_000} million"


def _reader(data: bytes) -> Callable[[io.BytesIO], Image.Image]:
    """Return Pillow's reader of the kind of file that the bytes are; raises ValueError for any other kind."""
    start, brands = data[:32], {data[at : at + 4] for at in range(8, 32, 4)} if data[4:8] == b"ftyp" else set()
    if start.startswith(b"\xff\xd8\xff"):
        return JpegImagePlugin.JpegImageFile
    if start.startswith(PNG_START):
        return PngImagePlugin.PngImageFile
    if start.startswith(b"RIFF") and start[8:12] == b"WEBP":
        return WebPImagePlugin.WebPImageFile
    if start[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return _Tiff
    if start.startswith(b"BM"):
        return BmpImagePlugin.BmpImageFile
    if start[:6] in (b"GIF87a", b"GIF89a"):
        return GifImagePlugin.GifImageFile
    if brands & {*AVIF_BRANDS}:
        return _avif_reader()
    if brands & {*HEIF_BRANDS}:
        return _heif_reader()
    text = start.lstrip(b"\xef\xbb\xbf \r\n\t").lower()
    for other, name in OTHERS.items():
        if start.startswith(other) or text.startswith(other.lower()):
            raise ValueError(f"it is {name}; expected {KINDS}")
    raise ValueError(f"no photo, or its first bytes are broken; expected {KINDS}")


def _heif_reader() -> Callable[[io.BytesIO], Image.Image]:
    try:
        from pillow_heif import HeifImageFile
    except ImportError:
        raise ValueError(
            f"it is HEIC, which the package pillow-heif reads: `pip install pillow-heif` or the extra "
            f"`captioner[heic]`; or {CONVERT}"
        ) from None
    return HeifImageFile


def _avif_reader() -> Callable[[io.BytesIO], Image.Image]:
    if not features.check("avif"):
        raise ValueError(f"it is AVIF, which Pillow reads from 11.3 on where it was built so; update it, or {CONVERT}")
    from PIL import AvifImagePlugin

    return AvifImagePlugin.AvifImageFile


def _orientation(photo: Image.Image) -> object:
    """Return the orientation in EXIF, which may be any value. None if EXIF is broken, and for a TIFF, which is upright
    already."""
    try:
        return None if isinstance(photo, _Tiff) else photo.getexif().get(ORIENTATION)
    except Exception:  # broken EXIF raises anything
        return None


def _to_srgb(photo: Image.Image, profile: object) -> Image.Image:
    """Return a loaded photo in mode RGB: on white where it is transparent, of the colours that its profile means."""
    if photo.mode.startswith("I"):
        photo = _grey_of_8_bits(photo)
    if photo.mode == "F":
        raise ValueError("its pixels are floating-point numbers, of which no one range is white; convert it")
    alpha = None
    if photo.has_transparency_data:
        grey = photo.mode in ("L", "LA", "La")
        transparent = photo.convert("RGBA")
        alpha = transparent.getchannel("A")
        photo = transparent.getchannel("R") if grey else transparent.convert("RGB")
    elif photo.mode not in ("L", "CMYK"):
        photo = photo.convert("RGB")
    transform = _conversion(profile, photo.mode) if isinstance(profile, bytes) else None
    photo = photo.convert("RGB") if transform is None else transform.apply(photo)
    if alpha is not None:
        photo.putalpha(alpha)
        photo = Image.alpha_composite(Image.new("RGBA", photo.size, "white"), photo).convert("RGB")
    return photo


def _grey_of_8_bits(photo: Image.Image) -> Image.Image:
    """Return a loaded photo of deep grey in mode L, or LA if one of its greys is transparent."""
    tags = getattr(photo, "tag_v2", {})  # of a TIFF
    bits = tags.get(TiffImagePlugin.BITSPERSAMPLE, (16,))[0]
    if bits > 16:
        raise ValueError(f"its pixels are {bits}-bit numbers, of which no one range is white; convert it")
    deep, white = np.asarray(photo), 2**bits - 1
    if tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 0:  # white is zero
        deep = white - deep
    grey = Image.fromarray((deep.clip(0, white) / (white / 255)).astype(np.uint8))
    transparent = photo.info.get("transparency")
    if isinstance(transparent, int):
        alpha = Image.fromarray(np.where(deep == transparent, 0, 255).astype(np.uint8))
        return Image.merge("LA", (grey, alpha))
    return grey


@lru_cache(maxsize=8)
def _conversion(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """Return the conversion of pixels of `mode` (RGB, L or CMYK) from a colour profile to sRGB.

    None where the profile is broken, not for this mode, or sRGB itself. Relative colorimetric with black point
    compensation, as browsers convert photos.
    """
    if not 128 <= len(profile) <= LONGEST_PROFILE:
        return None
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if source.profile.xcolor_space.strip() != {"L": "GRAY"}.get(mode, mode):
            return None
        transform = ImageCms.buildTransform(
            source,
            ImageCms.createProfile("sRGB"),
            mode,
            "RGB",
            renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
            flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
        if mode == "CMYK":
            return transform
        sample = _sample(mode)
        before, after = (np.asarray(each, np.int16) for each in (sample.convert("RGB"), transform.apply(sample)))
    except Exception:  # a broken profile raises PyCMSError and much else
        return None
    return None if np.abs(after - before).max() <= SAME_COLOURS else transform


def _sample(mode: str) -> Image.Image:
    """Return an image of all greys, or of a grid of 9 x 9 x 9 colours."""
    if mode == "L":
        return Image.fromarray(np.arange(256, dtype=np.uint8)[None])
    levels = np.linspace(0, 255, 9).astype(np.uint8)
    return Image.fromarray(np.stack(np.meshgrid(levels, levels, levels), -1).reshape(1, -1, 3))


def _variants(data: bytes) -> Iterator[bytes]:
    """Yield a photo's bytes, then copies with less metadata, for where some of it stops the reader."""
    yield data
    if data.startswith(PNG_START):
        removing: Callable[..., bytes] = _png_without_metadata
    elif data.startswith(b"\xff\xd8\xff"):
        removing = _jpeg_without_metadata
    else:
        return
    less = removing(data, useful=True)
    if less != data:
        yield less
    least = removing(data, useful=False)
    if least != less:
        yield least


def _png_without_metadata(data: bytes, *, useful: bool) -> bytes:
    """Return a PNG of the chunks that decide its pixels; `useful`: also of a whole colour profile and EXIF."""
    pieces, at = [PNG_START], len(PNG_START)
    while at + 12 <= len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        kind, body = data[at + 4 : at + 8], data[at + 8 : end - 4]
        intact = zlib.crc32(kind + body) == int.from_bytes(data[end - 4 : end], "big")
        needed = useful and intact and (kind == b"eXIf" or (kind == b"iCCP" and _unpacks(body)))
        if kind in PNG_PIXELS or needed:
            pieces.append(data[at:end])
        at = end
    return b"".join(pieces) + data[at:]


def _unpacks(body: bytes) -> bool:
    """Return whether Pillow can read the profile of an iCCP chunk."""
    method, packed = body.partition(b"\0")[2][:1], body.partition(b"\0")[2][1:]
    try:
        unpacking = zlib.decompressobj()
        unpacking.decompress(packed, PngImagePlugin.MAX_TEXT_CHUNK)
    except zlib.error:
        return False
    return method == b"\0" and not unpacking.unconsumed_tail


def _jpeg_without_metadata(data: bytes, *, useful: bool) -> bytes:
    """Return a JPEG without comments and the segments of applications but those that decide its colours (JFIF, Adobe);
    `useful`: also with its colour profile and EXIF."""
    pieces, at = [data[:2]], 2
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] not in (0xDA, 0xD9):
        if data[at + 1] == 0xFF:  # padding
            at += 1
            continue
        marker, end = data[at + 1], at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        start = data[at + 4 : at + 16]
        needed = not (0xE0 <= marker <= 0xEF or marker == 0xFE)
        needed |= ((marker, start[:4]) == (0xE0, b"JFIF") and end - at >= 16) or (marker, start[:5]) == (0xEE, b"Adobe")
        needed |= useful and ((marker, start[:4]) == (0xE1, b"Exif") or (marker, start[:11]) == (0xE2, b"ICC_PROFILE"))
        if needed:
            pieces.append(data[at:end])
        at = end
    return b"".join(pieces) + data[at:]
