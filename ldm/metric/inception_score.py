"""The Inception score (Salimans et al. 2016, section 4), and its analogue with another classifier, under another name.

    IS = exp( mean_i KL(p(y | x_i) || p(y)) ),   p(y) = mean_i p(y | x_i)

of the classes y of a classifier: how certain it is of each sample, and how many classes samples have together; between 1 and
the number of classes. `inception_score` is of Inception-2015 and its 1,008 outputs alone. Of another classifier it is another
number (Barratt and Sharma 2018 show how little two of them agree), as `classifier_score` of the data set's own. It knows nothing
of real images: one image of each class is the best it can see. Published values are means over ten parts of the samples, and
have another bias; this one is of all of them.

A class's share in p(y) moves with the weight of an image by p(y | x) - p(y), and the logarithm of the score then by
KL(p(y | x) || p(y)) - log IS: the rest cancels. So the infinitesimal jackknife's error of log IS is the deviation of these
divergences over sqrt n, and that of IS is IS times it.

Sources:
    Salimans et al., Improved Techniques for Training GANs (2016), arXiv 1606.03498
    Barratt and Sharma, A Note on the Inception Score (2018), arXiv 1801.01973
"""

from __future__ import annotations

import math

from jaxtyping import Float
from torch import Tensor


def inception_score(logits: Float[Tensor, "n k"]) -> tuple[float, float]:
    """The score of n images and its standard error.

    Arguments:
        logits: of k classes, at least two images.
    """
    log_p = logits.double().log_softmax(1)
    of_all = log_p.logsumexp(0) - math.log(len(log_p))  # log p(y), finite where all p(y | x) round to 0
    divergence = (log_p.exp() * (log_p - of_all)).sum(1)
    score = float(divergence.mean().exp())
    return score, score * float(divergence.std()) / len(divergence) ** 0.5
