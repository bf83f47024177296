"""The papers that travel with the file: model card, Modelfile, checksums."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from metier.artifact import sha256_file
from metier.evaluate.candidates import Candidate
from metier.evaluate.confidence import Knowledge
from metier.evaluate.report import candidates_markdown, knowledge_markdown, markdown
from metier.evaluate.verdict import Verdict
from metier.spec.contestants import kind_and_name
from metier.tasks.prompt import PromptFormat

_STOPPING = "stopping at the end of the line, or, in an exam whose answers have several lines, at the next example"


def modelfile(file_name: str, prompt: PromptFormat, context_tokens: int, max_answer_tokens: int) -> str:
    """Return an Ollama Modelfile; its TEMPLATE is explicit, because Ollama does not run the file's own."""
    return (
        f"FROM ./{file_name}\n"
        f'TEMPLATE """{prompt.ollama_template()}"""\n'
        "PARAMETER temperature 0\n"
        "PARAMETER repeat_penalty 1\n"  # Ollama's own default changes greedy answers, too
        f"PARAMETER num_ctx {context_tokens}\n"
        f"PARAMETER num_predict {max_answer_tokens}\n"
    )


def card(
    *,
    name: str,
    file_name: str | None,
    verdict: Verdict,
    ledger: Mapping[str, Any],
    base: Mapping[str, Any] | None,
    training: Mapping[str, Any],
    cut: Mapping[str, Any] | None,
    candidates: Sequence[Candidate],
    chosen: str | None,
    prompt: PromptFormat,
    base_prompt: PromptFormat | None,
    rivals: Mapping[str, Mapping[str, Any]],
    knowledge: Sequence[Knowledge] = (),
    languages: Sequence[str],
) -> str:
    """Return the model card: Hugging Face front matter, what it is, its verdict, its sources and their terms.

    Args:
        name: the job's name.
        file_name: the shipped GGUF file, None when there is none.
        verdict: the decision, with all scores.
        ledger: the licence ledger of the data, with the answer to "may it be shipped?".
        base: facts of the base, None for a model from scratch.
        training: facts of the training.
        cut: what was cut from the trained model to make this one, None for the whole model.
        candidates: the files that were measured.
        chosen: name of the one that ships, None when there is none.
        prompt: the format the model was trained on and the file's template wraps messages in.
        base_prompt: how the base was prompted in the exam.
        rivals: other released models in the exam, by name: facts of each, and its ``prompt``.
        knowledge: of a job about facts, what the contestants know, the shipped file's first.
        languages: codes for the front matter.
    """
    shipping, losses = ledger["shipping"], training["validation_loss_nats"]
    lines = [
        "---",
        "library_name: transformers",
        f"tags: [metier{', gguf' if file_name else ''}]",
        *([f"language: {json.dumps(list(languages))}"] if languages else []),  # JSON is YAML: a bare "no" is false
        "license: other",
        f"license_name: {json.dumps(_licence_name(ledger), ensure_ascii=False)}",
        "---",
        f"# {name}",
        "",
        f"A model for one job. `{file_name}` runs in any llama.cpp app: send the input as a plain user message."
        if file_name
        else "A model for one job, as a checkpoint for transformers: there is no GGUF file.",
        "",
        "## Verdict",
        "",
        markdown(verdict),
        *_how_asked("shipped file" if file_name else "checkpoint", prompt, base_prompt),
        *(line for name, rival in rivals.items() for line in _rival_asked(name, rival)),
        *(["## What it knows", "", knowledge_markdown(knowledge)] if knowledge else []),
        *_candidates(candidates, chosen),
        "## Made from",
        "",
        f"Base: {_base_line(base)}",
        "",
        f"Training: {training['steps']} steps, {training['tokens']:,} tokens, {training['seconds'] / 60:.1f} minutes, "
        f"{_adapters(training['lora'])}peak learning rate {training['peak_lr']:g}; validation loss by step, in nats an "
        "answer token: "
        + ", ".join(f"{step}: {loss}" for step, loss in sorted(losses.items(), key=lambda item: int(item[0])))
        + ".",
        "",
        *_cut(cut),
        "| source | licence | attribution | rows read | rows trained on | sha256 |",
        "|---|---|---|---:|---:|---|",
        *(_source_line(source) for source in ledger["sources"]),
        "",
        "## May this model be shipped?",
        "",
        ("Yes, under these terms:" if shipping["allowed"] else "No:"),
        "",
        *(f"- {line}" for line in (*shipping["reasons"], *shipping["terms"])),
        "",
    ]
    return "\n".join(lines)


def _candidates(candidates: Sequence[Candidate], chosen: str | None) -> list[str]:
    if not candidates:
        return []
    return [
        "## Sizes tried",
        "",
        "On validation rows, beside the trained checkpoint:",
        "",
        candidates_markdown(candidates, chosen),
        "",
        "![score against size](sweep.svg)",
        "",
    ]


def _cut(cut: Mapping[str, Any] | None) -> list[str]:
    if cut is None:
        return []
    parts = {
        "layers_dropped": "layers dropped (from 0): {}",
        "feed_forward_size": "feed-forward channels kept: {}",
        "experts": "experts kept in a layer: {}",
    }
    what = [text.format(str(cut[part]).strip("[]")) for part, text in parts.items() if part in cut]
    healing = cut["healing"]
    return [
        f"Cut after the training: {'; '.join(what)}; {cut['parameters'] / 1e6:.1f} M parameters are left. They learned "
        f"the trained model's distribution for {healing['steps']} steps, {healing['tokens']:,} tokens.",
        "",
    ]


def checksums(folder: Path) -> str:
    """Return the lines of SHA256SUMS for every file in a folder but itself and the mark of a step under way."""
    aside = {folder / "SHA256SUMS", folder / "begun.json"}
    files = sorted(file for file in folder.rglob("*") if file.is_file() and file not in aside)
    return "".join(f"{sha256_file(file)}  {file.relative_to(folder).as_posix()}\n" for file in files)


def _licence_name(ledger: Mapping[str, Any]) -> str:
    """The licences that bind the model: of what it learned from and of its base."""
    names = [source["licence"] for source in ledger["sources"] if source["role"] != "test"]
    if ledger["base"]:
        names.append(ledger["base"]["licence"])
    return " AND ".join(dict.fromkeys(names))


def _base_line(base: Mapping[str, Any] | None) -> str:
    if base is None:
        return "none; trained from scratch."
    return (
        f"{base['origin']} (`{_shown(base['reference'])}`), licence {base['licence']}, "
        f"{base['parameters'] / 1e6:.0f} M parameters, {base['pieces']:,} pieces, sha256 `{base['sha256']}`."
    )


def _shown(reference: str) -> str:
    """A model's reference; of a folder or file of this machine its name alone, for the card travels."""
    kind, name = kind_and_name(reference)
    return reference if kind != "path" else Path(name).name


def _adapters(lora: Mapping[str, Any] | None) -> str:
    return f"adapters of rank {lora['rank']} (LoRA), merged into the weights, " if lora else ""


def _source_line(source: Mapping[str, Any]) -> str:
    cells = (
        source["name"],
        source["licence"],
        source["attribution"] or "-",
        f"{source['rows']['read']:,}",
        f"{source['rows']['train']:,}",
        f"`{source['sha256']}`",
    )
    return f"| {' | '.join(str(cell).replace('|', '/') for cell in cells)} |"


def _how_asked(asked: str, prompt: PromptFormat, base_prompt: PromptFormat | None) -> list[str]:
    lines = [
        f"The {asked} was asked with the input as a plain user message, greedy; its template wraps it as:",
        "",
        *_block(prompt.render("{input}")),
    ]
    if base_prompt:
        lines += [
            f"The base was asked by raw completion, greedy, {_STOPPING}; of the prompts tried on validation rows this "
            "one has the lowest loss for it:",
            "",
            *_block(base_prompt.render("{input}")),
        ]
    return lines


def _rival_asked(name: str, rival: Mapping[str, Any]) -> list[str]:
    prompt = PromptFormat.from_json(dict(rival["prompt"]))
    return [
        f"{name} is {rival['origin']} (`{_shown(rival['reference'])}`, licence {rival['licence']}, sha256 "
        f"`{rival['sha256']}`). It was asked by raw completion, greedy, {_STOPPING}; of the prompts tried on "
        "validation rows this one has the lowest loss for it:",
        "",
        *_block(prompt.render("{input}")),
    ]


def _block(text: str) -> list[str]:
    return [*(f"    {line}" for line in text.splitlines()), ""]
