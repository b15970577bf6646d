"""Specs and model files: exact inverses, errors that say where, files that are whole or refused."""

import json
import stat
import sys
import tomllib

import numpy as np
import pytest
import safetensors.torch
import tomli_w
import torch

import pyro_vae as pv

COUNTS = np.arange(40).reshape(10, 4)


def test_build_works_out_what_the_data_imply():
    spec = pv.describe(pv.build(COUNTS, latent=3, likelihood="binomial", hidden=[5]))
    network = {"name": "mlp", "hidden": [5], "activation": "relu", "log1p": False, "mask": False}
    assert spec == {
        "event": [4],
        "latent": [3],
        "prior": {"name": "normal", "loc": 0.0, "scale": 1.0},
        "likelihood": {"name": "binomial", "total_count": 39.0, "network": network},
        "guide": {"name": "normal", "network": network},
    }
    assert (
        pv.describe(pv.build(COUNTS % 3, likelihood="categorical"))["likelihood"]["categories"] == 3
    )


def test_build_standardises_the_inputs_of_the_guide():
    network = pv.build(COUNTS).posterior.network
    np.testing.assert_allclose(network.mean, COUNTS.mean(0))
    np.testing.assert_allclose(network.sd, COUNTS.std(0))


EXPERTS = ("product_of_experts", "mixture_of_experts", "mixture_of_products")
NEEDED = {
    **{name: {"blocks": [{"columns": [0]}, {"columns": [1]}]} for name in EXPERTS},
    "categorical": {"categories": 40},
    "ordinal": {"categories": 40},
    "binomial": {"total_count": 40},
    "uniform": {"low": 0, "high": 40},
    "hierarchy": {"layers": [1, 1]},
    "columns": {
        "blocks": [{"columns": [0], "name": "normal"}, {"columns": [1], "name": "student_t"}]
    },
}
CANNOT = {  # roles that a name cannot play, and what the message says
    ("prior", "columns"): "got no context; fix them",
    ("likelihood", "vamp"): "vamp reads the guide",
    ("guide", "vamp"): "vamp reads the guide",
    **{(role, name): "use it as a guide" for role in ("prior", "likelihood") for name in EXPERTS},
    ("prior", "planar_flow"): "knows the density of its own draws only",
    ("likelihood", "planar_flow"): "knows the density of its own draws only",
    **{
        ("prior", name): "which has no map to it"
        for name in (
            "zero_inflated_gamma", "zero_inflated_log_normal", "tweedie", "censored_normal",
            "ordered_beta",
        )
    },
}  # fmt: skip


def spec_for(role, name):
    return {"event": [2], "latent": [2], role: {"name": name, **NEEDED.get(name, {})}}


@pytest.mark.parametrize("role", ["prior", "likelihood", "guide"])
@pytest.mark.parametrize("name", list(pv.Conditional.registry))
def test_every_name_builds_in_every_role_that_it_can_play(role, name):
    try:
        vae = pv.build(spec_for(role, name), hidden=[3])
    except (ValueError, TypeError) as error:
        usual = {"prior": "is discrete", "guide": "unconstrained space"}.get(role, "no reason")
        assert CANNOT.get((role, name), usual) in str(error)  # noqa: PT017
        return
    assert (role, name) not in CANNOT
    spec = pv.describe(vae)
    assert spec[role]["name"] == name
    again = pv.build(spec)
    assert pv.describe(again) == spec
    assert json.loads(json.dumps(spec)) == spec
    assert tomllib.loads(tomli_w.dumps(spec)) == spec
    assert {k: v.shape for k, v in again.state_dict().items()} == {
        k: v.shape for k, v in vae.state_dict().items()
    }


def test_toml(tmp_path):
    path = tmp_path / "spec.toml"
    path.write_text(
        'latent = [3]\nlikelihood = "poisson"\nguide = {name = "student_t", df = 5.0}\n'
        '[prior]\nname = "gamma"\n'
    )
    vae = pv.build(path, COUNTS)
    assert isinstance(vae.prior, pv.Gamma)
    assert isinstance(vae.likelihood.head, pv.Poisson)
    assert vae.posterior.head.arguments["df"] == 5.0


def test_tensors_are_plain_values():
    vae = pv.build({"event": [2], "latent": [2], "prior": {"name": "normal", "loc": [1.0, 2.0]}})
    assert pv.describe(vae)["prior"] == {"name": "normal", "loc": [1.0, 2.0], "scale": 1.0}
    head = pv.Normal((2,), loc=torch.tensor([1.0, 2.0]), scale=np.float64(3.0))
    assert pv.describe(head) == {"name": "normal", "loc": [1.0, 2.0], "scale": 3.0}


def test_what_no_spec_can_name():
    vae = pv.build(COUNTS)
    vae.likelihood.network = torch.nn.Linear(8, 8)
    with pytest.raises(TypeError, match="no spec can name Linear; register it"):
        pv.describe(vae)


SPEC = {"event": [4], "latent": [2]}
ERRORS = {
    "name": (
        {**SPEC, "prior": "poison"},
        "prior: no conditional is named 'poison'; did you mean 'poisson'?",
    ),
    "no name": ({**SPEC, "prior": {"loc": 0.0}}, "prior.name: a table needs one; there are "),
    "value": (
        {**SPEC, "likelihood": {"name": "normal", "sd": 1}},
        "likelihood.sd: normal has no such argument; there are learned, loc, scale",
    ),
    "nearest argument": (
        {**SPEC, "prior": {"name": "mixture", "componets": 3}},
        "prior.componets: mixture has no such argument; did you mean 'components'?",
    ),
    "number": (
        {**SPEC, "prior": {"name": "mixture", "components": 0}},
        "prior.components: must be a whole number fr",
    ),
    "nested": (
        {**SPEC, "prior": {"name": "mixture", "component": "gama"}},
        "prior.component: no conditional is named 'gama'; did you mean 'gamma'?",
    ),
    "block": (
        {
            **SPEC,
            "likelihood": {
                "name": "columns",
                "blocks": [{"columns": [0, 1, 2, 3], "name": "poison"}],
            },
        },
        "likelihood.blocks[0]: no conditional is named 'poison'; did you mean 'poisson'?",
    ),
    "condition": (
        {**SPEC, "condition": {"sizes": 3}},
        "condition: got an unexpected keyword argument 'sizes'",
    ),
    "seen by": (
        {**SPEC, "condition": {"size": 3, "seen_by": ["model"]}},
        "condition: Condition needs seen_by as a l",
    ),
    "domain": (
        {**SPEC, "prior": {"name": "normal", "scale": -1}},
        "prior: Normal(2,) needs scale in",
    ),
    "categories": (
        {**SPEC, "likelihood": "categorical"},
        "likelihood: categorical needs categories",
    ),
    "network": (
        {**SPEC, "guide": {"name": "normal", "network": {"name": "mlpp"}}},
        "guide.network: no network is named 'mlpp'; did you mean 'mlp'?",
    ),
    "network option": (
        {**SPEC, "guide": {"name": "normal", "network": {"hiden": [3]}}},
        "guide.network.hiden: mlp has no such argument; did you mean 'hidden'?",
    ),
    "part table": ({**SPEC, "prior": 3}, "prior: must be a table such as {'name': ...}; got 3"),
    "network table": (
        {**SPEC, "guide": {"name": "normal", "network": [3]}},
        "guide.network: must be a table",
    ),
    "entry": (
        {**SPEC, "priors": "normal"},
        "priors: a spec has no such entry; did you mean 'prior'?",
    ),
    "event": (
        {"latent": [2]},
        "event: the spec does not say it; write event = [8], or give the data",
    ),
    "latent": ({"event": [2]}, "latent: the spec does not say it"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_errors_say_where(case):
    spec, message = ERRORS[case]
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        pv.build(spec)
    assert message in str(caught.value)


def test_build_without_data_or_spec():
    with pytest.raises(pv.DataError, match="data need rows"):
        pv.build(None)
    with pytest.raises(
        FileNotFoundError, match=r"no spec file 'digits', which must end in \.toml; read data with"
    ):
        pv.build("digits")


def test_a_spec_and_its_keywords_do_not_mix():
    with pytest.raises(ValueError, match="build takes prior= with data; a spec says it itself"):
        pv.build(SPEC, prior="gamma")


def test_data_and_x_do_not_mix():
    with pytest.raises(ValueError, match="build takes x with a spec; got data and x"):
        pv.build(COUNTS, 16)


def test_a_spec_must_fit_the_data():
    for width in (1, 3):
        with pytest.raises(pv.DataError, match=r"must have shape \(N, 4\); got \(10, "):
            pv.build(SPEC, COUNTS[:, :width])


class Twice(pv.Network, name="twice"):
    """A network of a user, whose arguments have names of their own."""

    def __init__(self, shape, outputs, *, power=1):
        super().__init__()
        self.power, self.linear = power, torch.nn.Linear(shape.numel(), outputs)

    def forward(self, x):
        return self.linear(x**self.power)


def test_a_network_of_the_user_is_described_saved_and_loaded(tmp_path):
    part = {"name": "poisson", "network": {"name": "twice", "power": 2}}
    vae = pv.build(COUNTS, likelihood=part, latent=3, hidden=[5])
    assert pv.describe(vae)["likelihood"] == {**part, "unit": COUNTS.mean(0).tolist()}
    pv.save(vae, tmp_path / "model.safetensors")
    again = pv.load(tmp_path / "model.safetensors")
    assert isinstance(again.likelihood.network, Twice)
    assert again.likelihood.network.power == 2


class Wide(pv.Network, name="wide"):
    """A network that no spec can build again: a spec has no positional arguments."""

    def __init__(self, shape, outputs, *widths, act=None):
        super().__init__()
        self.linear = torch.nn.Linear(shape if isinstance(shape, int) else shape.numel(), outputs)

    def forward(self, x):
        return self.linear(x)


class Fixed(pv.Conditional, name="fixed"):
    """A conditional whose arguments all have defaults, and that does not say what it reads."""

    def __init__(self, event_shape=(4,)):
        super().__init__()
        self.event_shape = torch.Size(event_shape)

    def forward(self, context=None):
        batch = () if context is None else context.shape[:-1]
        return torch_normal(self.event_shape).expand(batch)

    @classmethod
    def example(cls):
        return cls()


def torch_normal(shape):
    import pyro

    return pyro.distributions.Normal(torch.zeros(shape), torch.ones(shape)).to_event(len(shape))


# Other tests go through the registries.
USERS = {cls: cls.registry.pop(cls.name) for cls in (Twice, Wide, Fixed)}


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    for cls in USERS:
        monkeypatch.setitem(cls.registry, cls.name, cls)


def test_what_cannot_be_loaded_is_not_written(tmp_path):
    nested = pv.Amortised(pv.MLP(5, 4), pv.Poisson((4,)))
    heads = {
        "cannot name Amortised|no spec can name Amortised": pv.Amortised(pv.MLP(2, 5), nested),
        "no spec can build this VAE again": pv.Amortised(Wide(2, 4, 7, 8), pv.Poisson((4,))),
        "not JSON serializable": pv.Amortised(Wide(2, 4, act=torch.nn.Tanh()), pv.Poisson((4,))),
    }
    for message, likelihood in heads.items():
        vae = pv.build(SPEC)
        vae.likelihood = likelihood
        with pytest.raises(TypeError, match=message):
            pv.save(vae, tmp_path / "model.safetensors")
        assert not list(tmp_path.iterdir())


def test_a_conditional_of_the_user():
    assert pv.describe(Fixed()) == {"name": "fixed"}
    with pytest.raises(
        ValueError, match="likelihood: fixed needs num_params, the number of values it reads"
    ):
        pv.build(COUNTS, likelihood="fixed")
    assert pv.describe(pv.build(SPEC | {"latent": [4]}, COUNTS)) is not None
    assert pv.build({"event": [4], "latent": [4], "prior": "fixed"}).prior.event_shape == (4,)


def test_built_and_loaded_under_inference_mode_it_still_trains(tmp_path):
    with torch.inference_mode():
        vae = pv.build(COUNTS, likelihood="poisson")
        pv.save(vae, tmp_path / "model.safetensors")
        again = pv.load(tmp_path / "model.safetensors")
        made = pv.VAE(vae.prior, pv.Amortised(pv.MLP(8, 4), pv.Poisson((4,))), vae.posterior)
    for model in (vae, again):
        before = [p.detach().clone() for p in model.parameters()]
        pv.fit(model, COUNTS, epochs=1, progress=False)
        assert not any(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))
    with pytest.raises(ValueError, match=r"made outside torch\.inference_mode\(\)"):
        pv.fit(made, COUNTS)


def test_the_arguments_of_the_caller_stay_his():
    hidden = [8]
    network = pv.MLP(4, 2, hidden=hidden)
    hidden.append(99)
    assert pv.describe(network)["hidden"] == [8]


class TestFiles:
    @pytest.fixture
    def path(self, tmp_path):
        return tmp_path / "model.safetensors"

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    @pytest.mark.parametrize("prior", ["normal", "gamma", "dirichlet"])
    def test_a_loaded_model_scores_bit_for_bit(self, path, prior, dtype):
        vae = pv.build(
            COUNTS, prior=prior, likelihood={"name": "negative_binomial", "total_count": "learned"}
        ).to(dtype)
        pv.fit(vae, COUNTS, epochs=2, progress=False)
        pv.save(vae, path)
        again = pv.load(path)
        assert pv.describe(again) == pv.describe(vae)
        first, second = (pv.log_evidence(model, COUNTS, num_samples=9) for model in (vae, again))
        assert first.equals(second)
        pv.fit(again, COUNTS, epochs=1, progress=False)
        assert not first.equals(pv.log_evidence(again, COUNTS, num_samples=9))

    def test_saving_again_replaces_and_leaves_nothing_behind(self, path):
        for likelihood in ("poisson", "normal"):
            pv.save(pv.build(COUNTS, likelihood=likelihood), path)
        assert [file.name for file in path.parent.iterdir()] == ["model.safetensors"]
        assert pv.describe(pv.load(path))["likelihood"]["name"] == "normal"
        (path.parent / "plain").touch()
        assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(
            (path.parent / "plain").stat().st_mode
        )

    def test_a_failed_save_leaves_the_old_file(self, path):
        pv.save(pv.build(COUNTS, likelihood="poisson"), path)
        before = path.read_bytes()
        vae = pv.build(COUNTS)
        vae.likelihood.network = torch.nn.Linear(8, 8)
        with pytest.raises(TypeError):
            pv.save(vae, path)
        assert path.read_bytes() == before
        assert len(list(path.parent.iterdir())) == 1

    def test_damaged_files_are_refused(self, path):
        pv.save(pv.build(COUNTS, hidden=[4]), path)
        whole = path.read_bytes()
        rng = np.random.default_rng(0)
        damaged = [whole[:cut] for cut in np.linspace(0, len(whole) - 1, 64).astype(int)]
        for bit in rng.integers(0, 8 * len(whole), 256):
            flipped = bytearray(whole)
            flipped[bit // 8] ^= 1 << (bit % 8)
            damaged.append(bytes(flipped))
        for content in damaged:
            path.write_bytes(content)
            with pytest.raises(pv.CheckpointError, match=r"model\.safetensors"):
                pv.load(path)
        path.write_bytes(whole)
        pv.load(path)

    def test_a_model_of_unknown_parts_is_refused(self, path, monkeypatch):
        part = {"name": "poisson", "network": {"name": "twice"}}
        pv.save(pv.build(COUNTS, likelihood=part), path)
        monkeypatch.delitem(pv.Network.registry, "twice")
        with pytest.raises(
            pv.CheckpointError, match=r"model\.safetensors .* no network is named 'twice'"
        ):
            pv.load(path)

    def test_foreign_files_are_refused(self, path, tmp_path):
        safetensors.torch.save_file({"a": torch.zeros(2)}, path)
        with pytest.raises(
            pv.CheckpointError, match="no pyro_vae model of format pyro_vae/1; got None"
        ):
            pv.load(path)
        torch.save({"a": torch.zeros(2)}, path)
        with pytest.raises(pv.CheckpointError, match="could not be read as a model"):
            pv.load(path)
        for nothing in (tmp_path / "none.safetensors", tmp_path):
            with pytest.raises(pv.CheckpointError, match="could not be read as a model"):
                pv.load(nothing)


MODULE = """
import pyro_vae as pv
from pyro.distributions import Gumbel

class MyGumbel(pv.Parametric, name="my_gumbel"):
    family, params = Gumbel, ("loc", "scale")
    standard = {"loc": 0.0, "scale": 1.0}
"""


def test_modules_of_the_user_are_imported_from_beside_the_spec(tmp_path, monkeypatch):
    (tmp_path / "my_family.py").write_text(MODULE)
    path = tmp_path / "spec.toml"
    path.write_text('modules = ["my_family"]\nlatent = [2]\nlikelihood = "my_gumbel"\n')
    before = list(sys.path)
    try:
        vae = pv.build(path, COUNTS / 7)
        assert sys.path == before
        assert pv.describe(vae)["modules"] == ["my_family"]
        pv.save(vae, tmp_path / "model.safetensors")
        assert pv.describe(pv.load(tmp_path / "model.safetensors")) == pv.describe(vae)
        monkeypatch.delitem(sys.modules, "my_family")
        with pytest.raises(
            pv.CheckpointError, match="defined in the module 'my_family'; import it first"
        ):
            pv.load(tmp_path / "model.safetensors")
    finally:
        pv.Conditional.registry.pop("my_gumbel", None)
    with pytest.raises(
        ValueError,
        match="modules: No module named 'my_famly'; put it on PYTHONPATH",
    ):
        pv.build({**SPEC, "modules": ["my_famly"]})
    with pytest.raises(
        ValueError, match="modules: must be a list of module names; got 'my_family'"
    ):
        pv.build({**SPEC, "modules": "my_family"})


ODD = {
    "name is a list": (
        {**SPEC, "prior": {"name": ["a"]}},
        "prior: no conditional is named ['a']; there are",
    ),
    "no such type": (
        {**SPEC, "likelihood": {"name": "columns", "blocks": 3}},
        "likelihood.blocks: must be a list of ta",
    ),
    "columns": (
        {**SPEC, "likelihood": {"name": "columns", "blocks": [{"columns": "a", "name": "normal"}]}},
        "likelihood.blocks[0].columns: must be a list of column numbers; got 'a'",
    ),
    "component": (
        {**SPEC, "prior": {"name": "mixture", "component": 3}},
        "prior.component: must be a name or a table",
    ),
    "hidden": (
        {**SPEC, "prior": {"name": "spline_flow", "hidden": 3}},
        "prior.hidden: must be a list of whole numbers;",
    ),
    "negative": (
        {**SPEC, "prior": {"name": "spline_flow", "hidden": [-3]}},
        "every number in hidden must be a whole",
    ),
    "hierarchy": (
        {**SPEC, "prior": {"name": "hierarchy", "layers": [1, 1], "family": "gamma"}},
        "prior.family: gamma has support IndependentConstraint(GreaterThanEq(lower_bound=0.0), "
        "1); Hierarchy ne",
    ),
    "latent": (
        {"event": [4], "latent": [1], "prior": "dirichlet"},
        "latent: a prior over Simplex() needs at least 2",
    ),
    "whole vectors": (
        {**SPEC, "prior": {"name": "mixture", "component": "dirichlet", "each": "element"}},
        "prior.component: dirichlet is a family of whole vectors; use each='event'",
    ),
    "vamp inside": (
        {**SPEC, "prior": {"name": "mixture", "component": "vamp"}},
        "prior.component: vamp reads the guid",
    ),
    "learned": (
        {**SPEC, "prior": {"name": "normal", "learned": "no"}},
        "prior.learned: must be true or false; got 'no'",
    ),
    "network of a prior": (
        {**SPEC, "prior": {"name": "normal", "network": {"name": "mlp"}}},
        "prior.network: normal reads no context here, so it takes no network; leave it out",
    ),
}


@pytest.mark.parametrize("case", ODD)
def test_odd_values_are_refused_where_they_are(case):
    spec, message = ODD[case]
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        pv.build(spec)
    assert message in str(caught.value)


def test_broken_toml_names_the_file(tmp_path):
    for content in (b"latent = [", b"\xff\xfe"):
        (tmp_path / "broken.toml").write_bytes(content)
        with pytest.raises(ValueError, match=r"broken\.toml is no TOML: "):
            pv.build(tmp_path / "broken.toml", COUNTS)


def playable(role, name):
    """A VAE with `name` in a role, and data that it has drawn itself; None where it cannot play the
    role.
    """
    try:
        vae = pv.build(
            {**spec_for(role, name), **({} if role == "likelihood" else {"likelihood": "poisson"})},
            hidden=[3],
        )
    except (ValueError, TypeError):
        return None
    return vae, vae.sample(6).double()


@pytest.mark.parametrize("role", ["prior", "likelihood", "guide"])
@pytest.mark.parametrize("name", list(pv.Conditional.registry))
def test_every_entry_survives_a_file_bit_for_bit(role, name, tmp_path):
    made = playable(role, name)
    if made is None:
        return  # test_every_name_builds_in_every_role_that_it_can_play says why
    vae, x = made
    pv.save(vae, tmp_path / "model.safetensors")
    again = pv.load(tmp_path / "model.safetensors")
    assert pv.describe(again) == pv.describe(vae)
    first, second = (pv.log_evidence(model, x, num_samples=9) for model in (vae, again))
    assert first.equals(second)
    assert first.log_evidence.notnull().all()


def test_columns_that_read_nothing():
    blocks = [{"columns": [0, 1, 2, 3], "name": "normal", "loc": 0.0, "scale": 20.0}]
    vae = pv.build(COUNTS, latent=2, likelihood={"name": "columns", "blocks": blocks})
    assert vae.decode(torch.zeros(3, 2)).batch_shape == (3,)


def test_a_network_by_name():
    vae = pv.build(COUNTS, likelihood={"name": "normal", "network": "residual_mlp"})
    assert isinstance(vae.likelihood.network, pv.ResidualMLP)
