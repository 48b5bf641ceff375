"""Photos of any size and mode, turned as EXIF says, to the square that the encoder sees."""

import io

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

TURNS = {  # by EXIF orientation; ImageOps.exif_transpose also rewrites the EXIF, and fails where that is broken
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
LARGEST = 80_000_000  # pixels of a photo; more could exhaust the memory


def load_photo(data: bytes, *, size: int, fit: str) -> np.ndarray:
    """Decode a photo's bytes to uint8 [size, size, 3], RGB.

    `fit` is "squash" (the whole photo, its shape not kept) or "crop" (the middle square). Transparent
    photos are laid on white, 16-bit ones scaled to 8. Raises ValueError that says what is wrong with a
    file that is broken, truncated, no photo, or so large that decoding it could exhaust the memory.
    """
    try:
        with Image.open(io.BytesIO(data)) as file:
            if file.width * file.height > LARGEST:  # not by warnings: their filters are shared by all threads
                raise ValueError(f"{file.width} x {file.height} pixels, over {LARGEST}")
            # JPEG decodes at 1/2, 1/4 or 1/8 where that still leaves twice the pixels needed
            file.draft("RGB", (2 * size, 2 * size))
            turn = TURNS.get(file.getexif().get(0x0112, 1))
            rgb = _to_rgb(file if turn is None else file.transpose(turn))
    except UnidentifiedImageError:
        raise ValueError("no photo, or its first bytes are broken") from None
    except Exception as error:  # broken bytes raise much besides OSError
        raise ValueError(" ".join(str(error).split()) or type(error).__name__) from None
    if fit == "crop":
        rgb = ImageOps.fit(rgb, (size, size), Image.Resampling.BICUBIC)
    elif rgb.size != (size, size):
        rgb = rgb.resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(rgb)


def _to_rgb(photo: Image.Image) -> Image.Image:
    if photo.mode.startswith("I"):
        return Image.fromarray((np.asarray(photo).clip(0, 65535) / 257).astype(np.uint8)).convert("RGB")
    if photo.has_transparency_data:
        photo = photo.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", photo.size, "white"), photo).convert("RGB")
    return photo.convert("RGB")
