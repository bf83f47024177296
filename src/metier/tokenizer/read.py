"""Read a vocabulary: from a fast tokenizer, or from what a GGUF file says of it."""

import json
from collections.abc import Mapping
from typing import Any

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from metier.errors import ArtifactError
from metier.tokenizer.byte_level import BytePieces
from metier.tokenizer.pieces import Kind, Pieces
from metier.tokenizer.pre_tokenizers import PRE_TOKENIZERS, name_of
from metier.tokenizer.sentencepiece import SPACE, SentencePieces

_OTHER_BASE = "Choose another base, or train from scratch"
_AGAIN = "Fetch the file again, or another base"


def pieces_of(tokenizer: PreTrainedTokenizerFast) -> Pieces:
    """Read the vocabulary of a fast tokenizer.

    Unicode normalisation is left out, as llama.cpp has none; so are the flags of special pieces that swallow the white
    space around them.

    Raises:
        ArtifactError: when llama.cpp has no such tokenizer (Unigram, WordPiece, an unknown pre-tokenizer, two pieces of
            one text).
    """
    where = f"the tokenizer of {tokenizer.name_or_path or 'the base'}"
    try:
        return _pieces_of(tokenizer, where)
    except ValueError as error:
        raise ArtifactError(where, f"its vocabulary cannot be written as GGUF ({error!s:.200})", _OTHER_BASE) from error


def _pieces_of(tokenizer: PreTrainedTokenizerFast, where: str) -> Pieces:
    backend = tokenizer.backend_tokenizer
    state = json.loads(backend.to_str())
    model = state["model"]
    if model["type"] != "BPE":
        fix = f'{_OTHER_BASE}; or write vocabulary.pieces = "all" and export.quantisations = [], for a checkpoint alone'
        raise ArtifactError(where, f"its model is {model['type']}; only BPE is supported", fix)
    pairs = [tuple(merge) if isinstance(merge, list) else tuple(merge.split(" ")) for merge in model["merges"]]
    common = _common(tokenizer, state, {left + right for left, right in pairs}, where)
    texts, kinds = common["texts"], common["kinds"]
    if model.get("byte_fallback"):
        scores = [-float(i) if kind is Kind.NORMAL else 0.0 for i, kind in enumerate(kinds)]
        ids = {text: i for i, text in enumerate(texts)}
        for number, (left, right) in reversed(list(enumerate(pairs))):
            if (made := ids.get(left + right)) is not None:
                scores[made] = -float(number)
        return SentencePieces(**common, scores=scores, space_prefix=_prefixes_a_space(backend))
    name = name_of(state)
    if name is None:
        found = f"its pre-tokenizer is none of those that are supported ({', '.join(PRE_TOKENIZERS)})"
        raise ArtifactError(where, found, _OTHER_BASE)
    return BytePieces(**common, merges=pairs, pre=name)


def begins_with_bos(tokenizer: PreTrainedTokenizerFast) -> bool:
    """Whether a text begins with the BOS token.

    Raises:
        ArtifactError: when anything else is put around a text.
    """
    around = tokenizer.backend_tokenizer.encode("").ids
    if around not in ([], [tokenizer.bos_token_id]):
        raise ArtifactError(
            f"the tokenizer of {tokenizer.name_or_path or 'the base'}",
            f"it puts {tokenizer.convert_ids_to_tokens(around)} around a text, where only the BOS token may stand",
            _OTHER_BASE,
        )
    return bool(around)


def special_names(tokenizer: PreTrainedTokenizerFast) -> list[str]:
    """Return the texts that a tokenizer, as llama.cpp in a prompt, reads as special pieces wherever they stand."""
    return [token.content for token in tokenizer.added_tokens_decoder.values() if token.special and token.content]


def pieces_of_metadata(found: Mapping[str, Any], where: str) -> Pieces:
    """Read the vocabulary of a GGUF file.

    What a file leaves out is what llama.cpp takes for granted.

    Args:
        found: the file's metadata, arrays included, by key without the prefix ``tokenizer.ggml.``.
        where: the file, for the error.

    Raises:
        ArtifactError: when something is missing, or the vocabulary is of another kind.
    """
    model, pre = found.get("model"), str(found.get("pre"))
    if model not in (SentencePieces.model, BytePieces.model):
        raise ArtifactError(
            where,
            f"its tokenizer is of kind {model!r}; 'llama' (SentencePiece-style) and 'gpt2' (byte-level) are supported",
            _OTHER_BASE,
        )
    if model == BytePieces.model and pre not in PRE_TOKENIZERS:
        known = ", ".join(PRE_TOKENIZERS)
        raise ArtifactError(where, f"its pre-tokenizer is {pre!r}; supported are {known}", _OTHER_BASE)
    try:
        return _sentence_pieces(found) if model == SentencePieces.model else _byte_pieces(found, pre)
    except KeyError as error:
        raise ArtifactError(where, f"its metadata lacks tokenizer.ggml.{error.args[0]}", _AGAIN) from error
    except (TypeError, ValueError) as error:
        raise ArtifactError(where, f"its vocabulary is damaged ({error!s:.200})", _AGAIN) from error


def _sentence_pieces(found: Mapping[str, Any]) -> SentencePieces:
    return SentencePieces(
        **_stated(found),
        scores=[float(score) for score in found["scores"]],
        add_bos=bool(found.get("add_bos_token", True)),
        space_prefix=bool(found.get("add_space_prefix", True)),
    )


def _byte_pieces(found: Mapping[str, Any], pre: str) -> BytePieces:
    return BytePieces(
        **_stated(found),
        merges=[_pair(merge) for merge in found["merges"]],
        pre=pre,
        add_bos=bool(found.get("add_bos_token", PRE_TOKENIZERS[pre].adds_bos)),
    )


def _stated(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields that every kind of vocabulary has, from the metadata of a file."""
    return {
        "texts": [str(text) for text in found["tokens"]],
        "kinds": [Kind(kind) for kind in found["token_type"]],
        "eos": found["eos_token_id"],
        "pad": found.get("padding_token_id", found["eos_token_id"]),
        "bos": found.get("bos_token_id"),
        "unk": found.get("unknown_token_id"),
    }


def _common(tokenizer: PreTrainedTokenizerFast, state: Mapping[str, Any], made: set[str], where: str) -> dict[str, Any]:
    """Return the fields that every kind of vocabulary has, from a tokenizer.

    Args:
        tokenizer: the tokenizer.
        state: its ``tokenizer.json``.
        made: the pieces that some merge makes.
        where: whose tokenizer it is, for the error.
    """
    model, eos = state["model"], tokenizer.eos_token_id
    if eos is None:
        raise ArtifactError(where, "it has no end token", _OTHER_BASE)
    added = {token["id"]: token for token in state["added_tokens"]}
    size = max([*model["vocab"].values(), *added]) + 1
    texts = [f"[PAD{i}]" for i in range(size)]
    kinds = [Kind.UNUSED] * size
    for text, i in model["vocab"].items():
        texts[i] = text
        kinds[i] = _kind(text, model, made)
    for i, token in added.items():
        texts[i] = token["content"]
        kinds[i] = Kind.CONTROL if token["special"] else Kind.USER_DEFINED
        if model.get("byte_fallback") and not token["special"]:
            texts[i] = texts[i].replace(SPACE, " ")  # Gemma's runs of spaces: llama.cpp finds them in the text itself
    pad = tokenizer.pad_token_id
    return {
        "texts": texts,
        "kinds": kinds,
        "eos": int(eos),
        "pad": int(eos if pad is None else pad),
        "bos": tokenizer.bos_token_id,
        "unk": tokenizer.unk_token_id,
        "add_bos": begins_with_bos(tokenizer),
    }


def _kind(text: str, model: Mapping[str, Any], made: set[str]) -> Kind:
    if model.get("byte_fallback") and len(text) == 6 and text.startswith("<0x") and text.endswith(">"):
        return Kind.BYTE
    reachable = len(text) == 1 or text in made or model.get("ignore_merges")
    return Kind.NORMAL if reachable else Kind.UNUSED


def _prefixes_a_space(backend: Tokenizer) -> bool:
    return bool(backend.encode("a", add_special_tokens=False).tokens[0].startswith(SPACE))


def _pair(merge: str) -> tuple[str, str]:
    left, right = merge.split(" ")
    return left, right
