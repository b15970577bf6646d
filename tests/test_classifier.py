"""Classes that are unknown for some rows: summed over exactly, by whatever loss, as Pyro does."""

import importlib.util
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pyro
import pytest
import torch
from pyro.infer import TraceEnum_ELBO
from scipy import stats
from scipy.special import log_softmax, logsumexp
from torch import distributions as dist
from truth import LinearGaussian, affine
from typer.testing import CliRunner

import pyro_vae as pv
from pyro_vae import cli
from pyro_vae.assembly.classifier import Classifier
from pyro_vae.cli.arguments import read_condition
from pyro_vae.density.direct import Direct
from pyro_vae.evidence.over_classes import OverClasses
from pyro_vae.guards import seeded
from pyro_vae.training.losses import objective

PLAIN = LinearGaussian.with_diagonal_posterior(4, 2)
MEANS = np.random.default_rng(5).normal(size=(3, 4))  # of the classes, beside those of PLAIN
LOG_PRIOR = np.log([0.2, 0.5, 0.3])
WEIGHT = 7.0
NAMES = ["elbo", "mean_field", "iwae", "renyi"]
OPTIONS = {"epochs": 2, "batch_size": 8, "progress": False}


def draw(num, classes=3, seed=0):
    rng = np.random.default_rng(seed)
    p = np.exp(LOG_PRIOR[:classes]) / np.exp(LOG_PRIOR[:classes]).sum()
    c = rng.choice(classes, size=num, p=p)
    return PLAIN.draw(num, seed=seed + 1) + MEANS[c], c


def log_joint(x, classes=3):
    """log p(x, c) for each class, by scipy."""
    given = [PLAIN.log_evidence(x - MEANS[c]) for c in range(classes)]
    return np.stack(given, 1) + log_softmax(LOG_PRIOR[:classes])


def exact(classes=3, weight=WEIGHT):
    """A VAE whose guide is p(z|x,c), and whose classifier is p(c|x), which is linear in x."""
    _, gain = PLAIN.posterior()
    means = MEANS[:classes].T
    base = PLAIN.vae()
    covariance = PLAIN.weight @ PLAIN.weight.T + np.diag(PLAIN.noise)
    slope = np.linalg.solve(covariance, means)
    full = means + PLAIN.bias[:, None]
    level = log_softmax(LOG_PRIOR[:classes]) - 0.5 * (full * np.linalg.solve(covariance, full)).sum(
        0
    )
    vae = pv.VAE(
        base.prior,
        pv.Amortised(affine(np.hstack([PLAIN.weight, means]), PLAIN.bias), base.likelihood.head),
        pv.Amortised(
            affine(np.hstack([gain, -gain @ means]), -gain @ PLAIN.bias), base.posterior.head
        ),
        condition=pv.Condition(categories=classes),
        classifier=Classifier(
            pv.Amortised(affine(slope.T, level), pv.OneHot((classes,))), weight=weight
        ),
    )
    with torch.no_grad():
        vae.classifier.prior.logits.copy_(torch.as_tensor(LOG_PRIOR[:classes]))
    return vae


def rough(x, c, **parts):
    options = {"latent": 2, "hidden": [6], "classifier": {"name": "one_hot", "weight": WEIGHT}}
    return pv.build(x, c=c, **{**options, **parts})


def batch_of(x, c):
    return torch.as_tensor(x), torch.as_tensor(np.asarray(c, float))


def loss_of(vae, x, c, name="elbo", particles=1, beta=1.0, weights=None):
    elbo = objective(vae, name, particles, 1.0, None)
    batch = batch_of(x, c)
    densities = Direct(vae, batch, missing=bool(batch[0].isnan().any()))
    densities.weights = weights
    return elbo.evaluate(densities, beta)


def summed():
    """Pyro's own sum; it need not warn that there is nothing to sum over."""
    return TraceEnum_ELBO(max_plate_nesting=1, strict_enumeration_warning=False)


def hidden(c, known):
    return np.where(known, c, np.nan)


KNOWN = {
    "none": np.zeros(12, bool),
    "all": np.ones(12, bool),
    "some": np.arange(12) % 3 == 0,
}
each_known = pytest.mark.parametrize("known", KNOWN.values(), ids=KNOWN.keys())


def log_density(x, c, known, classes=3):
    """What the loss is minus of, at its optimum, by scipy."""
    joint = log_joint(x, classes)
    own = joint[np.arange(len(x)), c] + WEIGHT * log_softmax(joint, 1)[np.arange(len(x)), c]
    return np.where(known, own, logsumexp(joint, 1))


@each_known
@pytest.mark.parametrize("classes", [1, 2, 3])
@pytest.mark.parametrize("name", ["elbo", "iwae", "renyi"])
def test_at_the_optimum_the_bound_is_log_p(name, classes, known):
    x, c = draw(12, classes)
    found = loss_of(exact(classes), x, hidden(c, known), name, 3)
    assert float(found.detach()) == pytest.approx(
        -log_density(x, c, known, classes).sum(), rel=1e-9
    )


@each_known
def test_with_an_analytic_kl_it_is_log_p_in_the_mean(known):
    x, c = draw(12)
    each = [
        float(loss_of(exact(), x, hidden(c, known), "mean_field", 100).detach()) for _ in range(50)
    ]
    error = np.std(each, ddof=1) / np.sqrt(50)
    assert abs(np.mean(each) + log_density(x, c, known).sum()) < 4 * error


@each_known
def test_pyro_sums_to_the_same(known):
    x, c = draw(12)
    vae = exact()
    elbo = summed()
    batch = batch_of(x, hidden(c, known))
    with pyro.validation_enabled(True), pyro.get_param_store().scope():
        theirs = elbo.differentiable_loss(vae.model, vae.guide, *batch)
    ours = loss_of(vae, x, hidden(c, known))
    assert float(theirs.detach()) == pytest.approx(float(ours.detach()), rel=1e-9)


@each_known
def test_the_gradient_is_that_of_pyro_and_away_from_the_optimum_too(known, monkeypatch):
    """Without noise: every draw of the guide is its mean."""
    x, c = draw(12)
    x[::4, 1] = np.nan
    vae = rough(x, hidden(c, KNOWN["some"]), prior={"name": "normal", "loc": 0.0, "scale": 1.0})
    without_noise(monkeypatch)
    batch = batch_of(x, hidden(c, known))
    with pyro.get_param_store().scope():
        elbo = summed()
        theirs = elbo.differentiable_loss(vae.model, vae.guide, *batch)
    ours = loss_of(vae, x, hidden(c, known))
    torch.testing.assert_close(ours, theirs)
    for name, parameter in vae.named_parameters():
        both = [
            torch.autograd.grad(loss, parameter, retain_graph=True, allow_unused=True)[0]
            for loss in (ours, theirs)
        ]
        is_classifier = name.startswith("classifier.conditional")
        if both[0] is None or both[1] is None:
            assert is_classifier
            assert all(g is None or not g.any() for g in both)
        else:
            torch.testing.assert_close(*both, msg=name)


def without_noise(monkeypatch):
    """Every draw of a normal is its mean."""

    def zeros(shape, dtype, device):
        return torch.zeros(shape, dtype=dtype, device=device)

    monkeypatch.setattr("torch.distributions.normal._standard_normal", zeros)
    monkeypatch.setattr("torch.randn", zeros)


@pytest.mark.parametrize("known", [KNOWN["none"], KNOWN["some"]], ids=["none", "some"])
def test_the_gradient_is_that_of_the_sum_by_hand(known):
    """The noise of a seed, for each class of each row in turn."""
    x, c = draw(12)
    vae = rough(x, hidden(c, KNOWN["some"]), prior={"name": "normal", "loc": 0.0, "scale": 1.0})
    with seeded(3):
        ours = loss_of(vae, x, hidden(c, known), beta=0.5)
    log_q = vae.classifier.conditional.network(torch.as_tensor(x)).log_softmax(-1)
    log_p = vae.classifier.prior.logits.log_softmax(-1)
    places = [
        (row, each) for row in range(12) for each in ([int(c[row])] if known[row] else range(3))
    ]
    total = 0.0
    with seeded(3):
        noise = torch.randn(len(places), 2)
    for (row, each), eps in zip(places, noise, strict=True):
        datum, one_hot = torch.as_tensor(x[row]), torch.eye(3)[each]
        q = normal(vae.posterior, torch.cat([datum, one_hot]))
        z = q.mean + q.stddev * eps
        log_x = normal(vae.likelihood, torch.cat([z, one_hot])).log_prob(datum).sum()
        kl = (q.log_prob(z) - dist.Normal(0.0, 1.0).log_prob(z)).sum()
        bound = log_x - 0.5 * kl + log_p[each]
        if known[row]:
            total = total - bound - WEIGHT * log_q[row, each]
        else:
            total = total - log_q[row, each].exp() * (bound - log_q[row, each])
    torch.testing.assert_close(ours, total)
    parameters = list(vae.parameters())
    pairs = (torch.autograd.grad(loss, parameters) for loss in (ours, total))
    for mine, theirs in zip(*pairs, strict=True):
        torch.testing.assert_close(mine, theirs)


def normal(part, context):
    built = part(context)
    return dist.Normal(built.mean, built.variance.sqrt())


def hand_made():
    path = Path(__file__).parents[1] / "examples" / "08_semi_supervised.py"
    spec = importlib.util.spec_from_file_location("semi_supervised", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("known", [True, False])
def test_the_loss_is_that_of_the_hand_made_functions(known, monkeypatch):
    example = hand_made()
    digits = torch.as_tensor(np.random.default_rng(0).integers(0, 17, (20, 64)).astype(float))
    classes = np.arange(20) % 10
    vae = pv.build(
        digits,
        c=classes,
        latent=8,
        prior={"name": "normal", "loc": 0.0, "scale": 1.0},
        likelihood={"name": "beta_binomial", "total_count": 16.0},
        guide={"name": "normal", "network": {"name": "mlp", "log1p": False}},
        classifier={"name": "one_hot", "weight": example.WEIGHT},
        hidden=[200],
    )
    m2 = torch.nn.ModuleDict(
        {
            "q(y|x)": vae.classifier.conditional,
            "q(z|x,y)": vae.posterior,
            "p(x|y,z)": vae.likelihood,
            "p(y)": vae.classifier.prior,
            "p(z)": vae.prior,
        }
    )
    without_noise(monkeypatch)
    given = torch.nn.functional.one_hot(torch.as_tensor(classes), 10).double() if known else None
    elbo = summed()
    theirs = elbo.differentiable_loss(example.model, example.guide, m2, digits, given)
    ours = loss_of(vae, digits, classes if known else np.full(20, np.nan))
    torch.testing.assert_close(ours, theirs)


def test_where_all_classes_are_known_it_is_the_conditional_vae_and_the_terms_of_c():
    x, c = draw(12)
    vae = rough(x, c)
    plain = pv.VAE(vae.prior, vae.likelihood, vae.posterior, condition=vae.condition)
    with seeded(0):
        found = loss_of(vae, x, c)
    with seeded(0):
        expected = loss_of(plain, x, c)
    log_q = vae.classify(x).logits[torch.arange(12), torch.as_tensor(c)]
    expected = expected - (WEIGHT * log_q).sum() - 12 * np.log(1 / 3)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("name", ["elbo", "iwae", "renyi"])
def test_weights_count(name):
    x, c = draw(12)
    known, weights = KNOWN["some"], np.random.default_rng(1).gamma(1.0, size=12)
    found = loss_of(exact(), x, hidden(c, known), name, 3, weights=torch.as_tensor(weights))
    expected = -(weights * log_density(x, c, known)).sum()
    assert float(found.detach()) == pytest.approx(expected, rel=1e-9)


# Through the door, fit and files

X, C = draw(60)
SOME = hidden(C, np.arange(60) % 4 == 0)


def history(vae, x=X, c=SOME, **options):
    return pv.fit(vae, x, c, **{**OPTIONS, **options}).loss.to_numpy()


@pytest.mark.parametrize("name", NAMES)
def test_fit_minimises_it(name):
    vae = exact()
    loss = history(vae, loss=name, epochs=1, learning_rate=0.0)
    expected = -log_density(X, C, ~np.isnan(SOME)).mean()
    assert loss[0] == pytest.approx(expected, abs=0.5 if name == "mean_field" else 1e-9)
    assert np.isfinite(history(rough(X, SOME), loss=name)).all()


@pytest.mark.parametrize("name", NAMES)
def test_a_loop_of_ones_own_has_the_same_loss(name):
    vae = exact()
    loss = pv.Loss(vae, name, particles=50)
    found = float(loss(*batch_of(X, SOME)).detach())
    expected = -log_density(X, C, ~np.isnan(SOME)).mean()
    assert found == pytest.approx(expected, abs=0.2 if name == "mean_field" else 1e-9)


def test_labels_missing_in_any_way_are_the_same():
    names = np.array(["a", "b", "c"])[C].astype(object)
    unknown = np.isnan(SOME)
    forms = {
        "None": np.where(unknown, None, names),
        "list": np.where(unknown, None, names).tolist(),
        "series": pd.Series(np.where(unknown, None, names), name="kind"),
        "categories": pd.Series(np.where(unknown, None, names)).astype("category"),
    }
    expected = history(rough(X, SOME))
    for form, c in forms.items():
        vae = rough(X, c)
        assert vae.condition.labels == [["a", "b", "c"]], form
        np.testing.assert_array_equal(history(vae, c=c), expected, err_msg=form)
    nullable = pd.Series(SOME).astype("Int64")
    np.testing.assert_array_equal(history(rough(X, nullable), c=nullable), expected)


def test_single_precision():
    vae = exact().float()
    loss = history(vae, epochs=1, learning_rate=0.0)
    assert loss[0] == pytest.approx(-log_density(X, C, ~np.isnan(SOME)).mean(), rel=1e-5)


def test_missing_cells_beside_missing_labels():
    holes = X.copy()
    holes[::3, 0] = np.nan
    vae = rough(holes, SOME)
    assert np.isfinite(history(vae, holes)).all()
    assert vae.classify(holes).probs.isfinite().all()


def test_weights_validation_and_a_step_that_is_asked_to_be_compiled():
    vae = rough(X, SOME)
    found = pv.fit(vae, X, SOME, weights=np.ones(60), validation=(X[:20], SOME[:20]), **OPTIONS)
    np.testing.assert_array_equal(found.loss, history(rough(X, SOME)))
    assert found.validation.notna().all()
    assert found.kl.notna().all()
    with pytest.warns(UserWarning, match="sum over unknown classes has differs from step to step"):
        loss = history(rough(X, SOME), compile=True)
    np.testing.assert_array_equal(loss, found.loss)


def test_a_run_goes_on_from_a_checkpoint_and_no_other(tmp_path):
    whole = history(rough(X, SOME), epochs=4)
    options = {"checkpoint": tmp_path, "resume": True}
    history(rough(X, SOME), **options)
    found = history(rough(X, SOME), epochs=4, **options)
    np.testing.assert_array_equal(found, whole)
    other = rough(X, SOME, classifier={"name": "one_hot", "weight": 1.0})
    with pytest.raises(ValueError, match="is of a run with classifier"):
        history(other, epochs=5, **options)
    with pytest.raises(ValueError, match="is of a run with loss"):
        history(rough(X, SOME), epochs=5, loss="iwae", **options)


def test_specs_and_files_carry_it(tmp_path):
    vae = rough(X, SOME)
    history(vae)
    spec = pv.describe(vae)
    assert spec["classifier"]["weight"] == WEIGHT
    assert pv.describe(pv.build(spec)) == spec
    pv.save(vae, tmp_path / "m.safetensors")
    again = pv.load(tmp_path / "m.safetensors")
    torch.testing.assert_close(again.classify(X).probs, vae.classify(X).probs, rtol=0, atol=0)
    assert pv.describe(again) == spec


def test_discrete_latents_are_summed_over_beside_it():
    """z is one of two, so log p(x) is a sum over z and c; pyro_vae's own evidence sums over z."""
    vae = rough(X, SOME, prior="one_hot")
    assert np.isfinite(history(vae)).all()
    each = [pv.log_evidence(vae, X, np.full(60, k)).log_evidence.to_numpy() for k in range(3)]
    log_prior = vae.classifier.prior.logits.log_softmax(-1).numpy(force=True)
    exact = logsumexp(np.stack(each, 1) + log_prior, 1)
    with pyro.get_param_store().scope():
        bound = -summed().loss(vae.model, vae.guide, *batch_of(X, np.full(60, np.nan)))
    assert bound < exact.sum()


REFUSED = {
    "free_bits": ({"free_bits": 0.1}, "got FreeBits"),
    "wake_sleep": ({"loss": "wake_sleep"}, "got ReweightedWakeSleep"),
    "dreg": ({"loss": "dreg"}, "got ImportanceWeighted"),
    "mcem": ({"loss": "mcem"}, "got MonteCarloEM"),
    "Pyro's": ({"loss": pyro.infer.Trace_ELBO()}, "got Trace_ELBO"),
}


@pytest.mark.parametrize(("options", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_losses_that_are_no_such_sum_are_refused(options, message):
    vae = rough(X, SOME)
    before = {name: value.clone() for name, value in vae.state_dict().items()}
    with pytest.raises(ValueError, match=f"weighs each by .* {message}; use one of these"):
        pv.fit(vae, X, SOME, **{**OPTIONS, **options})
    assert all(torch.equal(value, before[name]) for name, value in vae.state_dict().items())


def test_handlers_around_it_are_refused():
    with (
        pyro.poutine.scale(scale=2.0),
        pytest.raises(ValueError, match="needs the VAE's own densities"),
    ):
        history(rough(X, SOME))


ELSEWHERE = {
    "encode": lambda vae: vae.encode(X, SOME),
    "sample": lambda vae: vae.sample(60, SOME),
    "impute": lambda vae: vae.impute(X, SOME),
    "posterior": lambda vae: pv.sample_posterior(vae, X, SOME),
    "gaps": lambda vae: pv.gaps(vae, X, SOME),
    "expect": lambda vae: pv.expect(vae, X, lambda z, x: z, SOME),
}


@pytest.mark.parametrize("ask", ELSEWHERE.values(), ids=ELSEWHERE.keys())
def test_elsewhere_unknown_classes_are_refused(ask):
    with pytest.raises(pv.DataError, match=r"got nan at row 1.*vae.classify\(x\) fills them in"):
        ask(rough(X, SOME))


def test_without_a_classifier_they_are_refused():
    message = r"c needs finite numbers; got nan at row 1.*built with classifier='one_hot'"
    vae = pv.build(X, c=C, latent=2, hidden=[6])
    with pytest.raises(pv.DataError, match=message):
        history(vae)
    with pytest.raises(ValueError, match="this VAE has none; build"):
        vae.classify(X)
    labels = np.where(np.isnan(SOME), None, "a")
    with pytest.raises(pv.DataError, match=message):
        pv.build(X, c=labels, latent=2, hidden=[6])


def test_what_makes_no_sense_is_refused():
    for options, message in (
        ({"c": np.random.default_rng(0).normal(size=60)}, "classifier: needs c as one column"),
        ({"c": np.full(60, np.nan)}, "c needs a class in some rows"),
        ({"c": SOME, "classifier": "normal"}, "classifier: Classifier needs q"),
        ({"c": SOME, "classifier": {"name": "one_hot", "weight": -1}}, "weight must be a number"),
        ({"classifier": "one_hot"}, "classifier: needs c as one column of classes"),
    ):
        with pytest.raises(ValueError, match=message):
            pv.build(X, **{"latent": 2, "hidden": [6], "classifier": "one_hot", **options})
    vae = exact()
    parts = vae.prior, vae.likelihood, vae.posterior
    with pytest.raises(ValueError, match="a classifier needs c as one column of classes"):
        pv.VAE(*parts, classifier=vae.classifier)
    with pytest.raises(ValueError, match="must be over the 3 classes"):
        pv.VAE(*parts, condition=vae.condition, classifier=exact(2).classifier)
    with pytest.raises(TypeError, match="needs classifier as a Classifier"):
        pv.VAE(*parts, condition=vae.condition, classifier=vae.posterior)


def test_classify_is_bayes_rule_with_gradients_and_without():
    vae = exact()
    expected = np.exp(log_softmax(log_joint(X), 1))
    np.testing.assert_allclose(vae.classify(X).probs.numpy(force=True), expected, rtol=1e-9)
    assert vae.classify(X).logits.requires_grad
    with torch.no_grad():
        np.testing.assert_allclose(vae.classify(X).probs, expected, rtol=1e-9)
    filled = vae.classify(X).probs.argmax(-1)
    assert vae.encode(X, filled).batch_shape == (60,)


@pytest.mark.parametrize("tolerance", [None, 0.1])
def test_evidence_is_summed_over_unknown_classes(tolerance):
    vae = exact()
    with torch.no_grad():
        vae.posterior.network.layers[0].bias += 0.05  # a guide that is a little off
    found = pv.log_evidence(vae, X, SOME, num_samples=400, tolerance=tolerance, progress=False)
    joint = log_joint(X)
    own = (joint - LOG_PRIOR)[np.arange(60), C]
    expected = np.where(np.isnan(SOME), logsumexp(joint, 1), own)
    assert (np.abs(found.log_evidence - expected) < 4 * found.se).all()
    assert (found.se < 0.1).all()
    assert (found.flag == "").all()
    assert found.attrs["num_data"] == 60
    known = pv.log_evidence(vae, X, C, num_samples=400, tolerance=tolerance, progress=False)
    assert set(known.attrs) - set(found.attrs) <= {"seconds_search", "draws_search"}
    with pytest.raises(ValueError, match="more adds draws to a result of known classes"):
        pv.log_evidence(vae, X, SOME, more=known)


def without_its_classifier(vae):
    return pv.VAE(vae.prior, vae.likelihood, vae.posterior, condition=vae.condition)


def test_given_classes_every_estimate_is_that_of_the_conditional_vae():
    """What reads Pyro's traces, as gaps do and what has a handler around, sees c as given too."""
    vae = exact()
    with torch.no_grad():
        vae.posterior.network.layers[0].bias += 0.02
    plain = without_its_classifier(vae)
    options = {"num_samples": 200, "progress": False}
    for around in (pyro.poutine.scale(scale=1.0), pyro.poutine.mask(mask=True)):
        with around:
            traced = [pv.log_evidence(model, X, C, **options) for model in (vae, plain)]
        np.testing.assert_array_equal(traced[0].log_evidence, traced[1].log_evidence)
        assert traced[0].measure == traced[1].measure
    direct = [pv.log_evidence(model, X, C, **options) for model in (vae, plain)]
    np.testing.assert_array_equal(direct[0].log_evidence, direct[1].log_evidence)
    gaps = [
        pv.gaps(model, X[:8], C[:8], steps=20, num_samples=100, progress=False)
        for model in (vae, plain)
    ]
    for name in gaps[0]:
        np.testing.assert_array_equal(gaps[0][name], gaps[1][name], err_msg=str(name))


def test_given_classes_what_draws_data_is_that_of_the_conditional_vae():
    vae = exact()
    plain = without_its_classifier(vae)
    tables = [
        pv.check_predictions(model, X, C, num_samples=20, progress=False) for model in (vae, plain)
    ]
    assert tables[0].equals(tables[1])
    odd = [
        pv.outliers(model, X[:20], C[:20], num_samples=20, num_draws=99, progress=False, fdr=0.5)
        for model in (vae, plain)
    ]
    assert odd[0].equals(odd[1])
    trees = [pv.to_datatree(model, X[:5], C[:5], num_samples=30) for model in (vae, plain)]
    for one, other in zip(*(tree.posterior_predictive["x"] for tree in trees), strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_guide_of_an_unknown_class_is_nan():
    vae = exact()
    x = torch.as_tensor(X[:4])
    c = vae.encode_condition(4, torch.tensor([0.0, torch.nan, 1.0, torch.nan]))
    read = vae.guide_input(x, c)
    assert read.isnan().all(-1).tolist() == [False, True, False, True]


def test_a_classifier_reads_x():
    with pytest.raises(TypeError, match="OneHot behind a network"):
        pv.Classifier(pv.OneHot((2,), logits="learned"))
    part = {"name": "one_hot", "logits": "learned"}
    with pytest.raises(ValueError, match="OneHot behind a network"):
        pv.build(X, c=C, latent=1, classifier=part)


def test_a_flag_counts_where_its_class_matters():
    """The figures of two rows, the first of unknown class among two."""
    vae = exact(2)
    over = OverClasses.of(vae, X[:2], [np.nan, 0.0])
    assert over.place.tolist() == [0, 0, 1]
    one = pv.log_evidence(vae, X[[0, 0, 1]], [0, 1, 0], num_samples=100, progress=False)
    for low, expected in ((1, ["heavy tail", ""]), (0, ["", ""])):
        found = one.copy(deep=True)
        found["log_evidence"][:] = [0.0, 0.0, 0.0]
        found["log_evidence"][low] = -50.0
        found.flag.values[:] = ["heavy tail", "", ""]
        assert over.summed(found).flag.values.tolist() == expected


def test_a_command_fits_it(tmp_path):
    np.save(tmp_path / "x.npy", X)
    np.save(tmp_path / "c.npy", SOME)
    given = ["--condition", tmp_path / "c.npy", "--classifier", "one_hot", "--latent", "1"]
    quick = [
        "--hidden",
        "4",
        "--epochs",
        "1",
        "--validation",
        "0",
        "-o",
        tmp_path / "m.safetensors",
    ]
    arguments = ["fit", tmp_path / "x.npy", *given, *quick]
    result = CliRunner().invoke(cli.app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    assert pv.load(tmp_path / "m.safetensors").classify(X).probs.shape == (60, 3)


def test_images_have_classes_too():
    images = np.random.default_rng(0).poisson(4.0, (24, 1, 4, 4))
    c = torch.as_tensor(SOME[:24, None])
    encoder = {"name": "conv_encoder", "channels": [4]}
    vae = pv.build(
        images,
        c=c,
        latent=2,
        likelihood={"name": "poisson", "network": {"name": "conv_decoder", "channels": [4]}},
        guide={"name": "normal", "network": encoder},
        classifier={"name": "one_hot", "network": encoder},
    )
    assert np.isfinite(history(vae, images, c)).all()


def test_ten_labels_reach_bayes_accuracy():
    """Two classes of normals, 400 rows, by a network that could do much worse on ten labels."""
    rng = np.random.default_rng(0)
    c = rng.integers(0, 2, 1400)
    x = rng.normal(size=(1400, 4)) + 4 * c[:, None] * np.array([1.0, 0, 0, 0])
    train, test = slice(400), slice(400, None)
    given = hidden(c[train], np.arange(400) < 10)
    classifier = {"name": "one_hot", "weight": 10.0}
    vae = pv.build(x[train], c=given, latent=1, hidden=[16], classifier=classifier)
    options = {"epochs": 40, "batch_size": 50, "learning_rate": 1e-2, "progress": False}
    with pytest.warns(UserWarning, match="posterior collapse"):  # all that varies is the class
        pv.fit(vae, x[train], given, **options)
    right = vae.classify(x[test]).probs.argmax(-1).numpy() == c[test]
    bayes = stats.norm.cdf(2.0)
    assert right.mean() > bayes - 2 * np.sqrt(bayes * (1 - bayes) / 1000)


def test_its_network_knows_where_the_data_lie():
    network = rough(1000 + 5 * X, SOME).classifier.conditional.network
    np.testing.assert_allclose(network.mean, (1000 + 5 * X).mean(0))
    np.testing.assert_allclose(network.sd, 5 * X.std(0))


@pytest.mark.parametrize("kind", ["list", "objects", "series"])
def test_a_batch_of_which_no_class_is_known(kind):
    names = np.array(["a", "b", None], dtype=object)[np.resize([0, 1, 2], len(X))]
    vae = pv.build(X, c=names, latent=1, classifier="one_hot", hidden=[4])
    none = np.full(5, None, dtype=object)
    c = {"list": none.tolist(), "objects": none, "series": pd.Series(none)}[kind]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of a guide that is not trained
        found = [
            pv.log_evidence(vae, X[:5], each, num_samples=200) for each in (c, np.full(5, np.nan))
        ]
    np.testing.assert_array_equal(found[0].log_evidence, found[1].log_evidence)


def test_a_file_of_labels_may_be_mostly_empty(tmp_path):
    names = np.where(np.arange(60) < 12, np.resize(["a", "b"], 60), "")
    path = tmp_path / "kind.csv"
    path.write_text("kind\n" + "\n".join(f'"{name}"' for name in names) + "\n")
    c = read_condition(str(path))
    vae = pv.build(X[:60], c=c, latent=1, classifier="one_hot", hidden=[4])
    assert vae.condition.labels[0] == ["a", "b"]
