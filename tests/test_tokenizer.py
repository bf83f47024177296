"""Pieces, trimming and learning: what is kept is segmented as before, and nothing is lost."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metier.errors import ArtifactError
from metier.tokenizer.learn import learn
from metier.tokenizer.pieces import Kind, Pieces, last_merge, merge_path
from metier.tokenizer.trim import choose, count_tokens

TEXTS = [
    "The ferry leaves the harbour at seven and returns before the evening.",
    "Ask the keeper of the lighthouse whether the ferry returned.",
    "港を出る船は朝七時に出て、夕方までに戻ります。",
    "灯台の番人に、船が戻ったかどうか聞いてください。",
] * 5


@pytest.fixture(scope="module")
def pieces() -> Pieces:
    return learn(TEXTS, 600)


def test_merge_path_takes_the_highest_score_first_and_the_leftmost_on_a_tie():
    scores = {"ab": -1.0, "bc": 0.0, "abc": -2.0, "aa": -3.0}
    assert merge_path("abc", scores) == [("b", "c"), ("a", "bc")]
    assert merge_path("aaa", scores) == [("a", "a")]


def test_a_piece_that_merging_cannot_reach_has_no_last_merge():
    assert last_merge("abc", {"bc": 0.0, "abd": -1.0, "abc": -2.0, "cd": 1.0}) == ("a", "bc")
    assert last_merge("abcd", {"ab": 0.0, "abcd": -1.0}) is None


@given(st.text(max_size=60))
@settings(max_examples=200)
def test_any_text_survives_encoding_and_decoding(text):
    tokenizer = _TOKENIZER
    clean = text.encode("utf-8", "ignore").decode("utf-8")
    for special in ("<pad>", "<eos>", "<bos>", "<unk>"):
        clean = clean.replace(special, "")
    ids = tokenizer.backend_tokenizer.encode(clean, add_special_tokens=False).ids
    assert tokenizer.backend_tokenizer.decode(ids) == clean.replace("▁", " ")


_TOKENIZER = learn(TEXTS, 600).tokenizer()


@given(st.sets(st.integers(0, len(_TOKENIZER) - 1), max_size=80))
@settings(max_examples=60)
def test_text_whose_pieces_are_all_kept_is_segmented_as_before(wanted):
    full = Pieces.of_tokenizer(_TOKENIZER)
    kept = choose(full, Counter(dict.fromkeys(wanted, 1)), wanted=len(wanted))
    small, old = full.subset(kept)
    trimmed = small.tokenizer().backend_tokenizer
    seen = 0
    for text in [*TEXTS[:4], *(word for line in TEXTS[:2] for word in line.split())]:
        before = _TOKENIZER.backend_tokenizer.encode(text, add_special_tokens=False).ids
        if set(before) <= set(kept):
            seen += 1
            assert [old[i] for i in trimmed.encode(text, add_special_tokens=False).ids] == before
    if len(kept) == len(full):
        assert seen


def test_the_kept_vocabulary_is_closed_under_merges(pieces):
    counts = count_tokens(pieces.tokenizer(), TEXTS)
    small, _ = pieces.subset(choose(pieces, counts, wanted=40))
    scores = small.merges()
    kept = set(scores)
    for text in kept:
        for left, right in merge_path(text, pieces.merges()):
            assert {left, right, left + right} <= kept
        assert len(text) == 1 or last_merge(text, scores) is not None


def test_trimming_keeps_the_most_used_pieces_and_all_bytes(pieces):
    counts = count_tokens(pieces.tokenizer(), TEXTS)
    kept = set(choose(pieces, counts, wanted=30))
    normal = [i for i, _ in counts.most_common() if pieces.kinds[i] is Kind.NORMAL]
    assert set(normal[:30]) <= kept
    assert {i for i, kind in enumerate(pieces.kinds) if kind is Kind.BYTE} <= kept


def test_trimming_drops_what_the_text_does_not_use(pieces):
    counts = count_tokens(pieces.tokenizer(), TEXTS[:1])
    assert len(choose(pieces, counts, wanted=1000)) < len(pieces)


def test_a_vocabulary_read_back_from_its_tokenizer_makes_the_same_tokenizer(pieces):
    again = Pieces.of_tokenizer(pieces.tokenizer())
    assert again.texts == pieces.texts
    for text in TEXTS[:4]:
        assert again.tokenizer()(text).input_ids == pieces.tokenizer()(text).input_ids


def test_byte_level_bpe_is_refused_with_what_to_do():
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    other = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE(vocab={"a": 0}, merges=[])), eos_token="a")
    with pytest.raises(ArtifactError, match="Choose a Gemma base"):
        Pieces.of_tokenizer(other)
