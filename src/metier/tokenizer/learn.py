"""Learn a SentencePiece-style BPE vocabulary from the job's own text."""

import json
from collections import Counter
from collections.abc import Iterable

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from metier.tokenizer.pieces import Kind
from metier.tokenizer.sentencepiece import SPACE, SentencePieces

SENTINEL = "<extra_id_{}>"
"""How a vocabulary calls the marks of UL2's hidden spans; their ids count down from ``<extra_id_0>``."""

_SPECIALS = ("<pad>", "<eos>", "<bos>", "<unk>")


def learn(texts: Iterable[str], size: int, *, sentinels: int = 0) -> SentencePieces:
    """Learn a vocabulary of at most ``size`` pieces, 256 bytes, 4 specials and the sentinels among them.

    Words are not joined by a piece: a piece holds a space only in front. Characters are at most three quarters of what
    is learned; the rarer ones are written in bytes. The sentinels of UL2 come last, as T5's do: the last piece is
    ``<extra_id_0>``, the one before ``<extra_id_1>``.

    Args:
        texts: what to learn from; read twice, so no generator.
        size: the most pieces.
        sentinels: how many marks for hidden spans.
    """
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="never")
    learned = max(size - 256 - len(_SPECIALS) - sentinels, 1)
    alphabet = _alphabet(texts, max(learned * 3 // 4, 1))
    trainer = trainers.BpeTrainer(
        vocab_size=learned, limit_alphabet=len(alphabet), initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator(texts, trainer)
    vocab = json.loads(bpe.to_str())["model"]["vocab"]
    byte_pieces = [f"<0x{byte:02X}>" for byte in range(256)]
    marks = [SENTINEL.format(k) for k in reversed(range(sentinels))]
    taken = {*_SPECIALS, *byte_pieces, *marks}  # a text about vocabularies may be full of them
    made = sorted((t for t in vocab if len(t) > 1 and t not in taken), key=lambda text: vocab[text])
    normal = [*made, *sorted(text for text in vocab if len(text) == 1)]
    kinds = [Kind.CONTROL] * len(_SPECIALS) + [Kind.BYTE] * 256 + [Kind.NORMAL] * len(normal)
    return SentencePieces(
        texts=[*_SPECIALS, *byte_pieces, *normal, *marks],
        scores=[0.0] * (len(_SPECIALS) + 256) + [-float(rank) for rank in range(len(normal))] + [0.0] * sentinels,
        kinds=kinds + [Kind.CONTROL] * sentinels,
        pad=0,
        eos=1,
        bos=2,
        unk=3,
    )


def _alphabet(texts: Iterable[str], most: int) -> list[str]:
    """Return the space and the most used characters; of equally used ones the library would keep any, as it happens."""
    counted: Counter[str] = Counter()
    for text in texts:
        counted.update(text.replace(" ", SPACE))
    counted.pop(SPACE, None)
    return [SPACE, *sorted(counted, key=lambda character: (-counted[character], character))[: most - 1]]


def sentinel_ids(tokenizer: PreTrainedTokenizerFast, number: int) -> list[int]:
    """Return the ids of the first sentinels, of those that the vocabulary has."""
    vocabulary = tokenizer.get_vocab()
    return [vocabulary[mark] for k in range(number) if (mark := SENTINEL.format(k)) in vocabulary]
