"""Maps drawn from vectors: any smooth map of low frequencies can be drawn, at any size."""

import math

import torch

from ldm.backbone.drawing import Drawing


def test_a_drawing_is_its_cosine_series():
    torch.manual_seed(0)
    drawing, v = Drawing(6, 2, basis=3), torch.randn(4, 6)
    found = drawing(v, 5, 7)
    coefficients = drawing.coefficients(v).view(4, 2, 3, 3)
    y, x = 3, 2
    wanted = sum(
        coefficients[:, :, i, j] * math.cos(math.pi * i * (y + 0.5) / 5) * math.cos(math.pi * j * (x + 0.5) / 7)
        for i in range(3)
        for j in range(3)
    )
    assert found.shape == (4, 2, 5, 7)
    assert torch.allclose(found[:, :, y, x], wanted, atol=1e-5)


def test_a_word_of_place_can_be_drawn():
    """Least squares over the basis finds a map whose maximum is in the named quarter of the canvas."""
    drawing = Drawing(4, 1)
    basis = torch.stack(_basis(drawing))
    target = torch.zeros(8, 8)
    target[:4, 4:] = 1.0
    solution = torch.linalg.lstsq(basis.flatten(1).T, target.flatten()[:, None]).solution
    drawn = (basis.flatten(1).T @ solution).view(8, 8)
    assert drawn[:3, 5:].min() > 0.6 and drawn[5:, :3].abs().max() < 0.25


def _basis(drawing: Drawing) -> list[torch.Tensor]:
    """The maps of one coefficient each."""
    maps = []
    with torch.no_grad():
        drawing.coefficients.weight.zero_()
        for k in range(drawing.basis**2):
            drawing.coefficients.bias.zero_()
            drawing.coefficients.bias[k] = 1.0
            maps.append(drawing(torch.zeros(1, 4), 8, 8)[0, 0])
    return maps
