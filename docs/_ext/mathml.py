"""Formulas as MathML, which browsers draw by themselves: no script, no network."""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.util import logging

LOGGER = logging.getLogger(__name__)


def mathml(latex: str, *, display: str) -> str:
    """LaTeX as MathML.

    Arguments:
        latex: The formula; several lines, or columns, are aligned at ``&``.
        display: "inline" or "block".

    Raises:
        Exception: latex2mathml does not know a command, or the formula is broken.
    """
    if ("&" in latex or r"\\" in latex) and r"\begin" not in latex:
        latex = rf"\begin{{align*}}{latex}\end{{align*}}"
    return convert(latex.strip().replace(r"\tfrac", r"\frac"), display=display)


def _shown(node: Any, latex: str, display: str) -> str:
    """A formula in MathML, or as it is with a warning."""
    try:
        return mathml(latex, display=display)
    except Exception as error:
        LOGGER.warning("no formula: %r (%s)", latex, type(error).__name__, location=node)
        return ""


def _inline(writer: Any, node: nodes.math) -> None:
    writer.body.append(_shown(node, node.astext(), "inline"))
    raise nodes.SkipNode


def _block(writer: Any, node: nodes.math_block) -> None:
    for part in re.split(r"\n\s*\n", node.astext().strip()):
        writer.body.append(f'<div class="formula">{_shown(node, part, "block")}</div>')
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the renderer."""
    app.add_html_math_renderer("mathml", (_inline, None), (_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
