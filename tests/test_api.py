"""The API is the model: what it draws, reads and writes is what the parts do of the same seed; what it is given is checked."""

import subprocess
import sys

import numpy as np
import PIL.Image
import pytest
import torch

import ldm
from ldm.command.sample import sample
from ldm.diffusion.guidance.classifier_free import ClassifierFree
from ldm.model import LatentModel
from ldm.random import Random
from ldm.task.denoise import Denoise
from ldm.task.edit import Edit
from ldm.task.embed import Embed
from ldm.task.super_resolution import SuperResolution
from ldm.task.tools.done import pictures
from ldm.task.tools.inversion import Inversion
from ldm.task.uncertainty import Uncertainty
from tests.runs import compose, saved, tiny
from tests.test_layers import ROOT


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    return saved(folder, tiny(folder))


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    folder = tmp_path_factory.mktemp("labelled")
    config = tiny(folder, "condition=label", "prior=realnvp")
    config["condition"]["names"] = ["cat", "dog"]
    return saved(folder, config)


@pytest.fixture
def x():
    return torch.rand(3, 3, 32, 32) * 2 - 1


def test_the_package_is_light_until_a_model_is_asked_for():
    code = "import sys, ldm; print([*{'torch', 'numpy'} & {*sys.modules}]); ldm.load; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.split() == ["[]", "True"]
    with pytest.raises(AttributeError, match="module ldm has no attribute laod"):
        _ = ldm.laod


def test_images_are_the_models_of_the_seed_and_the_command_lines(run, tmp_path):
    """`n` of each caption, at this call's guidance and steps, whatever the batch."""
    model = ldm.load(run)
    words = {"captions": ["a small red circle", "a large blue star"], "n": 2, "guidance": 3, "steps": 2, "seed": 5}
    found = model.sample(**words, tensors=True, batch=3)
    own = LatentModel.load(run)
    own.prior.steps, own.prior.guidance = 2, lambda denoiser: ClassifierFree(denoiser, 3.0)
    captions = ["a small red circle"] * 2 + ["a large blue star"] * 2
    wanted = own.sample({"caption": captions, "index": torch.arange(4)}, Random(5, 0, torch.arange(4)))
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)
    asked = compose("run=absent", "device=cpu", "steps=2", "guidance=3", "seed=5", "n=2", name="sample")
    (tmp_path / "words").write_text("\n".join(words["captions"]))
    sample(**asked | {"run": str(run), "prompts": str(tmp_path / "words"), "out": str(tmp_path / "out")})
    for i, picture in enumerate(model.sample(**words)):
        written = np.array(PIL.Image.open(tmp_path / "out" / f"{i:04d}.png")).astype(int)
        assert np.abs(np.array(picture).astype(int) - written).max() <= 1


def test_a_call_leaves_the_model_as_it_was(run):
    model = ldm.load(run)
    before = model.sample(captions="a star", tensors=True)
    config = model.model.config
    model.sample(captions="a star", guidance=4, steps=1)
    with pytest.raises(ValueError, match=r"prior\.steps: Input should be greater than 0"):
        model.sample(captions="a star", steps=0)
    assert torch.equal(model.sample(captions="a star", tensors=True), before) and model.model.config is config


def test_a_word_alone_is_one_word(run, labelled):
    assert len(ldm.load(run).sample("abc")) == len(ldm.load(labelled).sample(labels="dog")) == 1
    assert len(ldm.load(labelled).sample(labels=["dog", 0], n=3)) == 6 and ldm.load(labelled).classes == ("cat", "dog")


def test_latents_there_and_back(run, x):
    model = ldm.load(run)
    own, z = model.model.autoencoder, model.encode(x)
    torch.testing.assert_close(z, own.encode(x).mean)
    torch.testing.assert_close(model.decode(z, tensors=True), own.decode(z).clamp(-1, 1))
    assert [type(each) for each in model.decode(z)] == [PIL.Image.Image] * 3
    drawn = own.encode(x).sample(Random(4, 0, torch.arange(3)).normal("posterior", tuple(z.shape[1:])))
    torch.testing.assert_close(model.encode(x, seed=4), drawn)
    with pytest.raises(ValueError, match=r"wanted \(3, .*, what encode gives of 3 images; got \(3, 1"):
        model.decode(z[:, :1])


def test_densities_are_the_priors_of_the_drawn_latents(labelled, x):
    model = ldm.load(labelled)
    own, random = model.model, Random(2, 0, torch.arange(3))
    z = own.latent({"image": x}, random)
    for labels, numbers in ((["dog", "cat", "dog"], [1, 0, 1]), ("dog", [1, 1, 1]), (None, [-1, -1, -1])):
        wanted = own.prior.log_prob(z, own.condition({"label": torch.tensor(numbers)}), random)
        torch.testing.assert_close(model.log_prob(x, labels=labels, seed=2), wanted)
    with pytest.raises(ValueError, match="2 labels for 3 images: give one for each, or one for all"):
        model.log_prob(x, labels=[0, 1])


def test_what_has_no_densities_is_told(tmp_path, x):
    model = ldm.load(saved(tmp_path, tiny(tmp_path, "prior=gan")))
    with pytest.raises(
        ValueError, match=r"log_prob needs a prior with densities, and this model's, GAN, has none.*RealNVP"
    ):
        model.log_prob(x)


def test_a_task_in_memory(run, x):
    model = ldm.load(run)
    done = model.apply(Embed(), x, others=x[:1], batch=2)
    decoded = model.decode(done.arrays["z"], tensors=True)
    torch.testing.assert_close(done.arrays["z"][:3], model.encode(x), atol=1e-4, rtol=1e-4)
    errors = (decoded[:3] - x).square().mean((1, 2, 3)).double()
    torch.testing.assert_close(done.numbers["error"][:3], errors, atol=1e-5, rtol=1e-4)
    assert done.means["error"]["mean"] == pytest.approx(float(errors.mean()), rel=1e-4)
    assert done.means["error"]["others"]["n"] == 1 and done.names == ["0", "1", "2", "0"]
    assert len(done.pictures["given"]) == 4 and done.pictures["given"][0].size == (32, 32)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda model: model.sample(labels=1), "labels= is given, but this model is conditioned on caption"),
        (lambda model: model.sample("a", labels=1), "one kind of condition at a time; got captions and labels"),
        (
            lambda model: model.sample("a", negative="b", guidance=1),
            "negative= is what guidance above 1 moves away from",
        ),
        (lambda model: model.sample("a", n=0), "n=0, batch=64: both are at least 1"),
        (lambda model: model.sample([]), "captions= is empty: give one at least, or leave it out"),
        (lambda model: model.encode(3), "0: no image but int"),
        (lambda model: model.encode("/nowhere.png"), "there is no such file or folder"),
        (lambda model: model.apply(Embed()), "takes images"),
        (lambda model: model.apply(Embed(), torch.zeros(1, 3, 32, 32), label=1), "label= is given, but this model"),
    ],
)
def test_wrong_calls_are_told(run, call, said):
    with pytest.raises((ValueError, OSError), match=said):
        call(ldm.load(run))


def test_a_saved_model_loads(run, tmp_path, x):
    model = ldm.load(run)
    model.save(tmp_path)
    torch.testing.assert_close(ldm.load(tmp_path).to("cpu").encode(x), model.encode(x))


def test_tasks_by_a_line(run, labelled, x):
    """Each is `apply` of its task with the same seed."""
    model = ldm.load(run)
    edited = model.edit(x[:1], "a star", strength=0.9, guidance=2, steps=2, seed=3)
    wanted = model.apply(Edit(0.9), x[:1], caption="a star", guidance=2, steps=2, seed=3).pictures["edited"]
    assert [each.tobytes() for each in edited] == [each.tobytes() for each in wanted]
    flow = ldm.load(labelled)
    assert list(flow.interpolate(x, frames=3).pictures) == ["given", "0.00", "0.50", "1.00", "next"]
    assert set(flow.anomaly(x, others=x).found["auroc"]) == {"nll", "complexity", "reconstruction"}


def test_each_image_has_its_own_caption_where_there_is_a_list(run, x):
    model, words = ldm.load(run), {"strength": 1.0, "guidance": 4, "steps": 2, "seed": 3}
    captions = ["a star", "a circle", "a square"]
    found = [each.tobytes() for each in model.edit(x, captions, **words)]
    for i, caption in enumerate(captions):
        assert model.edit(x, caption, **words)[i].tobytes() == found[i]
    assert model.edit(x, "a star", **words)[1].tobytes() != found[1]
    with pytest.raises(ValueError, match="2 captions for 3 images: give one for each, or one for all"):
        model.edit(x, captions[:2], **words)


def test_noise_is_found_under_the_caption_of_each_image(run, x):
    model, words = ldm.load(run), {"caption": "a star", "guidance": 1, "steps": 2}
    sources = ["a star", "a circle", "a square"]
    found = model.apply(Edit(0.9, Inversion(2), sources), x, **words).pictures["edited"]
    for i, source in enumerate(sources):
        alone = model.apply(Edit(0.9, Inversion(2), source), x, **words).pictures["edited"]
        assert alone[i].tobytes() == found[i].tobytes()
    assert alone[0].tobytes() != found[0].tobytes()
    with pytest.raises(ValueError, match="2 captions for 3 images"):
        model.apply(Edit(0.9, Inversion(2), sources[:2]), x, **words)


def test_images_by_a_task_are_those_that_apply_finds(run, x):
    """Of the task's own word and of all that is said beside it; each word changes them."""
    model, said = ldm.load(run), {"caption": "a star", "guidance": 3, "steps": 3, "seed": 3}
    calls = {
        "made": (SuperResolution(factor=4), lambda words: model.super_resolution(x[:1], 4, **words)),
        "denoised": (Denoise(sigma=0.5), lambda words: model.denoise(x[:1], 0.5, **words)),
    }
    for name, (task, call) in calls.items():
        wanted = model.apply(task, x[:1], **said).pictures[name][0].tobytes()
        assert call(said)[0].tobytes() == wanted
        for word in said:
            assert call({key: value for key, value in said.items() if key != word})[0].tobytes() != wanted, word
    done = model.uncertainty(x[:1], noise=0.3, draws=2, seed=1)
    wanted = model.apply(Uncertainty(0.3, 2), x[:1], seed=1)
    assert torch.equal(done.numbers["error"], wanted.numbers["error"]) and {"mean", "deviation"} <= set(done.pictures)
    with pytest.raises(ValueError, match=r"task\.factor=5 does not divide this model's images of 32 x 32"):
        model.super_resolution(x, 5)


def test_a_hole_is_filled_in(run, x):
    """By a mask in memory of any kind; outside images are as they were given, up to their 8 bits."""
    model, mask = ldm.load(run), np.zeros((32, 32), np.uint8)
    mask[8:20, 4:12] = 255
    found = np.stack([np.array(each) for each in model.inpaint(x, mask, steps=2)])
    given = np.stack([np.array(each) for each in pictures(x)])
    kept = mask == 0
    assert (found[:, kept] == given[:, kept]).all() and (found[:, ~kept] != given[:, ~kept]).any()
    for other in (PIL.Image.fromarray(mask), torch.from_numpy(mask) > 0, mask / 255.0):
        again = np.stack([np.array(each) for each in model.inpaint(x, other, steps=2)])
        assert (again == found).all()
    with pytest.raises(ValueError, match=r"a mask is \(h, w\).*got the shape \(3, 32, 32\)"):
        model.inpaint(x, x[0])
    with pytest.raises(ValueError, match="16 x 16 pixels, and this model's images are 32 x 32"):
        model.inpaint(x, np.eye(16))
