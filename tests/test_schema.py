"""The JSON Schema of a spec: it accepts what build writes, and refuses wrong names."""

import json

import jsonschema
import numpy as np
import pytest
from jsonschema import Draft202012Validator

import pyro_vae as pv
from pyro_vae.cli.catalogue import ROLES, roles, small_spec

VALIDATOR = Draft202012Validator(json.loads(json.dumps(pv.json_schema())))
ROWS = np.random.default_rng(0).poisson(3.0, (50, 4)).astype(float)
BLOCKS = [
    {"columns": ["a", "c"], "name": "normal", "network": "mlp"},
    {"columns": ["b", "d"], "name": "poisson", "links": {"rate": "exp"}},
]
NAMED = {"latent": 2, "event": 4, "columns": ["a", "b", "c", "d"]}
ITEMS = [
    *(("conditional", name) for name in pv.Conditional.registry),
    *(("network", name) for name in pv.Network.registry),
    *(("missingness", name) for name in pv.Missingness.registry),
]


def complaints(spec):
    return [error.message for error in VALIDATOR.iter_errors(spec)]


def test_it_is_a_schema():
    Draft202012Validator.check_schema(VALIDATOR.schema)


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("name", list(pv.Conditional.registry))
def test_what_describe_writes_is_accepted(name, role):
    cls = pv.Conditional.registry[name]
    if role not in roles(cls):
        pytest.skip(f"{name} is no {role}")
    spec = small_spec(cls, role)
    assert complaints(spec) == []
    assert complaints(pv.describe(pv.build(spec, hidden=[4]))) == []


WHOLE = [
    {"latent": 2, "event": [1, 8, 8], "guide": {"name": "normal", "network": "conv_encoder"}},
    {**NAMED, "likelihood": {"name": "columns", "blocks": BLOCKS}, "guide": "product_of_experts"},
    {"latent": 2, "event": 4, "condition": {"categories": 3}, "classifier": "one_hot"},
    {
        "latent": 2,
        "event": 4,
        "condition": {"size": 2, "columns": ["u", "v"], "classes": {"u": ["a", "b"]}},
        "likelihood": {"name": "poisson", "links": {"rate": "exp"}},
    },
    {"latent": 2, "event": 4, "missingness": {"name": "self_masking", "direction": "high"}},
    {"latent": 2, "event": 4, "prior": {"name": "mixture", "component": {"name": "laplace"}}},
    {"latent": 2, "event": 4, "prior": {"name": "ladder", "layers": [2]}},
]


@pytest.mark.parametrize("spec", WHOLE)
def test_whole_specs_are_accepted_before_and_after(spec):
    assert complaints(spec) == []
    assert complaints(pv.describe(pv.build(spec, hidden=[4]))) == []


def test_what_data_imply_is_accepted():
    vae = pv.build(ROWS, latent=2, likelihood="negative_binomial", hidden=[4])
    assert complaints(pv.describe(vae)) == []


WRONG = [
    {"event": 4},
    {"latent": 2, "event": 4, "priors": "normal"},
    {"latent": -1, "event": 4},
    {"latent": 2, "event": 4, "prior": "normale"},
    {"latent": 2, "event": 4, "prior": {"name": "normale"}},
    {"latent": 2, "event": 4, "prior": {"name": "normal", "locs": 0.0}},
    {"latent": 2, "event": 4, "prior": {"name": "normal", "loc": "learnt"}},
    {"latent": 2, "event": 4, "likelihood": {"name": "binomial", "total_count": "learned"}},
    {"latent": 2, "event": 4, "likelihood": {"name": "poisson", "links": {"rate": "tanh"}}},
    {"latent": 2, "event": 4, "likelihood": {"name": "poisson", "links": {"rates": "exp"}}},
    {"latent": 2, "event": 4, "guide": {"name": "normal", "network": {"name": "cnn"}}},
    {"latent": 2, "event": 4, "guide": {"name": "normal", "network": {"name": "mlp", "deep": 3}}},
    {"latent": 2, "event": 4, "prior": {"name": "mixture", "components": "many"}},
    {"latent": 2, "event": 4, "prior": {"name": "mixture", "component": {"name": "laplac"}}},
    {
        "latent": 2,
        "event": 4,
        "prior": {"name": "mixture", "component": {"name": "laplace", "x": 1}},
    },
    {"latent": 2, "event": 4, "missingness": "by_itself"},
    {"latent": 2, "event": 4, "condition": {"sizes": 2}},
    {
        "latent": 2,
        "event": 4,
        "condition": {"categories": 3},
        "classifier": {"name": "one_hot", "w": 1},
    },
    {
        **NAMED,
        "likelihood": {"name": "columns", "blocks": [{**BLOCKS[0], "scales": 1.0}, BLOCKS[1]]},
    },
]


@pytest.mark.parametrize("spec", WRONG)
def test_wrong_specs_are_refused_by_both(spec):
    assert complaints(spec)
    with pytest.raises(ValueError, match=r"."):
        pv.build(spec, hidden=[4])


@pytest.mark.parametrize(("kind", "name"), ITEMS)
def test_every_name_and_argument_is_there(kind, name):
    root = {"conditional": pv.Conditional, "network": pv.Network, "missingness": pv.Missingness}
    definition = VALIDATOR.schema["$defs"][f"{kind}.{name}"]
    assert list(definition["properties"]) == ["name", *root[kind].registry[name].takes()]


def test_a_family_of_ones_own_is_in_it():
    class Own(pv.Normal, name="own"):
        """Mine."""

    try:
        spec = {"latent": 2, "event": 4, "prior": {"name": "own", "scale": 2.0}}
        jsonschema.validate(spec, pv.json_schema())
        assert complaints(spec)
    finally:
        pv.Conditional.registry.pop("own")
