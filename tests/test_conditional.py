"""The contract: what every registered conditional promises.

A new family is tested by being registered.
"""

import copy
import itertools

import pyro
import pytest
import torch
from pyro.distributions import constraints
from pyro.distributions.testing import gof
from setting import place
from torch import nn
from torch.distributions import biject_to

import pyro_vae as pv
from pyro_vae.conditionals.parametric import Parametric
from pyro_vae.distributions.intervals import WithAtoms
from pyro_vae.distributions.links import link
from pyro_vae.distributions.sphere import Sphere
from pyro_vae.distributions.supports import base_of, innermost, is_real

pytestmark = pytest.mark.usefixtures("device")
FAILURE_RATE = 2e-5  # of one goodness-of-fit test
BATCHES = [(), (7,), (2, 7)]
NAMES = [name for name, cls in pv.Conditional.registry.items() if not cls.reads_guide]
BLOCKS = ("columns", *(name for name in NAMES if name.endswith(("_of_experts", "_of_products"))))
FAMILIES = [name for name in NAMES if issubclass(pv.Conditional.registry[name], Parametric)]
per_name = pytest.mark.parametrize("name", NAMES)
per_family = pytest.mark.parametrize("name", FAMILIES)


def example(name):
    return place(pv.Conditional.registry[name].example())


def context(head, batch=(), scale=0.5):
    return place(scale * torch.randn(*batch, head.num_params)).requires_grad_()


def learnable(cls):
    """An instance that stands without a context, with every parameter learned that can be."""
    example = cls.example()
    takes = {"learned": True} if "learned" in cls.takes() else {}
    return place(cls(example.event_shape, **{**example.options, **takes}))


def stands_alone(name):
    cls = pv.Conditional.registry[name]
    return cls.scores_any_value and name not in BLOCKS


def score(head, distribution, size=(1001,)):
    """The summed log density of draws; of ones that carry a gradient, and the draws too, where no
    others are scored.
    """
    if head.scores_any_value:
        with torch.no_grad():
            x = distribution.sample(size).clone()
        return distribution.log_prob(x).sum()
    x = distribution.rsample(size)
    return distribution.log_prob(x).sum() + x.sum()


@per_name
@pytest.mark.parametrize("batch", BATCHES)
def test_shapes_support_density(name, batch):
    head = example(name)
    distribution = head(context(head, batch))
    assert distribution.batch_shape == batch
    assert distribution.event_shape == head.event_shape
    x = distribution.sample((5,))
    assert x.shape == (5, *batch, *head.event_shape)
    assert distribution.support.check(x).all()
    assert distribution.log_prob(x).isfinite().all()
    assert distribution.log_prob(x).shape == (5, *batch)
    if distribution.has_rsample:
        assert (
            distribution.rsample().requires_grad
            == any(t.requires_grad for t in [*head.parameters(), torch.zeros(())])
            or head.num_params > 0
        )


@per_name
@pytest.mark.parametrize("batch", BATCHES)
def test_gradient_reaches_context(name, batch):
    head = example(name)
    given = context(head, batch)
    distribution = head(given)
    if head.num_params == 0:
        assert not distribution.log_prob(distribution.sample()).requires_grad
        return
    score(head, distribution).backward()
    assert given.grad.isfinite().all()
    assert (given.grad != 0).all(), "every number that is read must matter"


@per_name
def test_gradient_reaches_learned_parameters(name):
    if not stands_alone(name):
        assert name in ("planar_flow", *BLOCKS)
        return
    head = learnable(type(example(name)))
    assert head.num_params == 0
    distribution = head()
    assert distribution.batch_shape == ()
    if name in FAMILIES:
        assert len(list(head.parameters())) == len(example(name).read)
        if not example(name).read:
            return
    score(head, distribution).backward()
    for parameter_name, parameter in head.named_parameters():
        assert parameter.grad.isfinite().all(), parameter_name
        assert (parameter.grad != 0).any(), parameter_name


@per_family
def test_shared_parameter_is_one_number(name):
    cls = type(example(name))
    for parameter in example(name).read:
        if cls.is_matrix(parameter):
            continue
        options = {**cls.example().options, parameter: "shared"}
        head = place(cls(cls.example().event_shape, **options))
        assert getattr(head, parameter).shape == ()
        assert head(context(head, (7,))).batch_shape == (7,)


@per_family
def test_context_of_zeros_is_the_standard_distribution(name):
    cls = pv.Conditional.registry[name]
    head = example(name)
    shape = head.event_shape
    fixed = head.options | {p: cls.standard[p] for p in head.read}
    standard = place(cls(shape, **fixed))
    x = standard().sample((5,))
    zeros = place(torch.zeros(head.num_params))
    torch.testing.assert_close(head(zeros).log_prob(x), standard().log_prob(x))


def goodness_of_fit(distribution, x):
    """Do draws `x` of shape (20000, 3) belong to the density? Looks at one element where elements
    are independent.
    """
    cell = innermost(distribution)
    x, probs = x.cpu(), cell.log_prob(x).double().exp().cpu()
    if cell.event_shape == ():
        x, probs = x[:, :1].double(), probs[:, 0]
    if cell.support.is_discrete:
        values, counts = x.unique(dim=0, return_counts=True)
        firsts = torch.stack([probs[(x == value).all(-1)][0] for value in values])
        common = firsts * len(x) > 10  # Pearson's test needs expected counts that are not tiny
        return gof.multinomial_goodness_of_fit(firsts[common], counts[common], total_count=len(x))
    if isinstance(cell.support, WithAtoms):
        return fit_beside_atoms(cell.support.atoms(x.shape[1:])[0], x, probs)
    if isinstance(cell.support, Sphere):  # Archimedes: height and azimuth keep areas
        x = torch.stack([x[:, 2], torch.atan2(x[:, 1], x[:, 0])], -1)
    if cell.support is constraints.simplex:  # a density over all coordinates but the last
        x = x[:, :-1]
    return (
        gof.density_goodness_of_fit(x[:, 0], probs)
        if x.shape[1] == 1
        else gof.auto_goodness_of_fit(x, probs)
    )


def fit_beside_atoms(atoms, x, probs):
    """Pearson's test of how often each atom is drawn; between them that of the density."""
    drawn = [(x == atom)[:, 0] for atom in atoms]
    between = ~torch.stack(drawn).any(0)
    of_atoms = torch.stack([probs[where][0] for where in drawn])
    rest = 1 - of_atoms.sum()
    counts = torch.stack([where.sum() for where in (*drawn, between)])
    shares = torch.cat([of_atoms, rest[None]])
    return min(
        gof.multinomial_goodness_of_fit(shares, counts, total_count=len(x)),
        gof.density_goodness_of_fit(x[between, 0], probs[between] / rest),
    )


@per_name
def test_sample_and_density_belong_together(name):
    head = example(name)
    with torch.no_grad():
        distribution = head(context(head))
        x = distribution.sample((20_000,))
        p_value = goodness_of_fit(distribution, x)
    assert p_value > FAILURE_RATE


@per_name
def test_state_dict_round_trip(name):
    head, other = (learnable(type(example(name))) for _ in range(2))
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    other.load_state_dict(head.state_dict())
    given = None if stands_alone(name) else context(head)
    torch.manual_seed(0)
    x = head(given).sample((5,))
    torch.manual_seed(0)
    assert torch.equal(x, other(given).sample((5,)))


@per_name
def test_spec_round_trip(name):
    head = example(name)
    spec = pv.describe(head)
    assert spec.pop("name") == name
    again = place(type(head)(head.event_shape, **spec))
    assert pv.describe(again) == pv.describe(head)
    again.load_state_dict(head.state_dict())
    given = context(head, (7,))
    torch.manual_seed(0)
    x = head(given).sample()
    torch.manual_seed(0)
    assert torch.equal(x, again(given).sample())


@per_name
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype(name, dtype):
    if stands_alone(name):
        distribution = learnable(type(example(name))).to(dtype)()
        assert distribution.log_prob(distribution.sample((5,))).dtype == dtype
    head = example(name).to(dtype)
    distribution = head(context(head, (7,)).to(dtype))
    assert distribution.log_prob(distribution.sample()).dtype == dtype


@per_name
def test_expands_under_a_plate(name):
    head = example(name)
    given = context(head)
    with pyro.plate("outer", 4, dim=-2), pyro.plate("data", 7, dim=-1):
        x = pyro.sample("x", head(given))
    assert x.shape == (4, 7, *head.event_shape)


@per_name
def test_repr_names_the_arguments(name):
    head = example(name)
    assert str(tuple(head.event_shape)) in repr(head)
    for key, value in head.options.items():
        assert f"{key}={value!r}" in repr(head)


@per_name
def test_support_is_that_of_what_it_gives(name):
    for head in [example(name), *([learnable(type(example(name)))] if stands_alone(name) else [])]:
        given = torch.zeros(head.num_params) if head.num_params else None
        assert repr(head.support) == repr(head(given).support)
        assert repr(copy.deepcopy(head).to(torch.float32).support) == repr(
            copy.deepcopy(head).to(torch.float32)(None if given is None else given.float()).support
        )
        assert is_real(copy.deepcopy(head).support) == is_real(head.support)


@per_name
@pytest.mark.parametrize("assign", [False, True])
def test_a_loaded_state_is_what_counts(name, assign):
    """Fixed numbers come from the state, not from what the constructor was given."""
    cls = type(example(name))
    if name not in FAMILIES or not cls.required():
        return
    larger = {key: value + 3.0 for key, value in cls.required().items()}
    classes = {key: value for key, value in example(name).options.items() if key not in larger}
    source, target = (cls((3,), **classes, **fixed) for fixed in (larger, cls.required()))
    target.load_state_dict(source.state_dict(), assign=assign)
    given = context(source)
    assert repr(target.support) == repr(source.support)
    torch.manual_seed(0)
    x = source(given).sample((20,))
    torch.manual_seed(0)
    assert torch.equal(x, target(given).sample((20,)))
    assert torch.equal(source(given).log_prob(x), target(given).log_prob(x))


def as_likelihood(head):
    prior = pv.Normal((2,), loc=0.0, scale=1.0)
    guide = pv.Amortised(pv.MLP(head.event_shape, 4, hidden=[8]), pv.Normal((2,)))
    reads = head.num_params > 0
    likelihood = pv.Amortised(pv.MLP(2, head.num_params, hidden=[8]), head) if reads else head
    return place(pv.VAE(prior, likelihood, guide))


def as_prior(head):
    latents = biject_to(head.support).inverse_shape(head.event_shape)
    guide = pv.Amortised(pv.MLP(4, 2 * latents[0], hidden=[8]), pv.Normal(latents))
    likelihood = pv.Amortised(pv.MLP(head.visible_shape, 4, hidden=[8]), pv.Poisson((4,)))
    return place(pv.VAE(head, likelihood, guide))


def as_guide(head):
    likelihood = pv.Amortised(pv.MLP(3, 4, hidden=[8]), pv.Poisson((4,)))
    prior = pv.Normal((3,), loc=0.0, scale=1.0)
    guide = pv.Amortised(pv.MLP(4, head.num_params, hidden=[8]), head)
    return place(pv.VAE(prior, likelihood, guide))


def support_of(name):
    return pv.Conditional.registry[name].example().support


def is_prior(name):
    support = support_of(name)
    atoms = isinstance(base_of(support), WithAtoms)
    return stands_alone(name) and not support.is_discrete and not atoms


def is_guide(name):
    head = example(name)
    return is_real(head.support) and head(context(head)).has_rsample


ROLES = (
    [
        pytest.param(as_likelihood, example, name, id=f"likelihood-{name}")
        for name in NAMES
        if pv.Conditional.registry[name].scores_any_value
    ]
    + [
        pytest.param(
            as_prior, lambda n: learnable(pv.Conditional.registry[n]), name, id=f"prior-{name}"
        )
        for name in NAMES
        if is_prior(name)
    ]
    + [
        pytest.param(as_guide, example, name, id=f"guide-{name}")
        for name in NAMES
        if is_guide(name)
    ]
)


@pytest.mark.parametrize(("role", "make", "name"), ROLES)
@pytest.mark.filterwarnings("ignore:fit. training has not reached")  # in a few steps
def test_trains_as_part_of_a_vae(role, make, name):
    """A few steps move every parameter, of a second instance and of a deep copy too."""
    first = role(make(name))
    second, third = role(make(name)), copy.deepcopy(first)
    x = first.sample(32, seed=1)
    for vae in (first, second, third):
        before = {key: parameter.detach().clone() for key, parameter in vae.named_parameters()}
        others = [other for other in (first, second, third) if other is not vae]
        frozen = [[p.detach().clone() for p in other.parameters()] for other in others]
        history = pv.fit(vae, x, epochs=3, batch_size=16, progress=False)
        assert history.loss.map(lambda loss: loss == loss).all()
        for key, parameter in vae.named_parameters():
            assert not torch.equal(parameter, before[key]), key
        for other, copies in zip(others, frozen, strict=True):
            assert all(torch.equal(p, q) for p, q in zip(other.parameters(), copies, strict=True))


class Rayleigh(Parametric):
    """A family that is not registered: what the base class does, seen without the others."""

    family, params = pyro.distributions.Weibull, ("scale", "concentration")
    standard = {"scale": 1.0, "concentration": 2.0}


def test_parametric_splits_the_context_in_the_order_of_params():
    head = Rayleigh((3,))
    assert head.num_params == 6
    given = torch.randn(7, 6)
    origin = {
        k: link(Rayleigh.domain(k)).inv(torch.tensor(v)) for k, v in Rayleigh.standard.items()
    }
    built = head(given).base_dist
    torch.testing.assert_close(
        built.scale, link(Rayleigh.domain("scale"))(given[:, :3] + origin["scale"])
    )
    expected = link(Rayleigh.domain("concentration"))(given[:, 3:] + origin["concentration"])
    torch.testing.assert_close(built.concentration, expected)


class Shifted(pv.Conditional):
    """A conditional that reads one number, or none."""

    def __init__(self, num_params=1):
        super().__init__()
        self.event_shape, self.num_params = torch.Size([3]), num_params

    def distribution(self, read):
        loc = torch.zeros(3) if read is None else read.expand(*read.shape[:-1], 3)
        return pyro.distributions.Normal(loc, 1.0).to_event(1)

    @classmethod
    def example(cls):
        return cls()


class TestTheBaseClass:
    """Checks the context once and expands once, whatever a subclass does."""

    @pytest.mark.parametrize("num_params", [0, 1])
    @pytest.mark.parametrize("batch", BATCHES)
    def test_a_context_gives_its_batch_shape(self, num_params, batch):
        built = Shifted(num_params)(torch.zeros(*batch, num_params))
        assert (built.batch_shape, built.event_shape) == (batch, (3,))

    def test_one_that_reads_nothing_takes_any_context(self):
        assert Shifted(0)(torch.zeros(7, 5)).batch_shape == (7,)
        assert Shifted(0)().batch_shape == ()

    @pytest.mark.parametrize("shape", [(7, 2), ()])
    def test_a_context_of_another_shape_is_refused(self, shape):
        with pytest.raises(ValueError) as caught:  # noqa: PT011
            Shifted()(torch.zeros(shape))
        expected = f"Shifted(3,) reads 1 numbers per datum; got a context of shape {shape}"
        assert str(caught.value) == expected

    def test_no_context_is_refused_if_there_is_something_to_read(self):
        with pytest.raises(
            ValueError, match="reads 1 numbers per datum; got no context; give it one"
        ):
            Shifted()()
        with pytest.raises(ValueError, match="got no context; learned=True reads none"):
            pv.SplineFlow((2,))()
        with pytest.raises(ValueError, match="got no context; fix them in the tables of its block"):
            pv.Columns.example()()

    def test_a_subclass_may_write_forward_itself(self):
        class Direct(Shifted):
            def forward(self, context=None):
                return pyro.distributions.Normal(context, 1.0).to_event(1)

        assert Direct()(torch.zeros(7, 3)).batch_shape == (7,)

    def test_a_subclass_that_writes_neither_is_told(self):
        class Neither(Shifted):
            distribution = pv.Conditional.distribution

        with pytest.raises(NotImplementedError, match="Neither writes neither distribution nor f"):
            Neither()(torch.zeros(1))

    def test_the_title_is_that_of_the_head(self):
        head = pv.Normal((3,))
        assert head.title == pv.Amortised(nn.Linear(2, 6), head).title == "Normal(3,)"
        assert pv.Hierarchy.example().title == "Hierarchy(3,)"

    def test_a_family_whose_subclass_writes_forward_has_the_support_of_what_it_gives(self):
        class Exp(pv.Normal):
            def forward(self, context=None):
                inner = super().forward(context)
                return pyro.distributions.TransformedDistribution(
                    inner, [torch.distributions.ExpTransform()]
                )

        assert not is_real(Exp((3,)).support)
        assert is_real(pv.Normal((3,)).support)


def test_positive_link_is_bounded_below_and_inverts():
    positive = link(torch.distributions.constraints.positive)
    x = torch.tensor([-200.0, -5.0, 0.0, 5.0, 1e4], requires_grad=True)
    y = positive(x)
    assert y.min() >= positive.FLOOR
    torch.testing.assert_close(positive.inv(y[1:]), x[1:], rtol=1e-6, atol=1e-6)
    y.log().sum().backward()
    assert x.grad.isfinite().all()


ERRORS = {
    "shape": (
        lambda: pv.Normal((3,))(torch.zeros(7, 5)),
        "Normal(3,) reads 6 numbers per datum (loc, scale); got a con",
    ),
    "no context": (
        lambda: pv.Normal((3,))(),
        "got no context; fix them (loc=0.0, scale=1.0) to use it as a prior",
    ),
    "value": (lambda: pv.Normal((3,), sd=1.0), "Normal has no parameter sd; it has loc, scale"),
    "domain": (
        lambda: pv.Normal((3,), scale=-1.0),
        "Normal(3,) needs scale in GreaterThan(lower_bound=0.0); got -1.0",
    ),
    "fixed shape": (
        lambda: pv.Normal((3,), scale=[1.0, 2.0]),
        "Normal(3,) needs scale of shape (3,); got (2,)",
    ),
    "role": (
        lambda: pv.Normal((3,), scale="learnt"),
        "takes scale as a number, 'learned' or 'shared'; got 'learnt'",
    ),
    "unreadable": (
        lambda: pv.Binomial((3,)),
        "Binomial(3,) needs total_count as a number; it can be neither learned",
    ),
    "unlearnable": (
        lambda: pv.Uniform((3,), low="learned", high=1.0),
        "Uniform(3,) needs low as a number",
    ),
    "order": (
        lambda: pv.Uniform((3,), low=1.0, high=0.0),
        "Uniform(3,) got values that do not fit together",
    ),
    "size": (
        lambda: pv.Normal((3, 0)),
        "every size of a shape must be a whole number from 1; got 0",
    ),
    "shape kind": (
        lambda: pv.Normal(2.5),
        "every size of a shape must be a whole number from 1; got 2.5",
    ),
    "hidden": (
        lambda: pv.MLP(2, 3, hidden=5),
        "hidden must be a list of whole numbers; got 5; one is [5]",
    ),
    "width": (
        lambda: pv.MLP(2, 3, hidden=[0]),
        "every number in hidden must be a whole number from 1; got 0",
    ),
    "activation": (
        lambda: pv.MLP(2, 3, activation="rellu"),
        "no activation is named 'rellu'; there are relu, tanh",
    ),
    "network": (
        lambda: pv.MLP(2, 3)(torch.zeros(7, 5)),
        "MLP reads a context of shape ('*', 2); got (7, 5)",
    ),
}


@pytest.mark.parametrize("case", ERRORS)
def test_errors(case):
    call, message = ERRORS[case]
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        call()
    assert message in str(caught.value)


def test_two_conditionals_cannot_share_a_name():
    with pytest.raises(ValueError, match="two conditionals are named 'normal': Normal and Mine"):

        class Mine(Parametric, name="normal"):
            pass

    assert pv.Conditional.registry["normal"] is pv.Normal


@pytest.mark.parametrize("event", [(4,), (2, 3), ()])
@pytest.mark.parametrize("batch", BATCHES)
def test_mlp_takes_any_leading_shape(event, batch):
    network = pv.MLP(event, 5, hidden=[6])
    x = torch.randn((*batch, *event))
    y = network(x)
    assert y.shape == (*batch, 5)
    for index in itertools.product(*map(range, batch)):
        torch.testing.assert_close(network(x[index]), y[index])


def test_mlp_standardises_its_inputs():
    network = pv.MLP(3, 2, hidden=())
    x = torch.randn(50, 3) * torch.tensor([10.0, 1.0, 0.0]) + 100
    before = network(
        (x - x.mean(0)) / torch.tensor([x[:, 0].std(correction=0), x[:, 1].std(correction=0), 1.0])
    )
    network.standardize(x.mean(0), x.std(0, correction=0))
    torch.testing.assert_close(network(x), before)


def test_fold_restores_the_leading_shape():
    convolution = nn.Conv2d(1, 2, 3)
    x = torch.randn(5, 7, 1, 8, 8)
    y = pv.fold(convolution, x, event_dim=3)
    assert y.shape == (5, 7, 2, 6, 6)
    torch.testing.assert_close(y[3], convolution(x[3]))
