"""What every task is held to: who can do it, rows and their names, a row the same whatever the batch, refusals."""

import pytest
import torch

from ldm.data.inputs import Inputs
from ldm.model import LatentModel
from ldm.prior.base import Invertible, Likelihood
from ldm.prior.diffusion import Diffusion
from ldm.task.base import Answer, Task, having, lacks
from ldm.task.tools.conditions import Conditions
from ldm.task.tools.rows import Rows, summary
from tests.runs import saved, tiny


class Noisy(Task):
    """A picture with noise of the row, and its number."""

    def check(self, model):
        lacks(self, model, Diffusion, "a denoiser")

    def __call__(self, model, batch, random):
        noise = random.normal("noise", tuple(batch["image"].shape[1:]))
        return Answer({"noise": noise}, {"row": batch["index"].double()}, {"image": batch["image"]})


class Pairs(Noisy):
    takes = 2

    def __call__(self, model, batch, random):
        return Answer({}, {"both": batch["image"].flatten(1).mean(1)}, {"image": batch["image"]})


class Without(Noisy):
    takes = 0

    def count(self, model, images):
        return 7


class Endless(Noisy):
    def __call__(self, model, batch, random):
        return Answer({"given": batch["image"] / 0})


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    return LatentModel.load(saved(folder, tiny(folder)))


@pytest.fixture(scope="module")
def images():
    grey = torch.linspace(-1, 1, 5).view(5, 1, 1, 1)
    return Inputs(grey.expand(5, 3, 32, 32), (3, 32, 32))


def test_which_families_have_a_capability():
    """Every family that conf/prior names and that says so, and none that is only there to be derived from."""
    assert {"RealNVP", "Glow", "CNF", "AutoregressiveFlow"} <= set(having(Invertible)) <= set(having(Likelihood))
    assert not {"GAN", "EnergyBased", "Prior"} & set(having(Likelihood))
    assert "Diffusion" in having(Diffusion) and "RealNVP" not in having(Diffusion)


def test_who_lacks_a_capability_is_told_who_has_it(tmp_path):
    other = LatentModel.load(saved(tmp_path, tiny(tmp_path, "prior=normal")))
    with pytest.raises(
        ValueError,
        match=r"^task=test_base needs a prior with a denoiser, and this model's, Normal, has none.*Diffusion",
    ):
        Rows(Noisy(), other, None)


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_a_row_is_the_same_whatever_the_batch(model, images, batch):
    rows = Rows(Noisy(), model, images, seed=3)
    found = list(rows.answers(range(5), batch))
    assert [row for own, _ in found for row in own] == list(range(5))
    noise = torch.cat([answer.pictures["noise"] for _, answer in found])
    torch.testing.assert_close(noise, next(rows.answers(range(5), 5))[1].pictures["noise"])
    assert noise[0].ne(noise[1]).any()
    other = next(Rows(Noisy(), model, images, seed=4).answers([0], 1))[1]
    assert other.pictures["noise"].ne(noise[0]).any()


def test_rows_are_those_that_are_missing(model, images):
    [(rows, answer)] = Rows(Noisy(), model, images).answers([1, 3], 8)
    assert rows == [1, 3] and answer.numbers["row"].tolist() == [1, 3]
    torch.testing.assert_close(answer.arrays["image"], images.batch([1, 3]))


def test_rows_of_two_images_follow_each_other(model, images):
    rows = Rows(Pairs(), model, images)
    assert len(rows) == 4 and rows.name(2) == "2 to 3"
    [(_, answer)] = rows.answers(range(4), 8)
    torch.testing.assert_close(answer.arrays["image"][2], images.batch([2, 3]))
    torch.testing.assert_close(answer.numbers["both"], torch.tensor([-0.75, -0.25, 0.25, 0.75]))
    with pytest.raises(ValueError, match="wants 2 images at least, and there is 1"):
        Rows(Pairs(), model, Inputs(torch.zeros(3, 32, 32), (3, 32, 32)))


def test_others_come_after_and_are_told_apart(model, images):
    rows = Rows(Noisy(), model, images, Inputs(torch.ones(2, 3, 32, 32), (3, 32, 32)))
    assert (len(rows), rows.first, rows.name(6)) == (7, 5, "1")
    [(_, answer)] = rows.answers(range(7), 8)
    torch.testing.assert_close(answer.arrays["image"][5:], torch.ones(2, 3, 32, 32))
    told = summary({"row": answer.numbers["row"]}, rows.first)["row"]
    assert (told["mean"], told["n"]) == (2, 5) and told["standard_error"] == pytest.approx((2.5 / 5) ** 0.5)
    assert told["others"] == {"mean": 5.5, "standard_error": pytest.approx(0.5), "n": 2}


def test_a_number_that_is_none_is_left_out():
    assert summary({"x": torch.tensor([1.0, torch.nan])}, 2) == {"x": {"mean": 1.0, "n": 1}}
    assert summary({"x": torch.tensor([torch.nan])}, 1) == {"x": {"n": 0}}


def test_images_are_given_where_they_are_taken(model, images):
    assert len(Rows(Without(), model)) == 7
    with pytest.raises(ValueError, match="takes no images; leave images= out"):
        Rows(Without(), model, images)
    with pytest.raises(ValueError, match="takes images: give images=FILE or images=DIR"):
        Rows(Noisy(), model)


def test_a_picture_that_is_not_finite_is_refused(model, images):
    with pytest.raises(ArithmeticError, match="of 0, 1, 2, 3 the picture given is not of finite numbers"):
        list(Rows(Endless(), model, images).answers(range(5), 8))


def test_the_condition_is_that_of_every_row(model, images):
    batch = Rows(Noisy(), model, images, conditions=Conditions(1, ["a star"])).batch([1, 4])
    assert batch["caption"] == ["a star"] * 2 and batch["index"].tolist() == [1, 4] and "label" not in batch
    labels = Rows(Noisy(), model, images, conditions=Conditions(1, None, [2])).batch([1, 4])["label"]
    assert labels.tolist() == [2, 2] and labels.dtype == torch.int64


def test_or_each_row_has_its_own(model, images):
    own = Conditions(5, ["a", "b", "c", "d", "e"])
    assert Rows(Noisy(), model, images, conditions=own).batch([1, 4])["caption"] == ["b", "e"]
    with pytest.raises(ValueError, match="2 captions for 5 images: give one for each, or one for all"):
        Rows(Noisy(), model, images, conditions=Conditions(2, ["a", "b"]))
    with pytest.raises(ValueError, match="7 labels for 5 images"):
        Rows(Noisy(), model, images, conditions=Conditions(7, None, [0] * 7))
    with pytest.raises(ValueError, match="5 captions for 4 rows"):
        Rows(Pairs(), model, images, conditions=own)
