"""A model of ours as a pipeline of diffusers: plain diffusers loads it and draws the same images from the same
noise; and in again."""

import json
import warnings

import pytest
import torch

from ldm.backbone.unet import UNet
from ldm.build import Config
from ldm.command.import_model import import_model
from ldm.diffusion.denoiser import NetworkDenoiser
from ldm.diffusion.guidance.classifier_free import ClassifierFree
from ldm.diffusion.sampler.ddim import DDIM
from ldm.interop.diffusers_config import ForeignModelError
from ldm.interop.diffusers_pipeline import Pipeline, pipeline_of
from ldm.interop.diffusers_scheduler import config_of_scheduler, read_scheduler
from ldm.interop.folding import stepped, whitened_inside, with_usual_eps
from ldm.interop.whole_model import model_from_pipeline
from ldm.model import LatentModel
from ldm.nn.embedding import IntervalEmbedding, frequencies
from ldm.random import Random
from ldm.types import Context, ContextShape
from tests.interop.tiny import LABEL, NONE, drawn, labelled, node, write_clip
from tests.runs import compose

diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")

STEPS = 10


def loaded(pipeline: Pipeline, folder):
    pipeline.write(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = diffusers.DiffusionPipeline.from_pretrained(folder)
    theirs.set_progress_bar_config(disable=True)
    return theirs


@torch.no_grad()
def ours(model: LatentModel, theirs, noise: torch.Tensor, batch: dict, scale: float) -> torch.Tensor:
    """Images by our DDIM on the steps of their scheduler; the network is told log SNR, as always."""
    theirs.scheduler.set_timesteps(STEPS)
    table = read_scheduler(dict(theirs.scheduler.config)).schedule
    own = model.prior.denoiser
    denoiser = NetworkDenoiser(own.backbone, table, own.parameterization)
    times = torch.cat([(theirs.scheduler.timesteps + 1) / table.steps, torch.zeros(1)]).float()
    guided = ClassifierFree(denoiser, scale)
    z = DDIM()(guided, noise, times, model.condition(batch), Random.fresh(len(noise)))
    return model.decode(z) / 2 + 0.5


def images(theirs, *words, **given) -> torch.Tensor:
    found = theirs(*words, num_inference_steps=STEPS, output_type="np", **given).images
    return torch.from_numpy(found).movedim(-1, 1)


def assert_same(got: torch.Tensor, wanted: torch.Tensor) -> None:
    assert wanted.std() > 0.05 and (wanted > 0).float().mean() > 0.3 and (wanted < 1).float().mean() > 0.3
    torch.testing.assert_close(got, wanted, atol=1e-4, rtol=0)


def noise() -> torch.Tensor:
    return torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def of_labels(tmp_path_factory):
    """A model of labels, told log SNR, with eps 1e-5 everywhere; its pipeline, and its directory."""
    folder = tmp_path_factory.mktemp("labels") / "pipeline"
    torch.manual_seed(0)
    return labelled(), loaded(pipeline_of(labelled()), folder), folder


def test_labels_are_prompts(of_labels):
    model, theirs, _ = of_labels
    assert type(theirs).__name__ == "StableDiffusionPipeline"
    got = images(theirs, ["ankle boot", "bag"], guidance_scale=3.0, latents=noise())
    assert_same(got, ours(model, theirs, noise(), {"label": torch.tensor([1, 0])}, 3.0))
    with pytest.raises(Exception, match=r"(?i)unk"):
        theirs("sandal")


@torch.no_grad()
def test_each_part_is_the_same(of_labels):
    model, theirs, _ = of_labels
    own, z = model.autoencoder, noise()
    assert theirs.vae.config.scaling_factor == 1, "the whitening is in its networks"
    torch.testing.assert_close(theirs.vae.decode(z).sample, own.decode(z), atol=1e-5, rtol=1e-4)
    x = torch.rand(2, 3, 16, 16) * 2 - 1
    law, wanted = theirs.vae.encode(x).latent_dist, own.encode(x)
    torch.testing.assert_close((law.mean, law.std), (wanted.mean, wanted.std), atol=1e-5, rtol=1e-4)
    table = read_scheduler(dict(theirs.scheduler.config)).schedule
    tokens = theirs.encode_prompt(["bag", "ankle boot"], "cpu", 1, False)[0]
    torch.testing.assert_close(tokens[:, 0, :-2], model.condition.tokens.weight[:2], atol=1e-5, rtol=1e-5)
    for step in (0, 333, 599):
        log_snr = table.log_snr(torch.tensor([(step + 1) / table.steps] * 2, dtype=torch.float64)).float()
        wanted = model.prior.denoiser.backbone(z, log_snr, model.condition({"label": torch.tensor([0, 1])}))
        got = theirs.unet(z, step, tokens).sample
        assert wanted.std() > 0.05
        torch.testing.assert_close(got, wanted, atol=1e-4, rtol=1e-4)


def test_the_table_reaches_over_what_was_trained(of_labels):
    """Cosine between +- 15, of which t = 1e-3 is 12.9: 27.9 / 0.04 steps of which a multiple of a hundred are kept."""
    _, theirs, _ = of_labels
    table = read_scheduler(dict(theirs.scheduler.config)).schedule
    log_snr = table.log_snr(torch.arange(1, table.steps + 1, dtype=torch.float64) / table.steps)
    assert table.steps == 600
    torch.testing.assert_close(log_snr[-1].item(), -15.0, atol=1e-6, rtol=0)
    torch.testing.assert_close(log_snr.diff(), torch.full((599,), -0.04, dtype=torch.float64), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    "schedule, parameterization, attends",
    [("ScaledLinear", "V", False), ("Exploding", "Karras", True), ("ScaledLinear", "Data", True)],
)
def test_without_a_condition(schedule, parameterization, attends, tmp_path):
    model = drawn(node(NONE, schedule, parameterization, attends=attends))
    theirs = loaded(pipeline_of(model), tmp_path / "pipeline")
    wanted = ours(model, theirs, noise(), {}, 1.0)
    if attends:
        got = images(theirs, ["", ""], guidance_scale=1.0, latents=noise())
    else:
        assert type(theirs).__name__ == "LDMPipeline"
        got = images(theirs, batch_size=2, generator=torch.Generator().manual_seed(1))
    assert_same(got, wanted)


def of_codes(condition: Config = NONE, attends: bool = False) -> LatentModel:
    """Without convolutions around its codes, whitened by a mean of each channel and one deviation."""
    nodes = node(condition, "ScaledLinear", "V", attends=attends)
    nodes["autoencoder"]["encoder"]["mix"] = False
    quantiser = {"_target_": "ldm.autoencoder.quantiser.VectorQuantiser", "codes": 11, "channels": 3}
    nodes["autoencoder"]["bottleneck"] = quantiser
    model = drawn(nodes)
    model.autoencoder.set_statistics(torch.tensor([0.2, -0.4, 0.1]), torch.full((3,), 1.5))
    return model


def test_codes(tmp_path):
    """A VQModel whose codes are of whitened latents draws the same images; out and in again it gives the same codes' images."""
    torch.manual_seed(0)
    model = of_codes()
    theirs = loaded(pipeline_of(model), tmp_path / "pipeline")
    assert (type(theirs).__name__, type(theirs.vqvae).__name__) == ("LDMPipeline", "VQModel")
    got = images(theirs, batch_size=2, generator=torch.Generator().manual_seed(1))
    assert_same(got, ours(model, theirs, noise(), {}, 1.0))
    again = model_from_pipeline(tmp_path / "pipeline", None)
    torch.testing.assert_close(again.decode(noise()), model.decode(noise()), atol=1e-5, rtol=1e-4)
    assert (model.decode(noise() + 1e-4) == model.decode(noise())).float().mean() > 0.5, "of the nearest code"


def test_codes_that_no_pipeline_decodes():
    with pytest.raises(
        ForeignModelError, match="StableDiffusionPipeline decodes by an AutoencoderKL; a VQModel is of an LDM"
    ):
        pipeline_of(of_codes(LABEL, attends=True))
    model = of_codes()
    model.autoencoder.set_statistics(torch.zeros(3), torch.tensor([1.0, 1.0, 2.0]))
    with pytest.raises(ForeignModelError, match="autoencoder: a decoder of codes that whitens .* as here 1, 1, 2"):
        pipeline_of(model)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def of_captions(clip, tmp_path_factory):
    torch.manual_seed(1)
    condition = {"_target_": "ldm.condition.padded.PaddedText", "source": str(clip), "length": 8}
    model = drawn(node(condition, "ScaledLinear"))
    folder = tmp_path_factory.mktemp("captions") / "pipeline"
    return model, loaded(pipeline_of(model), folder), folder


def test_captions(of_captions):
    model, theirs, _ = of_captions
    captions = ["a b", "c a c"]
    got = images(theirs, captions, guidance_scale=2.0, latents=noise())
    assert_same(got, ours(model, theirs, noise(), {"caption": captions}, 2.0))
    other = ours(model, theirs, noise(), {"caption": captions[::-1]}, 2.0)
    assert (other - got).abs().max() > 1e-2, "the caption matters"


def test_in_again(of_captions, clip):
    """What is read of the pipeline is a model that draws what the first one does, and tells which table it was on."""
    model, theirs, folder = of_captions
    again = model_from_pipeline(folder, str(clip))
    wanted = ours(model, theirs, noise(), {"caption": ["a b", "c"]}, 2.0)
    assert_same(ours(again, theirs, noise(), {"caption": ["a b", "c"]}, 2.0), wanted)
    assert again.autoencoder.image_shape == (3, 16, 16) and again.condition.length == 8
    assert again.prior.grid.table == 300 and again.prior.guided().scale == 7.5


@pytest.fixture(scope="module")
def t5(tmp_path_factory):
    """A directory with a small T5 encoder of gated layers and its tokenizer."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    folder = tmp_path_factory.mktemp("t5")
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -5.0), *((f"\u2581{letter}", -1.0) for letter in "abc")]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=2))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    words = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>", "model_max_length": 8}
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **words).save_pretrained(folder)
    config = transformers.T5Config(
        vocab_size=len(pieces), d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, feed_forward_proj="gated-gelu"
    )
    torch.manual_seed(0)
    transformers.T5EncoderModel(config).save_pretrained(folder)
    return folder


def test_captions_by_t5(t5, tmp_path):
    """Out, and in again with the encoder that the pipeline brings."""
    torch.manual_seed(1)
    condition = {"_target_": "ldm.condition.padded.PaddedText", "source": str(t5), "length": 8}
    model = drawn(node(condition, "ScaledLinear"))
    theirs = loaded(pipeline_of(model), tmp_path / "pipeline")
    assert type(theirs.text_encoder).__name__ == "T5EncoderModel"
    captions = ["a b", "c a c"]
    wanted = ours(model, theirs, noise(), {"caption": captions}, 2.0)
    assert_same(images(theirs, captions, guidance_scale=2.0, latents=noise()), wanted)
    assert (ours(model, theirs, noise(), {"caption": captions[::-1]}, 2.0) - wanted).abs().max() > 1e-2
    import_model(**compose(f"source={tmp_path / 'pipeline'}", f"run={tmp_path / 'run'}", name="import"))
    again = LatentModel.load(tmp_path / "run")
    assert_same(ours(again, theirs, noise(), {"caption": captions}, 2.0), wanted)
    assert again.config["condition"]["source"] == str(tmp_path / "run" / "text_encoder")


def test_a_caption_that_a_tokenizer_does_not_know_is_told(of_labels, tmp_path):
    _, _, folder = of_labels
    import_model(**compose(f"source={folder}", f"run={tmp_path / 'run'}", name="import"))
    condition = LatentModel.load(tmp_path / "run").condition
    assert condition({"caption": ["bag"]}).tokens.shape == (1, 1, 18)
    with pytest.raises(ValueError, match="the tokenizer of this model knows no caption 'sandal'"):
        condition({"caption": ["sandal"]})


def test_a_pipeline_without_attention_comes_in(tmp_path):
    model = drawn(node(NONE, "ScaledLinear", "V", attends=False))
    theirs = loaded(pipeline_of(model), tmp_path / "pipeline")
    again = model_from_pipeline(tmp_path / "pipeline", None)
    assert_same(ours(again, theirs, noise(), {}, 1.0), ours(model, theirs, noise(), {}, 1.0))


def test_what_a_pipeline_lacks_is_told(of_captions, tmp_path):
    _, _, folder = of_captions
    with pytest.raises(ForeignModelError, match="no text_encoder, and its U-Net attends to tokens of 16 channels"):
        model_from_pipeline(folder, None)
    with pytest.raises(FileNotFoundError, match="no model_index.json"):
        model_from_pipeline(folder / "unet", None)
    index = json.loads((folder / "model_index.json").read_text())
    (tmp_path / "model_index.json").write_text(json.dumps(index | {"controlnet": ["diffusers", "ControlNetModel"]}))
    with pytest.raises(ForeignModelError, match="parts that no model of ours has: controlnet"):
        model_from_pipeline(tmp_path, None)


@pytest.mark.parametrize(
    "changes, said",
    [
        (
            {"parameterization": "Velocity", "schedule": "Rectified"},
            "parameterization Velocity on the schedule Rectified: .* 1000 t, .* to=onnx",
        ),
        ({"parameterization": "V", "schedule": "Rectified"}, "parameterization V on the schedule Rectified"),
        ({"patch": 2}, "theirs has nothing for patch"),
        ({"pooled_context": True}, "theirs has nothing for pooled_context"),
        ({"drawn_context": 4}, "theirs has nothing for drawn_context"),
        (
            {"up": {"_target_": "ldm.nn.resnet.Shuffle", "_partial_": True}},
            "changes resolution by .* this one by Shuffle",
        ),
        ({"attention_norm": {**LABEL, "_target_": "ldm.nn.norm.Rms", "_partial_": True}}, "normalises in groups"),
        (
            {"attention_norm": {"_target_": "ldm.nn.norm.Group", "_partial_": True, "groups": 8, "eps": 1e-4}},
            "adds 1e-06",
        ),
        ({"middle_attention": False}, "theirs attends in the middle"),
    ],
)
def test_what_cannot_be_is_told_by_name(changes, said):
    changes = dict(changes)
    for value in changes.values():
        if isinstance(value, dict):
            for key in ("names", "width"):
                value.pop(key, None)
    with pytest.raises(ForeignModelError, match=said):
        pipeline_of(LatentModel.build(node(**changes)))


@torch.no_grad()
def test_why_a_velocity_cannot_be_is_so():
    """Their flow sampler hands over x_t and 1000 t; ours is asked at x_t / sqrt(alpha^2 + sigma^2) and the log SNR."""
    theirs, asked = diffusers.FlowMatchEulerDiscreteScheduler(), []
    theirs.set_timesteps(4)
    own = drawn(node(NONE, "Rectified", "Velocity")).prior.denoiser
    own.backbone.register_forward_pre_hook(lambda module, given: asked.append(given))
    own(noise(), torch.full((2,), 0.5), Context())
    torch.testing.assert_close(asked[0][0], noise() * 2**0.5)
    assert asked[0][1].tolist() == [0, 0] and not hasattr(theirs, "scale_model_input")
    assert theirs.timesteps[0] == 1000


def test_why_a_dit_cannot_be_is_so():
    """They have 128 frequencies from 1 down to 1 / 10,000, both included, and ours do not include the last."""
    from diffusers.models.embeddings import CombinedTimestepLabelEmbeddings

    theirs = CombinedTimestepLabelEmbeddings(3, 16).time_proj
    got = theirs(torch.tensor([1.0]))[0, -1].item()
    assert (
        theirs.num_channels == 256
        and abs(got - 1e-4) < 1e-9
        and frequencies(128, 10000.0, torch.device("cpu"))[-1].item() > 1.07e-4
    )
    nodes = node(NONE)
    nodes["prior"]["backbone"] = {
        "_target_": "ldm.backbone.dit.DiT",
        "_partial_": True,
        "width": 16,
        "heads": 2,
        "depth": 1,
    }
    with pytest.raises(ForeignModelError, match="backbone DiT: .* other frequencies, .* to=onnx and to=torch take it"):
        pipeline_of(LatentModel.build(nodes))


def test_all_that_cannot_be_is_told_at_once():
    nodes = node({"_target_": "ldm.condition.text.Text", "width": 16, "heads": 2})
    nodes["prior"] = {"_target_": "ldm.prior.normal.Normal"}
    nodes["autoencoder"]["decoder"]["patch"] = 2
    nodes["autoencoder"]["decoder"]["multipliers"] = [1]
    with pytest.raises(ForeignModelError) as told:
        pipeline_of(LatentModel.build(nodes))
    said = str(told.value)
    assert (
        "prior Normal: pipelines are diffusions" in said
        and "condition Text: a pipeline encodes captions by CLIP" in said
        and "and is neither: CLIP attends" in said
    )
    assert "autoencoder: AutoencoderKL knows no pixel-unshuffle" in said and "\n" not in said


@torch.no_grad()
def test_one_factor_stays_one(of_labels):
    """Where all channels are whitened alike, weights go out as they are."""
    model = drawn(node(NONE))
    model.autoencoder.set_statistics(torch.zeros(3), torch.full((3,), 4.0))
    assert pipeline_of(model).autoencoder is model.autoencoder


@torch.no_grad()
@pytest.mark.parametrize("scale_shift", [False, True])
def test_eps_is_folded_exactly(scale_shift):
    """In float64, where nothing but the algebra can differ."""
    group = {"_target_": "ldm.nn.norm.Group", "_partial_": True, "groups": 8, "eps": 1e-2}
    unet = drawn(node(scale_shift=scale_shift, norm=group)).prior.denoiser.backbone.double()
    made = with_usual_eps(unet)
    assert {module.eps for module in made.modules() if type(module).__name__ == "Group"} == {1e-6}
    # Our normalisation computes in float32.
    z, c = noise().double(), Context(torch.randn(2, 1, 16).double())
    got, wanted = made(z, torch.zeros(2), c), unet(z, torch.zeros(2), c)
    assert wanted.std() > 0.05
    torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_steps_are_the_same_function():
    unet = UNet(3, ContextShape(), width=16, multipliers=(1,), attention=(False,), middle_attention=False)
    torch.nn.init.normal_(unet.head.weight)
    made = stepped(unet, 6.0, -4.0)
    table = made.time.ascending.flip(0)
    assert len(table) == 200 and abs(table[-1].item() + 4) < 1e-9 and table[0] < 6
    z = torch.randn(4, 3, 4, 4)
    log_snr = torch.tensor([3.9, 1.23, 0.0, -4.0])
    torch.testing.assert_close(made(z, log_snr, Context()), unet(z, log_snr, Context()), atol=1e-4, rtol=1e-4)
    assert stepped(made, 6.0, -4.0) is made
    unet.time = IntervalEmbedding(16)
    with pytest.raises(ValueError, match="IntervalEmbedding"):
        stepped(unet, 6.0, -4.0)


@torch.no_grad()
@pytest.mark.parametrize("mix", [False, True])
def test_whitening_goes_into_the_networks(mix):
    nodes = node()
    nodes["autoencoder"]["encoder"]["mix"] = nodes["autoencoder"]["decoder"]["mix"] = mix
    own = drawn(nodes).autoencoder
    made, x, z = whitened_inside(own), torch.rand(2, 3, 16, 16), noise()
    assert not made.latent_mean.any() and (made.latent_std == 1).all()
    torch.testing.assert_close(made.decode(z), own.decode(z), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(made.encode(x).mean, own.encode(x).mean, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(made.encode(x).std, own.encode(x).std, atol=1e-5, rtol=1e-4)


def test_a_scheduler_goes_out_and_in():
    log_snr = torch.linspace(7, -5, 100, dtype=torch.float64)
    found = read_scheduler(config_of_scheduler(log_snr, labelled().prior.denoiser.parameterization))
    times = torch.arange(1, 101, dtype=torch.float64) / 100
    torch.testing.assert_close(found.schedule.log_snr(times), log_snr, atol=1e-9, rtol=0)
    assert type(found.parameterization).__name__ == "Noise" and found.sampling["timestep_spacing"] == "trailing"
