"""Tests of the tests: each mistake that somebody could make in an objective or a density is noticed
by the checks of truth that the suite has.
"""

import __future__

import inspect
import textwrap
import types

import pytest
import test_bounds
import test_direct
import test_discrete_latents
import test_losses
import test_missing
import test_objectives
import test_training
import test_weighing

from pyro_vae.density import direct, terms
from pyro_vae.distributions.univariate import Normal
from pyro_vae.evidence import importance
from pyro_vae.training import free_bits, importance_weighted, objectives

BOUND, GRADIENTS = test_objectives.TestBound(), test_objectives.TestGradients()
BITS, BETA = test_objectives.TestFreeBits(), test_training.TestBeta()

pytestmark = pytest.mark.uses_store  # some of the checks do

CHECKS = {
    "beta in elbo": BETA.test_beta_is_the_same_for_sampled_kl,
    "beta in mean_field": BETA.test_beta_weighs_the_kl_term,
    "the exact posterior": lambda: (
        test_bounds.test_with_the_exact_posterior_every_weight_is_the_evidence(3)
    ),
    "Trace_ELBO": lambda: test_bounds.test_elbo_equals_trace_elbo(7),
    "RenyiELBO": test_bounds.test_iwae_equals_renyi_elbo,
    "gradients of Trace_ELBO": test_bounds.test_gradients_equal_those_of_trace_elbo,
    "the effective sample size": test_bounds.test_ess_is_between_one_and_k,
    "importance-weighted RenyiELBO": BOUND.test_it_equals_renyi_elbo_in_value_and_gradient,
    "groups": BOUND.test_groups_are_averaged,
    "masks": BOUND.test_masks_count_and_scales_do_not,
    "model gradient": lambda: GRADIENTS.test_the_model_gets_the_gradient_of_the_bound(3),
    "stl": lambda: GRADIENTS.test_stl_equals_a_guide_with_frozen_parameters(test_objectives.gamma),
    "dreg": lambda: GRADIENTS.test_dreg_is_what_its_formula_says(test_objectives.gamma),
    "piwae": GRADIENTS.test_piwae_is_each_of_two_bounds,
    "charge": lambda: BITS.test_only_what_exceeds_the_free_bits_is_charged(1.1, (0.0, 1.0)),
    "no free bits": BITS.test_without_free_bits_it_is_the_elbo,
    "sampled KL": BITS.test_where_kl_has_no_closed_form_it_is_estimated_per_dimension,
    "traces": lambda: test_direct.test_every_conditional_in_every_role(
        "gamma", "prior", next(iter(test_direct.TOLERANCE))
    ),
    "given latents": lambda: test_direct.test_given_latents_and_draws_of_the_prior("gamma"),
    "missing cells": lambda: test_direct.test_with_missing_cells("normal"),
    "a row without cells": test_missing.test_a_row_without_any_cell_has_evidence_zero,
    **{
        f"weights in {name}": lambda name=name: (
            test_weighing.test_a_loss_is_the_weighed_sum_of_those_of_each_datum(name, "gamma")
        )
        for name in test_weighing.NAMES
    },
    **{
        f"{name} by traces": lambda name=name: (
            test_losses.test_value_and_gradient_equal_those_by_traces(name, "gamma", 3)
        )
        for name in test_losses.BY_TRACES
    },
    "analytic KL": lambda: test_losses.test_value_and_gradient_equal_those_by_traces(
        "mean_field", "normal", 3
    ),
    "a guide without densities of noise": lambda: test_direct.test_every_conditional_in_every_role(
        "laplace", "guide", next(iter(test_direct.TOLERANCE))
    ),
    "weights of an analytic KL": lambda: (
        test_weighing.test_a_loss_is_the_weighed_sum_of_those_of_each_datum("mean_field", "normal")
    ),
    "brute force": lambda: test_discrete_latents.test_evidence_equals_brute_force("one_hot", 1),
}

ELBO, MEAN_FIELD = objectives.Elbo.evaluate, objectives.MeanField.evaluate
RENYI, KL = objectives.Renyi.evaluate, objectives._analytic_kl
WEIGHTED, ONE_BY_ONE = importance_weighted.ImportanceWeighted, free_bits.FreeBits
MUTANTS = {
    "elbo: sign of the KL": (ELBO, "log_guide - terms.log_prior", "log_prior - terms.log_guide"),
    "elbo: no KL": (ELBO, "terms.log_likelihood - kl", "terms.log_likelihood"),
    "elbo: no prior": (ELBO, "terms.log_guide - terms.log_prior", "terms.log_guide"),
    "elbo: no guide": (ELBO, "terms.log_guide - terms.log_prior", "-terms.log_prior"),
    "elbo: beta squared": (ELBO, "beta *", "beta**2 *"),
    "elbo: no beta": (ELBO, "beta *", "1.0 *"),
    "elbo: beta on all": (ELBO, "terms.log_likelihood - kl", "beta * terms.log_likelihood - kl"),
    "elbo: mean over data": (ELBO, ".sum()", ".mean()"),
    "elbo: sum over particles": (ELBO, "-1 / self.num_particles", "-1"),
    "elbo: sign": (ELBO, "(-1 /", "(1 /"),
    "elbo: likelihood twice": (ELBO, "terms.log_likelihood -", "2 * terms.log_likelihood -"),
    "elbo: no weights": (ELBO, "densities.weighed", ""),
    "mean field: sign of the KL": (MEAN_FIELD, "return beta * kl", "return -beta * kl"),
    "mean field: no KL": (MEAN_FIELD, "return beta * kl", "return 0.0"),
    "mean field: beta squared": (MEAN_FIELD, "return beta * kl", "return beta**2 * kl"),
    "mean field: likelihood summed over particles": (
        MEAN_FIELD,
        "densities.weighed(terms.log_likelihood).sum() / self.num_particles",
        "densities.weighed(terms.log_likelihood).sum()",
    ),
    "mean field: KL the other way": (
        KL,
        "kl_divergence(guide, densities.prior.expand(guide.batch_shape))",
        "kl_divergence(densities.prior.expand(guide.batch_shape), guide)",
    ),
    "mean field: KL without weights": (KL, "densities.weighed(kl)", "kl"),
    "renyi: no log K": (RENYI, "- math.log(self.num_particles)", ""),
    "renyi: log of the sum over data too": (RENYI, "logsumexp(0)", "logsumexp(-1)"),
    "renyi: alpha": (RENYI, "(1 - self.alpha) * densities", "self.alpha * densities"),
    "renyi: not divided": (RENYI, ".sum() / (1 - self.alpha)", ".sum()"),
    "renyi: mean of the logs": (RENYI, "logsumexp(0)", "mean(0)"),
    "terms: sign of the prior": (
        terms.Terms.log_weight.fget,
        "+ self.log_prior",
        "- self.log_prior",
    ),
    "terms: sign of the guide": (
        terms.Terms.log_weight.fget,
        "- self.log_guide",
        "+ self.log_guide",
    ),
    "terms: sum over particles": (terms.elbo, "mean(0)", "sum(0)"),
    "iwae: no log K": (terms.iwae, " - math.log(len(terms.log_weight))", ""),
    "ess: squares": (terms.ess, "(2 * terms.log_weight)", "(terms.log_weight)"),
    "direct: slope added": (direct.Direct.draw, "log_guide - self.bij", "log_guide + self.bij"),
    "direct: no slope": (direct.Direct.draw, " - self.bijection.log_abs_det_jacobian(u, z)", ""),
    "direct: draws detached": (direct._draw, "return u, guide", "return u.detach(), guide"),
    "direct: slope of given latents": (
        direct.Direct.log_guide,
        "u.to(self.x.dtype)) - slope",
        "u.to(self.x.dtype)) + slope",
    ),
    "direct: no mask": (direct.Direct.log_model, "missing=self.missing", "missing=False"),
    "direct: prior twice": (direct.Direct.log_model, "prior.log_prob(z)", "2 * prior.log_prob(z)"),
    "normal: draws detached": (
        Normal.rsample_and_log_prob,
        "self.loc + noise * self.scale,",
        "(self.loc + noise * self.scale).detach(),",
    ),
    "normal: no scale": (Normal._log_density, " - self.scale.log()", ""),
    "weighted: no log K": (importance_weighted._bound, " - math.log(log_weight.shape[1])", ""),
    "weighted: groups summed": (importance_weighted._bound, ".mean(0).sum()", ".sum()"),
    "weighted: mean of the logs": (importance_weighted._bound, "logsumexp(1)", "mean(1)"),
    "weighted: sign": (WEIGHTED._loss, "return -_bound", "return _bound"),
    "weighted: piwae by groups": (
        WEIGHTED._loss,
        '1 if self.gradient == "piwae" else self.groups',
        "self.groups",
    ),
    "weighted: score left in": (
        WEIGHTED._log_densities,
        "log_guide - score + score.detach()",
        "log_guide",
    ),
    "weighted: no prior": (WEIGHTED._log_densities, "log_likelihood + log_prior", "log_likelihood"),
    "dreg: weights not squared": (
        WEIGHTED._doubly_reparameterised,
        "weight.square() * log_guide",
        "weight * log_guide",
    ),
    "dreg: no hook": (WEIGHTED._doubly_reparameterised, "if z.requires_grad", "if False"),
    "piwae: the guide descends": (WEIGHTED.backward, "-scale * _bound", "scale * _bound"),
    "free bits: no charge": (ONE_BY_ONE.evaluate, "beta * charge", "0.0"),
    "free bits: clamp per draw": (
        ONE_BY_ONE._charge,
        "kl.sum(0).clamp(min=free)",
        "kl.clamp(min=self.free_bits)",
    ),
    "free bits: the most": (ONE_BY_ONE._charge, "clamp(min=free)", "clamp(max=free)"),
    "free bits: KL the other way": (
        free_bits.kl_by_part,
        "kl_divergence(q, p)",
        "kl_divergence(p, q)",
    ),
    "exact: no prior": (
        importance._exact,
        "terms.log_likelihood + terms.log_prior",
        "terms.log_prior",
    ),
    "exact: mean": (importance._exact, "logsumexp(0)", "mean(0)"),
    "exact: elbo without the guide": (importance._exact, "(log_joint - log_guide)", "log_joint"),
}


def mutated(function, old, new):
    """The code of a function in which `old` is `new`."""
    source = textwrap.dedent(inspect.getsource(function))
    assert source.count(old) == 1, (function, old, source.count(old))
    flags = __future__.annotations.compiler_flag
    made = {}
    code = compile(source.replace(old, new), f"<{old} -> {new}>", "exec", flags)
    exec(code, dict(function.__globals__), made)
    (found,) = made.values()
    code = getattr(found, "fget", found).__code__
    assert isinstance(code, types.CodeType)
    return code


def killer():
    """The first check that fails; none where all pass."""
    for name, check in CHECKS.items():
        try:
            check()
        except Exception:
            return name
    return None


@pytest.mark.parametrize("name", CHECKS)
def test_without_a_mutant_each_check_passes(name):
    CHECKS[name]()


@pytest.mark.parametrize("name", MUTANTS)
def test_each_mutant_is_noticed(name, monkeypatch):
    function, old, new = MUTANTS[name]
    monkeypatch.setattr(function, "__code__", mutated(function, old, new))
    assert killer() is not None, "no check fails"
