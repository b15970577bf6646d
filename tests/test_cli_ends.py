"""How the command starts and ends, and what its help and errors say, word for word.

``PYRO_VAE_SNAPSHOTS=write python -m pytest tests/test_cli_ends.py`` writes the texts anew."""

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import pyro_vae as pv
from pyro_vae.data.delimited import ENDINGS
from pyro_vae.data.files import READ, READERS
from pyro_vae.data.lines import COMPRESSED
from pyro_vae_command import app, errors, options

SNAPSHOTS = Path(__file__).parent / "snapshots"
ROOT = Path(__file__).parents[1]
COMMANDS = [
    "fit",
    "sweep",
    "sample",
    "evaluate",
    "compare-models",
    "report",
    "mcmc",
    "compare",
    "classify",
    "list",
    "describe",
    "check",
    "demo",
]
START = "from pyro_vae_command import app; app(prog_name='pyro-vae')"
WRONG = {
    "a wrong flag": ["fit", "--wrong"],
    "a wrong command": ["fti"],
    "no output": ["fit", "x.npy"],
    "a wrong number": ["fit", "x.npy", "-o", "new.safetensors", "--epochs", "many"],
    "a number out of range": ["sweep", "s.toml", "x.npy", "-o", "out", "--jobs", "0"],
    "a wrong word": ["evaluate", "m.safetensors", "x.npy", "--rows", "some"],
    "a wrong ending": ["fit", "x.npy", "-o", "m.pt"],
    "no data": ["fit", "none.npy", "-o", "new.safetensors"],
    "a wrong loss": ["fit", "x.npy", "-o", "new.safetensors", "--loss", "elb"],
    "a model is there": ["fit", "x.npy", "-o", "m.safetensors"],
    "no model": ["evaluate", "none.safetensors", "x.npy"],
    "no spec": ["sweep", "none.toml", "x.npy", "-o", "out"],
    "a wrong device": ["sample", "m.safetensors", "--device", "tpu"],
}


def started(*arguments, **options):
    """The command in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **options.pop("env", {})}
    command = [sys.executable, "-c", START, *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, env=environment, **options
    )


def agrees(name, text):
    """Whether a text is the one that was written down."""
    path = SNAPSHOTS / f"{name}.txt"
    text = "\n".join(line.rstrip() for line in text.splitlines()).strip() + "\n"
    if os.environ.get("PYRO_VAE_SNAPSHOTS") == "write":
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    assert text == path.read_text(), f"{path.name} says another; see the first line of this file"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", np.random.default_rng(0).normal(size=(40, 3)))
    pv.save(pv.build({"event": [3], "latent": [2]}, hidden=[4]), "m.safetensors")
    return tmp_path


@pytest.fixture
def plain(monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("TERMINAL_WIDTH", "100")


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help(command, plain):
    arguments = [command, "-h"] if command else ["-h"]
    result = CliRunner().invoke(app, arguments, prog_name="pyro-vae")
    assert result.exit_code == 0
    agrees(f"help {command}".strip(), result.stdout)


def test_errors(folder, plain):
    told = []
    for name, arguments in WRONG.items():
        result = CliRunner().invoke(app, arguments, prog_name="pyro-vae")
        assert (result.exit_code, result.stdout) == (2, ""), name
        told.append(f"{name}: pyro-vae {' '.join(arguments)}\n{result.stderr}")
    agrees("errors", "\n".join(told))


def test_help_errors_and_documents_name_the_same_files():
    (argument,) = options.Source.__metadata__
    assert argument.help == f"digits, or a file: {READ}."
    told = CliRunner().invoke(app, ["fit", "none.npy", "-o", "m.safetensors"]).stderr
    assert READ in told
    assert f"`digits` or a file: {READ};" in " ".join((ROOT / "docs/tour.md").read_text().split())
    for ending in (*READERS, *ENDINGS, *COMPRESSED):
        assert ending in READ


@pytest.mark.parametrize("arguments", [["--version"], ["fit", "--wrong"], ["fit", "--help"]])
def test_what_needs_no_model_takes_less_than_half_a_second(arguments):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    result = started(*arguments)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert result.returncode == (2 if "--wrong" in arguments else 0)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.5


def test_a_closed_pipe_is_quiet():
    """As of ``pyro-vae -h | head -1``: the reader has gone before all is written."""
    command = [sys.executable, "-c", f"import time; time.sleep(0.5); {START}", "-h"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    )
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait() == 0


def test_advice_that_is_put_in_the_words_of_options_is_given_by_some_warning():
    sources = "".join(path.read_text() for path in (ROOT / "pyro_vae").rglob("*.py"))
    for argument in errors.AS_OPTIONS:
        assert argument in sources, argument


FAILING = """
import typer
from pyro_vae_command.errors import reader_may_go
try:
    with reader_may_go():
        try:
            print("something")
        finally:
            raise typer.Exit(1)
except typer.Exit as ended:
    raise SystemExit(ended.exit_code)
"""


def test_a_failure_is_told_to_a_shell_whose_reader_has_gone():
    """As of ``pyro-vae check | head -1`` under ``pipefail``."""
    command = [sys.executable, "-c", FAILING]
    reader, writer = os.pipe()
    os.close(reader)
    for unbuffered in ("", "1"):  # the pipe is found closed at the end, or by the first line
        environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
        ended = subprocess.run(command, stdout=writer, cwd=ROOT, env=environment)
        assert ended.returncode == 1
    os.close(writer)


@pytest.mark.slow
def test_a_fit_goes_on_where_its_reader_has_gone(folder):
    command = [sys.executable, "-m", "pyro_vae", "fit", "x.npy", "--epochs", "1", "--hidden", "4"]
    process = subprocess.Popen(
        [*command, "-o", "unread.safetensors"], cwd=folder, stdout=subprocess.PIPE
    )
    process.stdout.close()
    assert process.wait(timeout=120) == 0
    assert (folder / "unread.safetensors").exists()


@pytest.mark.slow
def test_ctrl_c_saves_what_there_is_and_ends_with_130(folder):
    fit = ["fit", "x.npy", "-o", "new.safetensors", "--epochs", "100000", "--hidden", "8"]
    command = [sys.executable, "-c", START, *fit, "--checkpoint", "states"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    for _ in range(600):
        if Path("states/history.csv").exists():
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130, told
    assert "the model so far is in new.safetensors" in told
    assert "Traceback" not in told
    pv.load("new.safetensors")


def test_no_color_is_plain_text(plain, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    for arguments in (["-h"], ["list"]):
        assert "\x1b" not in CliRunner().invoke(app, arguments, color=True).output


def test_the_shell_completes_names_of_commands():
    asked = {
        "_PYRO_VAE_COMPLETE": "complete_bash",
        "COMP_WORDS": "pyro-vae comp",
        "COMP_CWORD": "1",
    }
    result = started(env=asked)
    assert result.stdout.split() == ["compare-models", "compare"]
    assert "install-completion" not in started("-h").stdout.split("Exit codes")[0]
