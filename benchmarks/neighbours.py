"""What feature networks know of photographs: how often the 10 nearest of labelled images agree with an image's own label.

    python benchmarks/neighbours.py DATA WEIGHTS [--train 3000] [--test 1000] [--size 224]

DATA is a folder with CIFAR-10's train.parquet and test.parquet (columns `image` and `label`), WEIGHTS a file of torchvision's
mobilenet_v2 whose kernels are TensorFlow's. Nearest is by cosine and by distance; one thread, CPU seconds beside.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ldm.data.hub import Hub
from ldm.data.module import DataModule
from ldm.metric.efficientnet import EfficientNetLite0
from ldm.metric.features import FeatureNetwork, RandomConv
from ldm.metric.pretrained import TorchvisionFeatures

NEIGHBOURS, BATCH = 10, 50


def agreement(train: Tensor, labels: Tensor, test: Tensor, wanted: Tensor) -> float:
    """The share of the test features whose nearest training features vote for the label that is wanted."""
    near = torch.cdist(test, train).topk(NEIGHBOURS, largest=False).indices
    return (F.one_hot(labels[near], 10).sum(1).argmax(1) == wanted).float().mean().item()


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("data", type=Path)
    words.add_argument("weights", type=Path)
    words.add_argument("--train", type=int, default=3000)
    words.add_argument("--test", type=int, default=1000)
    words.add_argument("--size", type=int, default=224)
    given = words.parse_args()
    torch.set_num_threads(1)
    sources = [
        Hub(str(given.data), root=given.data, files=f"{split}.parquet", label="label") for split in ("train", "test")
    ]
    data = DataModule(*sources, image_shape=(3, 32, 32), batch_size=BATCH, workers=0)
    train, test = data.items("train", range(given.train)), data.items("val", range(given.test))
    networks: list[FeatureNetwork] = [
        EfficientNetLite0(size=given.size),
        TorchvisionFeatures("mobilenet_v2", given.weights, given.size, flip180=True),
        RandomConv(),
    ]
    for network in networks:
        start = time.process_time()
        u, v = (torch.cat([network(x) for x in each["image"].split(BATCH)]) for each in (train, test))
        near = agreement(u, train["label"], v, test["label"])
        cosine = agreement(F.normalize(u, dim=1), train["label"], F.normalize(v, dim=1), test["label"])
        spent = time.process_time() - start
        print(f"{network.name:20} cosine {cosine:.3f}  distance {near:.3f}  {spent:.0f} CPU s", flush=True)


if __name__ == "__main__":
    main()
