"""A GGUF file is read and weighed without believing anything in it."""

import contextlib
import struct
import time
from pathlib import Path

import gguf
import pytest
from doubles import tiny_gguf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from metier.errors import ArtifactError
from metier.run.gguf_header import _BLOCKS, Header, read_header


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    values = {"metier.task": '{"task": "x"}', "test.number": -3, "test.half": 0.5, "test.yes": True}
    return tiny_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf", metadata=values)


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def key_value(key: bytes, kind: int, value: bytes) -> bytes:
    return struct.pack("<Q", len(key)) + key + struct.pack("<I", kind) + value


def gguf_bytes(*, version: int = 3, tensors: int = 0, keys: int = 0, rest: bytes = b"") -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, keys) + rest


def test_key_values_are_read_and_arrays_only_counted(tiny: Path) -> None:
    header = read_header(tiny)
    assert header.metadata["general.architecture"] == "gemma3"
    assert header.metadata["metier.task"] == '{"task": "x"}'
    assert [header.metadata[f"test.{name}"] for name in ("number", "half", "yes")] == [-3, 0.5, True]
    assert header.metadata["tokenizer.ggml.tokens"] is None
    reader = gguf.GGUFReader(tiny)
    assert header.array_lengths["tokenizer.ggml.tokens"] == len(reader.fields["tokenizer.ggml.tokens"].data)
    assert len(header.shapes) == len(reader.tensors)
    assert set(header.metadata) == {name for name in reader.fields if not name.startswith("GGUF.")}


def test_the_sizes_of_tensor_types_are_those_of_ggml() -> None:
    theirs = {int(kind): size for kind, size in gguf.GGML_QUANT_SIZES.items()}
    ours = {kind: size for kind, size in _BLOCKS.items() if kind != 9}
    assert ours == {kind: theirs[kind] for kind in ours}


@pytest.mark.parametrize("missing", [1, 40, 4096])
def test_a_file_cut_short_is_refused_with_both_lengths(tiny: Path, tmp_path: Path, missing: int) -> None:
    data = tiny.read_bytes()
    cut = written(tmp_path / "cut.gguf", data[: len(data) - missing - 32])
    with pytest.raises(ArtifactError, match=rf"cut short: it has {len(data) - missing - 32:,} of at least"):
        read_header(cut)


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"", "not a GGUF file"),
        (b"PK\3\4 something else", "not a GGUF file"),
        (b"GGUF", "cut short"),
        (gguf_bytes(version=1), "GGUF version 1"),
        (gguf_bytes(version=3 << 24), "GGUF version"),
        (gguf_bytes(tensors=1 << 63), "claims 9,223,372,036,854,775,808 tensors"),
        (gguf_bytes(keys=1 << 40), "claims 1,099,511,627,776 keys"),
        (gguf_bytes(keys=1, rest=struct.pack("<Q", 1 << 62)), "bytes of one text"),
        (gguf_bytes(keys=1, rest=key_value(b"k", 13, b"")), "unknown type 13"),
        (gguf_bytes(keys=1, rest=key_value(b"k", 9, struct.pack("<IQ", 8, 1 << 50))), "array of"),
        (gguf_bytes(keys=1, rest=key_value(b"k", 9, struct.pack("<IQ", 8, 1 << 20))), "cut short"),
        (gguf_bytes(keys=1, rest=key_value(b"k", 9, struct.pack("<IQ", 4, 1 << 60))), "cut short"),
        (gguf_bytes(keys=1, rest=key_value(b"k", 9, struct.pack("<IQ", 9, 1))), "unknown type 9"),
        (gguf_bytes(keys=2, rest=key_value(b"k", 0, b"\1") * 2), "twice"),
        (gguf_bytes(keys=1, rest=key_value(b"general.alignment", 4, struct.pack("<I", 0))), "aligned to 0"),
    ],
)
def test_nonsense_is_refused_by_name(tmp_path: Path, data: bytes, found: str) -> None:
    with pytest.raises(ArtifactError, match=found):
        read_header(written(tmp_path / "bad.gguf", data))


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none.gguf", tmp_path):
        with pytest.raises(ArtifactError, match="is not a file"):
            read_header(path)


def test_the_largest_believable_vocabulary_is_passed_in_seconds(tmp_path: Path) -> None:
    count = 1 << 21
    array = key_value(b"k", 9, struct.pack("<IQ", 8, count) + bytes(8 * count))
    path = written(tmp_path / "big.gguf", gguf_bytes(keys=1, rest=array))
    started = time.process_time()
    assert read_header(path).array_lengths == {"k": count}
    assert time.process_time() - started < 5


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_happens_to_its_bytes_a_file_is_read_or_refused(
    tiny: Path, tmp_path: Path, data: st.DataObject
) -> None:
    whole = bytearray(tiny.read_bytes())
    head = 10_000  # where the header is
    for _ in range(data.draw(st.integers(0, 4))):
        at = data.draw(st.integers(0, head))
        new = data.draw(st.binary(min_size=1, max_size=9))
        whole[at : at + len(new)] = new
    end = data.draw(st.integers(0, len(whole)))
    path = written(tmp_path / "damaged.gguf", bytes(whole[:end]))
    with contextlib.suppress(ArtifactError):
        assert isinstance(read_header(path), Header)
