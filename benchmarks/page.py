"""Write docs/performance.md: what the benchmarks say on this machine, in their short form.

Run it: make bench. It takes some ten minutes; the machine should have nothing else to do.
"""

import ast
import os
import platform
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "performance.md"
RUNS = {
    "Training": ("training.py", "--rounds", "3"),
    "log p(x)": ("evidence.py", "--repeats", "3"),
    "MCMC": ("mcmc.py", "--repeats", "1"),
}
INTRODUCTION = """# How fast it is

Written by `make bench`, with the peers that were installed ({processor}, {cores} cores, Python
{python}). What counts are the ratios of one run: times differ between machines.
"""


def section(title: str, script: str, *options: str) -> str:
    """What a benchmark measures, and what it printed."""
    about = ast.get_docstring(ast.parse((HERE / script).read_text())) or ""
    paragraphs = about.partition("\n\nRun it:")[0]
    command = [sys.executable, str(HERE / script), *options]
    printed = subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE).stdout
    call = " ".join(["python", f"benchmarks/{script}", *options])
    return f"## {title}\n\n{paragraphs}\n\n```\n$ {call}\n{printed.rstrip()}\n```\n"


if __name__ == "__main__":
    introduction = INTRODUCTION.format(
        processor=platform.machine(), cores=os.cpu_count(), python=platform.python_version()
    )
    sections = [section(title, *run) for title, run in RUNS.items()]
    PAGE.write_text("\n".join([introduction, *sections]))
    print(f"written: {PAGE.relative_to(HERE.parent)}")
