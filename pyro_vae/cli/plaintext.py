"""Docstrings as plain text: markup and formulas as they are read aloud."""

from __future__ import annotations

import re
import unicodedata

SYMBOLS = {
    **{
        "mid": "|",
        "le": "≤",
        "ge": "≥",
        "ne": "≠",
        "in": "∈",
        "sim": "~",
        "propto": "∝",
        "leftarrow": "←",
        "top": "ᵀ",
    },
    **{
        "sum": "∑",
        "prod": "∏",
        "int": "∫",
        "odot": "⊙",
        "circ": "∘",
        "cdot": "·",
        "cdots": "…",
        "dots": "…",
    },
    **{"quad": "  ", "qquad": "    ", "lambda": "λ", "infty": "∞"},
    **dict.fromkeys(("big", "Big", "bigg", "Bigg", "left", "right"), ""),
}


def plain(text: str) -> str:
    """A docstring without markup: roles and formulas as they are read aloud.

    Arguments:
        text: Text in reStructuredText, with LaTeX in its formulas.
    """
    text = re.sub(
        r"^\.\. math::(?: +|\n\n)",
        lambda found: "" if found[0][-1] == "\n" else "    ",
        text,
        flags=re.M,
    )
    text = re.sub(r":\w+:`[~.]*([^`]*)`", r"\1", text).replace("``", "")
    text = re.sub(r"^( +)\| ", r"\1", text, flags=re.M)
    text = re.sub(r"\\(?:mathrm|mathcal|mathbb|text|operatorname)\{([^{}]*)\}", r"\1", text)
    text = re.sub(r"\\([A-Za-z]+)", _symbol, text)
    text = re.sub(
        r"\\frac\{([^{}]*)\}\{([^{}]*)\}",
        lambda part: f"{_grouped(part[1])} / {_grouped(part[2])}",
        text,
    )
    text = re.sub(r" *\\[\\ ,;:] ?", " ", text).replace("^ᵀ", "ᵀ")
    return re.sub(r" +$", "", text, flags=re.M)


def _symbol(command: re.Match[str]) -> str:
    """Unicode for a LaTeX command; a function such as ``log`` is its own name."""
    word = command[1]
    if word in ("frac", "tfrac", "dfrac"):
        return "\\frac"
    if word in SYMBOLS:
        return SYMBOLS[word]
    try:
        return unicodedata.lookup(
            f"GREEK {'CAPITAL' if word[0].isupper() else 'SMALL'} LETTER {word.upper()}"
        )
    except KeyError:
        return word


def _grouped(text: str) -> str:
    return f"({text})" if " " in text else text
