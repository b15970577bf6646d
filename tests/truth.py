"""Closed forms that we did not invent: the linear-Gaussian model, by scipy."""

from dataclasses import dataclass

import numpy as np
import torch
from arviz_stats.base import array_stats
from pyro import distributions as dist
from scipy import stats
from setting import place

import pyro_vae as pv


@dataclass
class LinearGaussian:
    """p(z) = N(0, I), p(x|z) = N(W z + b, diag(noise)): factor analysis, with exact evidence and
    posterior.
    """

    weight: np.ndarray  # (D, q)
    bias: np.ndarray  # (D,)
    noise: np.ndarray  # (D,) variances

    @classmethod
    def with_diagonal_posterior(
        cls, features: int, latents: int, seed: int = 0
    ) -> "LinearGaussian":
        """Loadings that are orthogonal in the metric of the noise, so that a diagonal guide can be
        exact.
        """
        rng = np.random.default_rng(seed)
        noise = rng.uniform(0.2, 1.0, features)
        directions, _ = np.linalg.qr(rng.normal(size=(features, latents)))
        return cls(
            np.sqrt(noise)[:, None] * directions * rng.uniform(0.5, 3.0, latents),
            rng.normal(size=features),
            noise,
        )

    def draw(self, num: int, seed: int = 1) -> np.ndarray:
        return self._marginal().rvs(num, random_state=np.random.default_rng(seed)).reshape(num, -1)

    def log_evidence(self, x: np.ndarray) -> np.ndarray:
        return np.atleast_1d(self._marginal().logpdf(x))

    def posterior(self) -> tuple[np.ndarray, np.ndarray]:
        """Covariance (q, q), and the matrix (q, D) that maps x - b to the posterior mean."""
        scaled = self.weight.T / self.noise
        covariance = np.linalg.inv(np.eye(self.weight.shape[1]) + scaled @ self.weight)
        return covariance, covariance @ scaled

    def vae(self, shrink: float = 1.0, shift: float = 0.0) -> pv.VAE:
        """The model as a VAE; its guide is the exact posterior, with sds times `shrink` and means
        plus `shift` sds. It is on the device of the test, in the default precision.
        """
        features, latents = self.weight.shape
        covariance, gain = self.posterior()
        sd = np.sqrt(np.diag(covariance))
        decoder = affine(self.weight, self.bias)
        encoder = affine(gain, shift * sd - gain @ self.bias)
        vae = pv.VAE(
            pv.Normal((latents,), loc=0.0, scale=1.0),
            pv.Amortised(
                decoder, pv.Normal((features,), scale=torch.as_tensor(np.sqrt(self.noise)))
            ),
            pv.Amortised(encoder, pv.Normal((latents,), scale=torch.as_tensor(shrink * sd))),
        )
        return place(vae)

    def _marginal(self):
        return stats.multivariate_normal(
            self.bias, self.weight @ self.weight.T + np.diag(self.noise)
        )


def affine(weight: np.ndarray, bias: np.ndarray) -> pv.MLP:
    """A network without hidden layers, with given weights."""
    network = pv.MLP(weight.shape[1], weight.shape[0], hidden=())
    with torch.no_grad():
        network.layers[0].weight.copy_(torch.as_tensor(weight))
        network.layers[0].bias.copy_(torch.as_tensor(bias))
    return network


def check_moments(z, mean, variance, floor=400):
    """Draws of MCMC against moments, by two gates: an ESS that says something, then 5 standard
    errors from that ESS; z of shape (chain, draw, ...).
    """
    for values, expected in ((z, mean), ((z - mean) ** 2, variance)):
        ess = array_stats.ess(values.astype(float), chain_axis=0, draw_axis=1, method="mean")
        assert ess.min() > floor, ess.min()
        error = np.abs(values.mean((0, 1)) - expected) / (values.std((0, 1)) / np.sqrt(ess))
        assert error.max() < 5, error.max()


class Direct(pv.Conditional):
    """A likelihood whose parameter is z itself."""

    def __init__(self, event_shape, make):
        super().__init__()
        self.event_shape, self.make = torch.Size(event_shape), make

    def forward(self, z):
        return self.make(z)

    @classmethod
    def example(cls):
        return cls((1,), lambda z: dist.Normal(z, 1.0).to_event(1))
