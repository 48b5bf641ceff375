"""Photos of any size and mode, turned as EXIF says, to the square that the encoder sees."""

import io
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

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
SIDEWAYS = (5, 6, 7, 8)  # of them
LARGEST = 80_000_000  # pixels of a photo; more could exhaust the memory


def load_photo(data: bytes, *, size: int, fit: str) -> np.ndarray:
    """Decode a photo's bytes to uint8 [size, size, 3], RGB.

    `fit` is "squash" (the whole photo, its shape not kept) or "crop" (the middle square). Transparent
    photos are laid on white, 16-bit ones scaled to 8. Raises ValueError that says what is wrong with a
    file that is broken, truncated, no photo, or so large that decoding it could exhaust the memory.
    """
    with _opened(data) as file:
        # JPEG decodes at 1/2, 1/4 or 1/8 where that still leaves twice the pixels needed
        file.draft("RGB", (2 * size, 2 * size))
        file.load()  # turns a TIFF, which then no longer says that it has to be turned
        turn = TURNS.get(_orientation(file))
        rgb = _to_rgb(file if turn is None else file.transpose(turn))
    if fit == "crop":
        rgb = ImageOps.fit(rgb, (size, size), Image.Resampling.BICUBIC)
    elif rgb.size != (size, size):
        rgb = rgb.resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(rgb)


def upright_size(data: bytes) -> tuple[int, int]:
    """Return a photo's width and height once it is turned as EXIF says; raises ValueError as `load_photo` does."""
    with _opened(data) as file:
        if file.format == "TIFF":
            file.load()  # turns it
        return file.size[::-1] if _orientation(file) in SIDEWAYS else file.size


@contextmanager
def _opened(data: bytes) -> Iterator[Image.Image]:
    """Open a photo, not decoded yet; what goes wrong with it in the context becomes a ValueError."""
    try:
        with Image.open(io.BytesIO(data)) as file:
            if file.width * file.height > LARGEST:  # not by warnings: their filters are shared by all threads
                raise ValueError(f"{file.width} x {file.height} pixels, over {LARGEST}")
            yield file
    except UnidentifiedImageError:
        raise ValueError("no photo, or its first bytes are broken") from None
    except Exception as error:  # broken bytes raise much besides OSError
        raise ValueError(" ".join(str(error).split()) or type(error).__name__) from None


def _orientation(photo: Image.Image) -> object:
    """Return what EXIF says, which may be anything."""
    return photo.getexif().get(0x0112)


def _to_rgb(photo: Image.Image) -> Image.Image:
    if photo.mode.startswith("I"):
        return Image.fromarray((np.asarray(photo).clip(0, 65535) / 257).astype(np.uint8)).convert("RGB")
    if photo.mode == "F":
        raise ValueError("its pixels are floating-point numbers, of which no one range is white; convert it")
    if photo.has_transparency_data:
        photo = photo.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", photo.size, "white"), photo).convert("RGB")
    return photo.convert("RGB")
