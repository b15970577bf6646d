"""Docstrings as plain text: without markup, and with formulas that can be read on a terminal."""

from __future__ import annotations

import re
import unicodedata

SYMBOLS = {
    "mid": "|",
    "le": "≤",
    "ge": "≥",
    "ne": "≠",
    "in": "∈",
    "sim": "~",
    "propto": "∝",
    "leftarrow": "←",
    "top": "ᵀ",
    "sum": "∑",
    "prod": "∏",
    "int": "∫",
    "odot": "⊙",
    "circ": "∘",
    "cdot": "·",
    "cdots": "…",
    "dots": "…",
    "quad": "  ",
    "qquad": "    ",
    "lambda": "λ",
    "infty": "∞",
    **dict.fromkeys(("big", "Big", "bigg", "Bigg", "left", "right"), ""),
}


def plain(text: str) -> str:
    """A docstring as plain text.

    Arguments:
        text: Text in reStructuredText, with LaTeX in its formulas.
    """
    text = re.sub(r"^\.\. math::(?: +|\n\n)", _formula_indent, text, flags=re.M)
    text = re.sub(r":\w+:`[~.]*([^`]*)`", r"\1", text).replace("``", "")
    text = re.sub(r"^( +)\| ", r"\1", text, flags=re.M)

    text = re.sub(r"\\(?:mathrm|mathcal|mathbb|text|operatorname)\{([^{}]*)\}", r"\1", text)
    text = re.sub(r"\\([A-Za-z]+)", _symbol, text)
    text = re.sub(r"\\frac\{([^{}]*)\}\{([^{}]*)\}", _fraction, text)
    text = re.sub(r" *\\[\\ ,;:] ?", " ", text).replace("^ᵀ", "ᵀ")
    return re.sub(r" +$", "", text, flags=re.M)


def _formula_indent(directive: re.Match[str]) -> str:
    """A formula on the line of its directive is indented; one in a block below already is."""
    return "" if directive[0].endswith("\n") else "    "


def _symbol(command: re.Match[str]) -> str:
    """Unicode for a LaTeX command; a function such as ``log`` is its own name."""
    word = command[1]
    if word in ("frac", "tfrac", "dfrac"):
        return "\\frac"
    if word in SYMBOLS:
        return SYMBOLS[word]
    case = "CAPITAL" if word[0].isupper() else "SMALL"
    try:
        return unicodedata.lookup(f"GREEK {case} LETTER {word.upper()}")
    except KeyError:
        return word


def _fraction(command: re.Match[str]) -> str:
    return f"{_in_parentheses(command[1])} / {_in_parentheses(command[2])}"


def _in_parentheses(text: str) -> str:
    """A text of several words in parentheses."""
    return f"({text})" if " " in text else text
