"""DINOv2 and CLIP by transformers: on tiny models that the tests make, against the library and torchmetrics."""

import shutil

import pytest
import torch
from torchmetrics.functional.multimodal import clip_score as peer_score

from ldm.eight_bits import eight_bits
from ldm.metric.clip_score import ClipScore
from ldm.metric.features import FeaturesUnavailable, FeaturesUnavailableWarning
from ldm.metric.metric import Examples
from ldm.metric.scene import RealImages, Scene
from ldm.metric.transformer_features import ClipFeatures, Dinov2Features

transformers = pytest.importorskip("transformers")

SMALL = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}


@pytest.fixture(scope="module")
def dinov2(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "dinov2-tiny"
    torch.manual_seed(0)
    sizes = {name: value for name, value in SMALL.items() if name != "intermediate_size"}
    transformers.Dinov2Model(transformers.Dinov2Config(**sizes, image_size=28, patch_size=14)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def clip(shared, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "clip-tiny"
    torch.manual_seed(0)
    config = transformers.CLIPConfig(
        text_config=SMALL | {"max_position_embeddings": 20, "projection_dim": 12},
        vision_config=SMALL | {"image_size": 16, "patch_size": 8, "projection_dim": 12},
        projection_dim=12,
    )
    transformers.CLIPModel(config).save_pretrained(folder)
    for file in [*(shared / "data/clip_tokenizer").glob("*.json"), shared / "data/clip_tokenizer/merges.txt"]:
        shutil.copy(file, folder)
    size = {"height": 16, "width": 16}
    transformers.CLIPImageProcessor(size={"shortest_edge": 16}, crop_size=size).save_pretrained(folder)
    return folder


def test_dinov2_gives_the_class_token_of_the_library(dinov2):
    network, x = Dinov2Features(str(dinov2), size=28), torch.rand(2, 3, 28, 28) * 2 - 1
    model = transformers.AutoModel.from_pretrained(dinov2).eval()
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.no_grad():
        wanted = model(pixel_values=(eight_bits(x) / 255 - mean) / std).pooler_output
    torch.testing.assert_close(network(x), wanted)
    assert (network.name, network.width) == ("dinov2_tiny", 16)
    assert network(torch.rand(2, 1, 9, 40)).shape == (2, 16), "images of any size"


def test_clip_gives_the_embedding_of_the_library(clip):
    network, x = ClipFeatures(str(clip)), torch.rand(2, 3, 16, 16) * 2 - 1
    model = transformers.CLIPVisionModelWithProjection.from_pretrained(clip).eval()
    pixels = transformers.CLIPImageProcessor.from_pretrained(clip)(
        list(eight_bits(x)), return_tensors="pt"
    ).pixel_values
    with torch.no_grad():
        wanted = model(pixel_values=pixels).image_embeds
    torch.testing.assert_close(network(x), wanted, rtol=1e-4, atol=1e-4)
    assert (network.name, network.width) == ("clip_tiny", 12)


@pytest.mark.parametrize(
    ("family", "match"), [(Dinov2Features, "is a clip; wanted dinov2"), (ClipFeatures, "nothing at")]
)
def test_what_is_not_there_is_said(family, match, clip, tmp_path):
    with pytest.raises(FeaturesUnavailable, match=match):
        family(str(clip if family is Dinov2Features else tmp_path))


def scene():
    real = RealImages("val", range(4), "k", lambda rows: {})
    return Scene(4, (3, 16, 16), torch.device("cpu"), real, labels="reference")


class Peer(torch.nn.Module):
    """A CLIP as torchmetrics wants it: of newer versions of the library what it reads is a field of the output."""

    def __init__(self, source):
        super().__init__()
        self.model = transformers.CLIPModel.from_pretrained(source).eval()
        self.config = self.model.config

    def get_image_features(self, pixels):
        return self._tensor(self.model.get_image_features(pixels))

    def get_text_features(self, tokens, mask):
        return self._tensor(self.model.get_text_features(tokens, mask))

    @staticmethod
    def _tensor(found):
        return found if isinstance(found, torch.Tensor) else found.pooler_output


def test_the_clip_score_is_torchmetrics(clip):
    captions = ["a red star", "two dogs on a beach at night", "", "a long " + "tail " * 40]
    x = torch.rand(4, 3, 16, 16) * 2 - 1
    metric = ClipScore(str(clip))
    metric.begin(scene())
    metric.add(Examples(None, None, x, captions, torch.arange(4)))
    [found] = metric.measure()
    peer = Peer(clip), transformers.CLIPProcessor.from_pretrained(clip)
    each = [max(float(peer_score(eight_bits(x[i : i + 1])[0], captions[i], lambda: peer)), 0.0) for i in (0, 1)]
    alone = ClipScore(str(clip))
    alone.begin(scene())
    alone.add(Examples(None, None, x[:2], captions[:2], torch.arange(2)))
    assert alone.measure()[0].value == pytest.approx(sum(each) / 2, rel=1e-3)
    assert found.n == 3, "the empty caption is no caption, and a long one is cut"
    assert (found.features, found.labels) == ("clip_tiny", "reference") and found.standard_error > 0


def test_without_a_clip_there_is_no_score_and_the_run_goes_on(tmp_path):
    metric = ClipScore(str(tmp_path))
    [line] = metric.missing()
    assert line.startswith(f"no clip_score: nothing at {tmp_path}")
    with pytest.warns(FeaturesUnavailableWarning, match="no clip_score: nothing at"):
        metric.begin(scene())
    metric.add(Examples(None, None, torch.zeros(1, 3, 16, 16), ["a"], torch.arange(1)))
    assert metric.measure() == []
