"""Files that version 0.1.0 saved, and names from before, go on working."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import pyro_vae as pv
from pyro_vae.cli.explain import explain

FILES = Path(__file__).parent / "files"
EXPECTED = json.loads((FILES / "expected.json").read_text())  # as recorded when they were saved
SPEC = {
    "event": [4],
    "latent": [3],
    "prior": {"name": "ladder", "layers": [2, 1]},
    "likelihood": "poisson",
    "guide": {"name": "ladder", "layers": [2, 1]},
}


@pytest.mark.parametrize("name", ["ladder", "gamma", "vamp"])
@pytest.mark.filterwarnings("ignore::UserWarning")  # k-hat, of models that were trained briefly
def test_a_file_of_version_0_1_0_gives_the_same_evidence(name):
    torch.set_default_dtype(torch.float32)
    vae = pv.load(FILES / f"{name}-0.1.0.safetensors")
    x = np.array(EXPECTED["x"])
    evidence = pv.log_evidence(vae, x, num_samples=50, seed=3)
    np.testing.assert_allclose(evidence.log_evidence, EXPECTED[name], rtol=1e-6)


def test_a_spec_may_say_ladder():
    vae = pv.build(SPEC)
    assert isinstance(vae.prior, pv.Hierarchy)
    assert pv.describe(vae)["prior"]["name"] == "hierarchy"
    assert pv.describe(vae) == pv.describe(pv.build(pv.describe(vae)))


def test_a_part_of_another_may_have_a_former_name():
    mixture = pv.Mixture((3,), components=2, component={"name": "ladder", "layers": [2, 1]})
    assert isinstance(mixture.component, pv.Hierarchy)
    x = np.random.default_rng(0).poisson(3.0, (20, 4))
    vae = pv.build(x, latent=3, prior={"name": "ladder", "layers": [2, 1]}, likelihood="poisson")
    assert isinstance(vae.prior, pv.Hierarchy)


def test_the_registry_lists_new_names_only():
    assert "ladder" not in pv.Conditional.registry
    assert pv.Conditional.lookup("ladder") is pv.Conditional.lookup("hierarchy") is pv.Hierarchy
    assert pv.Conditional.lookup("ladders") is None
    with pytest.raises(ValueError, match="no conditional is named 'ladders'"):
        pv.Conditional.named("ladders")


def test_a_new_class_may_take_a_former_name():
    former = dict(pv.Conditional.registry)

    class Mine(pv.Normal, name="ladder"):
        pass

    try:
        assert pv.Conditional.lookup("ladder") is Mine
        assert pv.Conditional.lookup("hierarchy") is pv.Hierarchy
    finally:
        pv.Conditional.registry.clear()
        pv.Conditional.registry.update(former)


def test_the_command_line_explains_a_former_name():
    assert explain("ladder") == explain("hierarchy")


def test_the_class_has_its_former_name():
    with pytest.warns(DeprecationWarning, match=r"pyro_vae\.Ladder is now Hierarchy"):
        assert pv.Ladder is pv.Hierarchy
