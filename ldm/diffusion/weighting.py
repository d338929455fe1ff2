"""Weightings of the loss: how much an error counts at each noise level.

A weighting w(log-SNR) is expressed on the error of eps. The network predicts F = a x + b eps; at fixed x_t an error
dF is an error of eps of (alpha / det) dF with det = alpha b - sigma a, so |dF|^2 has the weight w (alpha / det)^2:
one definition is right for every parameterization.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from pydantic import PositiveFloat

from ldm.types import Time


class Weighting(ABC):
    @abstractmethod
    def __call__(self, log_snr: Time, eps_per_prediction: Time) -> Time:
        """The weight (b,) of |F error|^2; `eps_per_prediction` is (alpha / det)^2."""


class Uniform(Weighting):
    """w = 1: the simple loss of DDPM (arXiv 2006.11239, equation 14), whatever the network predicts."""

    def __call__(self, log_snr: Time, eps_per_prediction: Time) -> Time:
        return eps_per_prediction


class Prediction(Weighting):
    """The plain squared error of what the network predicts: customary for v and for flow matching."""

    def __call__(self, log_snr: Time, eps_per_prediction: Time) -> Time:
        return torch.ones_like(log_snr)


class MinSNR(Weighting):
    """w = min(SNR, gamma) / SNR (arXiv 2303.09556, section 3.4)."""

    def __init__(self, gamma: PositiveFloat = 5.0):
        self.gamma = gamma

    def __call__(self, log_snr: Time, eps_per_prediction: Time) -> Time:
        return (self.gamma * torch.exp(-log_snr)).clamp(max=1) * eps_per_prediction
