"""What a visitor is shown is what the API draws, it forms before one's eyes, and what is wrong is told in a sentence."""

import dataclasses
import logging

import numpy as np
import PIL.Image
import pytest
import torch

import ldm
from ldm.command.demo import samplers
from ldm.demo.answers import answers
from ldm.demo.frame import Frame, Row
from ldm.demo.limits import Limits, real, whole
from ldm.demo.offer import Offer, alike, noise_shared
from ldm.demo.studio import Request, Studio, beside
from ldm.demo.turn import Ended
from ldm.demo.walk import mixed
from ldm.task.inpaint import Inpaint
from ldm.task.tools.done import pictures
from ldm.task.tools.hole import Drawn
from ldm.types import Context
from tests.demo.test_picture import layer
from tests.runs import saved, tiny

LIMITS = Limits(images=6, steps=8, caption=120)


def made(folder, *words):
    config = tiny(folder, *words)
    if "condition=label" in words:
        config["condition"]["names"] = ["cat", "dog"]
    name = words[0].partition("=")[2] if words else "first"
    return Studio(Offer(ldm.load(saved(folder, config)), name, samplers(), LIMITS), LIMITS, pause=0)


@pytest.fixture(scope="module")
def studio(tmp_path_factory):
    return made(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="module")
def gan(tmp_path_factory):
    return made(tmp_path_factory.mktemp("gan"), "prior=gan", "condition=label")


@pytest.fixture(scope="module")
def codes(tmp_path_factory):
    return made(tmp_path_factory.mktemp("codes"), "prior=pixelcnn", "autoencoder=vq_f4_small", "condition=label")


@pytest.fixture
def picture():
    return PIL.Image.fromarray(np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8))


def same(found, wanted):
    return len(found) == len(wanted) and all(
        np.abs(np.array(a).astype(int) - np.array(b)).max() <= 1 for a, b in zip(found, wanted, strict=True)
    )


def test_images_form_and_are_those_of_the_api(studio):
    *forming, last = studio.draw(Request("a large blue star", 2, "heun", 3, 2.5, 7))
    node = {"_target_": "ldm.diffusion.sampler.heun.Heun"}
    wanted = studio.offer.model.sample("a large blue star", n=2, steps=3, guidance=2.5, seed=7, prior={"sampler": node})
    assert same(last.rows[0].pictures, wanted) and last.left == 0
    assert last.note.startswith("2 images in ") and last.note.endswith(" s · seed 7 · 3 steps · guidance 2.5.")
    assert 1 <= len(forming) <= 5 and all(0 < frame.left <= 1 and not frame.note for frame in forming[:-1])
    assert not same(forming[0].rows[0].pictures, wanted)


def test_what_is_not_said_is_the_runs_own(studio):
    *_, last = studio.draw(Request())
    assert same(last.rows[0].pictures, studio.offer.model.sample(seed=0))
    assert last.note.endswith("seed 0 · 2 steps · guidance 2.")


def test_no_more_is_decoded_than_is_looked_at(studio):
    """With a pause that never ends, one look at the beginning."""
    slow = Studio(studio.offer, LIMITS, pause=1e9)
    *forming, _ = slow.draw(Request(steps=6))
    assert len(forming) <= 1


def test_what_a_run_offers_is_read_off_its_model(studio, gan, codes):
    offer = studio.offer
    assert (offer.asks, offer.classes, offer.gradual, offer.own) == ("caption", (), True, "unipc")
    assert (offer.steps.value, offer.steps.high) == (2, 8) and {"ddim", "heun", "dpmpp_2m"} <= offer.samplers.keys()
    assert offer.guidance.value == 2 and offer.guidance.meaning.startswith(
        "1 is the conditional model without guidance"
    )
    assert offer.no_fill is None and offer.no_walk is None
    assert offer.about == "Diffusion: images of 32 × 32 pixels, of a text"
    assert (gan.offer.asks, gan.offer.classes, gan.offer.gradual) == ("label", ("cat", "dog"), False)
    assert (
        gan.offer.steps is None and gan.offer.guidance is None and not gan.offer.samplers and gan.offer.no_walk is None
    )
    assert "needs a prior with a denoiser" in gan.offer.no_fill and "GAN, has none" in gan.offer.no_fill
    assert codes.offer.guidance.value == 1 and codes.offer.guidance.meaning.startswith(
        "Scale of classifier-free guidance: 1"
    )
    assert "draws numbers that do not change by degrees" in codes.offer.no_walk


def test_a_guidance_that_was_not_trained_is_no_dial(tmp_path):
    assert made(tmp_path, "condition=text", "+condition.drop=0").offer.guidance is None


def test_of_a_few_steps_the_dial_has_no_more(tmp_path):
    assert made(tmp_path, "prior=consistency").offer.steps.high == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"n": 7}, "The number of images is a whole number from 1 to 6, and 7 was given."),
        ({"n": None}, "The number of images is a whole number from 1 to 6, and none was given."),
        ({"n": float("inf")}, "The number of images is a whole number from 1 to 6, and inf was given."),
        ({"n": True}, "and True was given"),
        ({"steps": 9}, "The number of steps is a whole number from 1 to 8, and 9 was given."),
        ({"steps": 1.5}, "and 1.5 was given"),
        ({"guidance": -1}, "Guidance is a number from 0 to 20, and -1 was given."),
        ({"guidance": float("nan")}, "and nan was given"),
        ({"seed": -1}, "The seed is a whole number from 0 to 2147483647, and -1 was given."),
        ({"seed": "x" * 100}, "and " + "x" * 40 + " was given"),
        ({"sampler": "eval"}, "There is no sampler eval."),
        ({"given": "a" * 121}, "The caption has 121 characters, and 120 are the most here: shorten it."),
        ({"given": "zq " * 39}, "The caption is too long: the model would not read its last "),
    ],
)
def test_a_wrong_request_is_told_before_anything_is_drawn(studio, words, said, monkeypatch):
    monkeypatch.setattr(studio.offer.model, "sample", None)
    with pytest.raises(ValueError) as error:
        list(studio.draw(dataclasses.replace(Request(), **words)))
    assert said in str(error.value)


def test_classes_go_by_name(gan):
    *_, last = gan.draw(Request("dog", 2, seed=3))
    assert same(last.rows[0].pictures, gan.offer.model.sample(labels="dog", n=2, seed=3))
    with pytest.raises(ValueError, match="label=dgo: no such class. There are dog, cat"):
        list(gan.draw(Request("dgo")))


def test_numbers_have_limits():
    assert whole(3.0, 1, 4, "It") == 3 and real(2, 0, 4, "It") == 2.0
    for value in (0, 5, "3", [3]):
        with pytest.raises(ValueError, match="It is a whole number from 1 to 4"):
            whole(value, 1, 4, "It")


def test_filling_in_keeps_what_was_not_painted_over(studio, picture):
    mask = layer((32, 32), (8, 8, 24, 24))
    *forming, last = studio.fill(Request("a star", 2, seed=5, steps=3), picture, [mask])
    hole = torch.zeros(32, 32)
    hole[8:24, 8:24] = 1
    words = {"caption": "a star", "seed": 5, "steps": 3}
    wanted = studio.offer.model.apply(Inpaint(Drawn(hole, "hole")), [picture] * 2, **words).pictures["filled"]
    assert same(last.rows[1].pictures, wanted) and not same(wanted[:1], wanted[1:])
    given, kept = (np.array(each) for each in last.rows[0].pictures)
    assert (
        np.array_equal(given, np.array(picture))
        and (kept[8:24, 8:24] == 128).all()
        and last.note.endswith("guidance 2.")
    )
    for frame in forming:
        seen = np.array(frame.rows[1].pictures[1]).astype(int)
        assert np.array_equal(seen[:8], given[:8]) and not np.array_equal(seen[8:24, 8:24], given[8:24, 8:24])


def test_what_cannot_be_filled_in_is_told(studio, gan, picture):
    with pytest.raises(ValueError, match="There is no picture yet: upload one, or take an example."):
        list(studio.fill(Request(), None, []))
    with pytest.raises(ValueError, match="Nothing is painted yet"):
        list(studio.fill(Request(), picture, []))
    with pytest.raises(ValueError, match="needs a prior with a denoiser"):
        list(gan.fill(Request(), picture, [layer((32, 32), (8, 8, 24, 24))]))
    wide = PIL.Image.new("RGB", (96, 64), "red")
    *_, last = studio.fill(Request(), wide, [layer((96, 64), (30, 20, 50, 40))])
    assert last.note.endswith("The picture is 96 × 64 pixels: its middle 64 × 64 was taken and made 32 × 32.")


@pytest.mark.parametrize("sampler", ["", "ddpm"])
def test_a_walk_goes_from_what_one_seed_draws_to_what_the_other_does(studio, sampler):
    """With noise that is added on the way, too."""
    *_, last = studio.walk(Request("a red circle", 4, sampler, 3, seed=1), "a blue star", 8)
    node = {"sampler": samplers()[sampler]} if sampler else None
    ends = [
        studio.offer.model.sample(caption, steps=3, seed=seed, prior=node)
        for caption, seed in (("a red circle", 1), ("a blue star", 8))
    ]
    found = last.rows[0].pictures
    assert len(found) == 4 and last.strip and last.film[:3] == b"GIF"
    assert same(found[:1], ends[0]) and same(found[-1:], ends[1]) and not same(found[1:2], ends[0])


def test_a_walk_of_classes_may_begin_without_one(gan):
    *_, last = gan.walk(Request("", 3, seed=2), "dog", 2)
    own = gan.offer.model
    assert same(last.rows[0].pictures[-1:], own.sample(labels="dog", seed=2))
    assert same(last.rows[0].pictures[:1], own.sample(labels=[-1], seed=2))
    with pytest.raises(ValueError, match="The number of frames is a whole number from 2 to 6, and 1 was given."):
        list(gan.walk(Request("", 1), "dog", 2))


def test_what_cannot_walk_says_so(codes):
    with pytest.raises(ValueError, match="A walk needs a prior whose samples are made of normal noise alone"):
        list(codes.walk(Request("", 3), "dog", 2))


def test_conditions_are_mixed_by_degrees():
    tokens = torch.tensor([[[0.0], [4.0]], [[8.0], [0.0]]])
    mask = torch.tensor([[True, False], [True, True]])
    found = mixed(Context(tokens, mask), torch.tensor([0.0, 0.25, 1.0]))
    assert found.tokens.squeeze(-1).tolist() == [[0, 4], [2, 3], [8, 0]]
    assert found.mask.tolist() == [[True, False], [True, True], [True, True]]


def test_two_are_drawn_of_the_same(studio, gan, tmp_path):
    free = made(tmp_path, "condition=none")
    *_, last = beside(studio, free, Request("a star", 2, seed=6))
    assert [row.title.partition(" ")[0] for row in last.rows] == ["first", "none"]
    assert same(last.rows[0].pictures, studio.offer.model.sample("a star", n=2, seed=6))
    assert same(last.rows[1].pictures, free.offer.model.sample(n=2, seed=6))
    assert noise_shared(studio.offer, free.offer) == "Both begin from the same noise."
    assert noise_shared(studio.offer, gan.offer).startswith("They share the seed, but not the noise")
    with pytest.raises(ValueError, match="first is asked by a caption and gan by a label"):
        list(beside(studio, gan, Request()))
    assert alike(gan.offer, gan.offer) is None
    with pytest.raises(ValueError, match="The number of images is a whole number"):
        next(iter(beside(studio, free, Request(n=70))))


def test_two_models_of_other_classes_are_not_alike(gan):
    other = Offer(gan.offer.model, "other", {}, LIMITS)
    other.classes = ("cat", "cow")
    assert alike(gan.offer, other) == "The classes of gan are not those of other, so the same cannot be asked of both."


def test_answers_tell_a_visitor_what_went_wrong_and_no_more(caplog):
    frame = Frame([Row(pictures(torch.zeros(1, 3, 4, 4)))], left=0.5)

    def ends(error, first=True):
        def frames():
            if first:
                yield frame
            raise error

        return list(answers(frames))[-1]

    assert "No &lt;b&gt;." in ends(ValueError("No <b>."), first=False)
    kept = ends(Ended("Stopped."))
    assert "Stopped." in kept and "data:image/png" in kept and "refused" in ends(Ended("Stopped."), first=False)
    with caplog.at_level(logging.ERROR):
        assert "/secret" not in ends(RuntimeError("/secret")) and "/secret" in caplog.text
    told = ends(RuntimeError("/secret"))
    assert "(RuntimeError)" in told and "the terminal that serves this page says why. Draw again" in told


def test_a_drawing_ends_between_two_steps(studio):
    """A limit of no time to speak of ends it before its first step."""
    short = Studio(studio.offer, dataclasses.replace(LIMITS, seconds=1e-9), pause=0)
    with pytest.raises(Ended, match="Stopped after 1e-09 seconds"):
        list(short.draw(Request()))
    assert studio.offer.model.model.prior.steps == 2 and studio.offer.model.model.prior.watch is None
    assert len(list(studio.draw(Request()))) >= 1
