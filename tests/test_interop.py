"""Doors to what stands beside Pyro: drawings of the model, graphs of encoder and decoder."""

import io

import numpy as np
import pyro
import pytest
import torch
from pyro.infer.inspect import get_dependencies

import pyro_vae as pv

X = np.random.default_rng(0).normal(size=(40, 5))
COUNTS = np.random.default_rng(1).poisson(2.0, (40, 5)).astype(float)
COLUMNS = {
    "name": "columns",
    "blocks": [{"columns": [0, 3], "name": "normal"}, {"columns": [1, 2, 4], "name": "poisson"}],
}
PARTS = {
    "normal": (X, {}),
    "student_t": (X, {"likelihood": "student_t", "prior": "mixture"}),
    "counts": (COUNTS, {"likelihood": "negative_binomial"}),
    "binomial": (COUNTS, {"likelihood": {"name": "binomial", "total_count": 20}}),
    "columns": (COUNTS, {"likelihood": COLUMNS}),
    "mask": (X, {"guide": {"name": "normal", "network": {"name": "mlp", "mask": True}}}),
}
OTHERS = {
    "gamma": (X, {"prior": "gamma"}),
    "one_hot": (X, {"prior": "one_hot"}),
    "vamp": (X, {"prior": "vamp"}),
    "flow": (X, {"guide": "spline_flow"}),
    "classes": (COUNTS.clip(0, 2), {"likelihood": "categorical"}),
}


def built(x, parts, **options):
    return pv.build(x, latent=2, **{"hidden": [6], **parts, **options})


class Encoder(torch.nn.Module):
    def __init__(self, vae):
        super().__init__()
        self.vae = vae

    def forward(self, x):
        guide = self.vae.guide_of(x, None)
        return guide.mean, guide.stddev


class Decoder(torch.nn.Module):
    def __init__(self, vae):
        super().__init__()
        self.vae = vae

    def forward(self, z):
        return (self.vae.decode(z).mean,)


def graph(module, example):
    rows = torch.export.Dim("rows", min=1)
    with torch.no_grad(), pyro.validation_enabled(False):
        return torch.export.export(module.eval(), (example,), dynamic_shapes=({0: rows},))


def given(x, num, *, missing):
    """Data and latents, some of the data missing."""
    rows = torch.as_tensor(np.resize(x, (num, 5)).copy(), dtype=torch.get_default_dtype())
    if missing:
        rows[0, 1] = torch.nan
    return rows, torch.randn(num, 2)


@pytest.mark.slow
@pytest.mark.parametrize("name", PARTS)
def test_graphs_of_encoder_and_decoder_take_any_number_of_rows(name):
    x, parts = PARTS[name]
    vae = built(x, parts)
    for place, module in enumerate((Encoder(vae), Decoder(vae))):
        program = graph(module, given(x, 3, missing=False)[place]).module()
        for num in (1, 2, 90):
            rows = given(x, num, missing=True)[place]
            for ours, theirs in zip(module(rows), program(rows), strict=True):
                torch.testing.assert_close(theirs, ours)


@pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec:FutureWarning")  # torch's own
@pytest.mark.slow
@pytest.mark.parametrize("name", ["columns", "mask"])
def test_onnx_of_encoder_and_decoder(name):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    torch.set_default_dtype(torch.float32)
    x, parts = PARTS[name]
    vae = built(x, parts)
    for place, module in enumerate((Encoder(vae), Decoder(vae))):
        file = io.BytesIO()
        program = graph(module, given(x, 3, missing=False)[place])
        torch.onnx.export(program, dynamo=True, verbose=False).save(file)
        session = onnxruntime.InferenceSession(file.getvalue())
        for num in (1, 90):
            rows = given(x, num, missing=True)[place]
            found = session.run(None, {session.get_inputs()[0].name: rows.numpy()})
            with torch.no_grad():
                for ours, theirs in zip(module(rows), found, strict=True):
                    np.testing.assert_allclose(theirs, ours.numpy(), atol=1e-5)


@pytest.mark.uses_store
@pytest.mark.parametrize("name", [*PARTS, *OTHERS])
def test_pyro_tells_what_depends_on_what(name):
    pytest.importorskip("graphviz")
    x, parts = {**PARTS, **OTHERS}[name]
    vae = built(x, parts)
    data = torch.as_tensor(x[:4])
    found = get_dependencies(vae.model, (data,))
    assert set(found["prior_dependencies"]["x"]) == {"z", "x"}
    assert set(found["posterior_dependencies"]["z"]) == {"z", "x"}
    drawn = pyro.render_model(vae.model, (data,), render_distributions=True).source
    assert "z -> x" in drawn
    assert "cluster_data" in drawn


@pytest.mark.uses_store
def test_pyro_tells_of_c_and_of_missing_cells():
    pytest.importorskip("graphviz")
    x, c = X.copy(), np.arange(40) % 2
    x[0, 1] = np.nan
    vae = built(x, {}, c=c)
    args = torch.as_tensor(x[:4]), torch.as_tensor(c[:4])
    assert "z -> x" in pyro.render_model(vae.model, args).source
    assert set(get_dependencies(vae.model, args)["posterior_dependencies"]["z"]) == {"z", "x"}
