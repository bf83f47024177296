"""What the base install carries: help and answers without the workshop's libraries."""

import os
import subprocess
import sys

import pytest
from doubles import tiny_gguf

WORKSHOP = (
    *("torch", "transformers", "tokenizers", "numpy", "pydantic", "gguf", "scipy", "sacrebleu", "safetensors"),
    *("huggingface_hub", "datasets", "babel", "requests", "packaging", "pypi_simple", "filelock", "jinja2"),
    *("matplotlib", "lxml", "pyarrow"),
)

BLOCKED = f"""
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {[name for name in WORKSHOP if name != "pydantic"]!r}:  # typer brings that
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Blocked())
from metier.cli import main
sys.argv = ["metier", *sys.argv[1:]]
main()
"""


def python(*arguments, **environment):
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, env=os.environ | environment, check=False
    )


@pytest.mark.parametrize(
    "module",
    [
        *("metier", "metier.cli", "metier.home", "metier.run.session", "metier.run.engine", "metier.run.shown"),
        *("metier.facts.store", "metier.facts.lookup"),
    ],
)
def test_what_runs_a_model_imports_nothing_of_the_workshop(module):
    code = f"import sys, {module}; print([n for n in {WORKSHOP!r} if n in sys.modules])"
    assert python("-c", code).stdout == "[]\n"


def test_help_imports_nothing_heavy():
    done = python("-X", "importtime", "-m", "metier", "--help")
    assert done.returncode == 0 and "build" in done.stdout
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "typer" in imported
    assert imported.isdisjoint({*WORKSHOP, "xllamacpp", "rich"}), imported & {*WORKSHOP, "xllamacpp", "rich"}


def test_the_base_install_answers_with_a_gguf_file(tmp_path):
    path = tiny_gguf(tmp_path / "tiny.gguf")
    done = python("-c", BLOCKED, "run", str(path), "the cat", METIER_HOME=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


@pytest.mark.parametrize(
    "verb",
    [
        ["build", "job.toml"],
        ["verdict", "job.toml"],
        ["routing", "model", "--data", "a.txt"],
        ["new", "de-fr", "--task", "translation"],
    ],
)
def test_the_base_install_says_how_to_get_the_workshop(verb, tmp_path):
    done = python("-c", BLOCKED, *verb, METIER_HOME=str(tmp_path))
    assert done.returncode == 5
    assert done.stderr.count("\n") == 1
    assert "needs the workshop" in done.stderr and "torch first" in done.stderr
