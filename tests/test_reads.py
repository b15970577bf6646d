"""A datum is checked once per public call: how often each row of a data set is read."""

import warnings
from collections import Counter

import numpy as np
import pytest
import torch

import pyro_vae as pv

NUM = 300  # more than one tile


class Counted(torch.utils.data.Dataset):
    """A data set that counts how often each row is read."""

    def __init__(self, x):
        self.x = torch.as_tensor(x)
        self.reads = Counter()

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        self.reads[index] += 1
        return self.x[index]

    @property
    def most(self):
        assert set(self.reads) == set(range(len(self.x)))
        return max(self.reads.values())


@pytest.fixture
def vae():
    return pv.build({"event": [3], "latent": [2]}, hidden=[4])


@pytest.fixture
def x():
    return Counted(np.random.default_rng(0).normal(size=(NUM, 3)))


@pytest.fixture(autouse=True)
def quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield


@pytest.mark.parametrize("epochs", [1, 3])
def test_fit_reads_a_row_once_an_epoch_and_once_to_check_it(vae, x, epochs):
    pv.fit(vae, x, epochs=epochs, progress=False)
    assert x.most == epochs + 1


def test_validation_is_read_once_an_epoch_and_once_to_check_it(vae, x):
    held_out = Counted(np.random.default_rng(1).normal(size=(40, 3)))
    pv.fit(vae, x, validation=held_out, epochs=3, progress=False)
    assert held_out.most == 4


@pytest.mark.parametrize("tolerance", [None, 0.5])
def test_log_evidence_reads_a_row_twice(vae, x, tolerance):
    pv.log_evidence(vae, x, num_samples=30, tolerance=tolerance)
    assert x.most == 2


def test_log_evidence_of_a_pair_reads_a_row_twice(vae, x):
    pv.log_evidence((vae.model, lambda x: vae.guide(x)), x, num_samples=3)
    assert x.most == 2


def test_log_evidence_of_discrete_latents_reads_a_row_twice(x):
    classes = pv.build({"event": [3], "latent": [4], "prior": "one_hot"}, hidden=[4])
    pv.log_evidence(classes, x)
    assert x.most == 2


def test_a_report_reads_a_row_three_times_at_most(vae, x, tmp_path):
    options = {"num_samples": 25, "num_mcmc": 2, "num_simulations": 20}
    pv.report(vae, x, tmp_path / "report.html", labels=np.arange(NUM) % 2, **options)
    assert x.most <= 3


@pytest.mark.slow
def test_gaps_read_a_row_three_times_at_most(vae, x):
    """Once more where the weights of the best guide are too wild for log p(x)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        pv.gaps(vae, x, steps=1, num_samples=25)
    assert x.most <= 3


JUDGES = {
    "terms": lambda vae, x: pv.terms(vae, x, num_samples=2),
    "annealing": lambda vae, x: pv.annealed_log_evidence(
        vae, x, num_distributions=2, chains=2, num_steps=1
    ),
    "predictions": lambda vae, x: pv.check_predictions(vae, x, num_samples=20),
    "models": lambda vae, x: pv.compare_models({"it": vae}, x, num_samples=3),
    "impute": lambda vae, x: vae.impute(x, num_samples=2),
    "encode": lambda vae, x: vae.encode(x),
}


@pytest.mark.parametrize("name", JUDGES)
def test_others_read_a_row_twice(name, vae, x):
    JUDGES[name](vae, x)
    assert x.most == 2


def test_a_condition_is_read_no_more_often(x):
    vae = pv.build({"event": [3], "latent": [2], "condition": {"size": 1}}, hidden=[4])
    c = Counted(np.random.default_rng(2).normal(size=(NUM, 1)))
    pv.log_evidence(vae, x, c, num_samples=3)
    assert x.most == c.most == 2


def test_damaged_data_are_found_before_anything_else():
    """One pass is enough to find them; no later one is begun."""
    values = np.zeros((NUM, 3))
    values[7, 1] = np.inf
    x = Counted(values)
    vae = pv.build({"event": [3], "latent": [2]}, hidden=[4])
    with pytest.raises(pv.DataError, match="row 7, column 1"):
        pv.log_evidence(vae, x)
    assert max(x.reads.values()) == 1


class Changing(torch.utils.data.Dataset):
    """Row `changes` is another at each reading."""

    def __init__(self, x, changes):
        self.x = x
        self.changes = changes
        self.readings = 0

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        self.readings += 1
        return self.x[index] + (self.readings if index == self.changes else 0)


BINARY = np.random.default_rng(0).random((80, 30))
EVALUATIONS = {
    "log_evidence": lambda vae, x: pv.log_evidence(vae, x, num_samples=30),
    "tolerance": lambda vae, x: pv.log_evidence(vae, x, num_samples=30, tolerance=1.0),
    "compare_models": lambda vae, x: pv.compare_models({"a": vae, "b": vae}, x, num_samples=30),
    "sample_posterior": lambda vae, x: pv.sample_posterior(vae, x, num_samples=10, warmup=10),
    "to_datatree": pv.to_datatree,
}


@pytest.mark.parametrize("name", EVALUATIONS)
def test_data_that_change_from_one_reading_to_the_next_are_refused(name):
    afresh = pv.binarize_afresh(BINARY)
    vae = pv.build(afresh, latent=1, likelihood="bernoulli", hidden=[4])
    pv.fit(vae, afresh, epochs=1, progress=False)  # which takes them
    with pytest.raises(pv.DataError, match="data must be the same at each reading"):
        EVALUATIONS[name](vae, afresh)


@pytest.mark.parametrize("row", [0, 50, 79])
def test_a_row_that_changes_is_noticed(row):
    x = np.random.default_rng(1).normal(size=(80, 3))
    vae = pv.build(x, latent=1, hidden=[4])
    with pytest.raises(pv.DataError, match="data must be the same at each reading"):
        pv.log_evidence(vae, Changing(x, row), num_samples=30)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of a guide that knows nothing
        found = pv.log_evidence(vae, Changing(x, None), num_samples=30)
        whole = pv.log_evidence(vae, x, num_samples=30)
    np.testing.assert_array_equal(found.log_evidence, whole.log_evidence)


def test_a_model_compared_with_itself_differs_by_nothing():
    vae = pv.build(BINARY > 0.5, latent=1, likelihood="bernoulli", hidden=[4])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        for x in (BINARY > 0.5, pv.binarize_afresh(BINARY).take(slice(None))):
            table = pv.compare_models({"a": vae, "b": vae}, x, num_samples=30)
            assert (table.difference == 0).all()
