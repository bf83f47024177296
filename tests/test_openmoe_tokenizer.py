"""A vocabulary laid out as umT5's behaves as OpenMoE's tokenizer, also after saving."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from metier.errors import ArtifactError
from metier.model import load, load_model
from metier.model.openmoe.tokenizer import (
    END,
    PIECES,
    SpelledEnd,
    encode_chat,
    end_pieces,
    read_tokenizer,
    sentinel,
    speller,
    until_end,
    with_conventions,
)

FIXTURE = Path(__file__).parent / "fixtures" / "openmoe"
WORDS = ["▁", "▁</", "s", ">", "<", "▁<", "/", "▁cat", "▁sat", "▁a", "[", "]", "INST", "SYS", "▁hello", "\n", "e", "n"]


def tiny(sentinels=0, end="</s>", specials=("<s>",)):
    """A unigram vocabulary with umT5's first ids and, if asked for, its last ones."""
    pieces = [("<pad>", 0.0), (end, 0.0), ("<s>", 0.0), ("<unk>", 0.0), *((word, -2.0) for word in WORDS)]
    pieces += [(f"<extra_id_{number}>", 0.0) for number in reversed(range(sentinels))]
    backend = Tokenizer(models.Unigram(pieces, unk_id=3))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    backend.add_special_tokens([end, *specials, *(f"<extra_id_{number}>" for number in reversed(range(sentinels)))])
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")


@pytest.fixture(params=[0, 300], ids=["without sentinels", "with sentinels"])
def tokenizer(request):
    return with_conventions(tiny(request.param))


def test_id_0_is_put_in_front_and_nothing_behind(tokenizer):
    ids = tokenizer("a cat sat")["input_ids"]
    assert ids == [0, *tokenizer.convert_tokens_to_ids(["▁a", "▁cat", "▁sat"])]
    assert (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id) == (0, 0, 1)
    assert tokenizer.decode(ids, skip_special_tokens=True) == "a cat sat"


def test_batches_are_padded_on_the_left_and_the_start_is_no_padding(tokenizer):
    batch = tokenizer(["a cat sat", "cat"], padding=True)
    assert batch["input_ids"][1][:3] == [0, 0, 0]
    assert batch["attention_mask"] == [[1, 1, 1, 1], [0, 0, 1, 1]]


def test_sentinels_count_down_from_the_last_id(tokenizer):
    assert sentinel(0) == 256299 and sentinel(299) == 256000 and PIECES == 256300
    for number in (0, 1, 299):
        assert tokenizer.convert_tokens_to_ids(f"<extra_id_{number}>") == sentinel(number, len(tokenizer))
    assert tokenizer("a <extra_id_0>")["input_ids"][-1] == len(tokenizer) - 1
    for number in (-1, 300):
        with pytest.raises(ValueError, match="is not from 0 to 299"):
            sentinel(number)


def test_a_saved_tokenizer_keeps_the_conventions(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    for again in (read_tokenizer(tmp_path), PreTrainedTokenizerFast.from_pretrained(tmp_path)):
        texts = ["a cat sat", "hello <extra_id_1>"]
        assert again(texts, padding=True)["input_ids"] == tokenizer(texts, padding=True)["input_ids"]
        assert again.padding_side == "left" and again.eos_token_id == END
        messages = [{"role": "user", "content": "hello"}]
        assert encode_chat(again, messages) == encode_chat(tokenizer, messages)


def test_the_chat_template_puts_the_system_message_before_the_first_mark(tokenizer):
    messages = [
        {"role": "system", "content": "SYS"},
        {"role": "user", "content": "Hello!"},
        {"role": "assistant", "content": "Hi!"},
        {"role": "user", "content": "How are you?"},
    ]
    text = tokenizer.apply_chat_template(messages, tokenize=False)
    assert text == "<<SYS>>\nSYS\n<</SYS>>\n\n<s>[INST] Hello! [/INST] Hi! </s><s>[INST] How are you? [/INST]"
    default = tokenizer.apply_chat_template(messages[1:2], tokenize=False)
    assert default.startswith("<<SYS>>\nYou are a helpful, respectful and honest assistant. Always")
    assert default.endswith("don't share false information.\n<</SYS>>\n\n<s>[INST] Hello! [/INST]")
    with pytest.raises(Exception, match="roles are system, user and assistant"):
        tokenizer.apply_chat_template([{"role": "tool", "content": ""}], tokenize=False)


def test_marks_are_spelled_as_text_or_read_as_control_pieces(tokenizer):
    messages = [{"role": "system", "content": "a"}, {"role": "user", "content": "cat"}]
    spelled = encode_chat(tokenizer, messages, speller(tokenizer))
    parsed = encode_chat(tokenizer, messages)
    mark = tokenizer.convert_tokens_to_ids("<s>")
    assert mark not in spelled and mark in parsed
    assert spelled[0] == parsed[0] == 0
    assert speller(tokenizer).encode("a </s>").ids[2:] == end_pieces(tokenizer)
    assert speller(tokenizer).encode("a cat sat").ids == tokenizer("a cat sat")["input_ids"]


def test_a_row_ends_with_the_spelled_end_only(tokenizer):
    pieces = end_pieces(tokenizer)
    assert tokenizer.convert_ids_to_tokens(pieces) == ["▁</", "s", ">"]
    stop = SpelledEnd(pieces)
    rows = torch.tensor([[9, 9, *pieces], [*pieces, 9, 9], [9, 9, 9, *pieces[:2]]])
    assert stop(rows).tolist() == [True, False, False]
    assert stop(rows[:, :2]).tolist() == [False, False, False]
    assert until_end([5, *pieces, 6], pieces) == [5]
    assert until_end([5, 7, 1, *pieces], pieces) == [5, 7]
    assert until_end([5, *pieces[:2], 6], pieces) == [5, *pieces[:2], 6]


def test_generation_stops_at_the_spelled_end():
    model = load_model(FIXTURE)
    ids = torch.tensor([[0, 74, 56, 58, 50, 27, 10, 49]])
    free = model.generate(ids, max_new_tokens=8, do_sample=False, eos_token_id=None)[0, 8:].tolist()
    assert len(set(free)) == 8 and 1 not in free
    stopped = model.generate(
        ids, max_new_tokens=8, do_sample=False, eos_token_id=None, stopping_criteria=[SpelledEnd(free[2:5])]
    )
    assert stopped[0, 8:].tolist() == free[:5]
    assert until_end(free, free[2:5]) == free[:2]


def test_a_vocabulary_laid_out_otherwise_is_refused(tmp_path):
    disordered = tiny()
    disordered.add_tokens(["<extra_id_0>", "<extra_id_1>"], special_tokens=True)
    with pytest.raises(ArtifactError, match="<extra_id_0> is id"):
        with_conventions(disordered)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ArtifactError, match="is no tokenizer"):
        read_tokenizer(tmp_path)


def test_an_openmoe_folder_with_a_tokenizer_loads_whole(tmp_path):
    folder = Path(shutil.copytree(FIXTURE, tmp_path / "model"))
    tiny(300).save_pretrained(folder)
    model, tokenizer = load(folder)
    assert json.loads((folder / "config.json").read_text())["model_type"] == "llama"
    assert tokenizer("a cat")["input_ids"][0] == 0 and tokenizer.padding_side == "left"
    assert model.config.model_type == "openmoe"
