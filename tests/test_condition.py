"""Conditional VAEs: each part sees c exactly when told so, and an exact one has the exact log p."""

import itertools

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from torch.utils.data import TensorDataset

import pyro_vae as pv
from pyro_vae.assembly.condition import PARTS

X = np.random.default_rng(0).poisson(4.0, (40, 3))
LABELS = np.arange(40) % 3
NUMBERS = np.random.default_rng(1).normal(size=(40, 2))
SUBSETS = [subset for k in (1, 2, 3) for subset in itertools.combinations(PARTS, k)]


def conditional(c=LABELS, **options):
    return pv.build(X, c=c, latent=2, likelihood="poisson", hidden=[8], **options)


@pytest.mark.parametrize("seen_by", SUBSETS, ids="-".join)
@pytest.mark.parametrize("c", [LABELS, NUMBERS], ids=["classes", "numbers"])
def test_exactly_the_named_parts_see_it(seen_by, c):
    vae = conditional(
        c,
        condition={"seen_by": list(seen_by)},
        prior={"name": "normal"} if "prior" in seen_by else "normal",
    )
    other = np.roll(c, 1, axis=0)
    z = torch.randn(40, 2)
    sees = {
        "prior": lambda c: vae.prior_of(vae.encode_condition(40, c)).log_prob(z),
        "likelihood": lambda c: vae.decode(z, c).log_prob(torch.as_tensor(X)),
        "guide": lambda c: vae.encode(X, c).log_prob(z),
    }
    for part, density in sees.items():
        same = torch.allclose(density(c), density(other))
        assert same == (part not in seen_by), part


@pytest.mark.parametrize("seen_by", SUBSETS, ids="-".join)
def test_everything_goes_on_working(seen_by, tmp_path):
    vae = conditional(condition={"seen_by": list(seen_by)})
    pv.fit(vae, X, LABELS, validation=(X[:9], LABELS[:9]), epochs=2, progress=False)
    for loss in ("iwae", "dreg", "wake_sleep", "mean_field"):
        pv.fit(vae, X, LABELS, loss=loss, epochs=1, progress=False)
    evidence = pv.log_evidence(vae, X, LABELS, num_samples=20)
    assert vae.sample(40, LABELS).shape == (40, 3)
    assert vae.reconstruct(X, LABELS).shape == (40, 3)
    holes = X.astype(float)
    holes[::5, 1] = np.nan
    assert vae.impute(holes, LABELS, num_samples=10).isfinite().all()
    assert vae.refine(X[:5], LABELS[:5], steps=3).batch_shape == (5,)
    pv.save(vae, tmp_path / "model.safetensors")
    again = pv.load(tmp_path / "model.safetensors")
    assert pv.describe(again) == pv.describe(vae)
    assert evidence.log_evidence.notnull().all()
    after = [pv.log_evidence(model, X, LABELS, num_samples=20) for model in (vae, again)]
    assert after[0].equals(after[1])


def test_discrete_latents_given_c():
    vae = conditional(prior="one_hot", condition={"seen_by": ["prior", "likelihood", "guide"]})
    pv.fit(vae, X, LABELS, epochs=2, progress=False)
    assert (pv.log_evidence(vae, X, LABELS).se == 0).all()


def test_a_numeric_c_is_standardised_wherever_it_is_seen():
    years = NUMBERS * 100 + 1900
    vae = conditional(years, condition={"seen_by": ["prior", "likelihood", "guide"]})
    for part, start in ((vae.prior, 0), (vae.likelihood, 2)):
        np.testing.assert_allclose(part.network.mean[start:], years.mean(0))
        np.testing.assert_allclose(part.network.sd[start:], years.std(0))
    np.testing.assert_allclose(vae.likelihood.network.mean[:2], 0)
    seen = np.log1p(np.hstack([X, years]))  # as the guide of counts sees them
    np.testing.assert_allclose(vae.posterior.network.mean, seen.mean(0))
    np.testing.assert_allclose(vae.posterior.network.sd, seen.std(0))
    assert pv.fit(vae, X, years, epochs=3, progress=False).loss.iloc[-1] < 100


def test_images_get_constant_channels():
    images = np.random.default_rng(0).poisson(4.0, (12, 1, 4, 4))
    vae = pv.build(
        images,
        c=np.arange(12) % 3,
        latent=2,
        likelihood={"name": "poisson", "network": {"name": "conv_decoder", "channels": [4]}},
        guide={"name": "normal", "network": {"name": "conv_encoder", "channels": [4]}},
    )
    assert vae.posterior.network.in_shape == (4, 4, 4)
    pv.fit(vae, images, np.arange(12) % 3, epochs=1, progress=False)


def test_evidence_and_posterior_of_an_exact_conditional_model():
    """x = z + c + noise: log p(x | c) is normal around c with variance 1 + 0.5^2."""
    c = np.linspace(-3, 3, 50)[:, None]
    x = c + np.random.default_rng(0).normal(size=(50, 1)) * 1.25**0.5
    decoder = pv.MLP(2, 1, hidden=())
    decoder.layers[0].weight.data, decoder.layers[0].bias.data = torch.ones(1, 2), torch.zeros(1)
    vae = pv.VAE(
        pv.Normal((1,), loc=0.0, scale=1.0),
        pv.Amortised(decoder, pv.Normal((1,), scale=0.5)),
        pv.Amortised(pv.MLP(2, 2, hidden=()), pv.Normal((1,))),
        condition=pv.Condition(size=1),
    )
    for parameter in vae.likelihood.parameters():
        parameter.requires_grad_(False)
    pv.fit(vae, x, c, epochs=300, learning_rate=0.03, progress=False)
    evidence = pv.log_evidence(vae, x, c, num_samples=2000)
    exact = stats.norm(c, 1.25**0.5).logpdf(x)[:, 0]
    assert (np.abs(evidence.log_evidence - exact) < 5 * evidence.se + 1e-6).all()
    torch.testing.assert_close(
        vae.encode(x, c).mean, torch.as_tensor(0.8 * (x - c)), atol=0.1, rtol=0
    )


def test_a_pair_of_functions_takes_c_too():
    vae = conditional()
    pair = (lambda x, c: vae.model(x, c), lambda x, c: vae.guide(x, c))
    first = pv.log_evidence(vae, X, LABELS, num_samples=20)
    np.testing.assert_allclose(
        pv.log_evidence(pair, X.astype(float), LABELS, num_samples=20).log_evidence,
        first.log_evidence,
    )


def test_what_c_suggests():
    assert pv.Condition.of(LABELS).describe() == {
        "categories": 3,
        "seen_by": ["likelihood", "guide"],
    }
    assert pv.Condition.of(NUMBERS).describe() == {"size": 2, "seen_by": ["likelihood", "guide"]}
    assert pv.Condition.of(LABELS + 0.5).describe()["size"] == 1


@pytest.mark.parametrize(
    "c", [LABELS, LABELS[:, None], pd.Series(LABELS), pd.DataFrame({"label": LABELS})]
)
def test_one_column_of_whole_numbers_is_classes(c):
    """However it comes."""
    assert conditional(c).condition.describe()["categories"] == 3


def test_columns_of_0_and_1_are_numbers():
    assert pv.Condition.of(np.eye(3)[LABELS]).describe()["size"] == 3


@pytest.mark.parametrize(
    ("c", "message"),
    [
        (np.full(40, 1990), "whole numbers up to 1990, of which 1 occur; number classes from 0"),
        (np.stack([LABELS, LABELS], 1), "has 2 columns of whole numbers, which may be numbers or"),
        (
            TensorDataset(torch.as_tensor(X), torch.as_tensor(LABELS)),
            "got a data set of pairs, whose first parts are x; give the second",
        ),
    ],
)
def test_what_may_be_numbers_or_classes_is_refused(c, message):
    with pytest.raises(pv.DataError, match=message):
        conditional(c)


def test_whole_numbers_may_be_declared_numbers():
    vae = pv.build(X, c=2020 + LABELS, latent=2, condition={"size": 1}, hidden=[8])
    assert vae.condition.describe()["size"] == 1
    assert vae.condition.width == 1


EVERYWHERE = {"seen_by": ["prior", "likelihood", "guide"]}
ERRORS = {
    "no c": (lambda vae: vae.encode(X), "this VAE is conditional: give c, a row for each datum"),
    "model without c": (
        lambda vae: vae.model(torch.as_tensor(X)),
        "this VAE is conditional: give c",
    ),
    "fit without c": (lambda vae: pv.fit(vae, X), "this VAE is conditional: give c"),
    "length": (
        lambda vae: vae.encode(X, LABELS[:5]),
        "c must have shape (40,), a row for each datum; got (5,)",
    ),
    "class": (
        lambda vae: vae.encode(X, LABELS + 1),
        "c needs classes from 0 to 2; got 3.0 at row 2",
    ),
    "fraction": (
        lambda vae: vae.encode(X, LABELS / 2),
        "c needs classes from 0 to 2; got 0.5 at row 1",
    ),
    "NaN": (lambda vae: vae.encode(X, LABELS * np.nan), "c needs finite numbers; got nan at row 0"),
    "a tensor of no classes": (
        lambda vae: vae.sample(3, torch.tensor([0.9, 1.9, 0.0])),
        "c needs classes from 0 to 2;",
    ),
    "a tensor of one-hot rows": (
        lambda vae: vae.sample(3, torch.eye(3)),
        "c must have shape (3,), a row for each dat",
    ),
    "a tensor of unknown classes": (
        lambda vae: vae.decode(torch.zeros(3, 2), torch.tensor([5, 0, 1])),
        "c needs cla",
    ),
    "validation": (
        lambda vae: pv.fit(vae, X, LABELS, validation=X),
        "validation data: a conditional VAE needs a pair",
    ),
    "unconditional": (
        lambda _: pv.build(X).encode(X, LABELS),
        "this VAE has no condition, so it takes no c",
    ),
    "vamp": (
        lambda _: conditional(prior="vamp"),
        "VAE: Vamp(2,) is an average of the guide, so neither can see c; use",
    ),
    "vamp sees c": (
        lambda _: conditional(prior="vamp", condition={"seen_by": ["prior", "likelihood"]}),
        "prior: vamp reads the guide and cannot see c; leave 'prior' out of the condition's "
        "seen_by",
    ),
    "a prior that reads nothing": (
        lambda _: conditional(
            prior={"name": "normal", "loc": 0.0, "scale": 1.0}, condition=EVERYWHERE
        ),
        "prior: normal reads nothing here, so it cannot see c; leave a parameter out, or leave "
        "'prior' out of the",
    ),
    "a hierarchy": (
        lambda _: conditional(prior={"name": "hierarchy", "layers": [1, 1]}, condition=EVERYWHERE),
        "VAE: Hierarchy(2,) as a prior is drawn from its top layer and reads nothing, so it cannot "
        "see c;",
    ),
    "seen by what": (
        lambda _: pv.Condition(size=2, seen_by=[["prior"]]),
        "Condition needs seen_by as a list of some",
    ),
    "size": (lambda _: pv.Condition(size=0), "size must be a whole number from 1; got 0"),
    "a table": (lambda _: conditional(condition="size"), "condition: must be a table such as"),
    "both": (
        lambda _: pv.Condition(size=2, categories=3),
        "Condition needs size= for numbers, or categories= for cla",
    ),
    "parts": (
        lambda _: pv.Condition(size=2, seen_by="guide"),
        "Condition needs seen_by as a list of some of prior",
    ),
}


@pytest.mark.parametrize("case", ERRORS)
def test_errors(case):
    call, message = ERRORS[case]
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        call(conditional())
    assert message in str(caught.value)
