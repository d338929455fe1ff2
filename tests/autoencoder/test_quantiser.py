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


def updated(quantiser, *passes):
    """The numbers of one update of these training passes, under noise that no other update has."""
    generator = torch.Generator().manual_seed(int(quantiser.updates))
    for h in passes:
        quantiser(h, torch.randn(h.shape, generator=generator))
    return quantiser.step()


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
    assert coded.terms["commitment"].requires_grad
    (pull,) = torch.autograd.grad(coded.terms["commitment"], h, retain_graph=True)
    torch.testing.assert_close(pull, 0.25 * (h - quantiser.restore(h)))  # 2/batch of 2 = 1
    assert ("codebook" in coded.terms) is not running_means
    if not running_means:
        # Each side moves itself alone: the commitment the encoder, the other term the codes, by 2 (e - z) a vector.
        assert torch.autograd.grad(
            coded.terms["commitment"], quantiser.codebook, retain_graph=True, allow_unused=True
        ) == (None,)
        torch.testing.assert_close(coded.terms["codebook"], error)
        pulled, unmoved = torch.autograd.grad(coded.terms["codebook"], (quantiser.codebook, h), allow_unused=True)
        differences = (quantiser.restore(h) - h).detach().movedim(1, -1).flatten(0, 2)
        wanted = torch.zeros(5, 3).index_add_(0, quantiser.codes(h).flatten(), differences)  # 2 / batch of 2 = 1
        torch.testing.assert_close(pulled, wanted)
        assert unmoved is None


def test_usage_and_perplexity_are_of_the_whole_update():
    quantiser = filled(VectorQuantiser(4, 1), torch.tensor([[0.0], [1.0], [2.0], [3.0]]))
    h = torch.tensor([0.0, 0.0, 1.0, 1.0]).view(1, 1, 2, 2)
    numbers = updated(quantiser, h)
    assert numbers["usage"] == 0.5
    torch.testing.assert_close(numbers["perplexity"], torch.tensor(2.0))
    numbers = updated(quantiser, torch.zeros(1, 1, 1, 2), torch.ones(1, 1, 1, 2))  # two passes of perplexity 1
    torch.testing.assert_close(numbers["perplexity"], torch.tensor(2.0))
    assert quantiser.step() == {} == updated(quantiser.eval(), h), "nothing was gathered"


def test_three_updates_worked_out_by_hand():
    """d = 0.8, three codes at 0, 10 and 20 that begin with usage 1; usage 1 is a third of the update's vectors."""
    quantiser = filled(VectorQuantiser(3, 1, decay=0.8, restart_below=0.09), torch.tensor([[0.0], [10.0], [20.0]]))

    def expect(usage, sums, book):
        torch.testing.assert_close(quantiser.usage, torch.tensor(usage))
        torch.testing.assert_close(quantiser.sums, torch.tensor(sums)[:, None])
        torch.testing.assert_close(quantiser.codebook.detach(), torch.tensor(book)[:, None])

    # counts 2, 1, 0 and sums 2, 9, 0; an even share is 1: usage 0.8 + 0.2 n
    updated(quantiser, torch.tensor([0.0, 2.0, 9.0]).view(1, 1, 1, 3))
    expect([1.2, 1.0, 0.8], [0.4, 9.8, 16.0], [1 / 3, 9.8, 20.0])
    # counts 0, 3, 3 and sums 0, 30, 63 in two passes; an even share is 2
    updated(quantiser, torch.tensor([9.0, 10.0, 11.0]).view(1, 1, 1, 3), torch.full((1, 1, 1, 3), 21.0))
    expect([0.96, 1.1, 0.94], [0.32, 10.84, 19.1], [1 / 3, 10.84 / 1.1, 19.1 / 0.94])
    # nothing but the last code, until the first's usage 0.96 x 0.8^n falls below 0.09, at n = 11
    for _ in range(10):
        updated(quantiser, torch.full((1, 1, 1, 3), 20.0))
    assert quantiser.usage[:2].tolist() == pytest.approx([0.96 * 0.8**10, 1.1 * 0.8**10])
    assert quantiser.codebook[:2, 0].tolist() == pytest.approx([1 / 3, 10.84 / 1.1])
    updated(quantiser, torch.full((1, 1, 1, 3), 20.0))
    expect([1.0, 1.1 * 0.8**11, quantiser.usage[2].item()], [20.0, 10.84 * 0.8**11, quantiser.sums[2].item()],
           [20.0, 10.84 / 1.1, quantiser.codebook[2].item()])  # fmt: skip
    assert quantiser.updates == 1 + 13


def test_running_means_find_clusters():
    """Two codes, two clusters: codes converge to the clusters' means."""
    quantiser = filled(VectorQuantiser(2, 2, decay=0.8), torch.tensor([[0.5, 0.0], [-0.5, 0.0]]))
    generator = torch.Generator().manual_seed(0)
    centres = torch.tensor([[2.0, 1.0], [-2.0, -1.0]])
    for _ in range(60):
        rows = centres.repeat(32, 1) + 0.1 * torch.randn(64, 2, generator=generator)
        updated(quantiser, rows.T.reshape(1, 2, 8, 8))
    torch.testing.assert_close(quantiser.codebook.detach(), centres, atol=0.05, rtol=0)


@pytest.mark.parametrize("running_means", [True, False])
def test_dead_codes_restart_at_vectors_of_the_batch(running_means):
    book = torch.cat([torch.zeros(1, 2), torch.full((7, 2), 1e3)])
    quantiser = filled(VectorQuantiser(8, 2, running_means=running_means, decay=0.5), book)
    h = torch.randn(2, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    perplexities = [updated(quantiser, h)["perplexity"] for _ in range(12)]
    assert quantiser.codebook.abs().max() < 10  # none is left far away
    assert perplexities[0] == 1 and perplexities[-1] > 4


@pytest.mark.parametrize("running_means", [True, False])
@pytest.mark.parametrize("fresh", [True, False])
def test_without_restarts_a_code_without_usage_keeps_its_place(fresh, running_means):
    """From the first update on and for ever, when its usage has become zero in float32."""
    torch.manual_seed(0)
    quantiser = VectorQuantiser(512, 2, running_means=running_means, decay=0.5, restart_below=0.0)
    if not fresh:
        filled(quantiser, torch.randn(512, 2))
    h = torch.randn(1, 2, 7, 7)
    before, used = quantiser.codebook.detach().clone(), torch.zeros(512, dtype=torch.bool)
    used[quantiser.codes(h).unique()] = True
    for _ in range(3):
        updated(quantiser, h)
        used[quantiser.codes(h).unique()] = True
    quantiser.usage *= 0.5**10_000  # as so many updates would leave those that idle
    quantiser.sums *= 0.5**10_000
    updated(quantiser, h)
    assert used.sum() < 60 and torch.equal(quantiser.codebook[~used], before[~used])
    assert torch.equal(quantiser.codebook, before) is not running_means


def test_a_code_that_comes_back_is_the_mean_of_what_it_gets():
    """Its old usage is as good as none; the new mean is not mixed with the place where it idled."""
    quantiser = filled(VectorQuantiser(2, 1, decay=0.5, restart_below=0.0), torch.tensor([[0.0], [10.0]]))
    for _ in range(200):
        updated(quantiser, torch.zeros(1, 1, 1, 2))
    updated(quantiser, torch.tensor([8.0, 9.0]).view(1, 1, 1, 2))
    assert quantiser.codebook[:, 0].tolist() == [0.0, 8.5]


def test_the_first_batch_makes_the_codebook():
    """Of the vectors under the largest noise, a different one for each code, whatever the passes."""
    rows, order = torch.arange(64.0).view(64, 1), torch.randperm(64, generator=torch.Generator().manual_seed(0))
    h, noise = rows.view(4, 1, 4, 4), order.float().view(4, 1, 4, 4)
    books = []
    for parts in (1, 2, 4):
        quantiser = VectorQuantiser(16, 1)
        for part, drawn in zip(h.chunk(parts), noise.chunk(parts), strict=True):
            quantiser(part, drawn)
        quantiser.step()
        books.append(quantiser.codebook.detach())
    assert all(torch.equal(book[:, 0], order.argsort(descending=True)[:16].float()) for book in books)
    assert quantiser.usage.tolist() == [1.0] * 16 and torch.equal(quantiser.sums, books[0])


def test_fewer_vectors_than_codes_are_taken_in_turn():
    quantiser, h = VectorQuantiser(5, 1), torch.tensor([3.0, 4.0]).view(1, 1, 1, 2)
    quantiser(h, torch.tensor([0.1, 0.2]).view(1, 1, 1, 2))
    quantiser.step()
    assert quantiser.codebook[:, 0].tolist() == [4.0, 3.0, 4.0, 3.0, 4.0]


def test_evaluation_and_non_finite_batches_change_nothing():
    quantiser, h = VectorQuantiser(16, 2), torch.randn(2, 2, 8, 8)
    updated(quantiser, h)
    before = {name: value.clone() for name, value in quantiser.state_dict().items()}
    broken = h.clone()
    broken[0, 0, 0, 0] = torch.nan
    updated(quantiser, h, broken)
    updated(quantiser.eval(), h + 1)
    assert all(torch.equal(before[name], value) for name, value in quantiser.state_dict().items())


def test_a_pass_alone_changes_nothing():
    quantiser, h = VectorQuantiser(16, 2), torch.randn(2, 2, 8, 8)
    before = {name: value.clone() for name, value in quantiser.state_dict().items()}
    quantiser(h, h)
    assert all(torch.equal(before[name], value) for name, value in quantiser.state_dict().items())


def test_state_resumes_exactly():
    """Restarts depend on saved state and noise alone: going on from a copy gives the same codes."""
    one, two = VectorQuantiser(16, 2), VectorQuantiser(16, 2)
    batches = torch.randn(6, 2, 2, 4, 4)
    for h in batches[:3]:
        updated(one, h)
    two.load_state_dict(one.state_dict())
    torch.randn(10)
    for h in batches[3:]:
        updated(one, h), updated(two, h)
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True))


def _rank(rank, folder, halves, state):
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    torch.set_num_threads(1)
    quantiser = VectorQuantiser(4, 2, restart_below=0.5, decay=0.5)
    quantiser.load_state_dict(state)
    for _ in range(3):
        quantiser(halves[rank], halves[rank])
        quantiser.step()
    torch.save(quantiser.state_dict(), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_ranks_have_the_codes_of_one(tmp_path):
    quantiser = VectorQuantiser(4, 2, restart_below=0.5, decay=0.5)
    filled(quantiser, torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 90.0], [0.0, -90.0]]))  # two restart
    whole = torch.randn(4, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    state = {name: value.clone() for name, value in quantiser.state_dict().items()}
    mp.start_processes(_rank, (str(tmp_path), whole.chunk(2), state), nprocs=2, start_method="fork")
    ranks = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    for _ in range(3):
        quantiser(whole, whole)
        quantiser.step()
    assert quantiser.codebook.abs().max() < 10
    for name, value in quantiser.state_dict().items():
        assert torch.equal(ranks[0][name], ranks[1][name])
        torch.testing.assert_close(ranks[0][name], value)
