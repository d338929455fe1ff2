import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from ldm.autoencoder.quantiser import VectorQuantiser


def filled(quantiser, book):
    quantiser.codebook.data.copy_(book)
    quantiser.usage.fill_(1)
    quantiser.sums.copy_(book)
    quantiser.updates.fill_(1)
    return quantiser


def test_nearest_code_by_brute_force():
    quantiser, h = VectorQuantiser(50, 3), torch.randn(2, 3, 4, 5)
    rows = h.movedim(1, -1)[..., None, :]
    wanted = (rows - quantiser.codebook).square().sum(-1).argmin(-1)
    codes = quantiser.codes(h)
    assert codes.dtype == torch.int64 and torch.equal(codes, wanted)
    assert torch.equal(quantiser.lookup(codes)[1, :, 2, 3], quantiser.codebook[codes[1, 2, 3]])
    assert torch.equal(quantiser.restore(h), quantiser.lookup(codes))


@pytest.mark.parametrize("running_means", [True, False])
def test_gradients_pass_straight_through_and_terms_are_their_formulas(running_means):
    quantiser = VectorQuantiser(5, 3, running_means=running_means).eval()
    h = torch.randn(2, 3, 4, 4, requires_grad=True)
    coded, into = quantiser(h, torch.zeros_like(h)), torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(coded.z, quantiser.restore(h))
    assert torch.equal(torch.autograd.grad(coded.z, h, into, retain_graph=True)[0], into)
    error = (h - quantiser.restore(h)).square().sum() / 2
    torch.testing.assert_close(coded.terms["commitment"], 0.25 * error)
    (pull,) = torch.autograd.grad(coded.terms["commitment"], h, retain_graph=True)
    torch.testing.assert_close(pull, 0.25 * (h - quantiser.restore(h)))  # 2/batch of 2 = 1
    assert ("codebook" in coded.terms) is not running_means
    if not running_means:
        torch.testing.assert_close(coded.terms["codebook"], error)
        assert torch.autograd.grad(coded.terms["codebook"], quantiser.codebook)[0].abs().sum() > 0


def test_usage_and_perplexity():
    quantiser = filled(VectorQuantiser(4, 1), torch.tensor([[0.0], [1.0], [2.0], [3.0]])).eval()
    h = torch.tensor([0.0, 0.0, 1.0, 1.0]).view(1, 1, 2, 2)
    numbers = quantiser(h, h).numbers
    assert numbers["usage"] == 0.5
    torch.testing.assert_close(numbers["perplexity"], torch.tensor(2.0))


def test_running_means_find_clusters():
    """Two codes, two clusters: codes converge to the clusters' means."""
    quantiser = filled(VectorQuantiser(2, 2, decay=0.8), torch.tensor([[0.5, 0.0], [-0.5, 0.0]]))
    generator = torch.Generator().manual_seed(0)
    centres = torch.tensor([[2.0, 1.0], [-2.0, -1.0]])
    for _ in range(60):
        rows = centres.repeat(32, 1) + 0.1 * torch.randn(64, 2, generator=generator)
        h = rows.T.reshape(1, 2, 8, 8)
        quantiser(h, h)
    torch.testing.assert_close(quantiser.codebook.detach(), centres, atol=0.05, rtol=0)


@pytest.mark.parametrize("running_means", [True, False])
def test_dead_codes_restart_at_vectors_of_the_batch(running_means):
    book = torch.cat([torch.zeros(1, 2), torch.full((7, 2), 1e3)])
    quantiser = filled(VectorQuantiser(8, 2, running_means=running_means, decay=0.5), book)
    h = torch.randn(2, 2, 8, 8)
    perplexities = [quantiser(h, h).numbers["perplexity"] for _ in range(12)]
    assert quantiser.codebook.abs().max() < 10  # none is left far away
    assert perplexities[0] == 1 and perplexities[-1] > 4


def test_without_restarts_codes_stay_dead():
    book = torch.cat([torch.zeros(1, 2), torch.full((7, 2), 1e3)])
    quantiser, h = filled(VectorQuantiser(8, 2, decay=0.5, restart_below=0.0), book), torch.randn(2, 2, 8, 8)
    for _ in range(12):
        quantiser(h, h)
    assert torch.equal(quantiser.usage[1:] < 0.01, torch.ones(7, dtype=torch.bool))
    assert quantiser.codebook.isfinite().all()


def test_the_first_batch_makes_the_codebook():
    quantiser, h = VectorQuantiser(16, 2), torch.randn(2, 2, 8, 8)
    quantiser(h, h)
    rows, codes = h.movedim(1, -1).flatten(0, 2), quantiser.codebook.detach()
    assert (codes[:, None] == rows).all(-1).any(1).all()  # each is a vector of the batch, to the bit
    assert len(codes.unique(dim=0)) > 12  # of different ones


def test_evaluation_and_non_finite_batches_change_nothing():
    quantiser, h = VectorQuantiser(16, 2), torch.randn(2, 2, 8, 8)
    quantiser(h, h)
    before = {name: value.clone() for name, value in quantiser.state_dict().items()}
    broken = h.clone()
    broken[0, 0, 0, 0] = torch.nan
    quantiser(broken, h)
    quantiser.eval()(h + 1, h)
    assert all(torch.equal(before[name], value) for name, value in quantiser.state_dict().items())


def test_state_resumes_exactly():
    """Restarts depend on saved state alone: going on from a copy gives the same codes."""
    one, two = VectorQuantiser(16, 2), VectorQuantiser(16, 2)
    batches = torch.randn(6, 2, 2, 4, 4)
    for h in batches[:3]:
        one(h, h)
    two.load_state_dict(one.state_dict())
    torch.randn(10)
    for h in batches[3:]:
        one(h, h), two(h, h)
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True))


def _rank(rank, folder, halves, state):
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    torch.set_num_threads(1)
    quantiser = VectorQuantiser(4, 2)
    quantiser.load_state_dict(state)
    for _ in range(3):
        quantiser(halves[rank], halves[rank])
    torch.save(quantiser.state_dict(), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_ranks_have_the_codes_of_one(tmp_path):
    quantiser = VectorQuantiser(4, 2, restart_below=0.03)
    filled(quantiser, torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]]))
    whole = torch.randn(4, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    state = {name: value.clone() for name, value in quantiser.state_dict().items()}
    mp.spawn(_rank, (str(tmp_path), whole.chunk(2), state), nprocs=2)
    ranks = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    for _ in range(3):
        quantiser(whole, whole)
    for name, value in quantiser.state_dict().items():
        assert torch.equal(ranks[0][name], ranks[1][name])
        torch.testing.assert_close(ranks[0][name], value)
