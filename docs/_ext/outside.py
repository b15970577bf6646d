"""Links to files outside docs/ lead to their pages: examples in the gallery, texts beside it."""

from __future__ import annotations

import re

from sphinx.application import Sphinx

PAGES = {
    r"examples/(\w+)\.py": r"gallery/\1.rst",
    r"CONTRIBUTING\.md": "look_up/written/contributing.md",
    r"CHANGELOG\.md": "look_up/written/changes.md",
}


def lead_inside(app: Sphinx, name: str, source: list[str]) -> None:
    """Replace the targets of links in a page."""
    up = "../" * name.count("/")
    for outside, page in PAGES.items():
        source[0] = re.sub(rf"\]\((?:\.\./)+{outside}\)", rf"]({up}{page})", source[0])


def setup(app: Sphinx) -> dict[str, bool]:
    """For each page, when it is read."""
    app.connect("source-read", lead_inside)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
