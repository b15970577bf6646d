"""The licences of what is installed with pyro_vae, as a table.

python tests/licences.py > docs/licences.md makes the page again."""

import re
from importlib import metadata

from packaging.requirements import Requirement

HEAD = """# Licences

pyro_vae is under Apache-2.0. What is installed with it, directly or by what that needs, and the
licence that each states:

| package | licence |
|---|---|"""


def licences():
    """Each package that pyro_vae needs here, with its licence."""
    return {name: stated(name) for name in sorted(needed("pyro-vae", set()))}


def needed(package, found):
    """The names of what a package requires, and what that requires, added to those found."""
    for line in metadata.requires(package) or []:
        requirement = Requirement(line)
        name = re.sub("[-_.]+", "-", requirement.name).lower()
        applies = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if applies and name not in found:
            found.add(name)
            needed(name, found)
    return found


def stated(package):
    """The licence in a package's metadata: an SPDX expression, else the classifier, else a word."""
    about = metadata.metadata(package)
    classifiers = about.get_all("Classifier") or []
    named = [text.split(" :: ")[-1] for text in classifiers if text.startswith("License")]
    return about.get("License-Expression") or ", ".join(named) or about.get("License")


if __name__ == "__main__":
    print(HEAD)
    for name, licence in licences().items():
        print(f"| {name} | {licence} |")
