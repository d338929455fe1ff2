"""Every kind of file, valid ones with the pixels that the rules of ldm/data/image.py give, by hand."""

import io
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms, ImageFile

from ldm.data.image import BadImageError, Transform, decode, to_float


def saved(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def rgb(colour, size=(8, 8)) -> Image.Image:
    return Image.new("RGB", size, colour)


def pixel(data, channels=3):
    return decode(data, channels, name="x").getpixel((0, 0))


def palette() -> Image.Image:
    image = Image.new("P", (8, 8), 1)
    image.putpalette([10, 20, 30, 200, 100, 50])
    return image


GREY16 = Image.fromarray(np.full((8, 8), 32768, np.uint16))

VALID = {
    "rgb": (saved(rgb((10, 20, 30))), (10, 20, 30)),
    "wrong extension": (saved(rgb((10, 20, 30)), "BMP"), (10, 20, 30)),
    "grey": (saved(Image.new("L", (8, 8), 77)), (77, 77, 77)),
    "16-bit grey": (saved(GREY16), (128, 128, 128)),
    "16-bit grey, black": (saved(Image.fromarray(np.zeros((8, 8), np.uint16))), (0, 0, 0)),
    "16-bit grey, white": (saved(Image.fromarray(np.full((8, 8), 65535, np.uint16))), (255, 255, 255)),
    "16-bit grey, rounded": (saved(Image.fromarray(np.full((8, 8), 129, np.uint16))), (1, 1, 1)),
    "16-bit TIFF": (saved(GREY16, "TIFF"), (128, 128, 128)),
    "LA": (saved(Image.new("LA", (8, 8), (0, 0))), (255, 255, 255)),
    "LA, half": (saved(Image.new("LA", (8, 8), (0, 128))), (127, 127, 127)),
    "RGBA": (saved(Image.new("RGBA", (8, 8), (255, 0, 0, 0))), (255, 255, 255)),
    "RGBA, half": (saved(Image.new("RGBA", (8, 8), (255, 0, 0, 128))), (255, 127, 127)),
    "palette": (saved(palette()), (200, 100, 50)),
    "palette with tRNS": (saved(palette(), transparency=1), (255, 255, 255)),
    "RGB with tRNS": (saved(rgb((9, 9, 9)), transparency=(9, 9, 9)), (255, 255, 255)),
    "1-bit": (saved(Image.new("1", (8, 8), 1)), (255, 255, 255)),
    "GIF": (saved(rgb((255, 0, 0)), "GIF", save_all=True, append_images=[rgb((0, 0, 255))]), (255, 0, 0)),
    "WebP": (
        saved(rgb((255, 0, 0)), "WEBP", save_all=True, append_images=[rgb((0, 0, 255))], lossless=True),
        (255, 0, 0),
    ),
    "bad ICC": (saved(rgb((10, 20, 30)), icc_profile=b"no profile at all"), (10, 20, 30)),
    "sRGB": (
        saved(rgb((10, 20, 30)), icc_profile=ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()),
        (10, 20, 30),
    ),
    "array": (np.full((8, 8, 3), 5, np.uint8), (5, 5, 5)),
    "grey array": (np.full((8, 8), 5, np.uint8), (5, 5, 5)),
    "PIL": (rgb((1, 2, 3)), (1, 2, 3)),
}


@pytest.mark.parametrize("name", VALID)
def test_valid(name):
    data, expected = VALID[name]
    assert pixel(data) == expected


def test_cmyk_is_converted():
    # No ink is white, all black ink is black; JPEG adds a little.
    assert min(pixel(saved(Image.new("CMYK", (8, 8), (0, 0, 0, 0)), "JPEG"))) >= 253
    assert max(pixel(saved(Image.new("CMYK", (8, 8), (0, 0, 0, 255)), "JPEG"))) <= 2
    red, green, blue = pixel(saved(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG"))
    assert red > 250 and max(green, blue) < 5


def test_icc_profile_is_applied():
    """In a Lab profile's terms a* = b* = 0 is neutral: L* = 53.39 is sRGB 127.5."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB", 5000)).tobytes()
    image = Image.new("LAB", (8, 8), (round(53.39 * 2.55), 128, 128))
    assert all(abs(v - 127.5) < 2.5 for v in pixel(saved(image, "TIFF", icc_profile=profile)))


def test_a_profile_of_other_primaries_is_converted():
    """sRGB with its red and blue primaries exchanged: what is stored as (200, 100, 50) is sRGB's (50, 100, 200)."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    profile = profile.replace("sRGB".encode("utf-16-be"), "mine".encode("utf-16-be"))
    at, to = profile.index(b"rXYZ"), profile.index(b"bXYZ")
    profile = bytearray(profile)
    profile[at : at + 4], profile[to : to + 4] = b"bXYZ", b"rXYZ"
    found = pixel(saved(rgb((200, 100, 50)), icc_profile=bytes(profile)))
    assert found == pytest.approx((50, 100, 200), abs=2)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(orientation):
    """A picture whose upright form has red, green, blue, white corners, stored turned or mirrored as EXIF says."""
    upright = Image.fromarray(
        np.uint8([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [255, 255, 255]]]).repeat(8, 0).repeat(16, 1)
    )
    turn = Image.Transpose
    stored = {  # the inverse of what EXIF asks a viewer to do
        1: None,
        2: turn.FLIP_LEFT_RIGHT,
        3: turn.ROTATE_180,
        4: turn.FLIP_TOP_BOTTOM,
        5: turn.TRANSPOSE,
        6: turn.ROTATE_90,
        7: turn.TRANSVERSE,
        8: turn.ROTATE_270,
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = saved(upright if stored is None else upright.transpose(stored), "PNG", exif=exif)
    assert np.array_equal(np.asarray(decode(data)), np.asarray(upright))


def chunks(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def noise() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))


def wrong_checksum() -> bytes:
    data = bytearray(saved(noise()))
    at = data.index(b"IDAT")
    (length,) = struct.unpack_from(">I", data, at - 4)
    data[at + 4 + length] ^= 1
    return bytes(data)


BAD = {
    "0 bytes": (b"", "empty"),
    "HTML": (b"<!DOCTYPE html><html><body>404</body></html>", "not an image"),
    "truncated JPEG": (saved(noise(), "JPEG")[:2000], "truncated"),
    "truncated PNG": (saved(noise())[:3000], "cut short"),
    "PNG without end": (saved(noise())[:-12], "cut short"),
    "wrong checksum": (wrong_checksum(), "checksum"),
    "EPS": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n", "not an image"),
    "float TIFF": (saved(Image.fromarray(np.ones((8, 8), np.float32)), "TIFF"), "floating-point"),
    "32-bit TIFF": (saved(Image.fromarray(np.full((8, 8), 70000, np.int32)), "TIFF"), "wanted 0 to 65535"),
    "none": (None, "no image but NoneType"),
    "float array": (np.ones((8, 8, 3), np.float32), "wanted uint8"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad(name):
    data, reason = BAD[name]
    with pytest.raises(BadImageError, match=reason) as caught:
        decode(data, name="folder/picture.jpg")
    assert str(caught.value).startswith("folder/picture.jpg: ")


def test_missing_file_is_named(tmp_path):
    with pytest.raises(BadImageError, match=r"gone\.jpg: cannot be read: No such file"):
        decode(tmp_path / "gone.jpg")


@pytest.mark.parametrize("content", [None, b"", b"<html>", saved(rgb((1, 2, 3)))[:-20]])
def test_a_file_is_named_by_its_path_whatever_its_item_is_called(content, tmp_path):
    """A row of a table says nothing of where its picture was looked for."""
    file = tmp_path / "cat" / "1.png"
    file.parent.mkdir()
    if content is not None:
        file.write_bytes(content)
    for name, said in (("row 38", f"row 38 ({file})"), ("cat/1.png", str(file)), ("", str(file))):
        with pytest.raises(BadImageError) as caught:
            decode(file, name=name)
        assert caught.value.name == said and str(caught.value).startswith(f"{said}: ")


def test_every_cut_of_a_png_is_noticed():
    data = saved(noise().crop((0, 0, 16, 16)))
    for end in range(1, len(data), 7):
        with pytest.raises(BadImageError):
            decode(data[:end])


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_bomb_is_rejected_from_its_header(monkeypatch):
    """No pixel is decoded, nor room for one taken: 144 MB they would be."""
    header = struct.pack(">IIBBBBB", 12000, 12000, 8, 0, 0, 0, 0)
    pixels = zlib.compress(bytes(12000 * 12001), 1)
    bomb = b"\x89PNG\r\n\x1a\n" + chunks(b"IHDR", header) + chunks(b"IDAT", pixels) + chunks(b"IEND", b"")
    assert len(bomb) < 2**20

    def load(*_):
        raise AssertionError("its pixels were asked for")

    monkeypatch.setattr(ImageFile.ImageFile, "load", load)
    tracemalloc.start()
    with pytest.raises(BadImageError, match="12000 x 12000 pixels"):
        Transform((3, 32, 32))(bomb)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 50e6


def test_bytes_limit(tmp_path):
    file = tmp_path / "large.png"
    file.write_bytes(saved(rgb("red")))
    size = file.stat().st_size
    assert decode(file, max_bytes=size).size == (8, 8)
    with pytest.raises(BadImageError, match=f"{size} bytes, more than the limit of {size - 1}"):
        decode(file, max_bytes=size - 1)


@pytest.mark.parametrize("size", [(1, 20000), (20000, 1), (5, 3), (640, 480), (33, 31)])
@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 24, 40), (4, 9, 7)])
def test_any_size_gives_the_shape(size, shape):
    pixels = Transform(shape)(saved(Image.new("L", size, 128)))
    assert pixels.shape == (shape[1], shape[2], shape[0]) and pixels.dtype == np.uint8
    assert np.all(pixels[..., 0] == 128)


def test_crop_is_of_the_centre_or_the_place():
    """Three vertical stripes, each a square."""
    stripes = np.zeros((8, 24, 3), np.uint8)
    stripes[:, :8, 0] = stripes[:, 8:16, 1] = stripes[:, 16:, 2] = 255
    assert Transform((3, 8, 8))(stripes, place=0.0)[..., 1].min() == 255
    random = Transform((3, 8, 8), crop="random")
    assert random(stripes, place=0.0)[..., 0].min() == 255
    assert random(stripes, place=0.9999999)[..., 2].min() == 255


def test_resize_is_antialiased():
    """Stripes one pixel wide, eight times smaller, are their mean; sampled they would be black or white."""
    stripes = np.zeros((256, 256), np.uint8)
    stripes[:, ::2] = 255
    small = Transform((1, 32, 32))(stripes).astype(float)
    assert abs(small[2:-2, 2:-2].mean() - 127.5) < 1 and small[2:-2, 2:-2].std() < 3


def test_reading_small_is_close_to_reading_whole(shared):
    """The decoder's own reduction changes photographs by about one of 255 levels; nearest pixels would by twenty."""
    changes = []
    for file in sorted((shared / "data/coco/val2017").glob("*.jpg"))[:20]:
        fast = Transform((3, 32, 32))(file).astype(float)
        with Image.open(file) as image:
            whole = Transform((3, 32, 32))(image.convert("RGB")).astype(float)
        changes.append(np.abs(fast - whole).mean())
    assert np.mean(changes) < 1.5


def test_alpha_is_kept_in_four_channels():
    assert pixel(saved(Image.new("RGBA", (8, 8), (1, 2, 3, 128))), 4) == (1, 2, 3, 128)
    assert pixel(saved(rgb((1, 2, 3))), 4) == (1, 2, 3, 255)


def test_grey_of_a_colour_is_its_luma():
    assert pixel(saved(rgb((255, 0, 0))), 1) == round(0.299 * 255)


@pytest.mark.parametrize("shape", [(2, 8, 8), (3, 0, 8), (5, 8, 8)])
def test_impossible_shape(shape):
    with pytest.raises(ValueError, match="image_shape: wanted"):
        Transform(shape)


def test_everything_that_decides_the_pixels_is_in_the_key():
    ways = [Transform((3, 8, 8)), Transform((3, 8, 8), "random"), Transform((3, 8, 8), flip=True), Transform((1, 8, 8))]
    assert len({way.key for way in ways}) == 4 and Transform((3, 8, 8)).key == ways[0].key


def test_float_range():
    x = to_float(torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1))
    assert x.flatten().tolist() == [-1.0, 1.0] and x.shape == (2, 1, 1, 1)


def test_error_survives_the_way_out_of_a_worker():
    """A data loader makes the exception anew from its message alone."""
    assert "reason" in str(BadImageError("a.png: reason"))
