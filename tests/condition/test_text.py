import logging
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load, save

from ldm.condition.text import Text

CAPTIONS = [
    f"a {size} {colour} {shape} at the {place}"
    for size in ("small", "large")
    for colour in ("red", "green", "blue")
    for shape in ("circle", "star")
    for place in ("top left", "middle")
]


@pytest.fixture
def text():
    torch.manual_seed(0)
    made = Text(width=16, depth=1, heads=2, vocabulary=400, length=24)
    made.fit(CAPTIONS)
    return made.eval()


def read(text, *captions):
    return text({"caption": list(captions)})


def test_shapes_follow_from_the_constructor_and_not_from_data(text):
    c = read(text, CAPTIONS[0], "a")
    assert c.tokens.shape == (2, 16, 16) and c.mask.shape == (2, 16) and text.shape.tokens == 16
    assert c.empty.tokens.shape == (1, 16, 16)
    other = Text(width=16, depth=1, heads=2, vocabulary=400, length=24)
    other.fit(["something else entirely"])
    assert [p.shape for p in other.parameters()] == [p.shape for p in text.parameters()]


def test_words_of_the_captions_become_single_tokens(text):
    # start, a, small, red, circle, at, the, middle
    assert read(text, "a small red circle at the middle").mask.sum() == 8


@pytest.mark.parametrize("other", ["A Small RED circle", "  a small red circle \n", "a sma\uff4cl red circle"])
def test_case_width_and_spaces_about_do_not_matter(text, other):
    a, b = read(text, "a small red circle"), read(text, other)
    assert torch.equal(a.mask, b.mask)
    torch.testing.assert_close(a.tokens, b.tokens)


def test_captions_are_told_apart_and_order_matters(text):
    a, b, c = read(text, "red green star", "green red star", "green blue star").tokens
    assert not torch.allclose(a, b, atol=1e-3) and not torch.allclose(b, c, atol=1e-3)


@pytest.mark.parametrize("strange", ["[PAD] [START] <pad>", "日本語 🎉", "\u0000\u0007", "x" * 500, "ﷺ" * 40])
def test_any_text_can_be_read(text, strange):
    c = read(text, strange)
    assert c.tokens.isfinite().all() and c.mask.sum() > 1


def test_padding_changes_nothing(text):
    alone, beside = read(text, "a red star"), read(text, "a red star", "x y z " * 10)
    n = alone.tokens.shape[1]
    assert beside.tokens.shape[1] == 24 and torch.equal(alone.mask[0], beside.mask[0, :n])
    used = alone.mask[0]
    torch.testing.assert_close(alone.tokens[0, used], beside.tokens[0, :n][used])
    assert not beside.mask[0, n:].any()


@pytest.mark.parametrize("blank", ["", "   "])
def test_an_empty_caption_is_the_learnt_null(text, blank):
    c = read(text, blank, "a red star")
    null = c.null()
    assert torch.equal(c.tokens[0], null.tokens[0]) and torch.equal(c.mask[0], null.mask[0])
    assert not torch.equal(c.tokens[1], null.tokens[1])
    assert c.tokens.isfinite().all()


def test_the_null_is_trained_when_a_condition_is_dropped_or_empty(text):
    c = read(text, "a red star", "a blue star").drop(0.5, torch.tensor([0.1, 0.9]))
    c.tokens[c.mask].sum().backward()
    assert text.empty.grad.abs().sum() > 0 and text.embedding.weight.grad.abs().sum() > 0
    text.zero_grad()
    c = read(text, "")
    c.tokens[c.mask].sum().backward()
    assert text.empty.grad.abs().sum() > 0 and text.embedding.weight.grad.abs().sum() == 0


def test_gradients_reach_every_parameter(text):
    c = read(text, "a red star", "", "x y z " * 10)
    c.tokens[c.mask].square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in text.parameters())


def test_long_captions_are_cut_and_counted(text, caplog):
    long = [f"{word} " * 50 for word in "pqrs"]
    with caplog.at_level(logging.WARNING):
        c = read(text, *long, *long)
    assert c.tokens.shape[1] == 24 and c.mask.all()
    assert text.truncated == 4
    assert sum("cut to 24" in r.message for r in caplog.records) == 1


def test_of_a_long_caption_the_beginning_is_read(text):
    """The start and 23 words, a token each; what comes behind makes no difference, and each of them does."""
    words = (CAPTIONS[0] + " " + CAPTIONS[-1] + " a large green star at the top left").split()
    exact = read(text, " ".join(words))
    assert len(words) == 23 and exact.tokens.shape[1] == 24 and exact.mask.all()
    torch.testing.assert_close(read(text, " ".join([*words, "blue", "star"])).tokens, exact.tokens)
    for i in (0, 12, 22):
        other = " ".join([*words[:i], "circle", *words[i + 1 :], "blue", "star"])
        assert not torch.allclose(read(text, other).tokens, exact.tokens, atol=1e-3)


def test_a_token_is_embedding_and_place_read_by_the_blocks_and_normalised(text):
    """By hand, of a caption of three tokens behind the start."""
    c, ids = read(text, "a red star"), [1, *(i + 2 for i in text._tokenizer.encode("a red star").ids)]
    x = text.embedding.weight[torch.tensor(ids)][None] + text.position[: len(ids)]
    for block in text.blocks:
        x = block(x, torch.ones(1, len(ids), dtype=torch.bool))
    torch.testing.assert_close(c.tokens[:, : len(ids)], torch.nn.functional.layer_norm(x, (16,)), atol=1e-5, rtol=1e-4)
    assert c.mask.sum() == len(ids) == 4 and c.empty.mask[0].tolist() == [True] + [False] * 15


def test_as_many_tokens_are_learnt_as_there_is_room_for():
    text = Text(width=8, heads=2, vocabulary=270, length=24)
    text.fit(CAPTIONS)
    assert text._tokenizer.get_vocab_size() == 268 and read(text, *CAPTIONS).tokens.isfinite().all()


def test_the_tokenizer_travels_in_a_state_dict_of_tensors(text):
    state = text.state_dict()
    assert all(isinstance(value, torch.Tensor) for value in state.values())
    other = Text(width=16, depth=1, heads=2, vocabulary=400, length=24).eval()
    other.load_state_dict(load(save({name: value.contiguous() for name, value in state.items()})))
    a, b = read(text, CAPTIONS[0], "日本語"), read(other, CAPTIONS[0], "日本語")
    assert torch.equal(a.tokens, b.tokens) and torch.equal(a.mask, b.mask)


def test_one_that_has_not_learnt_can_be_saved_and_loaded_and_says_so_when_used():
    parts = {"width": 16, "depth": 1, "heads": 2, "vocabulary": 400}
    fresh, other = Text(**parts), Text(**parts)
    other.load_state_dict(load(save(dict(fresh.state_dict()))))
    with pytest.raises(RuntimeError, match=r"no tokens yet: call fit\(captions\)"):
        read(other, "a")


def test_a_tokenizer_too_large_for_the_embedding_is_refused(text):
    state = Text(width=16, depth=1, heads=2, vocabulary=300, length=24)
    with pytest.raises(ValueError, match=r"tokenizer has \d+ tokens, this model 300 at most"):
        state.set_extra_state(text.get_extra_state())


def test_a_damaged_caption_source_is_named():
    with pytest.raises(ValueError, match="no training image has a caption"):
        Text(width=8, heads=2).fit(iter(["", ""]))
    with pytest.raises(ValueError, match=r"vocabulary=100: .* at least 258"):
        Text(vocabulary=100)


def test_a_batch_without_captions_is_refused_by_name(text):
    with pytest.raises(KeyError, match=r"reads batch\['caption'\] and the batch has only image, label"):
        text({"image": torch.zeros(1), "label": torch.zeros(1)})


def test_learning_again_on_what_a_run_that_goes_on_reads_gives_the_same(text):
    before = text.get_extra_state()
    text.fit(iter(CAPTIONS))
    assert torch.equal(before, text.get_extra_state())


def test_another_process_learns_the_same_tokens():
    # Ranks learn by themselves; counts tie here, and hash maps differ between processes.
    program = (
        "from ldm.condition.text import Text\n"
        "text = Text(width=8, heads=2, vocabulary=600)\n"
        "text.fit(f'{a}{b}{c} {c}{a}' for a in 'qwertz' for b in 'asdfgh' for c in 'yxcvbn')\n"
        "print(bytes(text.get_extra_state().tolist()).decode())"
    )
    text = Text(width=8, heads=2, vocabulary=600)
    text.fit(f"{a}{b}{c} {c}{a}" for a in "qwertz" for b in "asdfgh" for c in "yxcvbn")
    there = subprocess.check_output([sys.executable, "-c", program], text=True)
    assert there.strip() == bytes(text.get_extra_state().tolist()).decode().strip()


def test_what_is_remembered_never_outlives_the_tokens_it_was_made_with(text):
    before = read(text, "a small red circle").mask.sum()
    text.fit(["zzz"])
    assert read(text, "a small red circle").mask.sum() > before
