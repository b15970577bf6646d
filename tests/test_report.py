"""The report: one file, nothing outside it, true to the model, and shown by a browser without a
complaint.
"""

import re
import shutil
import subprocess
import warnings
from importlib import resources

import numpy as np
import pandas as pd
import pyro
import pytest
import torch
from matplotlib import image
from pyro import distributions as dist
from setting import setting
from truth import LinearGaussian

import pyro_vae as pv
from pyro_vae.criticism import html

TRUTH = LinearGaussian.with_diagonal_posterior(6, 2)
QUICK = {"num_samples": 100, "num_mcmc": 5, "num_simulations": 60}


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """A report on a VAE of digits, barely trained."""
    x = pv.data.load("digits")[:200]
    path = tmp_path_factory.mktemp("report") / "report.html"
    with setting(torch.float32):
        vae = pv.build(x, latent=3, likelihood={"name": "binomial", "total_count": 16}, hidden=[20])
        history = pv.fit(vae, x, validation=x[:50], epochs=5, progress=False)
        return pv.report(vae, x[:40], path, history=history, labels=np.arange(40) % 10, **QUICK)


@pytest.mark.slow
def test_it_has_every_part_and_nothing_outside(digits):
    text = digits.read_text()
    headings = re.findall(r"<h2>(.*?)</h2>", text)
    assert headings == [
        "Model",
        "Training",
        "Evidence",
        "Data and predictions",
        "Latents",
        "Guide against MCMC, 5 data",
        "Calibration of the guide",
    ]
    assert len(re.findall(r'src="data:image/(?:png|svg\+xml);base64,', text)) == 9
    assert not re.search(r"<script .*src|<link|@import|https?://|url\((?!#)", text)
    assert text.count('class="soft explained"') == text.count('class="light')
    assert '<meta name="viewport"' in text
    assert "total_count = 16" in text  # the spec
    assert "light bad" in text  # a guide that was hardly trained


def test_warning_lights_of_an_exact_guide_are_green(tmp_path):
    text = pv.report(TRUTH.vae(), TRUTH.draw(30), tmp_path / "exact.html", **QUICK).read_text()
    assert re.findall(r'class="light (\w+)"', text) == ["good", "good", "good", "good"]
    assert "log p(x) of 30 of 30 data can be trusted" in text


@pytest.mark.slow
def test_discrete_and_conditional_models_have_reports_too(tmp_path):
    x = np.random.default_rng(0).poisson(2.0, (30, 3)).astype(float)
    discrete = pv.build(x, latent=3, prior="one_hot", likelihood="poisson", hidden=[4])
    text = pv.report(discrete, x, tmp_path / "discrete.html", **QUICK).read_text()
    assert "Exact: the latents are summed over." in text
    assert "MCMC" not in text
    x[0, 0] = np.nan
    given = pv.build(x, c=np.arange(30) % 2, latent=2, likelihood="poisson", hidden=[4])
    text = pv.report(given, x, tmp_path / "given.html", np.arange(30) % 2, **QUICK).read_text()
    assert "Guide against MCMC, 5 data" in text


def test_it_says_nothing_aloud_and_writes_only_html(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pv.report(
            TRUTH.vae(shrink=0.3),
            TRUTH.draw(10),
            tmp_path / "r.html",
            num_mcmc=0,
            num_simulations=0,
        )
    for wrong in (tmp_path / "r.pdf", tmp_path / "none" / "r.html"):
        with pytest.raises(
            ValueError, match=r"report writes an .html file in a folder that exists; got"
        ):
            pv.report(TRUTH.vae(), TRUTH.draw(10), wrong)
    with pytest.raises(
        ValueError, match="report needs a label for each datum; got 3 labels for 10 data"
    ):
        pv.report(TRUTH.vae(), TRUTH.draw(10), tmp_path / "r.html", labels=[0, 1, 2])
    with pytest.raises(ValueError, match="num_simulations must be a whole number from 20; got 5"):
        pv.report(TRUTH.vae(), TRUTH.draw(10), tmp_path / "r.html", num_simulations=5)
    assert [file.name for file in tmp_path.iterdir()] == ["r.html"]


def of_two_lines(observe):
    """One latent, two columns, and the exact posterior as the guide."""

    def model(x):
        with pyro.plate("rows", len(x), dim=-1):
            height = pyro.sample("height", dist.Normal(0.0, 1.0))
            columns = dist.Normal(height[..., None] + torch.zeros(2), 1.0).to_event(1)
            pyro.sample("x", columns, obs=observe(x))

    def guide(x):
        with pyro.plate("rows", len(x), dim=-1):
            pyro.sample("height", dist.Normal(observe(x).sum(-1) / 3, 3**-0.5))

    return model, guide


def test_a_pair_has_a_report_of_what_can_be_had(tmp_path):
    x = np.random.default_rng(0).multivariate_normal([0, 0], [[2, 1], [1, 2]], 30)
    text = pv.report(of_two_lines(lambda x: x), x, tmp_path / "pair.html", **QUICK).read_text()
    assert re.findall(r"<h2>(.*?)</h2>", text) == [
        "Evidence",
        "Data and predictions",
        "Guide against MCMC, 5 data",
        "Calibration of the guide",
    ]
    assert "height ()" in text
    assert re.findall(r'class="light (\w+)"', text) == ["good", "good", "good", "good"]


def test_a_model_of_something_else_than_x_has_no_predictions(tmp_path):
    x = np.random.default_rng(0).lognormal(size=(30, 2))
    options = QUICK | {"num_mcmc": 0}
    text = pv.report(of_two_lines(torch.log), x, tmp_path / "r.html", **options).read_text()
    assert re.findall(r"<h2>(.*?)</h2>", text) == ["Evidence"]


def test_chains_that_have_not_mixed_do_not_judge(tmp_path, monkeypatch):
    from pyro_vae.criticism import report

    monkeypatch.setattr(report, "have_mixed", lambda chains: np.arange(5) > 1)
    text = pv.report(
        TRUTH.vae(), TRUTH.draw(9), tmp_path / "r.html", **QUICK | {"num_simulations": 0}
    ).read_text()
    assert re.findall(r'class="light (\w+)"', text) == ["good", "bad", "good"]
    assert "those of 3 of 5 data have mixed" in text


@pytest.mark.parametrize("seen_by", [["prior"], ["likelihood", "guide"]])
def test_the_diagram_says_who_sees_c(seen_by, tmp_path):
    x, c = TRUTH.draw(30), np.arange(30) % 2
    prior = {"name": "normal", "network": "mlp"} if "prior" in seen_by else "normal"
    vae = pv.build(x, c=c, latent=1, prior=prior, condition={"seen_by": seen_by}, hidden=[4])
    options = {"num_mcmc": 0, "num_simulations": 0, "num_samples": 25, "labels": c}
    text = pv.report(vae, x, tmp_path / "r.html", c, **options).read_text()
    assert ("M178 172 L112 99" in text) == ("prior" in seen_by)
    assert ("M212 172 L278 99" in text) == ("likelihood" in seen_by)
    assert (", sees c" in text) == ("guide" in seen_by)
    assert "reconstructions" not in text  # 6 columns are no image


def luminance(colour):
    """The relative one, as WCAG 2.2 defines it."""
    digits = colour if len(colour) == 6 else "".join(digit * 2 for digit in colour)
    channels = [int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)]
    linear = [
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in channels
    ]
    return np.dot([0.2126, 0.7152, 0.0722], linear)


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_text_stands_out_from_the_page(mode):
    """A contrast of 4.5 at least, WCAG's AA."""
    style = resources.files("pyro_vae.criticism").joinpath("page.css").read_text()
    palettes = [
        dict(re.findall(r"--(\w+): #([0-9a-f]{3,6});", block))
        for block in re.findall(r":root \{(.*?)\}", style, flags=re.DOTALL)
    ]
    palette = dict(zip(["light", "dark"], palettes, strict=True))[mode]
    page = luminance(palette["page"])
    for name in ("ink", "soft", "good", "fair", "bad"):
        low, high = sorted([page, luminance(palette[name])])
        assert (high + 0.05) / (low + 0.05) >= 4.5, name


@pytest.fixture(scope="module")
def browser():
    names = ("chromium", "chromium-browser", "google-chrome")
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        pytest.skip("no Chromium is installed")
    return found


FRAME = pd.DataFrame(
    {
        "count": [1234, 999, np.nan, 1_000_000],
        "share": [0.1, 0.09, 1.0, 0.0],
        "number": [-np.inf, 1.00001, np.nan, 1.0],
        "word": ["b", "a", "d", "c"],
    },
    index=[10, 9, 2, 1],
)
WRITTEN = {"count": "{:,.0f}", "share": "{:.0%}"}
ORDERS = {  # of the rows, ascending and descending
    "model": ["1 2 9 10", "10 9 2 1"],
    "count": ["9 10 1 2", "1 10 9 2"],
    "share": ["1 9 10 2", "2 10 9 1"],
    "number": ["10 1 9 2", "9 1 10 2"],
    "word": ["9 10 1 2", "2 1 10 9"],
}
CLICKS = """<script>
for (const heading of document.querySelectorAll("th"))
  for (const click of ["ascending", "descending"]) {
    heading.firstChild.click();
    const rows = [...document.querySelectorAll("tbody tr")];
    const names = rows.map((row) => row.cells[0].textContent).join(" ");
    const state = heading.getAttribute("aria-sort");
    document.body.append(`${heading.textContent}, ${state}: ${names};`);
  }
</script></body>"""


def test_cells_carry_their_numbers():
    rows = html.table(FRAME, "model", "", WRITTEN).split("<tr>")[2:]
    assert [re.findall('<td(?: data-value="([^"]*)")?>([^<]*)', row) for row in rows[:3]] == [
        [("10.0", "10"), ("1234.0", "1,234"), ("0.1", "10%"), ("-Infinity", "-inf"), ("", "b")],
        [("9.0", "9"), ("999.0", "999"), ("0.09", "9%"), ("1.00001", "1"), ("", "a")],
        [("2.0", "2"), ("", "nan"), ("1.0", "100%"), ("", "nan"), ("", "d")],
    ]


@pytest.mark.slow
def test_clicks_on_a_heading_sort_its_column(browser, tmp_path):
    page = tmp_path / "clicked.html"
    text = html.page("", [html.table(FRAME, "model", "", WRITTEN)])
    page.write_text(text.replace("</body>", CLICKS))
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    shown = subprocess.run(
        [browser, *options, page.as_uri()], capture_output=True, text=True, timeout=120, check=True
    ).stdout
    found = {}
    for name, state, names in re.findall(r"(\w+), (\w+): ([\d ]+);", shown):
        found.setdefault(name, []).append(names)
        assert state == ["ascending", "descending"][len(found[name]) - 1]
    assert found == ORDERS


@pytest.mark.slow
@pytest.mark.parametrize("width", [1200, 390], ids=["desk", "phone"])
def test_a_browser_shows_it(digits, browser, width, tmp_path):
    shot = tmp_path / "shot.png"
    options = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        "--enable-logging=stderr",
    ]
    size = [f"--window-size={max(width, 500)},3000", f"--screenshot={shot}"]
    result = subprocess.run(
        [browser, *options, *size, digits.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert "CONSOLE" not in result.stderr
    picture = image.imread(shot)[..., :3]
    assert picture.shape[0] == 3000
    assert all(rows.std() > 0.01 for rows in np.array_split(picture[:2400], 8)), (
        "there is something everywhere"
    )
