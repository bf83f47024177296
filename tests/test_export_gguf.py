"""The shipped file in llama.cpp: same tokens, same prompt, same answers as the checkpoint."""

import json
import random
import weakref

import gguf
import pytest
import torch

from metier.export import gguf as export_gguf
from metier.export.contestants import ShippedFile
from metier.model.answer import Checkpoint
from metier.model.scratch import scratch
from metier.run.engine import Engine
from metier.run.gguf_header import read_header
from metier.spec.quantisation import TYPES

FOREIGN = "You are a pirate. Answer in rhymes."
EARLIER = ({"role": "user", "content": "fifty blue owls"}, {"role": "assistant", "content": "owl blue 50"})


@pytest.fixture(scope="module")
def engine(gguf_of):
    with Engine(gguf_of("F16"), threads=1) as opened:
        yield opened


@pytest.fixture(scope="module")
def checkpoint_answers(trained):
    rows = trained.held_out[:30]
    checkpoint = Checkpoint("checkpoint", trained.model, trained.tokenizer, trained.prompt, 16)
    found = [text for text, _ in checkpoint.answer([row.input for row in rows])]
    assert sum(answer == row.output for answer, row in zip(found, rows, strict=True)) >= 20, (
        "the double learned nothing"
    )
    return dict(zip((row.input for row in rows), found, strict=True))


def unicode_texts(count):
    draw = random.Random(11)
    blocks = [(0x20, 0x7E), (0xA0, 0x24F), (0x370, 0x52F), (0x3040, 0x30FF), (0x4E00, 0x9FFF), (0x1F300, 0x1F6FF)]

    def character():
        low, high = draw.choice([*blocks, (0x20, 0x20), (0x61, 0x7A), (0xE000, 0xE0FF), (0x300, 0x36F), (0x9, 0xA)])
        return chr(draw.randint(low, high))

    return ["".join(character() for _ in range(draw.randint(1, 40))) for _ in range(count)]


def test_llama_cpp_and_the_tokenizer_agree_on_the_jobs_text(trained, engine):
    for row in trained.held_out:
        for text in (row.input, row.output, trained.prompt.render(row.input)):
            assert engine.tokenize(text) == trained.tokenizer(text).input_ids, text


def test_llama_cpp_and_the_tokenizer_agree_on_any_text(trained, engine):
    spaces = [" ", "  ", " a", "a ", "a  b", "\n", "\t", "a\n\nb", "▁", "▁▁a", "<bos>", "<unk>", "<0x41>", "<eos>x"]
    for text in (*spaces, *unicode_texts(300)):
        ours = trained.tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids
        assert engine.tokenize(text, special=False) == ours, text


def conversations(question):
    plain = [{"role": "user", "content": question}]
    foreign = {"role": "system", "content": FOREIGN}
    return {
        "alone": plain,
        "with a foreign system message": [foreign, *plain],
        "in a second turn": [*EARLIER, *plain],
        "in a second turn after a system message": [foreign, *EARLIER, *plain],
        "with white space around": [{"role": "user", "content": f" {question}\n"}],
    }


@pytest.mark.parametrize("kind", conversations(""))
def test_a_plain_message_becomes_the_prompt_that_was_trained(trained, engine, kind):
    question = trained.held_out[0].input
    messages = conversations(question)[kind]
    wanted = trained.prompt.render(question)
    assert engine.apply_template(messages).removeprefix("<bos>") == wanted
    rendered = trained.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert rendered == "<bos>" + wanted


def test_the_start_token_is_there_once(trained, engine):
    question = trained.held_out[0].input
    reply = engine.chat(question, max_tokens=16)
    assert reply.prompt_tokens == len(trained.tokenizer(trained.prompt.render(question)).input_ids)


def test_a_plain_message_is_answered_as_the_checkpoint_answers(engine, checkpoint_answers):
    found = [one.text for one in ShippedFile("file", engine, 16).answer(list(checkpoint_answers))]
    same = sum(mine == theirs for mine, theirs in zip(found, checkpoint_answers.values(), strict=True))
    assert same >= len(checkpoint_answers) - 1  # F16 may tip one undecided token


@pytest.mark.parametrize("around", [{"system": FOREIGN}, {"history": EARLIER}, {"system": FOREIGN, "history": EARLIER}])
def test_what_stands_around_a_message_changes_nothing(engine, checkpoint_answers, around):
    for question in list(checkpoint_answers)[:8]:
        assert engine.chat(question, max_tokens=16, **around).text == engine.chat(question, max_tokens=16).text


def test_the_stop_token_ends_an_answer(engine, checkpoint_answers):
    for question, answer in list(checkpoint_answers.items())[:8]:
        reply = engine.chat(question, max_tokens=100)
        assert reply.finished and reply.tokens < 20
        assert "\n" not in reply.text and len(reply.text) < 2 * len(answer) + 5


@pytest.mark.parametrize("quantisation", TYPES)
def test_every_quantisation_loads_and_answers(gguf_of, checkpoint_answers, quantisation):
    path = gguf_of(quantisation)
    with Engine(path, threads=1) as opened:
        found = [one.text for one in ShippedFile("file", opened, 16).answer(list(checkpoint_answers))]
    same = sum(mine == theirs for mine, theirs in zip(found, checkpoint_answers.values(), strict=True))
    assert same >= (24 if quantisation in ("F16", "Q8_0") else 3), f"{same} of {len(found)}"
    kinds = {tensor.tensor_type.name for tensor in gguf.GGUFReader(path).tensors}
    assert kinds == {"F32", quantisation}
    assert read_header(path).metadata["general.file_type"] == gguf.LlamaFileType[f"MOSTLY_{quantisation}"]


def test_a_mixture_of_experts_answers_as_its_checkpoint_does(taught, gguf_of):
    trained = taught("moe")
    questions = [row.input for row in trained.held_out[:30]]
    theirs = Checkpoint("checkpoint", trained.model, trained.tokenizer, trained.prompt, 16).answer(questions)
    with Engine(gguf_of("Q8_0", "moe"), threads=1) as opened:
        mine = ShippedFile("file", opened, 16).answer(questions)
    assert sum(one == other for one, other in zip(mine, theirs, strict=True)) >= 28
    assert sum(answer == row.output for (answer, _), row in zip(theirs, trained.held_out, strict=False)) >= 20


@pytest.mark.parametrize("quantisation", ["F16", "Q8_0", "Q4_0"])
def test_experts_are_stored_as_llama_cpp_wants_them(taught, gguf_of, quantisation):
    weights = taught("moe").model.state_dict()
    stored = {tensor.name: tensor for tensor in gguf.GGUFReader(gguf_of(quantisation, "moe")).tensors}
    gate, up = weights["model.layers.1.mlp.experts.gate_up_proj"].chunk(2, dim=1)
    down = weights["model.layers.1.mlp.experts.down_proj"]
    steps = {"F16": 1 / 1024, "Q8_0": 1 / 127, "Q4_0": 1 / 7}  # of the largest weight
    for part, wanted in {"gate": gate, "up": up, "down": down}.items():
        tensor = stored[f"blk.1.ffn_{part}_exps.weight"]
        found = gguf.dequantize(tensor.data, tensor.tensor_type)
        assert found.shape == tuple(wanted.shape) and tensor.tensor_type.name == quantisation
        assert abs(found - wanted.numpy()).max() <= wanted.abs().max() * steps[quantisation]
    router = stored["blk.1.ffn_gate_inp.weight"]
    assert router.tensor_type.name == "F32"
    assert (router.data == weights["model.layers.1.mlp.gate.weight"].numpy()).all()


def test_experts_whose_rows_do_not_divide_into_blocks_are_stored_in_f16(trained, tmp_path):
    model = scratch(len(trained.tokenizer), 64, 1, 64, 0, architecture="moe", experts=3, expert_size=40)
    path = tmp_path / "narrow.gguf"
    export_gguf.write_gguf(
        path, model, trained.tokenizer, "Q8_0", name="x", licence="own", prompt=trained.prompt, task={}
    )
    kinds = {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(path).tensors}
    wanted = {"gate_exps": "Q8_0", "up_exps": "Q8_0", "down_exps": "F16", "gate_inp": "F32"}
    assert {part: kinds[f"blk.0.ffn_{part}.weight"] for part in wanted} == wanted
    with Engine(path, threads=1) as opened:
        assert len(opened.complete("x", max_tokens=2, stop_at_end=False).token_ids) == 2


def test_more_bits_make_a_larger_file(gguf_of):
    sizes = [gguf_of(quantisation).stat().st_size for quantisation in ("F16", "Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0")]
    assert sizes == sorted(sizes, reverse=True) and len(set(sizes)) == len(sizes)


def test_the_file_says_its_name_licence_and_task(gguf_of, trained):
    metadata = read_header(gguf_of("Q8_0")).metadata
    assert (metadata["general.name"], metadata["general.license"]) == ("animals", "own")
    assert json.loads(metadata["metier.task"])["task"] == "text2text"
    assert metadata["tokenizer.chat_template"] == trained.prompt.chat_template()


@pytest.mark.parametrize(("kind", "quantisation"), [("dense", "F16"), ("dense", "Q4_1"), ("moe", "Q4_0-embed-Q8_0")])
def test_a_file_has_the_bytes_that_gguf_writes_of_the_same_tensors_held_all_at_once(
    taught, tmp_path, monkeypatch, kind, quantisation
):
    class AtOnce(gguf.GGUFWriter):
        """Keeps the tensors that it is given one by one, and writes them together at the end."""

        def write_ti_data_to_file(self):
            if all(tensor.tensor is not None for tensor in self.tensors[0].values()):
                super().write_ti_data_to_file()

        def write_tensor_data(self, tensor):
            next(info for info in self.tensors[0].values() if info.tensor is None).tensor = tensor

        def close(self):
            self.write_tensors_to_file()
            super().close()

    trained, written = taught(kind), {}
    for writer in (gguf.GGUFWriter, AtOnce):
        monkeypatch.setattr(export_gguf.gguf, "GGUFWriter", writer)
        path = tmp_path / f"{writer.__name__}.gguf"
        about = {"name": "x", "licence": "own", "prompt": trained.prompt, "task": {}}
        export_gguf.write_gguf(path, trained.model, trained.tokenizer, quantisation, **about)
        written[writer] = path.read_bytes()
    assert written[gguf.GGUFWriter] == written[AtOnce]


def test_no_tensor_is_held_when_the_next_one_is_made(trained, tmp_path, monkeypatch):
    made, quantise = [], export_gguf.quantise

    def watched(values, kind):
        assert not any(earlier() is not None for earlier in made)
        stored = quantise(values + 0, kind)  # F32 is stored as it is: this is no view of the model
        made.append(weakref.ref(stored))
        return stored

    monkeypatch.setattr(export_gguf, "quantise", watched)
    about = {"name": "x", "licence": "own", "prompt": trained.prompt, "task": {}}
    export_gguf.write_gguf(tmp_path / "a.gguf", trained.model, trained.tokenizer, "Q8_0", **about)
    assert len(made) == len(gguf.GGUFReader(tmp_path / "a.gguf").tensors)


def test_a_writer_that_dies_leaves_no_file(trained, tmp_path, monkeypatch):
    def no_space(*_):
        raise OSError(28, "No space left on device")

    def write():
        export_gguf.write_gguf(
            tmp_path / "half.gguf",
            trained.model,
            trained.tokenizer,
            "Q8_0",
            name="x",
            licence="own",
            prompt=trained.prompt,
            task={},
        )

    with monkeypatch.context() as patch:
        patch.setattr(gguf.GGUFWriter, "write_tensor_data", no_space)
        with pytest.raises(OSError, match="No space"):
            write()
    assert not list(tmp_path.glob("*.gguf"))
    write()
    assert [file.name for file in tmp_path.iterdir()] == ["half.gguf"]


@pytest.mark.parametrize(
    ("name", "tied", "wanted"),
    [
        ("Q4_0-embed-Q8_0", True, {"token_embd": "Q8_0"}),
        ("Q8_0-embed-Q4_1", False, {"token_embd": "Q4_1", "output": "Q4_1"}),
        ("Q5_1-embed-F16", True, {"token_embd": "F16"}),
    ],
)
def test_an_embedding_of_another_type_is_read_back_by_gguf_and_by_llama_cpp(trained, tmp_path, name, tied, wanted):
    model = scratch(len(trained.tokenizer), 64, 1, 64, 0)
    if not tied:
        model.config.tie_word_embeddings = False
        model.lm_head.weight = torch.nn.Parameter(torch.randn(len(trained.tokenizer), 64) / 8)
    path = tmp_path / "mixed.gguf"
    export_gguf.write_gguf(
        path, model, trained.tokenizer, name, name="x", licence="own", prompt=trained.prompt, task={}
    )
    stored = {tensor.name.removesuffix(".weight"): tensor for tensor in gguf.GGUFReader(path).tensors}
    assert {part: stored[part].tensor_type.name for part in stored if not part.startswith("blk")} == {
        **wanted,
        "output_norm": "F32",
    }
    body = {t.tensor_type.name for part, t in stored.items() if part.startswith("blk") and "norm" not in part}
    assert body == {name.partition("-")[0]}
    embedding = gguf.dequantize(stored["token_embd"].data, stored["token_embd"].tensor_type)
    assert abs(embedding - model.get_input_embeddings().weight.detach().numpy()).max() < 0.1
    with Engine(path, threads=1) as opened:
        assert len(opened.complete("x", max_tokens=2, stop_at_end=False).token_ids) == 2
