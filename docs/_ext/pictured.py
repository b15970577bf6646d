"""The pictures and the printed results of the examples, which ``make gallery`` leaves in
docs/images/examples, on the pages that sphinx-gallery makes of their text."""

from __future__ import annotations

import re
from pathlib import Path

from PIL import Image
from sphinx.application import Sphinx

KEPT = Path(__file__).parents[1] / "images" / "examples"
THUMB = (400, 280)


def put_thumbs(app: Sphinx) -> None:
    """Replace the thumbnails of the gallery by small copies of the pictures."""
    for path in KEPT.glob("*.png"):
        thumb = (
            Path(app.srcdir) / "gallery" / "images" / "thumb" / f"sphx_glr_{path.stem}_thumb.png"
        )
        if thumb.parent.is_dir():
            with Image.open(path) as image:
                small = image.convert("RGB")
                small.thumbnail(THUMB)
            whole = Image.new("RGB", THUMB, "white")
            whole.paste(small, ((THUMB[0] - small.width) // 2, (THUMB[1] - small.height) // 2))
            whole.save(thumb)


def put_picture(app: Sphinx, name: str, source: list[str]) -> None:
    """Put picture and printed result between the text of an example and its code."""
    stem = name.removeprefix("gallery/")
    picture, printed = KEPT / f"{stem}.png", KEPT / f"{stem}.txt"
    if stem == name or not picture.is_file():
        return
    shown = f".. image:: /images/examples/{stem}.png\n   :alt: the picture that it leaves\n"
    if printed.is_file() and printed.read_text().strip():
        lines = "\n".join(f"   {line}" for line in printed.read_text().splitlines())
        shown += f"\nIt prints:\n\n.. code-block:: text\n\n{lines}\n"
    code = re.search(
        r"^\.\. GENERATED FROM PYTHON SOURCE LINES.*\n\n\.\. code-block::", source[0], re.M
    )
    if code:
        source[0] = f"{source[0][: code.start()]}{shown}\n\n{source[0][code.start() :]}"


def setup(app: Sphinx) -> dict[str, bool]:
    """After sphinx-gallery has written its pages."""
    app.connect("builder-inited", put_thumbs, priority=900)
    app.connect("source-read", put_picture)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
