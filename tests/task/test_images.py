"""Image files are read as they say, or refused by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clipbench.errors import UserError
from clipbench.task.images import ORIENTATION, decode, header

RAMP = np.linspace(0, 65535, 8 * 6).reshape(6, 8)


@pytest.mark.parametrize("ending", ["png", "tif", "pgm"])
def test_sixteen_bits_of_grey_are_not_all_white(tmp_path: Path, ending: str):
    path = tmp_path / f"deep.{ending}"
    Image.fromarray(RAMP.astype(np.uint16)).save(path)
    pixels = np.asarray(decode(str(path), "RGB"))
    assert pixels.shape == (6, 8, 3)
    assert np.abs(pixels[..., 0] - RAMP / 257).max() <= 1


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGB", "RGBA", "LA", "CMYK"])
def test_every_mode_keeps_its_brightness(tmp_path: Path, mode: str):
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    halves = Image.fromarray(np.repeat(np.array([[0, 255]], np.uint8), 4, 0).repeat(4, 1))
    halves.convert("RGB").convert(mode).save(path)
    assert np.asarray(decode(str(path), "RGB"))[0, :, 1].tolist() == [0] * 4 + [255] * 4


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "L", "RGB"])
def test_what_is_transparent_is_paper(tmp_path: Path, mode: str):
    path = tmp_path / "a.png"
    grey = Image.new("L", (4, 4), 0)
    if mode in ("P", "L", "RGB"):
        grey.convert(mode).save(path, transparency=(0, 0, 0) if mode == "RGB" else 0)
    else:
        grey.putalpha(0)
        grey.convert(mode).save(path)
    assert np.asarray(decode(str(path), "RGB")).min() == 255


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("ending", ["jpg", "png", "webp", "tif"])
def test_images_stand_upright(tmp_path: Path, turn: int, ending: str):
    from PIL import ImageOps

    path = tmp_path / f"a.{ending}"
    exif = Image.Exif()
    exif[ORIENTATION] = turn
    Image.fromarray(np.uint8(RAMP / 257)).resize((80, 60)).convert("RGB").save(path, exif=exif)
    with Image.open(path) as image:
        expected = ImageOps.exif_transpose(image)
    found = decode(str(path), "RGB")
    assert np.array_equal(np.asarray(found), np.asarray(expected))
    assert header(str(path)) == (found.height, found.width)


@pytest.mark.parametrize("ending", ["png", "webp", "tif", "gif"])
@pytest.mark.parametrize("look", [header, decode])
def test_an_animation_is_refused(tmp_path: Path, ending: str, look):
    path = tmp_path / f"a.{ending}"
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "green")]
    frames[0].save(path, save_all=True, append_images=frames[1:])
    with pytest.raises(UserError, match=rf"a\.{ending} holds 3 frames.*Keep one"):
        look(str(path))


@pytest.mark.parametrize("kind", [np.int32, np.float32])
@pytest.mark.parametrize("look", [header, lambda path: decode(path, "RGB")])
def test_pixels_without_a_range_are_refused(tmp_path: Path, kind, look):
    path = tmp_path / "a.tif"
    Image.fromarray(RAMP.astype(kind)).save(path)
    with pytest.raises(UserError, match=r"a\.tif has pixels of mode [IF].*Save it with"):
        look(str(path))


@pytest.mark.parametrize("ending", ["jpg", "mpo", "png", "webp", "tif", "gif", "bmp", "ppm"])
@pytest.mark.parametrize("mode", ["RGB", None])
def test_an_image_outlives_its_file(tmp_path: Path, ending: str, mode: str | None):
    """What is decoded is whole: parts are cut from it, and copies made, once the file is gone."""
    path = tmp_path / f"a.{ending}"
    image = Image.effect_noise((50, 40), 60).convert("RGB")
    previews = {"save_all": True, "append_images": [image.resize((10, 8))]} if ending == "mpo" else {}
    image.save(path, **previews)
    with Image.open(path) as again:
        expected = np.asarray(again.convert("RGB"))
    found = decode(str(path), mode)
    path.unlink()
    assert np.array_equal(np.asarray(found.crop((5, 7, 30, 20)).convert("RGB")), expected[7:20, 5:30])
    assert np.array_equal(np.asarray(found.convert("RGB")), expected)


@pytest.mark.parametrize("share", [0.2, 0.6, 0.99])
def test_a_truncated_photograph_does_not_decode(tmp_path: Path, share: float):
    path = tmp_path / "a.jpg"
    Image.effect_noise((200, 160), 60).save(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(UserError, match=r"a\.jpg does not decode"):
        decode(str(path), "RGB")
