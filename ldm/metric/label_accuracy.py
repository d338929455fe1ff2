"""Whether class-conditional samples are of the class that they were drawn for, as the data set's own classifier reads them.

`label_accuracy` is the share p of n samples to which the classifier gives their label, with the binomial error
sqrt(p (1 - p) / n) (the classification accuracy score's simpler relative: Ravuri and Vinyals 2019 train on samples and test on
real images). The classifier errs, too: `classifier_accuracy` is its share of right answers on held-out real images. Samples can
be above it, where they are more typical of their class than real images: strong guidance does this, at the cost of recall.

Sources:
    Ravuri and Vinyals, Classification Accuracy Score for Conditional Generative Models (2019), arXiv 1905.10887
"""

from __future__ import annotations

import torch

from ldm.metric.classifier import Classifier, OwnClassifier, binomial_error
from ldm.metric.gather import gather_rows
from ldm.metric.measurement import Measurement
from ldm.metric.metric import Examples, Metric, leave_out
from ldm.metric.scene import Scene


class LabelAccuracy(Metric):
    """`classifier_accuracy` on held-out images, and `label_accuracy` of samples that were drawn for labels.

    Arguments:
        classifier: the recipe of the classifier.
    """

    names = ("classifier_accuracy", "label_accuracy")

    def __init__(self, classifier: OwnClassifier):
        self.classifier, self.needs = classifier, classifier.needs
        self._network: Classifier | None = None
        self._right = [torch.zeros(0, dtype=torch.int64)]

    def begin(self, scene: Scene) -> None:
        super().begin(scene)
        self._network = self.classifier.learn(scene)

    def add(self, examples: Examples) -> None:
        if self._network is None or examples.generated is None or examples.labels is None:
            return
        found = self._network.logits(self._network(examples.generated)).argmax(1)
        known = examples.labels >= 0
        self._right.append((found == examples.labels)[known].long().cpu())

    def measure(self) -> list[Measurement]:
        right = gather_rows(torch.cat(self._right))
        if self._network is None or self.scene is None:
            leave_out("label_accuracy", "data to learn a classifier from", "images alone")
            return []
        accuracy, n = self.classifier.accuracy(self.scene)
        of = {"features": self._network.name, "features_hash": self._network.weights_hash, "rounded": True}
        error = binomial_error(accuracy, n)
        found = [
            Measurement(metric="classifier_accuracy", value=accuracy, standard_error=error, n=n, error="binomial", **of)
        ]
        if self.scene.samples and self.scene.labels is None:
            leave_out("label_accuracy", "a model that is conditioned on labels (condition=label)", "one that is not")
        elif len(right):
            value = right.double().mean().item()
            found.append(
                Measurement(
                    metric="label_accuracy",
                    value=value,
                    standard_error=binomial_error(value, len(right)),
                    n=len(right),
                    error="binomial",
                    labels=self.scene.labels,
                    **of,
                )
            )
        return found
