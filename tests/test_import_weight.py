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


def test_a_module_missing_in_the_middle_of_a_build_is_no_matter_of_the_workshop(tmp_path):
    code = """
import sys, metier.build, metier.spec.load
from metier.cli import main
metier.spec.load.load_job = lambda job: type("Job", (), {"name": "pets"})
def breaks(*_):
    raise ModuleNotFoundError("No module named 'antenna'", name="antenna")
metier.build.build = metier.build.sweep = breaks
sys.argv = ["metier", *sys.argv[1:]]
main()
"""
    for verb in ("build", "compress"):
        done = python("-c", code, verb, "job.toml", METIER_HOME=str(tmp_path))
        assert "No module named 'antenna'" in done.stderr and "workshop" not in done.stderr


@pytest.mark.parametrize("missing", ["torch", "matplotlib"])
def test_what_a_build_imports_late_is_missed_before_it_begins(missing, tmp_path):
    blocked = BLOCKED.replace("name.partition", f"name == {missing!r} and name.partition")
    done = python("-c", blocked, "build", str(tmp_path / "job.toml"), METIER_HOME=str(tmp_path))
    assert done.returncode == 5 and f"needs the workshop, and {missing} is not installed" in done.stderr
