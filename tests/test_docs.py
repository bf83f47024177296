"""The pages say what is so: commands parse, paths exist, job descriptions load, tables are current."""

import importlib.util
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import NamedTuple

import pytest
import typer

from metier.cli import app
from metier.evaluate.metrics import row_statistics
from metier.spec.job import Job
from metier.spec.load import load_job
from metier.tasks.registry import TASKS

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]
TUTORIAL = DOCS / "tutorial.md"

MADE_BY_READERS = {
    *("jobs/notes", "jobs/notes/job.toml", "notes.csv", "notes.txt"),
    *("jobs/prices", "jobs/prices/job.toml", "prices.csv", "prices.py", "other.csv"),
    *("mine.tsv", "a.txt", "b.txt", "in.txt", "out.txt", "job.schema.json", "job.toml", ".venv/"),
    *("books.txt", "code.txt", "pairs.tsv", "step-1000/", "step-2000/", "step-3000/", "seen/"),
    *("seen/routing.html", "seen/routing.json", "seen/routing.npz"),
    *("facts.csv", "facts.py"),
}
"""What a page tells its reader to write; everything below RUN/ is written by a build."""

_FENCE = re.compile(r"^```(?P<kind>[^\n]*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
_PATH = re.compile(r"[\w.<>{}-]*(?:/[\w.<>{}-]*)+|[\w-]+\.(?:py|toml|md|csv|tsv|txt|json|jsonl|gguf)")
_PLACEHOLDERS = {"JOB": "jobs/tiny", "NAME": "name", "TASK": "text2text", "FILE": "file.csv", "MODEL": "tiny"}


class Block(NamedTuple):
    page: Path
    kind: str
    text: str


def _blocks(page):
    return [Block(page, found["kind"].strip(), found["text"]) for found in _FENCE.finditer(page.read_text("utf-8"))]


BLOCKS = [block for page in PAGES for block in _blocks(page)]


def _kinds(*kinds):
    return pytest.mark.parametrize(
        "block",
        [block for block in BLOCKS if block.kind in kinds],
        ids=lambda block: f"{block.page.stem}: {block.text.strip().splitlines()[0]}",
    )


def _prose(page):
    """Return a page without its fenced blocks."""
    return _FENCE.sub("", page.read_text("utf-8"))


def _spans(page):
    return re.findall(r"`([^`\n]+)`", _prose(page))


def _metier_lines():
    """Return every metier command of the pages: the fenced ones and those within a sentence."""
    fenced = [line for block in BLOCKS if block.kind == "sh" for line in block.text.splitlines()]
    return sorted(
        {line for line in (*fenced, *(s for page in PAGES for s in _spans(page))) if line.startswith("metier ")}
    )


def _parse(line):
    """Parse a metier command as the command line would, without running it."""
    words = shlex.split(re.split(r" [<>] ", line)[0])[1:]
    if len(words) == 1 and not words[0].startswith("-"):
        assert words[0] in _command().commands, f"no such verb: {line}"
    elif words[0] in ("--help", "--version", "--debug"):
        assert {words[0]} <= {"--help", *(opt for option in _command().params for opt in option.opts)}
    else:
        given = [_PLACEHOLDERS.get(word, word) for word in words[1:]]
        _command().commands[words[0]].make_context(words[0], given)


def _command():
    return typer.main.get_command(app)


@pytest.mark.parametrize("line", _metier_lines())
def test_every_command_on_a_page_is_one_that_the_command_line_takes(line):
    _parse(line)


def test_every_verb_is_in_the_index():
    spans = _spans(DOCS / "index.md")
    assert all(any(span.startswith(f"metier {verb}") for span in spans) for verb in _command().commands)


def test_a_command_that_does_not_exist_would_be_noticed():
    for line in ("metier train jobs/tiny", "metier build jobs/tiny --fast", "metier bild"):
        with pytest.raises(Exception, match=r"train|[Nn]o such"):
            _parse(line)


@_kinds("sh")
def test_make_pip_and_python_lines_name_what_is_there(block):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    makefile = (ROOT / "Makefile").read_text("utf-8")
    for line in block.text.splitlines():
        assert "://" not in line
        words = shlex.split(line)
        if words[0] == "make":
            assert all(re.search(rf"^{word}:", makefile, re.MULTILINE) for word in words[1:] if "=" not in word)
        elif words[:2] == ["pip", "install"]:
            extra = re.fullmatch(r"\.(?:\[(\w+)\])?", words[2])
            assert (extra and (extra[1] or "build") in project["optional-dependencies"]) or (
                f"TORCH ?= {words[2]}\n" in makefile
            )
        elif words[0] == "python":
            assert words[1] in MADE_BY_READERS or (ROOT / words[1]).is_file()
        else:
            assert words[0] in ("metier", "python3", ".")


@_kinds("toml")
def test_every_job_description_on_a_page_loads(block, tmp_path):
    (tmp_path / "job.toml").write_text(block.text, encoding="utf-8")
    assert load_job(tmp_path).name


@_kinds("toml fragment")
def test_every_fragment_fits_into_a_job_description(block, tmp_path):
    whole = {
        "name": "x",
        "task": "text2text",
        "base": {"model": "pypi:some-base"},
        "data": {"train": [{"source": "file:pairs.tsv", "licence": "own"}]},
    }
    assert Job.model_validate(whole | tomllib.loads(block.text))


def test_no_fence_is_of_an_unknown_kind():
    assert {block.kind for block in BLOCKS} <= {"sh", "toml", "toml fragment", "python", "text"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_path_on_a_page_is_there_or_is_made_by_a_build_or_by_the_reader(page):
    written = "\n".join(path.read_text("utf-8") for path in (ROOT / "src").rglob("*.py"))
    for span in _spans(page):
        for path in _PATH.findall(span) if " " not in span else ():
            if path in MADE_BY_READERS or span.startswith(("$METIER_HOME/", "~/", "metier ", "hf:", "pypi:")):
                continue
            if path.startswith("RUN/"):
                parts = [part for part in path.split("/")[1:] if part]
                known = [re.sub(r"^<job>-Q8_0|^tiny-Q8_0", "", part) in written for part in parts]
                assert all(known), f"{path}: no step writes that"
            else:
                places = (ROOT, ROOT / "src" / "metier", ROOT / "docs")
                made = path in ("manifest.json", "ledger.json", "verdict.json", "tokenizer.json")
                assert made or any((place / path).exists() for place in places), path


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page):
    for target in re.findall(r"\]\(([^)]+)\)", _prose(page)):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        linked = page.parent / path if path else page
        assert linked.exists(), target
        headings = re.findall(r"^#+ (.+)$", linked.read_text("utf-8"), re.MULTILINE)
        assert not anchor or anchor in {re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_prose_is_in_ascii(page):
    assert _prose(page).isascii()


def test_the_map_is_the_source_tree():
    rows = [line for line in _prose(ROOT / "CONTRIBUTING.md").splitlines() if line.startswith("| `")]
    shown = {name.rstrip("/") for row in rows for name in re.findall(r"`([^`]+)`", row.split("|")[1])}
    package = ROOT / "src" / "metier"
    assert shown == {path.name for path in package.iterdir() if path.name not in ("__pycache__", "py.typed")}


def test_the_keys_of_the_job_description_are_written_down_as_they_are():
    page = (DOCS / "steps" / "job.md").read_text("utf-8")
    assert page == _job_keys().with_keys(page), "run: python docs/job_keys.py"


def test_the_table_of_keys_is_written_from_the_types_and_not_from_the_page():
    page = (DOCS / "steps" / "job.md").read_text("utf-8")
    assert page == _job_keys().with_keys(page.replace("| `seed` |", "| `sead` |"))


def test_the_signatures_of_the_metrics_are_written_down_as_they_are():
    page = (DOCS / "steps" / "evaluate.md").read_text("utf-8")
    for metric in {metric for task in TASKS.values() for metric in task.metrics}:
        signature = row_statistics(metric, ["a"], ["a"], language="en").signature
        assert f"`{signature.rpartition('|version:')[0]}`" in page
    for task in TASKS.values():
        shown = next(line for line in page.splitlines() if line.startswith(f"| `{task.name}` |")).lower()
        assert shown == f"| `{task.name}` | {', '.join(task.metrics)} |"


def test_every_step_of_a_build_and_every_decision_is_in_the_index():
    index = (DOCS / "index.md").read_text("utf-8")
    steps = re.findall(r'step\(\s*"(\w+)"', (ROOT / "src" / "metier" / "build.py").read_text("utf-8"))
    assert re.findall(r"^\| `(\w+)` \| \[", index, re.MULTILINE) == steps
    linked = set(re.findall(r"\(((?:steps|decisions)/[\w-]+\.md)\)", index))
    assert linked == {str(path.relative_to(DOCS)) for path in DOCS.rglob("*/*.md")}


def test_the_tutorial_can_be_followed_with_a_table_of_ones_own(tmp_path):
    python, *rest = [block.text for block in _blocks(TUTORIAL) if block.kind == "python"]
    assert not rest
    (tmp_path / "prices.py").write_text(python, encoding="utf-8")
    commands = [line for block in _blocks(TUTORIAL) if block.kind == "sh" for line in block.text.splitlines()]
    made = commands.index("python prices.py")
    for line in commands[made : made + 2]:
        _do(line, tmp_path)
    assert load_job(tmp_path / "jobs" / "prices").data.train[0].licence == "own"

    (description,) = [block.text for block in _blocks(TUTORIAL) if block.kind == "toml"]
    job = tmp_path / "jobs" / "prices" / "job.toml"
    quick = description.replace('"250 steps"', '"12 steps"').replace("_rows = 60", "_rows = 20")
    job.write_text(quick.replace("[evaluate]", "[evaluate]\nmax_answer_tokens = 8"), encoding="utf-8")
    build, ask, mistaken = commands[made + 2 : made + 5]
    assert "prices-Q8_0" in _do(build, tmp_path, codes=(0, 1)).stdout
    assert _do(ask, tmp_path).stdout.strip()

    job.write_text(description.replace("budget =", "budgit ="), encoding="utf-8")
    told = _do(mistaken, tmp_path, codes=(2,)).stderr
    (shown,) = [block.text for block in _blocks(TUTORIAL) if block.text.startswith("error: ")]
    assert told == shown


def test_the_example_of_facts_prints_what_the_page_shows(tmp_path):
    _, table, python, printed = [block.text for block in _blocks(DOCS / "steps" / "facts.md") if block.kind != "sh"]
    (tmp_path / "facts.csv").write_text(table, encoding="utf-8")
    (tmp_path / "facts.py").write_text(python, encoding="utf-8")
    assert _do("python facts.py", tmp_path).stdout == printed


def _do(line, folder, codes=(0,)):
    """Run a line of a page in a folder, with a home of its own."""
    program, *words = shlex.split(line)
    first = [sys.executable] if program == "python" else [sys.executable, "-m", "metier"]
    env = os.environ | {"METIER_HOME": str(folder / "home"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*first, *words], cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert done.returncode in codes, done.stderr
    return done


def _job_keys():
    specification = importlib.util.spec_from_file_location("job_keys", DOCS / "job_keys.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module
