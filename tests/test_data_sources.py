"""Sources: every layout a file can have, and every way it can be wrong."""

import builtins
import errno
import io
import json
import tarfile
from pathlib import Path

import pytest
from huggingface_hub.errors import HTTPError

from metier.data.facts import opened
from metier.data.sources import fingerprint, open_source, read_source
from metier.errors import DataError, RunError
from metier.spec.data import Source
from metier.spec.facts import FactSource

PAIRS = [("猫", "cat"), ("犬", "dog")]


def source(text, **rest):
    return Source(source=text, licence="own", **rest)


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return f"file:{path}"


def rows(text, **rest):
    return read_source(source(text, **rest)).table.pairs


def test_tsv_is_split_on_tabs_and_quotes_are_text(tmp_path):
    name = write(tmp_path / "a.tsv", '猫\t"cat\n犬\tdog"s\n')
    assert rows(name) == [("猫", '"cat'), ("犬", 'dog"s')]


def test_columns_go_by_number_or_by_name(tmp_path):
    name = write(tmp_path / "a.tsv", "id\ten\tja\n1\tcat\t猫\n2\tdog\t犬\n")
    assert rows(name, header=True, input="ja", output="en") == PAIRS
    assert rows(name, header=True, input=3, output=2) == PAIRS


def test_csv_has_a_header_and_quoted_cells_with_line_breaks(tmp_path):
    name = write(tmp_path / "a.csv", 'q,a\n"one, two","1\n2"\nthree,3\n')
    assert rows(name, input="q", output="a") == [("one, two", "1\n2"), ("three", "3")]
    assert rows(name, header=False)[0] == ("q", "a")


def test_jsonl_takes_objects_nested_objects_and_arrays(tmp_path):
    flat = write(tmp_path / "a.jsonl", '{"ja": "猫", "en": "cat"}\n\n{"ja": "犬", "en": "dog"}\n')
    assert rows(flat, input="ja", output="en") == PAIRS
    deep = write(tmp_path / "b.jsonl", '{"t": {"ja": "猫", "en": "cat"}}\n{"t": {"ja": "犬", "en": "dog"}}\n')
    assert rows(deep, input="t.ja", output="t.en") == PAIRS
    assert rows(write(tmp_path / "c.jsonl", '["猫", "cat"]\n["犬", "dog"]\n')) == PAIRS


def test_moses_files_are_paired_by_line(tmp_path):
    first = write(tmp_path / "a.ja", "猫\n犬\n")
    write(tmp_path / "a.en", "cat\ndog")
    assert rows(f"{first},{tmp_path / 'a.en'}") == PAIRS


def test_moses_files_of_different_lengths_are_an_error_with_both_lengths(tmp_path):
    first = write(tmp_path / "a.ja", "猫\n犬\n")
    write(tmp_path / "a.en", "cat\n")
    with pytest.raises(DataError, match="have 2 and 1 lines"):
        rows(f"{first},{tmp_path / 'a.en'}")


def test_windows_line_ends_and_a_byte_order_mark_are_no_text(tmp_path):
    assert rows(write(tmp_path / "a.tsv", "\ufeff猫\tcat\r\n犬\tdog\r\n")) == PAIRS


def test_separators_inside_a_sentence_do_not_end_a_line(tmp_path):
    assert rows(write(tmp_path / "a.tsv", "a\u2028b\tc\x85d\n")) == [("a\u2028b", "c\x85d")]


def test_rows_left_out_are_counted_by_reason(tmp_path):
    good = "".join(f"in{n}\tout{n}\n" for n in range(40))
    table = read_source(source(write(tmp_path / "a.tsv", good + "\nalone\nx\t-\n"), missing="-")).table
    assert (table.read, len(table.pairs)) == (43, 40)
    assert table.removed == {"blank line": 1, "column missing": 1, "value missing": 1}
    lines = '{"q": "a", "a": "b"}\n{"q": "a", "a": 7}\n{"q": null, "a": "b"}\n'
    table = read_source(source(write(tmp_path / "a.jsonl", lines), input="q", output="a")).table
    assert table.removed == {"not text": 1, "value missing": 1}


def test_columns_that_most_rows_lack_are_an_error_with_the_first_bad_line(tmp_path):
    with pytest.raises(DataError, match=r"line 2: 1 column.*2 of 3 rows.*columns 1 and 2.*Set format"):
        rows(write(tmp_path / "a.tsv", "a\tb\nc,d\ne,f\n"))


def test_a_column_name_that_is_not_there_is_answered_with_a_near_one(tmp_path):
    name = write(tmp_path / "a.csv", "question,answer\n1,2\n")
    with pytest.raises(DataError, match=r"no column named 'questions'. Did you mean 'question'"):
        rows(name, input="questions", output="answer")
    with pytest.raises(DataError, match="keys ja, en"):
        rows(write(tmp_path / "a.jsonl", '{"ja": "猫", "en": "cat"}\n'), input="jp", output="en")
    with pytest.raises(DataError, match="Set header = true"):
        rows(write(tmp_path / "a.tsv", "a\tb\n"), input="a", output="b")


@pytest.mark.parametrize("content", ["", "\n\n", b"\xef\xbb\xbf"])
def test_an_empty_file_is_an_error(tmp_path, content):
    with pytest.raises(DataError, match=r"is empty|holds no rows"):
        rows(write(tmp_path / "a.tsv", content))


def test_a_header_alone_is_an_error(tmp_path):
    with pytest.raises(DataError, match="holds no rows"):
        rows(write(tmp_path / "a.csv", "q,a\n"))


def test_a_missing_file_and_a_folder_are_errors(tmp_path):
    with pytest.raises(DataError, match="there is no such file"):
        rows(f"file:{tmp_path / 'none.tsv'}")
    with pytest.raises(DataError, match="is a folder"):
        rows(f"file:{tmp_path}")


def test_a_name_without_a_known_suffix_asks_for_the_format(tmp_path):
    name = write(tmp_path / "rows", "猫\tcat\n犬\tdog\n")
    with pytest.raises(DataError, match="Set format"):
        rows(name)
    assert rows(name, format="tsv") == PAIRS


@pytest.mark.parametrize("encoding", ["shift_jis", "euc_jp", "utf-16"])
def test_a_wrong_encoding_is_an_error_with_the_place_and_the_likely_one(tmp_path, encoding):
    text = "cat\tneko\n猫が庭で寝ている。\tA cat sleeps in the garden.\n"
    name = write(tmp_path / "a.tsv", text.encode(encoding))
    with pytest.raises(DataError, match=f'line [12]: byte [0-9]+ is not utf-8 text. Set encoding = "{encoding}"'):
        rows(name)
    assert rows(name, encoding=encoding)[0] == ("cat", "neko")


@pytest.mark.parametrize(("encoding", "order"), [("utf-16", "le"), ("utf-16", "be"), ("utf-32", "le")])
def test_text_that_lacks_the_mark_of_its_byte_order_is_an_error_that_names_both_orders(tmp_path, encoding, order):
    content = "cat\t猫\n".encode(f"{encoding}-{order}")
    whole, cut = write(tmp_path / "a.tsv", content), write(tmp_path / "b.tsv", content[:-1])
    for name in (whole, cut):
        with pytest.raises(DataError, match=rf'is not {encoding} text.* Set .*"{encoding}-le" or "{encoding}-be"'):
            rows(name, encoding=encoding)
    assert rows(whole, encoding=f"{encoding}-{order}") == [("cat", "猫")]


def test_a_wrong_byte_far_into_a_file_is_found_after_the_rows_before_it_were_read(tmp_path):
    good = "".join(f"in {n} é\tout {n} 猫\n" for n in range(20_000)).encode()
    name = write(tmp_path / "a.tsv", good + "für\tpour\n".encode("cp1252") + b"a\tb\n")
    with open_source(source(name)) as reading:
        pairs = iter(reading.table)
        assert next(pairs) == ("in 0 é", "out 0 猫")
        with pytest.raises(DataError, match=rf"line 20001: byte {len(good) + 1} is not utf-8"):
            list(pairs)
    ends_within = write(tmp_path / "b.tsv", "a\tb\nc\t猫".encode()[:-1])
    with pytest.raises(DataError, match="line 2"):
        rows(ends_within)


def test_a_half_written_last_line_of_jsonl_is_an_error_with_its_number(tmp_path):
    with pytest.raises(DataError, match="line 2: is not JSON"):
        rows(write(tmp_path / "a.jsonl", '{"q": "a", "a": "b"}\n{"q": "a", "a'), input="q", output="a")


def test_deeply_nested_json_is_an_error_and_not_a_crash(tmp_path):
    with pytest.raises(DataError, match="line 1"):
        rows(write(tmp_path / "a.jsonl", "[" * 200_000), input="q", output="a")


def test_an_unclosed_quote_of_csv_is_an_error_with_the_line_it_starts_at(tmp_path):
    with pytest.raises(DataError, match="line 3: the row that starts here"):
        rows(write(tmp_path / "a.csv", 'q,a\n1,2\n"3,4\n5,6\n'))


def test_huge_cells_nul_bytes_and_lone_surrogates_are_read_for_the_cleaning_to_judge(tmp_path):
    long = "x" * 10_000_000
    assert rows(write(tmp_path / "a.csv", f'q,a\n{long},short\n"a\0b",c\n')) == [(long, "short"), ("a\0b", "c")]
    assert rows(write(tmp_path / "a.jsonl", '["\\ud800", "b"]\n')) == [("\ud800", "b")]


def test_a_source_is_read_from_inside_a_package_archive(tmp_path, monkeypatch):
    monkeypatch.setenv("METIER_HOME", str(tmp_path))
    folder = tmp_path / "cache" / "archives"
    folder.mkdir(parents=True)
    content = "1\t猫\tcat\n2\t犬\tdog\n".encode()
    with tarfile.open(folder / "words-1.0.tar.gz", "w:gz") as tar:
        entry = tarfile.TarInfo("words-1.0/res/ROWS")
        entry.size = len(content)
        tar.addfile(entry, io.BytesIO(content))
    reading = read_source(source("pypi:words==1.0", path="res/ROWS", format="tsv", input=2, output=3))
    assert reading.table.pairs == PAIRS
    assert (reading.name, reading.origin, len(reading.sha256)) == ("words", "words-1.0.tar.gz", 64)


def test_a_local_folder_of_the_hubs_kind_is_read(tmp_path, monkeypatch):
    pytest.importorskip("datasets")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    folder = tmp_path / "pets"
    folder.mkdir()
    lines = [json.dumps({"translation": {"ja": ja, "en": en}}, ensure_ascii=False) for ja, en in PAIRS]
    (folder / "train.jsonl").write_text("\n".join(lines), encoding="utf-8")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    reading = read_source(source(f"hf:{folder}", input="translation.ja", output="translation.en"))
    assert reading.table.pairs == PAIRS
    assert str(tmp_path) not in reading.origin + reading.reference
    with pytest.raises(DataError, match="split 'nope' cannot be loaded"):
        rows(f"hf:{folder}", split="nope")
    with pytest.raises(DataError, match=r"no column 'text'. It has: translation"):
        rows(f"hf:{folder}", input="text", output="translation.en")


@pytest.mark.parametrize(
    ("said", "error", "found"),
    [
        (HTTPError("peer closed connection"), RunError, "the hub cannot be reached"),
        (ConnectionError(), RunError, "the hub cannot be reached"),
        (FileNotFoundError("no such set"), DataError, r"cannot be loaded \(no such set\)"),
    ],
)
def test_a_connection_that_breaks_off_is_not_the_data_sets_fault(monkeypatch, said, error, found):
    pytest.importorskip("datasets")

    def dropped(*_, **__):
        raise said

    monkeypatch.setattr("datasets.load_dataset", dropped)
    with pytest.raises(error, match=found):
        rows("hf:owner/set")


def test_a_hub_source_without_its_package_names_the_extra(monkeypatch):
    real = builtins.__import__

    def without(name, *rest):
        if name == "datasets":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(RunError, match=r"metier\[hub\]"):
        rows("hf:owner/set")


def test_the_fingerprint_changes_with_the_content_and_the_settings_and_with_nothing_else(tmp_path):
    name = write(tmp_path / "a.tsv", "猫\tcat\n")
    first = fingerprint(source(name))
    write(tmp_path / "a.tsv", "猫\tcat\n")
    assert json.loads(json.dumps(fingerprint(source(name)))) == first
    assert fingerprint(source(name, missing="-")) != first
    write(tmp_path / "a.tsv", "猫\tdog\n")
    assert fingerprint(source(name)) != first
    assert "words" in json.dumps(fingerprint(source("pypi:words==1.0", path="rows.tsv")))
    with pytest.raises(DataError, match="no such file"):
        fingerprint(source(f"file:{tmp_path / 'none.tsv'}"))


@pytest.mark.parametrize("asked", ["open", "is_file"])
def test_a_file_that_may_not_be_read_is_an_error_with_its_name_whoever_looks_first(tmp_path, monkeypatch, asked):
    pairs, facts = (write(tmp_path / name, "subject\tborn\n") for name in ("pairs.tsv", "facts.tsv"))
    table = FactSource(source=facts, format="tsv", licence="own")
    real = getattr(Path, asked)

    def locked(path, *rest, **named):
        if path.suffix == ".tsv":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path, *rest, **named)

    monkeypatch.setattr(Path, asked, locked)
    for name, look in (
        ("pairs", lambda: fingerprint(source(pairs))),
        ("pairs", lambda: rows(pairs)),
        ("facts", lambda: opened.fingerprint(table)),
        ("facts", lambda: opened.open_facts(table).__enter__()),
    ):
        with pytest.raises(DataError, match=rf"{name}\.tsv: cannot be read \(Permission denied\). Check its permis"):
            look()


def test_the_same_file_in_another_folder_has_the_same_identity(tmp_path):
    found = []
    for place in ("here", "there"):
        file = tmp_path / place / "pairs.tsv"
        file.parent.mkdir()
        file.write_text("sea\tmer\n", encoding="utf-8")
        found.append(fingerprint(Source(source=f"file:{file}", licence="own")))
    assert found[0] == found[1]
    assert str(tmp_path) not in str(found)


def test_the_two_sides_of_moses_text_may_be_taken_in_either_order(tmp_path):
    (tmp_path / "a.en").write_text("cat\n-\ndog\n", encoding="utf-8")
    (tmp_path / "a.ja").write_text("neko\nx\ninu\n", encoding="utf-8")
    both = f"file:{tmp_path / 'a.en'},{tmp_path / 'a.ja'}"
    swapped = Source(source=both, licence="own", input=2, output=1, missing="-")
    assert read_source(swapped).table.pairs == [("neko", "cat"), ("inu", "dog")]
    with pytest.raises(DataError, match=r"has sides 1 and 2, not 7 and 2\. Write 1 and 2"):
        read_source(Source(source=both, licence="own", input=7)).table.pairs  # noqa: B018


def test_names_of_columns_may_have_spaces_around_them_on_either_side(tmp_path):
    (tmp_path / "a.csv").write_text("\nquestion, answer\none,un\n", encoding="utf-8")
    asked = Source(source=f"file:{tmp_path / 'a.csv'}", licence="own", input="question ", output=" answer")
    assert read_source(asked).table.pairs == [("one", "un")]
