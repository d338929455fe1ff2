"""The cache equals encoding anew; interrupted it comes out the same to the byte; what does not belong is refused."""

import hashlib
import json
import multiprocessing
import signal
import time
from pathlib import Path

import pytest
import torch

from ldm.data.image import Transform
from ldm.data.items import Items, Maker
from ldm.data.latent import BadLatentsError, LatentSource, build, finish
from ldm.data.module import DataModule
from ldm.data.tally import Tally
from tests.data.sources import Halves, Numbers


def encode(x):
    """Not symmetric: mean keeps the left column pair, deviation the right one."""
    return {"mean": x[:, :, ::2, :2].clone(), "std": x[:, :, ::2, -2:].abs() + 0.5}


def module(train=None, **options) -> DataModule:
    options = {"image_shape": (3, 8, 8), "batch_size": 5, "workers": 0} | options
    return DataModule(train or Numbers(33), Numbers(7), **options)


def made(data: DataModule, path: Path, split="train", flips=False, **options) -> Path:
    options = {"shard": 8, "batch_size": 3, "dtype": "float32"} | options
    build(encode, data.latent_items(split), path / split, data.latent_key(split, "w"), flips, **options)
    return path / split


def hashes(path: Path) -> dict[str, str]:
    return {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in sorted(path.iterdir())}


def test_cached_batches_equal_encoded_ones(tmp_path):
    plain = module(Halves(33), flip=True)
    cached = plain.with_latents(made(plain, tmp_path, flips=True), made(plain, tmp_path, "val"), "w")
    mirrored = 0
    for image, latent in zip(plain.loader(0, 14), cached.loader(0, 14), strict=True):
        assert all(torch.equal(latent[name], value) for name, value in encode(image["image"]).items())
        assert "image" not in latent and latent["caption"] == image["caption"]
        assert (
            all(torch.equal(latent[k], image[k]) for k in ("label", "index", "row")) and latent["step"] == image["step"]
        )
        mirrored += int((image["image"][:, 0, 0, 0] == 1).sum())
    assert 0 < mirrored < 70
    for image, latent in zip(plain.val_loader(), cached.val_loader(), strict=True):
        assert torch.equal(latent["mean"], encode(image["image"])["mean"])
    assert "image" in cached.items("val", [0]) and cached.latents["train"].shape == (3, 4, 2)


def test_workers_and_half_precision(tmp_path):
    plain = module(workers=2)
    cached = plain.with_latents(made(plain, tmp_path, dtype="float16", workers=2), made(plain, tmp_path, "val"), "w")
    for image, latent in zip(plain.loader(0, 7), cached.loader(0, 7), strict=True):
        assert latent["mean"].dtype == torch.float32
        assert torch.allclose(latent["mean"], encode(image["image"])["mean"], atol=1e-3)


def test_ranks_share_the_work(tmp_path):
    data = module()
    alone = made(data, tmp_path / "alone")
    for rank in (1, 0):
        shared = made(data, tmp_path / "shared", rank=rank, world=2)
        assert len(list(shared.glob("*.safetensors"))) == {1: 2, 0: 5}[rank]
    finish(shared)
    assert hashes(shared) == hashes(alone)


def test_a_finish_too_early(tmp_path):
    with pytest.raises(BadLatentsError, match="2 of 5 shards are not there"):
        finish(made(module(), tmp_path, rank=0, world=2))


def test_a_bad_image_keeps_its_stand_ins_caption(tmp_path):
    data = module(Numbers(33, bad=(4,)), max_bad=0.1)
    cached = data.with_latents(made(data, tmp_path), made(data, tmp_path, "val"), "w")
    assert cached.latents["train"][4]["label"] == 5
    assert torch.equal(
        torch.as_tensor(cached.latents["train"][4]["mean"]), torch.as_tensor(cached.latents["train"][5]["mean"])
    )


def slowly(path: Path, started) -> None:
    def slow(x):
        started.set()
        time.sleep(0.01)
        return encode(x)

    made_in(path, slow)


def made_in(path: Path, how) -> None:
    data = module()
    key = data.latent_key("train", "w")
    build(how, data.latent_items("train"), path, key, shard=8, batch_size=3, dtype="float32")


@pytest.mark.parametrize("delays", [(0.0, 0.02), (0.05,), (0.06, 0.06, 0.06)])
def test_killed_builds_end_the_same(tmp_path, delays):
    """Row R23: killed anywhere, the next build goes on; the files are those of an undisturbed one."""
    whole, part = made(module(), tmp_path), tmp_path / "part"
    context = multiprocessing.get_context("fork")
    for delay in delays:
        started = context.Event()
        process = context.Process(target=slowly, args=(part, started))
        process.start()
        started.wait()
        time.sleep(delay)
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL or (part / "manifest.json").exists()
    made_in(part, encode)
    assert hashes(part) == hashes(whole)


def test_a_full_disk_leaves_no_half_shard(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(OSError, match="No space left"):
            made(module(), tmp_path)
    assert not list((tmp_path / "train").glob("*.safetensors"))
    assert hashes(made(module(), tmp_path)) == hashes(made(module(), tmp_path / "other"))


def test_a_shard_that_is_there_is_not_made_again(tmp_path):
    data = module()
    path = made(data, tmp_path)
    before = {f: f.stat().st_mtime_ns for f in path.glob("*.safetensors")}
    (path / "shard-00002.safetensors").unlink()
    made(data, tmp_path)
    after = {f: f.stat().st_mtime_ns for f in path.glob("*.safetensors")}
    assert [f.name for f in before if before[f] != after[f]] == ["shard-00002.safetensors"]


def test_of_other_weights_items_or_transform(tmp_path):
    data = module()
    train, val = made(data, tmp_path), made(data, tmp_path, "val")
    for other, weights in ((data, "x"), (module(Numbers(34)), "w"), (module(image_shape=(1, 8, 8)), "w")):
        with pytest.raises(BadLatentsError, match="another network, or of another data set or transform"):
            other.with_latents(train, val, weights)
        with pytest.raises(BadLatentsError, match="of another build"):
            build(encode, other.latent_items("train"), train, other.latent_key("train", weights), shard=8)


def test_mirrored_latents_are_wanted_where_images_are_mirrored(tmp_path):
    data = module(flip=True)
    with pytest.raises(BadLatentsError, match="mirrored"):
        data.with_latents(made(data, tmp_path), made(data, tmp_path, "val"), "w")


def test_damage_is_named(tmp_path):
    data = module()
    path = made(data, tmp_path)
    shard, key = path / "shard-00001.safetensors", data.latent_key("train", "w")
    content = shard.read_bytes()
    for damaged in (content[:-1], b"", content[:200] + bytes([content[200] ^ 1]) + content[201:]):
        shard.write_bytes(damaged)
        with pytest.raises(BadLatentsError, match=r"shard-00001\.safetensors: damaged"):
            LatentSource(Numbers(33), path, key)
    shard.unlink()
    with pytest.raises(BadLatentsError, match=r"shard-00001\.safetensors"):
        LatentSource(Numbers(33), path, key)
    shard.write_bytes(content)
    manifest = path / "manifest.json"
    text = manifest.read_text()
    manifest.write_text(text[: len(text) // 2])
    with pytest.raises(BadLatentsError, match=r"manifest\.json: damaged"):
        LatentSource(Numbers(33), path, key)
    manifest.write_text(json.dumps(json.loads(text) | {"version": 99}))
    with pytest.raises(BadLatentsError, match="version 99"):
        LatentSource(Numbers(33), path, key)
    manifest.unlink()
    with pytest.raises(BadLatentsError, match="not finished"):
        LatentSource(Numbers(33), path, key)


@pytest.mark.parametrize("value, dtype", [(float("nan"), "float32"), (1e5, "float16")])
def test_latents_that_are_not_finite(tmp_path, value, dtype):
    data = module()
    with pytest.raises(BadLatentsError, match=r"mean of items \[0, 1, 2\] is not finite"):
        build(lambda x: {"mean": x * 0 + value}, data.latent_items("train"), tmp_path, "k", dtype=dtype, batch_size=3)


def test_one_latent_that_is_not_finite_is_named(tmp_path):
    def broken(x):
        mean = x.clone()
        mean[1, 0, 0, 0] = float("nan")
        return {"mean": mean}

    with pytest.raises(BadLatentsError, match=r"mean of items \[1\] is not finite"):
        build(broken, module().latent_items("train"), tmp_path, "k", batch_size=3)


def test_what_is_encoded_is_not_mirrored_at_random(tmp_path):
    """Whatever the items are made by: the left half is black in all."""
    seen = []
    maker = Maker(Transform((3, 8, 8), flip=True), 0, Tally(32, "train", 0.0, None))
    build(
        lambda x: seen.append(x) or encode(x), Items(Halves(32), maker, "raise"), tmp_path, "k", shard=32, batch_size=32
    )
    assert (seen[0][..., :4] == -1).all() and (seen[0][..., 4:] == 1).all()


def test_the_key_says_what_the_latents_depend_on():
    """Not whether training mirrors, since the latents of both sides are kept."""
    key = module().latent_key("train", "w")
    assert key == module(flip=True).latent_key("train", "w")
    others = [module().latent_key("val", "w"), module(on_error="replace").latent_key("train", "w")]
    assert len({key, *others, module(image_shape=(3, 8, 4)).latent_key("train", "w")}) == 4


def test_random_crops_have_no_latents():
    with pytest.raises(ValueError, match=r"data\.crop=centre"):
        module(crop="random").latent_key("train", "w")


def test_a_build_that_is_stopped_keeps_its_whole_shards_and_goes_on(tmp_path):
    """33 items in shards of 8, of batches of 3, 3 and 2: stopped before the fifth batch, the first shard is there."""
    whole, part, asked = made(module(), tmp_path), tmp_path / "part", []

    def stopped():
        asked.append(0)
        return len(asked) == 5

    data = module()
    options = {"shard": 8, "batch_size": 3, "dtype": "float32"}
    key = data.latent_key("train", "w")
    assert build(encode, data.latent_items("train"), part, key, stopped=stopped, **options) is False
    assert [file.name for file in part.iterdir()] == ["shard-00000.safetensors"]
    assert build(encode, data.latent_items("train"), part, key, **options) is True
    assert hashes(part) == hashes(whole)
