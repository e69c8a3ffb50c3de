"""An image file's contents to pixels, prepared as ADM prepares ImageNet (Dhariwal & Nichol, 2021)."""

import io
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image


class UnreadableImageError(ValueError):
    """Something that should be an image and is not; the message says why, without the name."""


def decode_image(content: bytes, size: int | None, grey: bool) -> np.ndarray:
    """An image file's bytes to uint8 [3, H, W] (or [1, H, W] where ``grey``), cropped to ``size`` where it is given.

    Only the first frame counts, transparency is dropped, and a camera's rotation mark is ignored, as in the official
    code. Raises UnreadableImageError.
    """
    from PIL import Image, UnidentifiedImageError

    if not content:
        raise UnreadableImageError("empty file")
    try:
        with Image.open(io.BytesIO(content)) as image:
            pixels = np.asarray(prepare(image.convert("L" if grey else "RGB"), size))
    except UnidentifiedImageError as error:
        raise UnreadableImageError("not an image") from error
    except Exception as error:  # Pillow's decoders raise whatever a damaged file leads them to
        raise UnreadableImageError(" ".join(str(error).split()) or type(error).__name__) from error
    return pixels[None] if grey else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def prepare_pixels(pixels_CHW: np.ndarray, size: int | None, grey: bool) -> np.ndarray:
    """The same for pixels that are there already, uint8 [C, H, W] with one or three channels."""
    from PIL import Image

    if pixels_CHW.shape[0] == (1 if grey else 3) and (size is None or pixels_CHW.shape[1:] == (size, size)):
        return np.ascontiguousarray(pixels_CHW)
    plane = pixels_CHW[0] if pixels_CHW.shape[0] == 1 else pixels_CHW.transpose(1, 2, 0)
    pixels = np.asarray(prepare(Image.fromarray(plane).convert("L" if grey else "RGB"), size))
    return pixels[None] if grey else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def prepare(image: "Image", size: int | None) -> "Image":
    """ADM's centre crop: halve by box averages while the shorter side is at least twice ``size``, resize it to ``size``
    bicubically, cut out the middle. No ``size``: the image as it is."""
    from PIL import Image

    if size is None:
        return image
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = size / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return image.crop((left, top, left + size, top + size))
