"""Distances between two sets of images in the features of a network, and the ratio to that of real images.

Beside each Fréchet distance stands `fdr_<network>`, its ratio to the distance of other real images, as many as samples, from the
same reference (Yang et al. 2026). Real images have 1, whatever n and the network; the distance itself means nothing without
both. `fdr` is the mean over the networks that no loss saw, where there are at least three of them.

Sources:
    Yang et al., Representation Fréchet Loss for Visual Generation (2026), arXiv 2604.28190
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from pydantic import PositiveInt

from ldm.metric import frechet
from ldm.metric.classifier import Learnt
from ldm.metric.comparison import Comparison, compare
from ldm.metric.feature_set import FeatureCollector, FeatureSet, features_of
from ldm.metric.features import FeatureNetwork, Judging, available, warn_of
from ldm.metric.frechet import Frechet, Ratio, frechet_distance
from ldm.metric.gather import gather_rows
from ldm.metric.inception_score import inception_score
from ldm.metric.kernel import kernel_distance
from ldm.metric.measurement import Measurement
from ldm.metric.metric import Examples, Metric, leave_out
from ldm.metric.scene import Scene
from ldm.tensors import hash_of

__all__ = ["Distances", "compare", "frechet_distance", "kernel_distance"]

FEWEST_NETWORKS = 3  # for the mean of ratios
_AT_ONCE = 1024

Kind = Literal["generated", "reconstruction"]


class Distances(Metric):
    """All measurements of `compare` for generated images, or for reconstructions, against the real images, in the features of
    several networks, and of generated images the ratio to the distance of real ones, `fdr_<network>`. Every image passes each
    network once, whatever is measured with it, and the reference once for all runs that keep its features in one store.

    The networks are built when a measuring begins, or the first batch arrives, so that a run that measures nothing downloads
    nothing. A network that is not available, or that needs larger images, gives a warning, and its numbers are left out.

    Arguments:
        networks: constructors of feature networks by name (`_partial_` nodes of a config), or recipes of networks that are
            trained on the data, in the order of the records.
        of: which images are measured; numbers of reconstructions are called `reconstruction_fid` and so on.
        limit: as for `compare`.
        batch: images at once through a network, on which its rounding depends.
        sizes: of parts of the samples whose Fréchet distance is measured, too, as `fd_<network>_of_1000`: how it depends on n.
    """

    names = (
        *("fid", "kid", "fd_*", "kd_*", "fdr", "fdr_*", "precision_*", "recall_*", "density_*", "coverage_*"),
        *("inception_score", "classifier_score", "reconstruction_*"),
    )

    def __init__(
        self,
        networks: dict[str, Callable[[], FeatureNetwork] | Learnt],
        of: tuple[Kind, ...] = ("generated",),
        limit: PositiveInt = 10_000,
        batch: PositiveInt = 64,
        sizes: tuple[PositiveInt, ...] = (),
    ):
        self.networks, self.of, self.limit, self.batch, self.sizes = networks, of, limit, batch, sizes
        learnt = [each for each in networks.values() if isinstance(each, Learnt)]
        self.needs = tuple(dict.fromkeys(column for each in learnt for column in each.needs))
        self._built: tuple[dict[str, FeatureNetwork], list[str]] | None = (
            None  # that learn nothing, and what is missing
        )
        self._sets: dict[str, dict[str, FeatureCollector]] | None = None
        self._reference: dict[str, FeatureSet] = {}
        self._came, self._paired = {kind: False for kind in of}, False

    def missing(self) -> Sequence[str]:
        return self._ready()[1]

    def begin(self, scene: Scene) -> None:
        super().begin(scene)
        if scene.samples or "reconstruction" in self.of:
            self._sets = self._empty(scene.device, scene.image_shape[1:])
        if scene.samples and "generated" in self.of:
            for name in self._everywhere():  # for all ranks compute the reference together
                network = self._sets[name]["real"].network
                self._reference[name] = features_of(network, scene.reference, scene, self.batch)

    def add(self, examples: Examples) -> None:
        images = {"generated": examples.generated, "reconstruction": examples.reconstruction}
        images = {kind: images[kind] for kind in self.of if images[kind] is not None}
        if not images:
            return
        if self._sets is None:
            self._sets = self._empty(examples.real.device, tuple(examples.real.shape[-2:]))
        if examples.real is not None and (not self._reference or "reconstruction" in images):
            images["real"] = examples.real
        for sets in self._sets.values():
            for kind, batch in images.items():
                sets[kind].add(batch, examples.places if kind == "generated" else examples.index)
        self._came |= {kind: True for kind in images if kind in self._came}
        self._paired |= examples.paired

    def measure(self) -> list[Measurement]:
        """The measurements; none where there are no such images."""
        paired, *came = gather_rows(torch.tensor([[self._paired, *self._came.values()]]).long()).amax(0).tolist()
        if not any(came):
            return []
        if self._sets is None:  # this rank was given no images
            self._sets = self._empty(torch.device("cpu"), None)
        found, ratios = [], list[tuple[Comparison, Ratio]]()
        for name in self._everywhere():
            sets = self._sets[name]
            real, network = sets["real"].gather(), sets["real"].network
            for kind in [kind for kind, some in zip(self.of, came, strict=True) if some]:
                images = sets[kind].gather()
                if kind == "reconstruction":
                    found += self._said(Comparison(images, real, True, "reconstruction_").numbers(self.limit))
                    continue
                both = Comparison(images, self._reference.get(name, real), self._are_pairs(bool(paired)))
                found += self._said([*both.numbers(self.limit), *both.of_parts(self.sizes)], self._scene_said())
                found += self._said(self._score(network, both), self._scene_said() | {"reference": None})
                of_real = self._of_real(network)
                if both.distance is not None and of_real is not None:
                    ratios.append((both, frechet.ratio(both.distance, of_real)))
        return found + self._ratios(ratios)

    def _everywhere(self) -> list[str]:
        """The networks that all ranks have."""
        own = torch.tensor([[name in self._sets for name in self.networks]]).long()
        there = gather_rows(own).amin(0).tolist()
        return [name for name, has in zip(self.networks, there, strict=True) if has]

    def _score(self, network: FeatureNetwork, both: Comparison) -> list[Measurement]:
        """The Inception score, or its analogue, of a classifier."""
        features = both.generated.features
        if not isinstance(network, Judging) or len(features) < 2:
            return []
        device = next(network.parameters()).device
        with torch.no_grad():
            logits = torch.cat([network.logits(part.to(device)).cpu() for part in features.split(_AT_ONCE)])
        value = both.number(network.score, *inception_score(logits), "jackknife", len(features))
        return [dataclasses.replace(value, reference_hash=None, paired=None)]

    def _are_pairs(self, examples: bool) -> bool:
        return self.scene.paired if self._reference and self.scene is not None else examples

    def _said(self, found: list[Measurement], more: dict[str, str | None] | None = None) -> list[Measurement]:
        """Measurements with what all of one metric have in common."""
        return [dataclasses.replace(each, feature_batch=self.batch, **(more or {})) for each in found]

    def _scene_said(self) -> dict[str, str | None]:
        """What a record says of the real images and of what samples were drawn for."""
        if self.scene is None:
            return {"reference": None, "labels": None}
        return {"reference": self.scene.reference.name, "labels": self.scene.labels}

    def _of_real(self, network: FeatureNetwork) -> Frechet | None:
        """The distance of other real images, as many as samples, from the reference; computed once for all runs."""
        scene = self.scene
        if scene is None or scene.others is None or min(len(scene.others), len(scene.reference)) < frechet.SMALLEST:
            return None
        others, reference = scene.others, scene.reference

        def make() -> dict[str, torch.Tensor]:
            both = (features_of(network, each, scene, self.batch).features for each in (others, reference))
            return frechet.frechet(*both).tensors()

        key = hash_of({}, others.key, reference.key, network.weights_hash, self.batch)[:20]
        made_from = {"split": others.split, "weights": network.weights_hash}
        return Frechet.of(scene.artifacts.kept("real_distance", key, made_from, make))

    def _ratios(self, found: list[tuple[Comparison, Ratio]]) -> list[Measurement]:
        """The ratio in each network, and the mean over those that no loss saw."""
        if self.scene is None or self.scene.others is None:
            if self._reference:
                wanted = f"{self.scene.samples} real images beside the reference {self.scene.reference.name}"
                leave_out("fdr", wanted, "not so many")
            return []
        said = self._scene_said() | {"reference": f"{self.scene.reference.name}/{self.scene.others.name}"}
        each = [both.of_ratio(ratio) for both, ratio in found]
        fair = [(both, ratio) for both, ratio in found if both.generated.network not in self.scene.seen]
        if len(fair) >= FEWEST_NETWORKS:
            sets = [both.generated for both, _ in fair]
            one = fair[0][0].of_ratio(frechet.mean([ratio for _, ratio in fair]))
            networks = ", ".join(of.network for of in sets)
            key = hash_of({}, *(of.network_hash for of in sets))[:16]
            each.append(dataclasses.replace(one, metric="fdr", features=networks, features_hash=key))
        return self._said(each, said)

    def _empty(self, device: torch.device, size: tuple[int, int] | None) -> dict[str, dict[str, FeatureCollector]]:
        """A collector for each kind of image, by network. `size` is that of the images, or None where this rank has none."""
        found = {}
        for name, network in self._networks().items():
            if size is not None and min(size) < network.smallest:
                wanted = f"images of at least {network.smallest} x {network.smallest} pixels"
                leave_out(f"every number of {network.name}", wanted, f"{size[0]} x {size[1]}")
                continue
            network = network.to(device)
            found[name] = {kind: FeatureCollector(network, self.batch) for kind in ("real", *self.of)}
        return found

    def _networks(self) -> dict[str, FeatureNetwork]:
        """All that are available, in their order."""
        learnt = {name: each for name, each in self.networks.items() if isinstance(each, Learnt)}
        if learnt and self.scene is None:
            raise ValueError(
                f"{', '.join(learnt)} learns from the data, and no measuring has begun: call begin(scene) first"
            )
        ready, missing = self._ready()
        warn_of(missing)
        built = ready | {name: each.learn(self.scene) for name, each in learnt.items()}
        return {name: built[name] for name in self.networks if name in built}

    def _ready(self) -> tuple[dict[str, FeatureNetwork], list[str]]:
        """The networks that learn nothing, built once, and why others are missing."""
        if self._built is None:
            self._built = available({k: each for k, each in self.networks.items() if not isinstance(each, Learnt)})
        return self._built
