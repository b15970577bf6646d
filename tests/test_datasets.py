"""Data sets, loaders and streams of torch: of x, or of pairs (x, c)."""

import logging

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

import pyro_vae as pv

RNG = np.random.default_rng(0)
X = RNG.poisson(3.0, (60, 4)).astype(np.float32)
C = np.arange(60) % 3
TENSORS = TensorDataset(torch.tensor(X), torch.tensor(C))


class Counted(Dataset):
    """Pairs, and how often each was read."""

    def __init__(self):
        self.reads = np.zeros(60, dtype=int)

    def __len__(self):
        return 60

    def __getitem__(self, index):
        self.reads[index] += 1
        return X[index], C[index]


class Together(Counted):
    """The same, several at a time."""

    calls = 0

    def __getitems__(self, indices):
        self.calls += 1
        return [(X[i], C[i]) for i in indices]


class Stream(IterableDataset):
    def __init__(self, pairs=True, num=60):
        self.pairs, self.num = pairs, num

    def __iter__(self):
        for x, c in zip(X[: self.num], C, strict=False):
            yield (x, c) if self.pairs else x


class Redrawn(Dataset):
    """Pairs that are drawn at each reading: c is always the sum of x."""

    def __len__(self):
        return 40

    def __getitem__(self, index):
        x = torch.poisson(torch.full((3,), 2.0))
        return x, x.sum()[None]


def conditional(**options):
    return pv.build(X, c=C, latent=2, likelihood="poisson", hidden=[6], **options)


def fit(vae, x, c=None, **options):
    return pv.fit(vae, x, c, epochs=2, batch_size=16, progress=False, **options).loss.tolist()


SOURCES = {
    "tensors": lambda: TENSORS,
    "items": Counted,
    "together": Together,
    "loader": lambda: DataLoader(TENSORS, batch_size=7, shuffle=True),
    "loader with workers": lambda: DataLoader(Counted(), num_workers=2),
    "stream": Stream,
    "loader of a stream": lambda: DataLoader(Stream(), batch_size=7),
}


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES.keys())
def test_pairs_are_x_and_c(source):
    expected = fit(conditional(), X, C)
    assert fit(conditional(), source()) == expected
    vae = conditional()
    assert torch.equal(vae.encode(source()).mean, vae.encode(X, C).mean)


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES.keys())
def test_a_vae_without_a_condition_takes_the_first_parts(source):
    build = lambda x: pv.build(x, latent=2, likelihood="poisson", hidden=[6])  # noqa: E731
    assert fit(build(source()), source()) == fit(build(X), X)


def test_streams_and_loaders_of_x_alone():
    vae = pv.build(X, latent=2, likelihood="poisson", hidden=[6])
    expected = vae.encode(X).mean
    for source in (Stream(pairs=False), DataLoader(Stream(pairs=False), batch_size=11)):
        assert torch.equal(vae.encode(source).mean, expected)
    for source in (DataLoader(X), DataLoader(X, batch_size=None)):
        assert torch.equal(vae.encode(source).mean, expected)


def test_pairs_build_a_conditional_vae_where_it_is_asked_for():
    vae = pv.build(TENSORS, latent=2, likelihood="poisson", hidden=[6], condition={})
    assert vae.condition.describe()["categories"] == 3
    again = pv.build(pv.describe(vae) | {"event": [4]}, TENSORS)
    assert again.condition.describe() == vae.condition.describe()
    held_out = TensorDataset(torch.tensor(X[:9]), torch.tensor(C[:9]))
    history = pv.fit(vae, TENSORS, validation=held_out, epochs=1, progress=False)
    again = pv.build(TENSORS, latent=2, likelihood="poisson", hidden=[6], condition={})
    pairs = pv.fit(again, X, C, validation=(X[:9], C[:9]), epochs=1, progress=False)
    assert history.validation[0] == pairs.validation[0]


def test_an_item_is_read_once_for_both_parts():
    data = Counted()
    vae = conditional()
    data.reads[:] = 0
    pv.fit(vae, data, epochs=3, progress=False)
    assert data.reads.max() <= 3 + 2 + 1  # the epochs, the checks of x and of c, its shape
    together = Together()
    pv.fit(vae, together, epochs=1, batch_size=20, progress=False)
    assert together.reads[1:].max() == 0
    assert together.calls <= 3 + 2


def test_x_and_c_of_one_reading_belong_together():
    data = Redrawn()
    vae = pv.build(data, latent=1, likelihood="poisson", hidden=[4], condition={"size": 1})
    seen = []
    vae.posterior.network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    pv.fit(vae, data, epochs=2, batch_size=8, progress=False)
    rows = torch.cat([x for x in seen if x.dim() == 2 and len(x) == 8])
    assert len(rows) >= 80
    assert torch.equal(rows[:, :3].sum(1), rows[:, 3])


def test_a_stream_is_read_once_and_told_of(caplog):
    with caplog.at_level(logging.INFO, "pyro_vae.data"):
        rows = pv.data.as_rows(Stream())
    assert "read 60 rows of a stream into a temporary file" in caplog.text
    np.testing.assert_array_equal(rows.take(slice(None)), X)
    with pytest.raises(pv.DataError, match="need at least one row"):
        pv.data.as_rows(Stream(num=0))


def test_a_stream_that_can_be_read_once_loses_no_row():
    class Once(IterableDataset):
        def __init__(self):
            self.items = iter(zip(X, C, strict=True))

        def __iter__(self):
            return self.items

    assert fit(conditional(), Once()) == fit(conditional(), X, C)
    vae = conditional()
    with pytest.raises(pv.DataError, match=r"conditional: give c, .* or a stream of pairs"):
        vae.encode(Stream(pairs=False))


def test_a_list_of_numbers_is_no_pair():
    class Lists(Dataset):
        def __len__(self):
            return 60

        def __getitem__(self, index):
            return X[index].tolist()

    np.testing.assert_array_equal(pv.data.as_rows(Lists()).take(slice(None)), X)
    np.testing.assert_array_equal(pv.data.as_rows(Lists()).take(np.array([0, 0, 3])), X[[0, 0, 3]])
    three = TensorDataset(torch.tensor(X), torch.tensor(C), torch.tensor(C))
    with pytest.raises(pv.DataError, match=r"pairs .x, c.; got 3 parts"):
        pv.data.as_rows(three)


@pytest.mark.parametrize(
    "sampler",
    [
        torch.utils.data.SubsetRandomSampler([1, 2]),
        torch.utils.data.RandomSampler(TENSORS, replacement=True),
        torch.utils.data.WeightedRandomSampler([1.0] * 60, 60),
    ],
    ids=lambda sampler: type(sampler).__name__,
)
def test_samplers_choose_no_rows(sampler):
    with pytest.raises(pv.DataError, match="sampler is not used, as all rows are taken"):
        pv.data.as_rows(DataLoader(TENSORS, sampler=sampler))


def test_what_cannot_be_read_as_rows():
    class Ragged(IterableDataset):
        def __iter__(self):
            yield from (np.zeros(3), np.zeros(4))

    with pytest.raises(pv.DataError, match=r"item 1 of a stream has shape \(4,\), item 0 has \(3,"):
        pv.data.as_rows(Ragged())

    class Mixed(IterableDataset):
        def __iter__(self):
            yield from (np.zeros(()), np.zeros(4))

    with pytest.raises(pv.DataError, match=r"item 1 of a stream has shape \(4,\), item 0 has \(\)"):
        pv.data.as_rows(Mixed())

    class Endless(Dataset):
        def __getitem__(self, index):
            return X[0], C[0]

    with pytest.raises(pv.DataError, match="data need a length; got Endless"):
        conditional().encode(Endless())
    with pytest.raises(pv.DataError, match="collate_fn is not used"):
        pv.data.as_rows(DataLoader(TENSORS, collate_fn=list))
    with pytest.raises(pv.DataError, match="got a data set of pairs, whose first parts are x"):
        pv.build(X, c=TENSORS, latent=2)
    vae = conditional()
    with pytest.raises(pv.DataError, match="this VAE is conditional: give c"):
        pv.fit(vae, TensorDataset(torch.tensor(X)), progress=False)
