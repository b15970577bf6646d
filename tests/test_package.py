"""The package: what it needs, under which licences, and what a wheel holds."""

import re
from pathlib import Path

import licences

ROOT = Path(__file__).parents[1]


def test_licences_are_listed_as_stated_and_none_is_copyleft():
    page = (ROOT / "docs" / "licences.md").read_text()
    listed = dict(re.findall(r"^\| ([a-z0-9-]+) \| (.+) \|$", page, flags=re.MULTILINE))
    here = licences.licences()
    assert len(here) > 20
    assert here.items() <= listed.items()
    assert not re.search(r"\bA?GPL", page)
