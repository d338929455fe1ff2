"""A prior that begins from another run's: which tensors it takes, which begin fresh and are named, and what is refused."""

import pytest
import torch

from ldm.condition.text import Text
from ldm.model import LatentModel
from ldm.resolve import ConfigError
from ldm.stage.finetune import Wanted, begin, wanted
from ldm.stage.latents import weights_key
from ldm.tensors import read_tensors
from tests.runs import saved, tiny

MEAN, STD = [1.0, 2.0, 3.0, -1.0], [0.5, 0.25, 2.0, 1.0]


def built(config, seed=1):
    """A model of drawn weights."""
    torch.manual_seed(seed)
    config["autoencoder"].pop("checkpoint", None)
    return LatentModel.build(config)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A model of drawn weights, its raw ones others than its averages, whitened by numbers that are not 0 and 1."""
    folder = tmp_path_factory.mktemp("run")
    config = tiny(folder)
    place = saved(folder / "run", config)
    model = LatentModel.load(place)
    model.autoencoder.set_statistics(torch.tensor(MEAN), torch.tensor(STD))
    model.save(place / "model", model.config)
    with torch.no_grad():
        for p in model.prior.parameters():
            p.mul_(2)
    model.save(place / "model", model.config, "raw")
    return place


def fresh(folder, *words):
    """A model of other weights, which has learnt no tokens."""
    return built(tiny(folder, *words))


def learnt(state):
    return {name: value for name, value in state.items() if name.startswith(("prior.", "condition."))}


@pytest.mark.parametrize(("weights", "file"), [("average", "model"), ("raw", "raw")])
def test_all_tensors_and_the_tokenizer_are_the_checkpoints(run, tmp_path, weights, file, caplog):
    model, theirs = fresh(tmp_path), read_tensors(run / "model" / f"{file}.safetensors")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with caplog.at_level("INFO"):
        origin = begin(model, Wanted(str(run), weights))
    own = model.state_dict()
    wanted = learnt(theirs)
    assert "condition._extra_state" in wanted and len(wanted) > 20
    assert all(torch.equal(own[name], value) for name, value in wanted.items()) and learnt(own).keys() == wanted.keys()
    assert all(torch.equal(own[name], value) for name, value in before.items() if name.startswith("autoencoder."))
    assert f"begin from {run} ({weights} weights): {len(wanted)} of {len(wanted)} tensors" in caplog.text
    assert "fresh" not in caplog.text and "other words" not in caplog.text
    other = LatentModel.load(run, weights)
    assert origin.model == other.weights_hash and origin.first_stage == weights_key(other.autoencoder)
    assert origin.tokens and origin.mean.tolist() == MEAN and origin.std.tolist() == STD
    ids = [condition._encode(["a small red circle"]) for condition in (model.condition, other.condition)]
    assert ids[0] == ids[1]


def test_what_has_another_shape_begins_fresh_by_name(run, tmp_path, caplog):
    """A vocabulary of 301 in place of 4096: the embedding, and the tokenizer that indexes it. Drawn as without a checkpoint."""
    model, theirs = fresh(tmp_path), read_tensors(run / "model/model.safetensors")
    config = model.config | {"condition": model.config["condition"] | {"vocabulary": 301}}
    model, plain = built(config), built(config)
    origin = begin(model, Wanted(str(run)))
    new = ["condition._extra_state", "condition.embedding.weight"]
    for name, value in learnt(model.state_dict()).items():
        assert torch.equal(value, (plain.state_dict() if name in new else theirs)[name]), name
    width = theirs["condition.embedding.weight"].shape[1]
    assert (
        f"condition.embedding.weight 301x{width} (there 4096x{width})" in caplog.text
        and "begin fresh: condition.tokenizer;" in caplog.text
    )
    assert not origin.tokens


def test_another_condition_begins_fresh(run, tmp_path, caplog):
    model = fresh(tmp_path, "condition=label", "condition.classes=4", "condition.width=8")
    table = model.condition.tokens.weight.clone()
    origin = begin(model, Wanted(str(run)))
    assert torch.equal(model.condition.tokens.weight, table) and not origin.tokens
    theirs = read_tensors(run / "model/model.safetensors")
    assert all(torch.equal(v, theirs[k]) for k, v in model.state_dict().items() if k.startswith("prior."))
    assert "begin fresh: condition.tokens.weight 5x8" in caplog.text
    assert f"not taken of {run}: condition.position" in caplog.text


def test_a_condition_of_another_class_is_not_taken_for_its_names(run, tmp_path):
    """As of two text encoders, both of which have `empty` and `norm`."""
    model = fresh(tmp_path)
    model.condition.__class__ = type("Other", (Text,), {})
    before = {name: value.clone() for name, value in model.condition.state_dict().items()}
    assert not begin(model, Wanted(str(run))).tokens
    assert all(torch.equal(value, before[name]) for name, value in model.condition.state_dict().items())


def test_a_class_keeps_its_token_where_it_has_another_number(tmp_path, caplog):
    words = ("condition=label", "condition.width=8")
    old, new = (tiny(tmp_path, *words) for _ in range(2))
    old["condition"] |= {"classes": 3, "names": ["cat", "dog", "eel"]}
    new["condition"] |= {"classes": 3, "names": ["bee", "cat", "dog"]}
    table = LatentModel.load(saved(tmp_path / "run", old)).condition.tokens.weight
    model = built(new)
    bee = model.condition.tokens.weight[0].clone()
    begin(model, Wanted(str(tmp_path / "run")))
    wanted = torch.stack([bee, table[0], table[1], table[3]])  # the last row is 'no condition'
    assert torch.equal(model.condition.tokens.weight, wanted) and "does not know begin fresh: bee" in caplog.text


def test_another_size_of_images_takes_all(run, tmp_path, caplog):
    model = fresh(tmp_path, "data.image_shape=[3,64,64]")
    assert model.autoencoder.latent_shape[1:] == (16, 16)
    begin(model, Wanted(str(run)))
    theirs = read_tensors(run / "model/model.safetensors")
    assert all(torch.equal(v, theirs[k]) for k, v in learnt(model.state_dict()).items()) and not caplog.messages


def test_words_that_its_weights_were_not_trained_with_are_told(run, tmp_path, caplog):
    begin(fresh(tmp_path, "diffusion/parameterization=v"), Wanted(str(run)))
    assert (
        "was trained with other words: prior.parameterization._target_=ldm.diffusion.parameterization.V (was "
        in caplog.text
    )
    caplog.clear()
    begin(fresh(tmp_path, "prior.steps=9", "diffusion/sampler=ddpm"), Wanted(str(run)))
    assert not caplog.messages, "how samples are drawn is not of training"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("backbone.width=4",), r"holds another network: \d+% of .* prior\.backbone\.width=4 \(was 8\)"),
        (("backbone=dit_small",), r"holds another network: .*prior\.backbone\._target_=ldm\.backbone\.dit\.DiT"),
        (("prior=normal",), r"prior\.checkpoint: Normal has no weights"),
    ],
)
def test_another_network_is_refused(run, tmp_path, words, said):
    with pytest.raises(ConfigError, match=said):
        begin(fresh(tmp_path, *words), Wanted(str(run)))


def test_whitening_is_the_checkpoints_on_its_own_first_stage_alone(run, tmp_path, caplog):
    caplog.set_level("INFO")
    origin = begin(fresh(tmp_path), Wanted(str(run)))
    mean, std = origin.whitening(origin.first_stage)
    assert (mean.tolist(), std.tolist()) == (MEAN, STD)
    assert "latents are whitened as those of" in caplog.text
    assert origin.whitening("another") is None
    caplog.clear()
    origin.check(origin.first_stage)
    assert not caplog.messages
    for other in ("another", None):
        origin.check(other)
    assert caplog.text.count(f"its own is autoencoder.checkpoint={run}, left as it is") == 2
    assert begin(fresh(tmp_path), Wanted(str(run), statistics="data")).whitening(origin.first_stage) is None


def test_the_words_of_a_beginning():
    rest, none = wanted({"steps": 3, "checkpoint": None})
    assert rest == {"steps": 3} and none is None
    rest, words = wanted({"steps": 3, "checkpoint": "runs/a", "weights": "raw"})
    assert rest == {"steps": 3} and words == Wanted("runs/a", "raw", "checkpoint")
    with pytest.raises(ConfigError, match=r"prior\.weights: Input should be 'average', 'raw' or 'best'; got 'row'"):
        wanted({"checkpoint": "runs/a", "weights": "row"})
    with pytest.raises(ConfigError, match=r"prior\.statistics is of a prior that begins from prior\.checkpoint=RUN"):
        wanted({"statistics": "data"})
