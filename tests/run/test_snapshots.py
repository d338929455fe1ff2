"""The arithmetic of power profiles, against numerical integrals."""

import math

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from ldm.run.snapshots import WIDEST, Snapshots, coefficients, exponent

U = (np.arange(200_000) + 0.5) / 200_000


def profile(t: float, g: float) -> np.ndarray:
    """p(u; t, g) on the unit interval."""
    return np.where(t > U, (g + 1) * U**g / t ** (g + 1), 0)


@pytest.mark.parametrize("width", [0.01, 0.05, 0.10, 0.28])
def test_a_width_is_its_profiles_deviation(width):
    g = exponent(width)
    assert math.sqrt(g + 1) / (g + 2) / math.sqrt(g + 3) == pytest.approx(width)
    p = profile(1, g)
    mean = (U * p).mean()
    assert math.sqrt(((U - mean) ** 2 * p).mean()) == pytest.approx(width, rel=1e-4)


@pytest.mark.parametrize("width", [0.0, -0.1, WIDEST, 0.5])
def test_a_width_that_cannot_be_is_refused(width):
    with pytest.raises(ValueError, match="between 0 and 0.289"):
        exponent(width)


def test_coefficients_are_the_least_squares_of_the_profiles():
    """Against the same problem on the sampled functions, with the last coefficient eliminated by the sum."""
    made, wanted = [(1, 17.0), (1, 7.0), (2, 17.0), (2, 7.0)], (2, 11.0)
    x, left = coefficients(made, wanted)
    assert x.sum() == pytest.approx(1)
    *columns, target = (profile(t / 2, g) for t, g in (*made, wanted))
    columns = np.stack(columns, 1)
    free = np.linalg.lstsq(columns[:, :3] - columns[:, 3:], target - columns[:, 3], rcond=None)[0]
    assert x[:3] == pytest.approx(free, abs=1e-3)
    distance = np.linalg.norm(columns @ x - target) / np.linalg.norm(target)
    assert left == pytest.approx(distance, abs=1e-3)


def test_a_profile_that_was_kept_is_itself():
    made = [(t, exponent(width)) for t in range(100, 1001, 100) for width in (0.05, 0.10)]
    x, left = coefficients(made, (1000, exponent(0.10)))
    assert x[-1] == pytest.approx(1, abs=1e-9) and abs(x[:-1]).max() < 1e-9 and left < 1e-6


def test_nothing_to_rebuild_from_is_told(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no snapshots in .*second.snapshots=8"):
        Snapshots(tmp_path / "absent").rebuild(0.05)


def test_later_snapshots_are_dropped(tmp_path):
    kept = Snapshots(tmp_path)
    for updates in (5, 100, 12):
        kept.save(updates, 0.05, {"weight": torch.zeros(1)})
    kept.rewind(12)
    assert list(kept.files()) == [(5, 0.05), (12, 0.05)]


def test_the_average_is_that_of_the_newest_update(tmp_path):
    kept = Snapshots(tmp_path)
    for updates in range(100, 1001, 100):
        for width in (0.05, 0.10):
            kept.save(updates, width, {"weight": torch.full((2,), updates + width)}, last=updates == 1000)
    found = kept.rebuild(0.10)["weight"]
    assert found.dtype == torch.float32 and found.tolist() == pytest.approx([1000.1] * 2, rel=1e-6)


def test_all_but_the_last_are_in_float16_where_their_numbers_fit(tmp_path):
    kept = Snapshots(tmp_path)
    weights = {
        "plain": torch.tensor([1 + 2**-12, -3.0]),
        "large": torch.tensor([70000.0]),
        "count": torch.tensor([2**20]),
    }
    kept.save(1, 0.05, weights)
    kept.save(2, 0.05, weights, last=True)
    earlier, last = (load_file(file) for file in kept.files().values())
    assert earlier["plain"].dtype == torch.float16 and earlier["plain"].tolist() == [1, -3]
    assert torch.equal(earlier["large"], weights["large"]), "beyond 65504, which float16 ends at"
    assert torch.equal(earlier["count"], weights["count"])
    assert all(torch.equal(last[name], value) for name, value in weights.items())


def test_rounding_is_below_what_a_rebuilt_average_is_off():
    """By the coefficients: 8 snapshots of two widths, the last exact, against the distance that is left, in the profiles'
    norm. Independent roundings of 2^-11 / sqrt 3 add as the coefficients' squares do."""
    made = [(t, exponent(width)) for t in range(100, 801, 100) for width in (0.05, 0.10)]
    for width in (0.03, 0.07, 0.13, 0.20):
        x, left = coefficients(made, (800, exponent(width)))
        assert np.linalg.norm(x[:-2]) * 2**-11 / math.sqrt(3) < left
