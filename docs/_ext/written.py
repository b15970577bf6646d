"""What is written from the library before Sphinx reads: the catalogue, the command line, the JSON
Schema of a spec, and the table of the reference set."""

from __future__ import annotations

import csv
import inspect
import io
import json
from pathlib import Path
from typing import Any

import catalogue
import commands
from sphinx.application import Sphinx

import pyro_vae as pv
from pyro_vae.conditionals.declared import Declared


def write(path: Path, text: str) -> None:
    """Write a page, unless it stands there already: Sphinx reads again what is newer."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.is_file() or path.read_text() != text:
        path.write_text(text)


def reference_set() -> str:
    """What is known of each reference model, as CSV."""
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(
        ["name", "N", "latents", "likelihood", "prior", "log p(x) by", "mean log p(x)", "mean se"]
    )
    for name, model in pv.reference.items():
        spec = pv.describe(model.vae)
        likelihood = f"{spec['likelihood']['name']}, {model.x.shape[1]}"
        known = f"{model.log_evidence.mean():.4f}", f"{model.se.mean():.4f}"
        how = model.how.split(":")[0].split(",")[0]
        parts = [len(model.x), *spec["latent"], likelihood, spec["prior"]["name"], how]
        writer.writerow([name, *parts, *known])
    return table.getvalue()


def write_pages(app: Sphinx) -> None:
    """Write all pages, the pictures of densities beside them, and the schema."""
    written = Path(app.srcdir) / "look_up" / "written"
    for name, text in catalogue.pages().items():
        write(written / f"{name}.md", text)
    catalogue.draw(written / "densities")
    schema: dict[str, Any] = pv.json_schema()
    write(Path(app.outdir) / "spec.schema.json", json.dumps(schema, indent=1) + "\n")
    write(written / "command_line.md", commands.page())
    write(written / "reference_set.csv", reference_set())
    for name, page in {"CONTRIBUTING": "contributing", "CHANGELOG": "changes"}.items():
        text = (Path(app.srcdir).parent / f"{name}.md").read_text()
        write(written / f"{page}.md", text.replace("](docs/", "](../../"))


def sign(app: Sphinx) -> None:
    """Give declared classes the signature of their constructor: they have a ``__new__``."""
    classes: list[Any] = [Declared]
    for cls in classes:
        classes += cls.__subclasses__()
        whole = inspect.signature(cls.__init__)
        cls.__signature__ = whole.replace(parameters=list(whole.parameters.values())[1:])


def setup(app: Sphinx) -> dict[str, bool]:
    """Write when Sphinx begins."""
    app.connect("builder-inited", write_pages)
    app.connect("builder-inited", sign)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
