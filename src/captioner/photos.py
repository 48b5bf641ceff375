"""Photos of any size and mode, turned as EXIF says, to the square that the encoder sees."""

import io
import warnings

import numpy as np
from PIL import Image, ImageOps


def load_photo(data: bytes, *, size: int, fit: str) -> np.ndarray:
    """Decode a photo's bytes to uint8 [size, size, 3], RGB.

    `fit` is "squash" (the whole photo, its shape not kept) or "crop" (the middle square). Transparent
    photos are laid on white, 16-bit ones scaled to 8. Raises ValueError that says what is wrong with a
    file that is broken, truncated, no photo, or so large that decoding it could exhaust the memory.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data)) as file:
                # JPEG decodes at 1/2, 1/4 or 1/8 where that still leaves twice the pixels needed
                file.draft("RGB", (2 * size, 2 * size))
                rgb = _to_rgb(ImageOps.exif_transpose(file))
    except (
        OSError,
        SyntaxError,
        ValueError,
        Image.DecompressionBombError,
        Image.DecompressionBombWarning,
    ) as error:
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
