"""Compression: what comes back, that a file depends on nothing else, what is refused, and what codecs are said to need."""

import io
import json
import struct

import numpy as np
import PIL.Image
import pytest
import torch

import ldm
from ldm.command.apply import apply
from ldm.model import LatentModel
from ldm.task.base import Found
from ldm.task.decompress import Decompress
from ldm.task.tools import codecs
from ldm.task.tools.coded_file import checksum, unpacked
from ldm.task.tools.coder import Coder, check
from tests.runs import compose, saved, tiny

pytest.importorskip("constriction")

SIZE = "data.image_shape=[3,8,8]"


def run_of(folder, *words, seed=0, names=()):
    config = tiny(folder, *words)
    if names:
        config["condition"]["names"] = list(names)
    return saved(folder, config, seed)


@pytest.fixture(scope="module")
def codes(tmp_path_factory):
    words = ("autoencoder=vq_f4_small", "prior=pixelcnn", "condition=label")
    return run_of(tmp_path_factory.mktemp("codes"), *words, names=("cat", "dog"))


@pytest.fixture(scope="module")
def pixels(tmp_path_factory):
    words = ("autoencoder=identity", "prior=pixelcnn", "prior/head=categorical", "condition=none", SIZE)
    return run_of(tmp_path_factory.mktemp("pixels"), *words)


@pytest.fixture(scope="module")
def latents(tmp_path_factory):
    words = ("autoencoder=kl_f4_small", "prior=mixture", "condition=none", "data.image_shape=[3,16,16]")
    return run_of(tmp_path_factory.mktemp("latents"), *words)


def noise(n, size):
    generator = np.random.default_rng(n)
    return [PIL.Image.fromarray(generator.integers(0, 256, (size, size, 3), np.uint8)) for _ in range(n)]


def as_arrays(images):
    return [np.array(image) for image in images]


def test_pixels_come_back_to_the_bit(pixels):
    """Random ones, at about the bits that the prior gives them."""
    model, images = ldm.load(pixels), noise(3, 8)
    files = model.compress(images)
    np.testing.assert_array_equal(as_arrays(model.decompress(files)), as_arrays(images))
    found = [unpacked(file, "x") for file in files]
    wanted = -model.log_prob(images).detach().double() / np.log(2)
    assert 8 * sum(len(file.data) for file in found) == pytest.approx(float(wanted.sum()), rel=0.02)


def test_codes_come_back_and_make_their_image(codes):
    model, images = ldm.load(codes), noise(2, 32)
    files = model.compress(images, labels=["dog", "cat"])
    again = model.decompress(files, tensors=True)
    torch.testing.assert_close(again, model.decode(model.encode(images), tensors=True), atol=1e-5, rtol=1e-5)
    assert [unpacked(file, "x").said for file in files] == [{"label": 1}, {"label": 0}]
    wanted = -model.log_prob(images, labels=["dog", "cat"]).detach().double() / np.log(2)
    for file, bits in zip(files, wanted.tolist(), strict=True):
        assert abs(8 * len(unpacked(file, "x").data) - bits) <= 12


def test_latents_come_back_on_their_grid(latents):
    model, images = ldm.load(latents), noise(2, 16)
    for step in (0.25, 1.0):
        again = model.decompress(model.compress(images, step=step), tensors=True)
        wanted = model.decode((model.encode(images) / step).round() * step, tensors=True)
        torch.testing.assert_close(again, wanted, atol=1e-4, rtol=1e-4)
    fine, coarse = (sum(map(len, model.compress(images, step=step))) for step in (0.0625, 0.125))
    numbers = 2 * model.model.prior.latents.numbers
    assert 8 * (fine - coarse) == pytest.approx(numbers, rel=0.15), "half of the step is a bit a number"


@pytest.mark.parametrize("kind, size", [("codes", 32), ("pixels", 8), ("latents", 16)])
def test_a_file_depends_on_its_image_alone(kind, size, request):
    """Not on the others, not on threads, and not on who asks."""
    run, images = request.getfixturevalue(kind), noise(3, size)
    model = ldm.load(run)
    files, before = model.compress(images), torch.get_num_threads()
    assert model.compress(images[1:2]) == files[1:2] and model.compress(images[::-1]) == files[::-1]
    torch.set_num_threads(3)
    try:
        assert ldm.load(run).compress(images) == files and torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_a_label_is_in_the_file(codes):
    """It moves the law, so the same codes have other bytes; without one, or with -1, there is no condition."""
    model, images = ldm.load(codes), noise(1, 32)
    without, cat = model.compress(images)[0], model.compress(images, labels="cat")[0]
    assert unpacked(without, "x").said == {} and unpacked(without, "x").data != unpacked(cat, "x").data
    assert unpacked(without, "x").numbers == unpacked(cat, "x").numbers
    assert model.compress(images, labels=[-1])[0] == without
    np.testing.assert_array_equal(*map(as_arrays, (model.decompress([without]), model.decompress([cat]))))
    with pytest.raises(ValueError, match="2 labels for 1 image: give one for each, or one for all"):
        model.compress(images, labels=["cat", "dog"])


def test_a_caption_is_in_the_file(tmp_path):
    run = run_of(tmp_path, "autoencoder=vq_f4_small", "prior=categorical")
    model = ldm.load(run)
    file = model.compress(noise(1, 32), captions="a small red circle")[0]
    assert unpacked(file, "x").said == {"caption": "a small red circle"}
    wanted = model.decode(model.encode(noise(1, 32)), tensors=True)
    torch.testing.assert_close(model.decompress([file], tensors=True), wanted, atol=1e-5, rtol=1e-5)


# What is refused


def test_priors_without_laws_are_told_who_has_them(tmp_path):
    other = ldm.load(run_of(tmp_path, "prior=gan", "condition=none"))
    said = "the law of each number given those before it.*GAN, has none. These have: Autoregressive, Categorical, Mixture, Normal"
    with pytest.raises(ValueError, match=f"^compress needs a prior with {said}"):
        other.compress(noise(1, 32))
    with pytest.raises(ValueError, match=f"^decompress needs a prior with {said}"):
        other.decompress([b"ldmz"])
    head = run_of(tmp_path / "head", "prior=transformer", "prior/head=diffusion", "condition=none")
    with pytest.raises(ValueError, match="its head, DiffusionHead, has no law in closed form"):
        ldm.load(head).compress(noise(1, 32))


def test_wrong_words_are_refused(codes, latents):
    model = ldm.load(codes)
    with pytest.raises(ValueError, match=r"^step=0.5 is of latents.*this model's prior is of codes"):
        model.compress(noise(1, 32), step=0.5)
    for step in (0, -1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="wanted a distance above 0"):
            ldm.load(latents).compress(noise(1, 16), step=step)
    with pytest.raises(
        ValueError, match=r"^step=1e-05 cuts latents up to .* into more than 4096 values; take .* at least"
    ):
        ldm.load(latents).compress(noise(1, 16), step=1e-5)
    for files in ([], b"ldmz", ["ldmz"]):
        with pytest.raises(ValueError, match="takes a list of files, one at least, each as bytes"):
            model.decompress(files)


def test_a_condition_that_no_file_can_hold_is_refused(codes):
    model = LatentModel.load(codes)
    model.condition.needs = ("label", "depth")
    with pytest.raises(ValueError, match="task=compress keeps a caption or a class.*conditioned on {'depth'}"):
        check(model, "task=compress")


def test_another_runs_file_is_refused(codes, latents, tmp_path):
    file = ldm.load(codes).compress(noise(1, 32))[0]
    raw = ldm.load(run_of(tmp_path, "autoencoder=vq_f4_small", "prior=pixelcnn", "condition=none", seed=1))
    for other in (raw, ldm.load(latents)):
        with pytest.raises(
            ValueError, match=r"^file 0 was made with the weights \w{8}\.\.\., and these are \w{8}\.\.\."
        ):
            other.decompress([file])


def test_the_same_weights_for_another_size_are_another_model(tmp_path):
    """A convolutional first stage and a prior without weights fit any size."""
    words = ("autoencoder=kl_f4_small", "prior=normal", "condition=none")
    runs = [run_of(tmp_path / str(size), *words, f"data.image_shape=[3,{size},{size}]") for size in (16, 32)]
    small, large = map(ldm.load, runs)
    file = small.compress(noise(1, 16))[0]
    with pytest.raises(ValueError, match=r"file 0 is of \(4, 4, 4\), and this model's latents are of \(4, 8, 8\)"):
        large.decompress([file])


def test_a_grid_that_nobody_wrote_is_refused(latents):
    model = ldm.load(latents)
    file = model.compress(noise(1, 16))[0]
    at = file.index(struct.pack("<f", 0.5))
    for step in (float("nan"), float("inf"), 0.0, -0.5):
        rest = file[8:at] + struct.pack("<f", step) + file[at + 4 :]
        with pytest.raises(ValueError, match="file 0 has a grid that task=compress does not write"):
            model.decompress([b"ldmz" + checksum(rest) + rest])


def test_probabilities_that_are_others_are_an_error_and_no_picture(codes):
    """As of another version of torch: weights are the same by name, and what is computed is not."""
    model = LatentModel.load(codes)
    file = Coder(model).compressed(torch.zeros(1, 3, 32, 32), {}).file
    coder = Coder(model)
    coder._prior.network.head[-1].bias.data[3] += 0.5
    with pytest.raises(
        ValueError, match=r"^x is whole, and other numbers come out than went in.*made with torch \d+\.\d+\.\d+"
    ):
        coder.decompressed(coder.opened(file, "x"), "x")


# On the command line

ASKED = compose("run=absent", "task=compress", "batch=2", "device=cpu", name="apply")


def job(run, out, words=ASKED["task"], images=None, **more):
    apply(**ASKED | {"run": str(run), "task": words, "images": images and str(images), "out": str(out)} | more)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Five images of 8 pixels in two folders."""
    folder = tmp_path_factory.mktemp("images")
    for i, image in enumerate(noise(5, 8)):
        (folder / "ab"[i % 2]).mkdir(exist_ok=True)
        image.save(folder / "ab"[i % 2] / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def compressed(pixels, folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("compressed")
    job(pixels, out, images=folder)
    return out


READ = {"_target_": "ldm.task.decompress.Decompress"}


def test_files_are_written_and_make_the_images_again(pixels, folder, compressed, tmp_path):
    names = ["a/0", "a/2", "a/4", "b/1", "b/3"]
    files = [compressed / "files" / f"{name}.png.ldmz" for name in names]
    assert sorted((compressed / "files").rglob("*.ldmz")) == files
    images = [PIL.Image.open(folder / f"{name}.png") for name in names]
    assert ldm.load(pixels).compress(images) == [file.read_bytes() for file in files], "whatever the batch"
    result = json.loads((compressed / "result.json").read_text())
    for row, file in zip(result["rows"], files, strict=True):
        size = file.stat().st_size
        assert (row["bytes"], row["header"], row["bits_per_pixel"]) == (size, 24, size / 8)
        assert row["overhead"] == pytest.approx(8 * (size - 24) / row["bits"] - 1) and abs(row["overhead"]) < 0.02
        assert (row["psnr"], row["lossless"]) == (None, 1)
    job(pixels, tmp_path, READ | {"files": str(compressed / "files")})
    for name, image in zip(names, images, strict=True):
        np.testing.assert_array_equal(PIL.Image.open(tmp_path / "images" / f"{name}.png"), image)
    result = json.loads((tmp_path / "result.json").read_text())
    assert [row["name"] for row in result["rows"]] == [f"{name}.png.ldmz" for name in names]


def test_a_coder_is_made_once_for_a_model(pixels, compressed, monkeypatch):
    """It copies the prior, and `ldm apply` checks a task before images are read and again with them."""
    made, task = [], Decompress(compressed / "files")
    monkeypatch.setattr("ldm.task.decompress.Coder", lambda model: made.append(model) or Coder(model))
    one = ldm.load(pixels).model
    for model in (one, one, ldm.load(pixels).model):
        task.check(model)
    assert len(made) == 2 and made[0] is one


def test_codecs_stand_beside(compressed):
    """PNG as Pillow writes it by itself; the model first, and every codec at its greatest quality the largest and nearest."""
    rows = json.loads((compressed / "codecs.json").read_text())
    result = json.loads((compressed / "result.json").read_text())["means"]
    assert rows[0]["coder"] == "model" and rows[0]["bytes"] == result["bytes"]["mean"]
    assert rows[0]["lossless"] == 1 and rows[0]["psnr"] is None and rows[0]["frechet"] is None, (
        "five images are too few"
    )
    for coder in ("JPEG", "WebP"):
        own = [row for row in rows if row["coder"] == coder]
        best = max(own, key=lambda row: row["quality"])  # at the lowest qualities noise has no order
        assert len(own) == 9 and all(best[name] == max(row[name] for row in own) for name in ("psnr", "bytes"))
    assert [row["lossless"] for row in rows[-2:]] == [1, 1] and (compressed / "codecs.png").stat().st_size > 10_000


def test_wrong_files_are_told_before_anything_is_written(pixels, codes, compressed, folder, tmp_path):
    one = compressed / "files" / "a" / "0.png.ldmz"
    cut = tmp_path / "cut"
    cut.mkdir()
    (cut / "0.ldmz").write_bytes(one.read_bytes())
    (cut / "1.ldmz").write_bytes(one.read_bytes()[:-1])
    (tmp_path / "empty").mkdir()
    wrong = {
        cut: r"^1\.ldmz is cut off or was changed",
        folder: r"task\.files=.*: there is no file \*\.ldmz of task=compress below it",
        tmp_path / "empty": r"there is no file \*\.ldmz",
        tmp_path / "none": "there is no such file or folder",
        folder / "a" / "0.png": r"^0\.png is no file of task=compress",
    }
    for files, said in wrong.items():
        with pytest.raises((ValueError, OSError), match=said):
            job(pixels, tmp_path / "out", READ | {"files": str(files)})
    with pytest.raises(ValueError, match=r"^0\.png\.ldmz was made with the weights"):
        job(codes, tmp_path / "out", READ | {"files": str(one)})
    with pytest.raises(ValueError, match="task=decompress takes no images"):
        job(pixels, tmp_path / "out", READ | {"files": str(one)}, images=folder)
    with pytest.raises(FileNotFoundError, match="there is no image below it"):
        job(pixels, tmp_path / "out", images=tmp_path / "empty")
    assert not (tmp_path / "out").exists()


def test_other_files_in_the_same_place_are_another_job(pixels, compressed, tmp_path):
    place = tmp_path / "files"
    place.mkdir()
    (place / "0.ldmz").write_bytes((compressed / "files" / "a" / "0.png.ldmz").read_bytes())
    job(pixels, tmp_path / "out", READ | {"files": str(place)})
    (place / "0.ldmz").write_bytes((compressed / "files" / "a" / "2.png.ldmz").read_bytes())
    with pytest.raises(ValueError, match="holds a task of other words, images or weights"):
        job(pixels, tmp_path / "out", READ | {"files": str(place)})


# Codecs


def test_decibels_are_of_eight_bits():
    levels = 100 + torch.tensor([0, 1, 2]).view(3, 1, 1, 1).expand(3, 3, 4, 4)
    x, y = torch.full((3, 3, 4, 4), 100 / 127.5 - 1), levels / 127.5 - 1
    values, same = codecs.psnr(x, y)
    assert same.tolist() == [True, False, False] and values[0].isnan()
    assert values[1:].tolist() == pytest.approx([20 * np.log10(255), 20 * np.log10(255 / 2)])


def test_headers_of_codecs():
    """A JPEG with the usual tables has one header whatever it shows; a WebP says its chunk's length; a PNG has one chunk."""
    image, flat = noise(1, 32)[0], PIL.Image.new("RGB", (32, 32))
    headers = []
    for each in (image, flat):
        buffer = io.BytesIO()
        each.save(buffer, "JPEG", quality=50)
        headers.append(len(buffer.getvalue()) - codecs._scan(buffer.getvalue()))
    assert headers[0] == headers[1] == 623 + 2
    webp = codecs._saving("WEBP", quality=50)(image)
    assert codecs._chunk(webp) - int.from_bytes(webp[16:20], "little") in (0, 1)
    png = codecs._saving("PNG")(image)
    assert codecs._data(png) == len(png) - 8 - 25 - 12 - 12


def test_a_grey_image_has_one_channel_in_codecs():
    grey = torch.randint(256, (1, 16, 16)).expand(3, -1, -1).to(torch.uint8)
    found = Found(
        ["x"],
        1,
        {"bytes": torch.tensor([9.0]), "header": torch.tensor([4.0])},
        {},
        lambda row: dict(given=grey, decoded=grey),
    )
    assert codecs._picture(grey, True).mode == "L" and codecs._picture(grey, False).mode == "RGB"
    own, *_, png = codecs.beside(found, grey=True)
    assert (own.bytes, own.without_header, own.lossless, png.lossless) == (9, 5, 1, 1)
    assert png.bytes == len(codecs._saving("PNG", optimize=True)(PIL.Image.fromarray(grey[0].numpy())))
