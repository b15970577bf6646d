"""What the formulas of the catalogue have in common, in numpy."""

import numpy as np
import torch
from scipy import stats


def plus(h, standard=1.0):
    """[h]_+: softplus plus 10^-6, moved so that [0]_+ is the standard value."""
    floor = 1e-6
    return floor + np.logaddexp(0.0, h + np.log(np.expm1(standard - floor)))


def normal(x, mean, variance):
    return stats.norm(mean, np.sqrt(variance)).logpdf(x)


def independent(x, h):
    """Normals that read their means, then their scales; one log density for the last dimension."""
    means, scales = np.split(np.asarray(h), 2, -1)
    return normal(x, means, plus(scales) ** 2).sum(-1)


def numbers(tensor):
    return tensor.detach().numpy()


def tensor(values):
    return torch.as_tensor(np.asarray(values), dtype=torch.float64)
