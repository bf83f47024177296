"""Vocabularies of every kind: read, trimmed and learned; what is kept is segmented as before, and nothing is lost."""

import unicodedata
from collections import Counter
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast
from vocabularies import BYTE_LEVEL, KINDS, QWEN_3, SENTENCEPIECE, TEXTS, tokenizer_like

from metier.errors import ArtifactError
from metier.tasks.prompt import candidates
from metier.tokenizer.byte_level import ALPHABET, BytePieces
from metier.tokenizer.chat import turn_of
from metier.tokenizer.learn import learn
from metier.tokenizer.pieces import Kind, merge_path
from metier.tokenizer.pre_tokenizers import PRE_TOKENIZERS
from metier.tokenizer.read import pieces_of, pieces_of_metadata
from metier.tokenizer.sentencepiece import SPACE, SentencePieces
from metier.tokenizer.trim import choose, count_tokens

WORDS = sorted({word for text in TEXTS for word in text.split()})
every_kind = pytest.mark.parametrize("kind", KINDS)


@cache
def full(kind):
    return pieces_of(tokenizer_like(kind))


@cache
def full_tokenizer(kind):
    return full(kind).tokenizer()


def ids_of(tokenizer, text):
    return tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids


def without_specials(kind, text):
    for piece, what in zip(full(kind).texts, full(kind).kinds, strict=True):
        if what in (Kind.CONTROL, Kind.UNKNOWN):
            text = text.replace(piece, "")
    return text


def trimmed(kind, texts, wanted):
    pieces = full(kind)
    return pieces.subset(choose(pieces, count_tokens(full_tokenizer(kind), texts), wanted))


def test_merge_path_takes_the_lowest_rank_first_and_the_leftmost_on_a_tie():
    ranks = {"ab": 1, "bc": 0, "abc": 2, "aa": 3}
    assert merge_path("abc", lambda a, b: ranks.get(a + b)) == [("b", "c"), ("a", "bc")]
    assert merge_path("aaa", lambda a, b: ranks.get(a + b)) == [("a", "a")]


def test_a_piece_that_merging_cannot_reach_has_no_last_merge():
    def pieces(scores):
        return SentencePieces(
            texts=list(scores), kinds=[Kind.NORMAL] * len(scores), scores=list(scores.values()), eos=0, pad=0
        )

    assert pieces({"bc": 0.0, "abd": -1.0, "abc": -2.0, "cd": 1.0}).last_merge("abc") == ("a", "bc")
    assert pieces({"ab": 0.0, "abcd": -1.0}).last_merge("abcd") is None


@every_kind
def test_a_released_tokenizer_is_recognised_by_its_structure(kind):
    pieces = full(kind)
    if kind in BYTE_LEVEL:
        assert isinstance(pieces, BytePieces)
        assert pieces.pre == BYTE_LEVEL[kind].llama_cpp
    else:
        assert isinstance(pieces, SentencePieces)
        assert pieces.space_prefix is (kind != "gemma")
    assert pieces.add_bos is (kind == "llama-3" or kind in SENTENCEPIECE)
    roles = {name: getattr(tokenizer_like(kind), f"{name}_token_id") for name in ("bos", "eos", "unk", "pad")}
    assert (pieces.bos, pieces.eos, pieces.unk) == (roles["bos"], roles["eos"], roles["unk"])
    assert pieces.pad == (roles["eos"] if roles["pad"] is None else roles["pad"])


@pytest.mark.parametrize("name", PRE_TOKENIZERS)
def test_two_names_for_one_structure_are_the_only_ones_that_are_not_told_apart(name):
    pieces = BytePieces(
        texts=[*sorted(ALPHABET), "<end>"],
        kinds=[Kind.NORMAL] * 256 + [Kind.CONTROL],
        eos=256,
        pad=256,
        add_bos=False,
        merges=[],
        pre=name,
    )
    assert pieces_of(pieces.tokenizer()).pre == {"olmo": "gpt-2"}.get(name, name)


@every_kind
@given(text=st.text(max_size=60) | st.text(st.sampled_from("ab 12\n\t'sS.,港を 	")))
@settings(max_examples=100)
def test_a_text_is_cut_as_by_the_released_tokenizer(kind, text):
    text = unicodedata.normalize("NFC", text.encode("utf-8", "ignore").decode("utf-8")).lstrip(" ▁")
    assert full_tokenizer(kind)(text).input_ids == tokenizer_like(kind)(text).input_ids


@every_kind
@given(text=st.text(max_size=60))
@settings(max_examples=100)
def test_any_text_survives_encoding_and_decoding_with_a_trimmed_vocabulary(kind, text):
    text = without_specials(kind, text.encode("utf-8", "ignore").decode("utf-8"))
    small, _ = trimmed(kind, TEXTS[:1], 20)
    assert len(small) < len(full(kind))
    tokenizer = _small_tokenizer(kind)
    found = tokenizer.backend_tokenizer.decode(ids_of(tokenizer, text))
    assert found == (text.replace("▁", " ") if kind in SENTENCEPIECE else text)


@cache
def _small_tokenizer(kind):
    return trimmed(kind, TEXTS[:1], 20)[0].tokenizer()


@every_kind
@given(data=st.data())
@settings(max_examples=40)
def test_text_whose_pieces_are_all_kept_is_segmented_as_before(kind, data):
    pieces, tokenizer = full(kind), full_tokenizer(kind)
    wanted = data.draw(st.sets(st.integers(0, len(pieces) - 1), max_size=80))
    told = data.draw(st.lists(st.sampled_from(WORDS), max_size=6).map(" ".join))
    kept = choose(pieces, Counter(dict.fromkeys(wanted, 1)), len(wanted), always=ids_of(tokenizer, told))
    small, old = pieces.subset(kept)
    cut = small.tokenizer()
    texts = [told, *TEXTS[:6], *WORDS]
    expected = {text: ids_of(tokenizer, text) for text in texts}
    assert set(expected[told]) <= set(old)
    for text in texts:
        if set(expected[text]) <= set(old):
            assert [old[i] for i in ids_of(cut, text)] == expected[text]


@every_kind
def test_the_kept_vocabulary_is_closed_under_merges(kind):
    small, _ = trimmed(kind, TEXTS, 40)
    kept = set(small.texts)
    reached = 0
    for text in small.normal_ids():
        path = full(kind).path(text)
        assert all({left, right, left + right} <= kept for left, right in path)
        assert small.path(text) == path
        reached += bool(path)
    assert reached > 20


def test_the_merges_of_a_byte_level_vocabulary_stay_in_order():
    pieces = full("smollm")
    small, _ = trimmed("smollm", TEXTS, 60)
    places = [pieces.ranks[pair] for pair in small.merges]
    assert places == sorted(places)
    assert 0 < len(places) < len(pieces.merges)


@every_kind
def test_trimming_keeps_the_most_used_pieces_and_all_bytes(kind):
    pieces = full(kind)
    counts = count_tokens(full_tokenizer(kind), TEXTS)
    kept = set(choose(pieces, counts, wanted=30))
    normal = sorted((i for i in counts if pieces.kinds[i] is Kind.NORMAL), key=lambda i: (-counts[i], i))
    assert set(normal[:30]) <= kept
    assert len(pieces.byte_ids()) >= 256
    assert set(pieces.byte_ids()) <= kept
    assert len(choose(pieces, counts, wanted=1000)) <= len(pieces)


@every_kind
def test_of_the_special_pieces_those_in_use_are_kept(kind):
    pieces = full(kind)
    small, old = pieces.subset(
        choose(pieces, Counter(), 0, always=count_tokens(full_tokenizer(kind), ["<|im_start|>"]))
    )
    roles = {i for i in (pieces.bos, pieces.eos, pieces.unk, pieces.pad) if i is not None}
    used = {i for i, text in enumerate(pieces.texts) if text == "<|im_start|>"}
    controls = {i for i in old if pieces.kinds[i] is Kind.CONTROL}
    assert controls == {i for i in roles | used if pieces.kinds[i] is Kind.CONTROL}
    assert [small.texts[i] for i in (small.eos, small.pad)] == [pieces.texts[i] for i in (pieces.eos, pieces.pad)]
    assert {text for text, what in zip(small.texts, small.kinds, strict=True) if what is Kind.USER_DEFINED} == {
        text for text, what in zip(pieces.texts, pieces.kinds, strict=True) if what is Kind.USER_DEFINED
    }


@every_kind
def test_a_vocabulary_survives_its_tokenizer_and_its_metadata(kind):
    for pieces in (full(kind), trimmed(kind, TEXTS, 40)[0]):
        assert pieces_of_metadata(pieces.metadata(), "x") == pieces
        again = pieces_of(pieces.tokenizer())
        if kind in SENTENCEPIECE:  # scores are ranks; their order is what counts
            order = sorted(pieces.merged, key=pieces.merged.get)
            assert [text for text in sorted(again.merged, key=again.merged.get) if len(text) > 1] == [
                text for text in order if len(text) > 1
            ]
            assert (again.texts, again.kinds, again.space_prefix) == (pieces.texts, pieces.kinds, pieces.space_prefix)
        else:
            assert again == pieces


@every_kind
def test_a_padded_vocabulary_has_unused_pieces_behind_it(kind):
    pieces = full(kind)
    longer = pieces.padded(len(pieces) + 3)
    assert len(longer) == len(pieces) + 3
    assert longer.kinds[-3:] == [Kind.UNUSED] * 3
    assert longer.texts[-1] == f"[PAD{len(longer) - 1}]"
    assert longer.tokenizer()("[PAD700] a harbour").input_ids == full_tokenizer(kind)("[PAD700] a harbour").input_ids
    assert pieces.padded(0) == pieces


@pytest.mark.parametrize(
    ("model", "left_out", "wanted"),
    [
        ("llama", ("add_bos_token", "add_space_prefix", "unknown_token_id"), {"add_bos": True, "space_prefix": True}),
        ("gpt2", ("add_bos_token", "bos_token_id"), {"add_bos": True, "bos": None}),
    ],
)
def test_what_a_file_leaves_out_is_what_llama_cpp_assumes(model, left_out, wanted):
    found = full("gemma" if model == "llama" else "llama-3").metadata()
    pieces = pieces_of_metadata({key: value for key, value in found.items() if key not in left_out}, "x")
    assert {key: getattr(pieces, key) for key in wanted} == wanted


def other(model, **parts):
    made = Tokenizer(model)
    for name, part in parts.items():
        setattr(made, name, part)
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token="a")


@pytest.mark.parametrize(
    ("tokenizer", "found"),
    [
        (other(models.Unigram([("a", 0.0), ("b", -1.0)], unk_id=0)), "its model is Unigram"),
        (other(models.WordPiece({"a": 0}, unk_token="a")), "its model is WordPiece"),
        (other(models.BPE({"a": 0}, [])), "its pre-tokenizer is none of those that are supported"),
        (
            other(models.BPE({"a": 0}, []), pre_tokenizer=pre_tokenizers.ByteLevel(add_prefix_space=True)),
            "its pre-tokenizer is none of those that are supported",
        ),
        (
            other(
                models.BPE({"a": 0}, []),
                pre_tokenizer=pre_tokenizers.ByteLevel(add_prefix_space=False),
                post_processor=processors.TemplateProcessing("$A a", None, [("a", 0)]),
            ),
            r"it puts \['a'\] around a text",
        ),
        (PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE({"a": 0}, []))), "it has no end token"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_tokenizer_that_llama_cpp_has_not_is_refused(tokenizer, found):
    with pytest.raises(ArtifactError, match=found):
        pieces_of(tokenizer)


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"model": "t5"}, "its tokenizer is of kind 't5'"),
        ({"model": None}, "its tokenizer is of kind None"),
        ({"pre": "falcon"}, "its pre-tokenizer is 'falcon'"),
        ({"merges": None}, "lacks tokenizer.ggml.merges"),
        ({"eos_token_id": None}, "lacks tokenizer.ggml.eos_token_id"),
        ({"eos_token_id": 500}, "is damaged .the eos piece is number 500 of 499"),
        ({"bos_token_id": "a"}, "is damaged"),
        ({"tokens": ["a"]}, "is damaged .texts and kinds differ"),
        ({"tokens": 3}, "is damaged"),
        ({"token_type": [17]}, "is damaged"),
        ({"merges": ["a"]}, "is damaged"),
        ({"merges": ["no piece"]}, "is damaged .the merge of 'no' and 'piece' is not between pieces"),
    ],
    ids=str,
)
def test_a_file_with_another_vocabulary_is_refused(changes, found):
    metadata = {key: value for key, value in (full("qwen").metadata() | changes).items() if value is not None}
    with pytest.raises(ArtifactError, match=found):
        pieces_of_metadata(metadata, "x")


def test_a_tokenizer_with_two_pieces_of_one_text_is_refused_by_it():
    tokenizer = full("gemma").tokenizer()
    tokenizer.add_tokens([AddedToken(SPACE * 4, special=False, normalized=False)])
    tokenizer.add_tokens([AddedToken(" " * 4, special=False, normalized=False)])
    with pytest.raises(ArtifactError, match=r"cannot be written as GGUF \('    ' is the text of two pieces\)"):
        pieces_of(tokenizer)


@pytest.mark.parametrize(
    ("kind", "before", "after", "end"),
    [
        ("smollm", "<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n", "<|im_end|>\n"),
        ("qwen", "<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n", "<|im_end|>\n"),
        (
            "llama-3",
            "<|start_header_id|>user<|end_header_id|>\n\n",
            "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
            "<|eot_id|>",
        ),
    ],
)
def test_a_chat_model_is_asked_through_its_own_template(kind, before, after, end):
    turn = turn_of(tokenizer_like(kind))
    assert (turn.before, turn.after, turn.next) == (before, after, end + before)


def test_examples_end_as_the_template_ends_them_though_it_puts_empty_thoughts_before_the_answer_alone():
    tokenizer = full("qwen").tokenizer()
    tokenizer.chat_template = QWEN_3
    chat = candidates("Japanese", "English", "Translate.", turn_of(tokenizer))[-1]
    shown = chat.with_shots((("犬", "dog"), ("鳥", "bird"))).render("猫")
    asked = "<|im_start|>user\nTranslate.\n{}<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
    turns = [f"{asked.format('犬')}dog<|im_end|>\n", f"{asked.format('鳥')}bird<|im_end|>\n", asked.format("猫")]
    assert shown == "".join(turns)


def test_a_template_that_knows_one_message_alone_has_a_turn_and_no_next(trained):
    tokenizer = full("gpt-2").tokenizer()
    tokenizer.chat_template = trained.prompt.chat_template(bos=False)
    turn = turn_of(tokenizer)
    assert turn.after == trained.prompt.after and turn.next is None


@pytest.mark.parametrize("template", [None, "{{ raise_exception('two messages, please') }}", "{{ 1 + '' }}", "Hello!"])
def test_a_template_that_does_not_take_one_message_is_none(template):
    tokenizer = full("gpt-2").tokenizer()
    tokenizer.chat_template = template
    assert turn_of(tokenizer) is None


def test_gemmas_marks_are_a_chat_without_a_template():
    tokenizer = full("gemma").tokenizer()
    assert turn_of(tokenizer) is None
    tokenizer.add_tokens(["<start_of_turn>", "<end_of_turn>"], special_tokens=True)
    turn = turn_of(tokenizer)
    assert (turn.after, turn.next) == (
        "<end_of_turn>\n<start_of_turn>model\n",
        "<end_of_turn>\n<start_of_turn>user\n",
    )


def test_a_learned_vocabulary_is_cut_by_a_pre_tokenizer_that_llama_cpp_names():
    pieces = learn(TEXTS, 600)
    assert pieces.metadata()["pre"] == "default"
    assert not pieces.space_prefix
    assert pieces_of(pieces.tokenizer()).texts == pieces.texts


@pytest.mark.parametrize("text", ["".join(map(chr, range(0x4E00, 0x4E00 + 3000))), "ab" * 50, "one word and another"])
def test_a_learned_vocabulary_has_no_more_pieces_than_are_asked_for_and_writes_rare_characters_in_bytes(text):
    common = "the ferry leaves the harbour at seven and returns before the evening " * 20
    pieces = learn([common, text], 400)
    assert len(pieces) <= 400 and len(learn([text], 300)) <= 300
    assert "▁the" in pieces.texts
    tokenizer = pieces.tokenizer()
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False).input_ids) == text


def test_a_vocabulary_of_more_characters_than_it_has_room_for_is_the_same_every_time():
    rare = "".join(chr(0x4E00 + number) for number in range(400))  # each as often as the next
    texts = ["the cat sat on the mat " * 9, rare]
    first, *more = [learn(texts, 400).texts for _ in range(5)]
    assert all(texts == first for texts in more)
    assert rare[0] in first and rare[-1] not in first


@pytest.mark.parametrize("mark", ["<unk>", "<pad>", "<0x0A>", "<extra_id_0>"])
def test_a_mark_that_is_common_in_the_text_is_not_learned_a_second_time(mark):
    pieces = learn([f"a{mark}b {mark} {mark}"] * 50, 400, sentinels=2)
    assert pieces.texts.count(mark) == 1
    assert pieces.kinds[pieces.texts.index(mark)] is not Kind.NORMAL
    tokenizer = pieces.tokenizer()
    asked = tokenizer("<0x0A>", add_special_tokens=False).input_ids
    assert tokenizer.decode(asked) == "<0x0A>"
