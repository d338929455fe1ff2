"""Agreement as a metric: real images agree with their own captions, and with no others; shares are counted by hand."""

import math

import pytest
import torch

from ldm.data.shapes import ATTRIBUTES, Shapes, combinations
from ldm.data.shapes import caption as sentence
from ldm.metric.metric import Examples, Metric
from ldm.metric.scene import Artifacts, InMemory, RealImages, Scene
from ldm.metric.shapes import agreement, attributes
from ldm.metric.shapes.agreement import Agreement
from ldm.metric.shapes.attributes import AttributeChecker, to_image


def scene(samples: int, shape: tuple[int, int, int] = (3, 32, 32), artifacts: Artifacts | None = None) -> Scene:
    """A measuring of so many samples of this shape."""
    real = RealImages("val", range(0), "none", read=lambda rows: {})
    return Scene(samples, shape, torch.device("cpu"), real, artifacts=artifacts or InMemory())


def begun(metric: Metric, shape: tuple[int, int, int] = (3, 32, 32)) -> Metric:
    """A metric whose measuring of samples has begun."""
    metric.begin(scene(8, shape))
    return metric


def examples(n, shift=0):
    data = Shapes(n, "test", seed=5)
    items = [data[i] for i in range(n)]
    images = to_image(torch.stack([torch.from_numpy(item["image"]) for item in items]))
    captions = [items[(i + shift) % n]["caption"] for i in range(n)]
    return Examples(images, images, images, captions, torch.arange(n))


def test_real_images_show_their_captions_and_no_others():
    numbers, kept = {}, InMemory()
    for shift in (0, 7):
        metric = Agreement()
        metric.begin(scene(96, artifacts=kept))
        for batch in (examples(96, shift),):
            metric.add(batch)
        numbers[shift] = {m.metric: m for m in metric.measure()}
    own, other = numbers[0], numbers[7]
    assert own["checker_accuracy"].value >= 0.99
    assert own["shows_all"].value >= 0.97 and other["shows_all"].value < 0.1
    # Half of the test set shows combinations that are never trained on.
    assert own["shows_all_seen"].n == own["shows_all_unseen"].n == 48
    p, n = other["shows_colour"].value, 96
    assert other["shows_colour"].standard_error == pytest.approx((p * (1 - p) / n) ** 0.5)


class PerfectReader(AttributeChecker):
    """Reads what is written into the first five pixels' red, a tenth of a byte's range a word."""

    def forward(self, x):
        words = ((x[:, 0, 0, :5] + 1) * 127.5 / 20).round().long()
        return {name: torch.nn.functional.one_hot(words[:, i], 13).float() for i, name in enumerate(ATTRIBUTES)}


def written(rows, channels=3):
    """Images of 32 pixels that show attributes (n, 5)."""
    x = torch.full((len(rows), channels, 32, 32), -1.0)
    x[:, :3, 0, :5] = (torch.tensor(rows)[:, None] * 20 / 127.5) - 1
    x[:, 3:] = 1.0  # opaque
    return x


def examples_of_shapes(n, right, unseen=False, channels=3):
    """n samples of one caption, the first `right` of which show it and the others another colour."""
    wanted = combinations(unseen)[0].tolist()
    wrong = [(wanted[0] + 1) % 7, *wanted[1:]]
    images = written([wanted] * right + [wrong] * (n - right), channels)
    return Examples(images, images, images, [sentence(dict(zip(ATTRIBUTES, wanted, strict=True)))] * n, torch.arange(n))


@pytest.fixture
def perfect(monkeypatch):
    monkeypatch.setattr(agreement, "accuracy", lambda *_: {"joint": 0.995})
    monkeypatch.setattr(agreement, "kept_checker", lambda *_: PerfectReader())


@pytest.mark.parametrize("channels", [3, 4])
def test_shares_are_counted(perfect, channels):
    metric = begun(Agreement(), (channels, 32, 32))
    metric.add(examples_of_shapes(8, right=6, channels=channels))
    metric.add(examples_of_shapes(4, right=1, unseen=True, channels=channels))
    found = {m.metric: (m.value, m.standard_error, m.n) for m in metric.measure()}

    def share(right, n):
        p = right / n
        return pytest.approx(p), pytest.approx(math.sqrt(p * (1 - p) / n)), n

    assert found == {
        "checker_accuracy": share(0.995 * 2048, 2048),
        "shows_colour": share(7, 12),
        **{f"shows_{name}": share(12, 12) for name in ("shape", "size", "place", "background")},
        "shows_all": share(7, 12),
        "shows_all_seen": share(6, 8),
        "shows_all_unseen": share(1, 4),
    }


def test_a_caption_is_shown_where_every_word_is(perfect):
    wanted = combinations(False)[0].tolist()
    other = [[wanted[0], wanted[1], 1 - wanted[2], *wanted[3:]], [(wanted[0] + 1) % 7, *wanted[1:]]]
    images = written([wanted, wanted, wanted, *other])
    captions = [sentence(dict(zip(ATTRIBUTES, wanted, strict=True)))] * 5
    metric = begun(Agreement())
    metric.add(Examples(images, images, images, captions, torch.arange(5)))
    found = {m.metric: m.value for m in metric.measure()}
    assert found["shows_colour"] == found["shows_size"] == pytest.approx(4 / 5)
    assert found["shows_all"] == found["shows_all_seen"] == pytest.approx(3 / 5)


def test_what_is_shown_is_read_in_eight_bits(perfect):
    metric = begun(Agreement())
    batch = examples_of_shapes(2, right=2)
    moved = batch.generated + 0.4 / 127.5  # less than half a level, which nobody sees
    metric.add(Examples(batch.real, batch.real, moved, batch.captions, batch.index))
    seen = []
    metric._checker.read = lambda x: seen.append(x) or PerfectReader.read(PerfectReader(), x)
    metric.add(Examples(batch.real, batch.real, moved, batch.captions, batch.index))
    assert torch.equal(seen[0], batch.generated) and {m.rounded for m in metric.measure()} == {True}


def test_one_sample_has_no_error(perfect):
    metric = begun(Agreement())
    metric.add(examples_of_shapes(1, right=1))
    found = {m.metric: (m.value, m.standard_error, m.n) for m in metric.measure()}
    assert found["shows_all"] == found["shows_all_seen"] == (1, None, 1) and "shows_all_unseen" not in found


@pytest.mark.parametrize(("accuracy", "said"), [(0.98, True), (0.99, False)])
def test_a_bad_checker_is_told(monkeypatch, perfect, caplog, accuracy, said):
    monkeypatch.setattr(agreement, "accuracy", lambda *_: {"joint": accuracy})
    metric = begun(Agreement())
    metric.add(examples_of_shapes(3, right=3))
    metric.measure()
    assert ("reads only 98.0% of real images right" in caplog.text) == said


def test_nothing_generated_is_nothing_measured(perfect, monkeypatch):
    batch = examples(4)
    metric = begun(Agreement())
    assert metric.measure() == []
    metric.add(Examples(batch.real, batch.reconstruction, None, batch.captions, batch.index))
    assert metric.measure() == []

    def never(*_):
        raise AssertionError("a checker was trained for no samples")

    monkeypatch.setattr(agreement, "kept_checker", never)
    metric = Agreement()
    metric.begin(scene(0))
    metric.add(Examples(batch.real, batch.reconstruction, None, batch.captions, batch.index))
    assert metric.measure() == []


@pytest.mark.parametrize("size", [(1, 1), (8, 8), (30, 30), (16, 32)])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_images_that_no_checker_reads_are_left_out_and_said(caplog, size, channels):
    metric, caption = begun(Agreement(), (channels, *size)), Shapes(1, "test").facts(0)["caption"]
    x = torch.zeros(2, channels, *size)
    metric.add(Examples(x, x, x, [caption] * 2, torch.arange(2)))
    assert metric.measure() == []
    wanted = "square images whose side is a multiple of 4, from 16 on"
    assert f"agreement with captions is left out: it needs {wanted}, and here are {size[0]} x {size[1]}" in caplog.text


def test_it_needs_captions_and_says_before_all_which_it_cannot_read():
    metric = Agreement()
    assert metric.needs == ("caption",)
    metric.check(Shapes(8, "test").facts(i)["caption"] for i in range(8))
    metric.check([])
    with pytest.raises(ValueError, match=r"metric=attributes is for the captions of data=shapes: .*'a cat on a mat'"):
        metric.check([Shapes(1, "test").facts(0)["caption"], "a cat on a mat"])
    with pytest.raises(ValueError, match="cannot read the caption ''"):
        metric.check([""])


class Listed(InMemory):
    """Artifacts whose kinds and keys are seen."""

    @property
    def names(self) -> list[tuple[str, str]]:
        return [*self._found]


def test_a_trained_checker_is_kept_by_size_and_seed(monkeypatch):
    """Metrics of all runs share it, for another training may have other weights."""
    made = []

    def train(seed, device, size):
        made.append((seed, size))
        return AttributeChecker(size), {}  # weights by torch's generator: others each time

    monkeypatch.setattr(attributes, "train_checker", train)
    kept = Listed()
    first = attributes.kept_checker(scene(8, (3, 16, 16), kept), 3)
    again = attributes.kept_checker(scene(99, (4, 16, 16), kept), 3)
    assert made == [(3, 16)] and not again.training
    for a, b in zip(first.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    attributes.kept_checker(scene(8, (3, 16, 16), kept), 4)
    attributes.kept_checker(scene(8, (3, 20, 20), kept), 3)
    attributes.kept_checker(scene(8, (3, 16, 16)), 3)
    assert made == [(3, 16), (4, 16), (3, 20), (3, 16)]
    assert [kind for kind, _ in kept.names] == ["attribute_checker"] * 3 and len(set(kept.names)) == 3
