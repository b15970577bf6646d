"""Formulas as MathML, which browsers draw by themselves: no script, no network."""

from __future__ import annotations

import html
import re
from typing import Any

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx


def mathml(latex: str, *, display: str) -> str:
    """LaTeX as MathML.

    Arguments:
        latex: The formula; several lines, or columns, are aligned at ``&``.
        display: "inline" or "block".
    """
    if ("&" in latex or r"\\" in latex) and r"\begin" not in latex:
        latex = rf"\begin{{aligned}}{latex}\end{{aligned}}"
    latex = re.sub(r"\\tfrac\b", r"\\frac", latex)
    return convert(latex.strip(), display=display)


def _inline(writer: Any, node: nodes.math) -> None:
    writer.body.append(mathml(node.astext(), display="inline"))
    raise nodes.SkipNode


def _block(writer: Any, node: nodes.math_block) -> None:
    for part in re.split(r"\n\s*\n", node.astext()):
        title = html.escape(" ".join(part.split()), quote=True)
        formula = mathml(part, display="block")
        writer.body.append(f'<div class="formula" title="{title}">{formula}</div>')
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the renderer."""
    app.add_html_math_renderer("mathml", (_inline, None), (_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
