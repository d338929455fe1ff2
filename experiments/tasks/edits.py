"""Whether edits obey the new caption and keep the rest, on shapes, whose attributes can be read off an image:

    python -m experiments.tasks.edits RUN [N]

RUN is of experiment=shapes. Of each of N held-out scenes (60) one of its five attributes is given another word, each attribute
in its turn, and the scene is edited under the caption that says so. Of the images the classifier of attributes
(ldm.metric.shapes.attributes, trained for a minute at the start) reads

    obeyed    the share whose changed attribute is what the new caption says
    kept      the share of the four others that are what they were; the caption says them, too
    overlap   of scenes whose colour alone was to change: the intersection over the union of the shape's pixels
              before and after, which no caption says

at several strengths, with drawn and with found noise. The last row, samples of the new captions, knows nothing of the image.
"""

from __future__ import annotations

import sys

import numpy as np
import torch
from torch import Tensor

import ldm
from ldm.data.shapes import ATTRIBUTES, Shapes, caption, parse
from ldm.eight_bits import eight_bits
from ldm.metric.shapes.attributes import AttributeChecker, to_image, train_checker
from ldm.task.edit import Edit
from ldm.task.tools.inversion import Inversion

_GUIDANCE = 2.0


def other_caption(old: str, row: int, generator: torch.Generator) -> tuple[str, str]:
    """The attribute that row `row` changes, and the caption with another word for it."""
    attributes = parse(old)
    name = list(ATTRIBUTES)[row % len(ATTRIBUTES)]
    count = len(ATTRIBUTES[name])
    step = int(torch.randint(1, count, (), generator=generator))
    return name, caption(attributes | {name: (attributes[name] + step) % count})


def shape_of(x: Tensor) -> Tensor:
    """Where the shape is, (n, h, w) bool: pixels that are unlike the median of the border, which is background."""
    border = torch.cat([x[:, :, 0], x[:, :, -1], x[:, :, :, 0], x[:, :, :, -1]], dim=2).median(2).values
    return (x - border[:, :, None, None]).abs().amax(1) > 0.25


def report(
    name: str, made: Tensor, given: Tensor, old: list[str], new: list[tuple[str, str]], checker: AttributeChecker
):
    made = eight_bits(made).float() / 127.5 - 1
    read, was, asked = checker.read(made), [parse(each) for each in old], [parse(each) for _, each in new]
    obeyed = [int(read[changed][i]) == asked[i][changed] for i, (changed, _) in enumerate(new)]
    kept = [
        int(read[each][i]) == was[i][each]
        for i, (changed, _) in enumerate(new)
        for each in ATTRIBUTES
        if each != changed
    ]
    coloured = [i for i, (changed, _) in enumerate(new) if changed == "colour"]
    before, after = shape_of(given[coloured]), shape_of(made[coloured])
    overlap = (before & after).flatten(1).sum(1) / (before | after).flatten(1).sum(1).clamp(min=1)
    shares = []
    for values in (torch.tensor(obeyed).double(), torch.tensor(kept).double(), overlap.double()):
        shares.append(f"{values.mean():.2f} ± {values.std() / len(values) ** 0.5:.2f}")
    print(f"| {name} | {' | '.join(shares)} |", flush=True)


def main(run: str, n: int) -> None:
    model, scenes = ldm.load(run), Shapes(n, "test", seed=1)
    checker, accuracy = train_checker(seed=0)
    print(f"the classifier reads all five attributes of {accuracy['joint']:.1%} of other images", flush=True)
    generator = torch.Generator().manual_seed(0)
    items = [scenes[i] for i in range(n)]
    old = [item["caption"] for item in items]
    new = [other_caption(each, i, generator) for i, each in enumerate(old)]
    x = to_image(torch.stack([torch.from_numpy(item["image"]) for item in items]))
    again = model.decode(model.encode(x), tensors=True)
    print("| | obeyed | kept | overlap |\n| --- | --- | --- | --- |")
    report("the images through the first stage", again, x, old, new, checker)

    asked = [each for _, each in new]

    def edited(task: Edit) -> Tensor:
        done = model.apply(task, x, caption=asked, guidance=_GUIDANCE)
        return to_image(torch.stack([torch.from_numpy(np.array(each)) for each in done.pictures["edited"]]))

    for strength in (0.4, 0.6, 0.8, 0.9):
        report(f"`task=edit task.strength={strength}`", edited(Edit(strength)), x, old, new, checker)
    for strength in (0.6, 0.8, 1.0):
        made = edited(Edit(strength, Inversion(), old))
        report(f"`task=edit_inversion task.strength={strength}`", made, x, old, new, checker)
    drawn = model.sample(asked, guidance=_GUIDANCE, tensors=True)
    report("samples of the new captions", drawn, x, old, new, checker)


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        raise SystemExit(__doc__)
    scenes = int(sys.argv[2]) if len(sys.argv) == 3 else 60
    if scenes < 2 * len(ATTRIBUTES):
        raise SystemExit(f"two scenes at least for each of {len(ATTRIBUTES)} attributes, and not {scenes} in all")
    main(sys.argv[1], scenes)
