"""Photographs of every mode, size and orientation, and files that are none."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from noisetilt.inversion import read_photo
from noisetilt.inversion.photos import fit

SIZE = (8, 8)
RED_TOP = np.zeros((16, 16, 3), np.uint8)
RED_TOP[:8, :, 0] = 255


def saved(image, name, folder, **options):
    image.save(folder / name, **options)
    return folder / name


def is_red_above_black(photo):
    top, bottom = photo[:, 1:3].mean((1, 2)), photo[:, 5:7].mean((1, 2))
    return torch.allclose(top, torch.tensor([1.0, 0.0, 0.0]), atol=0.03) and bottom.abs().max() < 0.03


@pytest.mark.parametrize(
    ("mode", "name"),
    [("RGB", "a.png"), ("RGB", "a.webp"), ("RGBA", "a.png"), ("P", "a.png"), ("P", "a.gif"), ("CMYK", "a.tiff")],
)
def test_colours_are_those_of_every_mode(mode, name, tmp_path):
    file = saved(
        Image.fromarray(RED_TOP).convert(mode), name, tmp_path, **({"lossless": True} if "webp" in name else {})
    )
    assert is_red_above_black(read_photo(file, SIZE))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_exif_orientation_is_applied(orientation, tmp_path):
    upright = Image.fromarray(RED_TOP)
    undo = {2: [0], 3: [3], 4: [1], 5: [5], 6: [2], 7: [6], 8: [4]}.get(orientation, [])
    stored = upright
    for operation in undo:  # what turns the stored image upright is the inverse of this
        stored = stored.transpose(operation)
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = saved(stored, "a.png", tmp_path, exif=exif)
    assert is_red_above_black(read_photo(file, SIZE))


@pytest.mark.parametrize("levels", [np.uint16, np.int32, np.float32])
def test_deep_grey_images_keep_their_range(levels, tmp_path):
    full = 1 if levels is np.float32 else 65535
    grey = np.zeros((16, 16), levels)
    grey[:8] = full
    photo = read_photo(saved(Image.fromarray(grey), "a.tiff", tmp_path), SIZE)
    assert torch.allclose(photo[:, 1:3], torch.tensor(1.0), atol=0.01) and photo[:, 5:7].abs().max() < 0.01


def test_transparent_pixels_are_white(tmp_path):
    clear = np.zeros((16, 16, 4), np.uint8)
    assert read_photo(saved(Image.fromarray(clear), "a.png", tmp_path), SIZE).min() == 1
    palette = Image.new("P", (16, 16), 0)
    assert read_photo(saved(palette, "b.png", tmp_path, transparency=0), SIZE).min() == 1
    grey = Image.new("LA", (16, 16), (0, 0))
    assert read_photo(saved(grey, "c.png", tmp_path), SIZE).min() == 1


@pytest.mark.parametrize("shape", [(1, 1), (3, 200), (200, 3), (64, 64), (500, 333)])
def test_every_size_is_cropped_at_the_centre_and_resized(shape):
    image = torch.zeros(3, *shape)
    middle = [slice((n - 1) // 2, n // 2 + 1) for n in shape]
    image[:, middle[0], middle[1]] = 1
    photo = fit(image, (16, 16))
    assert photo.shape == (3, 16, 16) and photo.min() >= 0 and photo.max() <= 1
    weights = photo.mean(0)
    if weights.sum() > 0:
        place = torch.arange(16) - 7.5
        half_pixel = 0.5 * 16 / min(shape) + 0.1
        assert abs((weights.sum(0) * place).sum() / weights.sum()) < half_pixel
        assert abs((weights.sum(1) * place).sum() / weights.sum()) < half_pixel


def test_an_image_of_the_right_size_is_unchanged():
    image = torch.rand(3, 16, 16)
    assert torch.equal(fit(image, (16, 16)), image)


def test_bad_files_get_one_sentence(tmp_path):
    whole = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(whole, "PNG")
    contents = {"empty.png": b"", "text.png": b"not an image", "cut.png": whole.getvalue()[:500]}
    for name, data in contents.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ValueError, match=name) as raised:
            read_photo(tmp_path / name, SIZE)
        assert "\n" not in str(raised.value) and "cannot be read as an image" in str(raised.value)
    with pytest.raises(FileNotFoundError, match=r"there is no file .*missing\.png"):
        read_photo(tmp_path / "missing.png", SIZE)
    with pytest.raises(FileNotFoundError, match="there is no file"):
        read_photo(tmp_path, SIZE)
