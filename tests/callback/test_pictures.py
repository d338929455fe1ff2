"""What is written under the pictures of a training."""

import pytest
import torch

from ldm.callback.pictures import words

LABELS = torch.tensor([2, -1, 0])


@pytest.mark.parametrize(
    "batch, classes, said",
    [
        ({"caption": ["a", "", "c"], "label": LABELS}, "xyz", ["a", "", "c"]),
        ({"caption": [""] * 3, "label": LABELS}, "xyz", ["z", "", "x"]),
        ({"label": LABELS}, "", ["2", "", "0"]),
        ({"caption": [""] * 3, "label": torch.full((3,), -1)}, "xyz", None),
        ({}, "", None),
    ],
)
def test_captions_or_the_names_of_labels(batch, classes, said):
    """An image without a label has no name, and not that of the last class."""
    assert words(batch, classes) == said
