"""What the tests share: a home of their own, and one tiny model that has really learned something."""

import os
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from doubles import counted_animals, gemma
from forks import Forks
from hypothesis import settings

# Before torch is imported: golden numbers and bit-equal resumption are checked with one thread.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# How long an example takes says more about the machine than about the code.
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")

TASK = {"task": "text2text", "input": "Input", "output": "Output"}


class Trained(NamedTuple):
    """A model that counts animals, and how it was asked."""

    folder: Path
    model: Any
    tokenizer: Any
    prompt: Any
    held_out: list[Any]


@pytest.fixture(scope="session", autouse=True)
def _home_of_the_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("METIER_HOME", str(tmp_path_factory.mktemp("home")))
        yield


@pytest.fixture(scope="session")
def forks() -> Iterator[Forks]:
    """Where functions of test modules are run in processes of their own."""
    server = Forks()
    yield server
    server.close()


@pytest.fixture(scope="session")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Trained]:
    """Tiny models trained until their greedy answers are decided: "dense", "moe" or "gemma"."""
    from metier.data.records import Record
    from metier.export.huggingface import write_folder
    from metier.model.scratch import scratch
    from metier.spec.training import Train
    from metier.tasks.registry import task_from_json
    from metier.tokenizer.learn import learn
    from metier.train.batches import encode
    from metier.train.loop import train

    records = [Record(asked, answer) for asked, answer in counted_animals(1400)]
    learned, held_out = records[:1300], records[1300:]
    prompt = task_from_json(TASK).prompts()[0]
    pieces = learn([prompt.render(""), *(text for row in learned for text in (row.input, row.output))], 400)
    tokenizer = pieces.tokenizer()
    untrained = {
        "dense": lambda: scratch(len(pieces), 64, 2, 512, seed=0),
        "moe": lambda: scratch(len(pieces), 64, 2, 512, seed=0, architecture="moe", experts=4),
        "gemma": lambda: gemma(len(pieces), layers=6),  # both kinds of attention occur
    }

    @cache
    def one(kind: str) -> Trained:
        model, _ = train(
            untrained[kind],
            encode(tokenizer, prompt, learned, 64),
            encode(tokenizer, prompt, held_out[:50], 64),
            Train(budget="100 steps", batch_tokens=600, max_tokens=64),
            5e-3,
            tmp_path_factory.mktemp("training"),
            pad=tokenizer.pad_token_id,
            seed=0,
        )
        folder = tmp_path_factory.mktemp(kind)
        write_folder(folder, model, tokenizer, prompt)
        return Trained(folder, model.eval(), tokenizer, prompt, held_out)

    return one


@pytest.fixture(scope="session")
def trained(taught: Callable[[str], Trained]) -> Trained:
    """The dense one of the tiny models."""
    return taught("dense")


@pytest.fixture(scope="session")
def gguf_of(taught: Callable[[str], Trained], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A tiny model as a GGUF file of any quantisation, written once each."""
    from metier.export.gguf import write_gguf

    folder = tmp_path_factory.mktemp("files")

    @cache
    def written(quantisation: str, kind: str = "dense") -> Path:
        path, trained = folder / f"{kind}-{quantisation}.gguf", taught(kind)
        write_gguf(
            path,
            trained.model,
            trained.tokenizer,
            quantisation,
            name="animals",
            licence="own",
            prompt=trained.prompt,
            task=TASK,
        )
        return path

    return written
