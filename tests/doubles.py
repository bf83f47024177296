"""Stand-ins that tests share: small enough to make and load in a moment."""

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from metier.data.similarity import comparable

PLAIN_TEMPLATE = (
    "{{ bos_token }}{%- for message in messages -%}{{- message['role'] + ': ' + message['content'] + '\\n' -}}"
    "{%- endfor -%}{{- 'answer:' -}}"
)
"""A chat template that shows every message it is given."""

PEAK_MIB = r"""
def peak_mib():
    import re
    return int(re.search(r"VmHWM:\s*([0-9]+) kB", open("/proc/self/status").read())[1]) / 1024
"""
"""Code for a fresh process: its most resident memory so far. What `resource` tells is that of who started it, too."""

_HIDDEN, _LAYERS, _HEADS, _HEAD_SIZE, _FORWARD, _CONTEXT = 32, 2, 2, 16, 64, 2048


def tiny_gguf(
    path: Path,
    *,
    chat_template: str | None = PLAIN_TEMPLATE,
    metadata: Mapping[str, str | int | float | bool] | None = None,
    seed: int = 0,
) -> Path:
    """Write a Gemma 3 of two layers with random weights, which babbles but loads and answers; return its path.

    Args:
        path: the file to write.
        chat_template: Jinja template inside the file, None for none.
        metadata: further key-values, such as ``metier.task``.
        seed: of the weights.
    """
    writer = gguf.GGUFWriter(path, "gemma3")
    writer.add_context_length(_CONTEXT)
    writer.add_embedding_length(_HIDDEN)
    writer.add_block_count(_LAYERS)
    writer.add_feed_forward_length(_FORWARD)
    writer.add_head_count(_HEADS)
    writer.add_head_count_kv(1)
    writer.add_key_length(_HEAD_SIZE)
    writer.add_value_length(_HEAD_SIZE)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(1e6)
    writer.add_sliding_window(64)
    pieces = _add_vocabulary(writer)
    if chat_template is not None:
        writer.add_chat_template(chat_template)
    for key, value in (metadata or {}).items():
        add = {str: writer.add_string, bool: writer.add_bool, int: writer.add_int64, float: writer.add_float64}
        add[type(value)](key, value)
    _add_tensors(writer, pieces, np.random.default_rng(seed))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_vocabulary(writer: gguf.GGUFWriter) -> int:
    control = ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"]
    spelled = ["▁", *"etaoinshrdlucmfwypvbgkqjxz.,:?!'", *"ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789", *"猫犬がを好きです。"]
    merged = ["▁a", "▁t", "th", "he", "in", "▁th", "▁the"]
    normal = merged + spelled
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    kinds = gguf.TokenType
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(control + bytes_ + normal)
    writer.add_token_scores([-1000.0] * len(control) + [0.0] * 256 + [-float(rank) for rank in range(len(normal))])
    writer.add_token_types(
        [kinds.UNKNOWN if piece == "<unk>" else kinds.CONTROL for piece in control]
        + [kinds.BYTE] * 256
        + [kinds.NORMAL] * len(normal)
    )
    writer.add_pad_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_bos_token_id(2)
    writer.add_unk_token_id(3)
    writer.add_add_bos_token(True)
    writer.add_add_space_prefix(False)
    return len(control) + 256 + len(normal)


def _add_tensors(writer: gguf.GGUFWriter, pieces: int, random: np.random.Generator) -> None:
    inner = _HEADS * _HEAD_SIZE
    matrices = {
        "attn_q": (inner, _HIDDEN),
        "attn_k": (_HEAD_SIZE, _HIDDEN),
        "attn_v": (_HEAD_SIZE, _HIDDEN),
        "attn_output": (_HIDDEN, inner),
        "ffn_gate": (_FORWARD, _HIDDEN),
        "ffn_up": (_FORWARD, _HIDDEN),
        "ffn_down": (_HIDDEN, _FORWARD),
    }
    norms = {
        **dict.fromkeys(("attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm"), _HIDDEN),
        **dict.fromkeys(("attn_q_norm", "attn_k_norm"), _HEAD_SIZE),
    }
    shapes = {"token_embd": (pieces, _HIDDEN)}
    sizes = {"output_norm": _HIDDEN}
    for layer in range(_LAYERS):
        shapes |= {f"blk.{layer}.{name}": shape for name, shape in matrices.items()}
        sizes |= {f"blk.{layer}.{name}": size for name, size in norms.items()}
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", random.normal(0, 0.3, shape).astype(np.float32))
    for name, size in sizes.items():
        writer.add_tensor(f"{name}.weight", np.ones(size, np.float32))


def gemma(pieces: int, *, layers: int) -> Any:
    """Return an untrained Gemma 3, 64 wide: what a base is, as nothing from scratch has that shape."""
    import torch
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    from metier.model.architectures import gemma_attention

    torch.manual_seed(0)
    config = Gemma3TextConfig(
        vocab_size=pieces,
        hidden_size=64,
        intermediate_size=256,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        max_position_embeddings=512,
        sliding_window=512,
        **gemma_attention(layers, 32, 1e6),
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=2,
        tie_word_embeddings=True,
    )
    return Gemma3ForCausalLM(config).float()


def loud(model: Any) -> Any:
    """Fill a model with random weights so large that every layer, head, norm and expert counts."""
    import torch

    random = torch.Generator().manual_seed(5)
    gemma = model.config.model_type == "gemma3_text"
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.copy_(torch.randn(weight.shape, generator=random) * (0.1 if weight.dim() > 1 else 0.2))
            if name.endswith("norm.weight") and not gemma:
                weight += 1
            if name.endswith("mlp.gate.weight"):
                weight *= 4
    return model.eval()


def of_any_architecture(name: str, pieces: int, tied: bool) -> Any:
    """A small loud model in the shape of a released one: grouped heads that are not as wide as the model over them."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from metier.model.architectures import ARCHITECTURES

    if name == "gemma3_text":
        return loud(gemma(pieces, layers=6))
    further = ARCHITECTURES[name].further
    sizes = {attribute: 4 if key == "expert_count" else 2 for key, attribute in further.items() if "expert_" in key}
    sizes |= {"moe_intermediate_size": 32} if "moe_intermediate_size" in sizes else {}
    sizes |= {"head_dim": 24} if "attention.key_length" in further else {}
    sizes |= dict(ARCHITECTURES[name].granted)
    config = AutoConfig.for_model(
        name,
        vocab_size=pieces,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2 if "attention.head_count_kv" in further else 4,
        max_position_embeddings=512,
        tie_word_embeddings=tied,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=2,
        **sizes,
    )
    return loud(AutoModelForCausalLM.from_config(config, dtype=torch.float32))


def phi(pieces: int) -> Any:
    """A small loud model whose output matrix has a bias, as Phi's, GPT-J's and CodeGen's have."""
    import torch
    from transformers import AutoModelForCausalLM, PhiConfig

    config = PhiConfig(
        vocab_size=pieces,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=512,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=2,
    )
    return loud(AutoModelForCausalLM.from_config(config, dtype=torch.float32))


_NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_ANIMALS = ("cat", "dog", "fox", "owl", "hen", "pig", "cow", "bee", "ant", "elk")
_COLOURS = ("red", "blue", "green", "black", "white")


def counted_animals(rows: int, seed: int = 7) -> list[tuple[str, str]]:
    """Return different pairs such as ("forty-two red foxs", "fox red 42"), which a tiny model learns in seconds."""
    every = [
        (f"{_in_words(number)} {colour} {animal}s", f"{animal} {colour} {number}")
        for number in range(20, 100)
        for colour in _COLOURS
        for animal in _ANIMALS
    ]
    return random.Random(seed).sample(every, rows)


def _in_words(number: int) -> str:
    tens, ones = divmod(number, 10)
    return _TENS[tens - 2] + (f"-{_NUMBERS[ones]}" if ones else "")


def write_job(
    folder: Path, *, budget: str = "120 steps", quantisations: str = '"Q8_0"', extra: str = "", base: str = ""
) -> Path:
    """Write a job that a model of two layers learns from scratch in seconds; return its folder.

    Args:
        folder: where job.toml and pairs.tsv go.
        budget: of the training.
        quantisations: what is written into the list.
        extra: further lines of the table ``train``.
        base: further lines of the table ``base``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lines = (f"{asked}\t{answer}\n" for asked, answer in counted_animals(1500))
    (folder / "pairs.tsv").write_text("".join(lines), encoding="utf-8")
    (folder / "job.toml").write_text(
        f"""
name = "animals"
task = "text2text"
[base]
model = "scratch"
vocabulary = 400
hidden_size = 64
layers = 2
{base}
[[data.train]]
source = "file:pairs.tsv"
licence = "own"
header = false
[data.cleaning]
near_duplicate = 1.0
[data.split]
validation_share = 0.05
test_share = 0.05
leak_similarity = 1.0
[train]
budget = "{budget}"
peak_lr = 5e-3
batch_tokens = 600
max_tokens = 64
{extra}
[evaluate]
validation_rows = 40
test_rows = 40
max_answer_tokens = 16
[export]
quantisations = [{quantisations}]
context_tokens = 256
[limits]
file_mib = 5
[release]
must_beat = []
parity_margin = 5.0
""",
        encoding="utf-8",
    )
    return folder


def made_up_pairs(rows: int, seed: int = 5) -> list[tuple[str, str]]:
    """Return pairs of made-up sentences, some of which repeat an earlier one, come near it, or share a side with it."""
    draw = random.Random(seed)
    signs = [chr(0x3042 + n) for n in range(80)] + [chr(0x4E00 + n) for n in range(300)]
    words = ["".join(draw.choice("bdfgklmnprst") + draw.choice("aeiou") for _ in range(2)) for _ in range(400)]
    pairs: list[tuple[str, str]] = []
    for _ in range(rows):
        one = "".join(draw.choices(signs, k=draw.randint(3, 14)))
        two = " ".join(draw.choices(words, k=draw.randint(3, 9)))
        if pairs and draw.random() < 0.3:
            one, two = draw.choice(
                [
                    (draw.choice(pairs)[0], two),
                    (one, draw.choice(pairs)[1].upper()),
                    *[(f"{a}。", f"{b} {words[0]}") for a, b in [draw.choice(pairs)]],
                    *[(a, f"{b}!") for a, b in [draw.choice(pairs)]],
                ]
            )
        pairs.append((one, two))
    return pairs


def jaccard(one: str, two: str) -> float:
    """Return the Jaccard similarity of two texts' 3-gram sets, after `comparable`, as one would write it down."""
    first, second = (
        {text[at : at + 3] for at in range(len(text) - 2)} or {text} for text in (comparable(one), comparable(two))
    )
    return len(first & second) / len(first | second)
