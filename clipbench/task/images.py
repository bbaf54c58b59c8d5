"""What an image file says, as pixels.

16-bit greys, palettes, transparency and orientation are kept; what has no one meaning is refused by name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
from PIL import Image

from clipbench.errors import UserError

ORIENTATION = 0x0112  # the EXIF tag
TURNED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SIDEWAYS = (5, 6, 7, 8)
PAPER = (255, 255, 255)  # what transparent pixels are seen on
SIXTEEN_BITS = ("I;16", "I;16L", "I;16B", "I;16N")
DEEP = ("PNG", "PPM")  # whose 16 bits some versions of Pillow open as 32
BANDS_THAT_FIT = {
    "1",
    "L",
    "LA",
    "La",
    "P",
    "PA",
    "RGB",
    "RGBA",
    "RGBa",
    "RGBX",
    "CMYK",
    "YCbCr",
    "LAB",
    "HSV",
}
THREADS = 8


def decode(path: str, mode: str | None = None) -> Image.Image:
    """The image in a file as a viewer shows it: upright, its first frame the only one.

    `mode`: "RGB" for eight bits of three colours, transparent parts on white; None leaves the mode of the
    file. UserError names a file that does not decode or whose pixels have no one meaning.
    """
    with opened(path) as image:
        _check_frames(path, image)
        if mode:
            _check_depth(path, image)
        image.load()
        pixels = _in_eight_bits(image) if mode else image
        turn = TURNED.get(_orientation(image))  # not before: a TIFF turns itself while it is decoded
        if mode:
            pixels = _on_paper(pixels)
        if mode and pixels.mode != mode:
            pixels = pixels.convert(mode)
        return pixels.transpose(turn) if turn is not None else pixels


def header(path: str) -> tuple[int, int]:
    """(height, width) as `decode` gives them, by the file's head. UserError as there, as far as it shows."""
    with opened(path) as image:
        _check_frames(path, image)
        _check_depth(path, image)
        width, height = image.size
        if image.format == "TIFF":  # whose size is turned already, or not, by the version of Pillow
            width, height = image.tag_v2[256], image.tag_v2[257]  # type: ignore[attr-defined]
        return (width, height) if _orientation(image) in SIDEWAYS else (height, width)


def check_each(check: Callable[[Any], object], things: Iterable[Any]) -> None:
    """`check` of every one, several at a time. The first UserError in their order is raised."""
    pool = ThreadPoolExecutor(THREADS)
    try:
        for _ in pool.map(check, things):
            pass
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def opened(path: str) -> Iterator[Image.Image]:
    """The image, not decoded yet. Any failure in the block is a UserError that names the file."""
    try:
        with Image.open(path) as image:
            yield image
    except (UserError, MemoryError):
        raise
    except Exception as error:  # decoders raise OSError, SyntaxError, ValueError, struct.error, …
        raise UserError(f"{path} does not decode ({error}). Replace it.") from error


def _check_frames(path: str, image: Image.Image) -> None:
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":  # a camera's JPEG with previews behind the picture
        raise UserError(f"{path} holds {frames} frames; one image a file is read. Keep one of them.")


def _check_depth(path: str, image: Image.Image) -> None:
    deep = image.mode in SIXTEEN_BITS or (image.mode == "I" and image.format in DEEP)
    if not deep and image.mode not in BANDS_THAT_FIT:
        raise UserError(
            f"{path} has pixels of mode {image.mode}, which have no one range of brightness. "
            "Save it with 8 or 16 bits a channel."
        )


def _in_eight_bits(image: Image.Image) -> Image.Image:
    """As it is; of 16 bits the upper eight."""
    if image.mode in BANDS_THAT_FIT:
        return image
    deep = np.asarray(image).astype(np.int64)
    pixels = Image.fromarray((deep >> 8).astype(np.uint8))
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):  # one of the 65536 greys is no colour
        opaque = np.where(deep == transparent, 0, 255).astype(np.uint8)
        pixels.putalpha(Image.fromarray(opaque))
    return pixels


def _on_paper(pixels: Image.Image) -> Image.Image:
    """Without transparency: what a viewer shows on a white page."""
    if not pixels.has_transparency_data:
        return pixels
    solid = Image.new("RGBA", pixels.size, (*PAPER, 255))
    solid.alpha_composite(pixels.convert("RGBA"))
    return solid.convert("RGB")


def _orientation(image: Image.Image) -> int:
    """1 where nothing, or nothing readable, is said."""
    with suppress(Exception):  # EXIF comes from cameras: struct.error, SyntaxError, KeyError, …
        found = image.getexif().get(ORIENTATION, 1)
        return found if isinstance(found, int) else 1
    return 1
