import builtins
import copy
import shutil

import pytest
import torch

from ldm.condition.frozen import FrozenText
from ldm.condition.padded import PaddedText

transformers = pytest.importorskip("transformers")

CAPTIONS = ["a red star", "two dogs on a beach at night", ""]


@pytest.fixture(scope="module", params=["clip", "t5"])
def source(request, shared, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    torch.manual_seed(0)
    if request.param == "clip":
        config = transformers.CLIPTextConfig(
            hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, max_position_embeddings=32
        )
        encoder = transformers.CLIPTextModel(config)
    else:
        config = transformers.T5Config(vocab_size=49408, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2)
        encoder = transformers.T5EncoderModel(config)
    encoder.save_pretrained(folder)
    for file in (shared / "data/clip_tokenizer").glob("*.json"):
        shutil.copy(file, folder)
    shutil.copy(shared / "data/clip_tokenizer/merges.txt", folder)
    return str(folder)


@pytest.fixture
def frozen(source):
    torch.manual_seed(1)
    return FrozenText(source, width=8, length=20)


def kept_by_the_library(source, caption):
    """What transformers says of one caption."""
    kind = transformers.AutoConfig.from_pretrained(source).model_type
    model = transformers.T5EncoderModel if kind == "t5" else transformers.CLIPTextModel
    words = transformers.AutoTokenizer.from_pretrained(source)([caption], return_tensors="pt")
    with torch.no_grad():
        return model.from_pretrained(source).eval()(**words).last_hidden_state[0]


def test_tokens_are_the_projected_hidden_states_of_the_library(source, frozen):
    c = frozen({"caption": CAPTIONS})
    assert c.tokens.shape == (3, 16, 8) and frozen.shape.tokens == 8
    for i, caption in enumerate(CAPTIONS[:2]):
        expected = frozen.project(kept_by_the_library(source, caption))
        torch.testing.assert_close(c.tokens[i, c.mask[i]], expected, atol=2e-3, rtol=2e-3)


def test_an_empty_caption_is_the_learnt_null(frozen):
    c = frozen({"caption": CAPTIONS})
    assert torch.equal(c.tokens[2], c.null().tokens[2]) and torch.equal(c.mask[2], c.null().mask[2])
    c.tokens[c.mask].sum().backward()
    assert frozen.empty.grad.abs().sum() > 0 and frozen.project.weight.grad.abs().sum() > 0


def test_the_frozen_weights_are_neither_trained_nor_saved(frozen):
    assert set(frozen.state_dict()) == {"project.weight", "project.bias", "empty"}
    frozen.train()
    assert not frozen.encoder.training
    assert all(not p.requires_grad for p in frozen.encoder.parameters())


def test_a_caption_is_read_once_and_alike_in_any_company(frozen, source, monkeypatch):
    first = frozen({"caption": CAPTIONS})
    other = FrozenText(source, width=8, length=20)
    other.load_state_dict(frozen.state_dict())
    again = other({"caption": [CAPTIONS[1], "a much longer caption " * 3, CAPTIONS[0]]})
    assert torch.equal(first.tokens[1, first.mask[1]], again.tokens[0, again.mask[0]])
    monkeypatch.setattr(frozen, "_embed", None)  # calling it would fail
    assert torch.equal(frozen({"caption": CAPTIONS}).tokens, first.tokens)


def test_on_a_cpu_each_caption_is_read_alone(frozen, monkeypatch):
    """So that what is kept does not depend on its company, to the bit."""
    sizes, embed = [], frozen._embed
    monkeypatch.setattr(frozen, "_embed", lambda captions: sizes.append(len(captions)) or embed(captions))
    frozen({"caption": CAPTIONS})
    assert sizes == [1, 1, 1]


def test_what_is_on_the_disk_is_not_computed_again(source, tmp_path, monkeypatch):
    monkeypatch.setenv("LDM_CACHE", str(tmp_path))
    one = FrozenText(source, width=8, length=20, on_disk=True)
    expected = one({"caption": CAPTIONS}).tokens
    other = FrozenText(source, width=8, length=20, on_disk=True)
    other.load_state_dict(one.state_dict())
    monkeypatch.setattr(other, "_embed", None)
    assert torch.equal(other({"caption": CAPTIONS}).tokens, expected)
    with torch.no_grad():
        changed = copy.deepcopy(one.encoder)
        next(changed.parameters()).add_(1)
    assert len(list((tmp_path / "captions").iterdir())) == 1
    changed.save_pretrained(folder := tmp_path / "changed")
    for file in ("vocab.json", "merges.txt", "tokenizer_config.json"):
        shutil.copy(f"{source}/{file}", folder)
    FrozenText(str(folder), width=8, length=20, on_disk=True)({"caption": CAPTIONS})
    assert len(list((tmp_path / "captions").iterdir())) == 2


@pytest.mark.parametrize("kind", [FrozenText, PaddedText])
def test_long_captions_are_cut_and_counted(source, kind, caplog):
    condition = kind(source, length=20)
    c = condition({"caption": ["word " * 100, "a"]})
    assert c.tokens.shape[1] == 20 and condition.truncated == 1
    assert "a caption of 102 tokens is cut to 20 (number 1)" in caplog.text
    assert condition.unread("word " * 100) == 82 and condition.unread("a") == 0  # 100, a start and an end


def test_nothing_at_the_source_says_what_was_wanted(tmp_path):
    with pytest.raises(OSError, match=r"condition.source=.*is not a directory with a text encoder"):
        FrozenText(str(tmp_path / "nothing"))


def test_another_kind_of_model_is_refused(tmp_path):
    transformers.BertConfig().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="is a bert; a text encoder here is one of clip"):
        FrozenText(str(tmp_path))


def test_without_transformers_the_extra_is_named(monkeypatch):
    real = builtins.__import__

    def missing(name, *args, **kwargs):
        if name == "transformers":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ImportError, match=r"pip install 'ldm\[clip\]'"):
        FrozenText("anything")
