"""The package: what it needs, under which licences, and what a wheel holds."""

import re
import sys
from pathlib import Path

import licences
import pytest
import torch

ROOT = Path(__file__).parents[1]


@pytest.mark.skipif(
    sys.version_info >= (3, 12) or torch.version.cuda is not None,
    reason="docs/licences.md lists what is installed on Python 3.11 with torch for the CPU",
)
def test_licences_are_listed_as_stated():
    page = (ROOT / "docs" / "licences.md").read_text()
    listed = dict(re.findall(r"^\| ([a-z0-9-]+) \| (.+) \|$", page, flags=re.MULTILINE))
    here = licences.licences()
    assert len(here) > 20
    assert here.items() <= listed.items()


def test_no_licence_is_copyleft():
    stated = [*licences.licences().values(), (ROOT / "docs" / "licences.md").read_text()]
    assert not re.search(r"\bA?GPL", "\n".join(map(str, stated)))
