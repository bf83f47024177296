"""Debian packages and OPUS corpora: fetched once, checked, read in place, their licences kept.

apt is played by a script of ours, mtdata by a module of ours, OPUS by a server on this machine.
"""

import hashlib
import http.server
import io
import json
import os
import sys
import tarfile
import threading
import types
import zipfile

import pytest
from test_data_archives import tar_bytes, zip_bytes

from metier.artifact import read_json
from metier.data import opus
from metier.data.debian import copyright_of, fetch_package
from metier.data.licences import from_debian
from metier.data.prepare import prepare
from metier.data.sources import fingerprint, open_source, read_source
from metier.errors import DataError, RunError, SpecError
from metier.spec.data import Data, Source, Split
from metier.spec.load import load_job

STATED = "Format: 1.0\n\nFiles: *\nCopyright: us\nLicense: GPL-2+\n as is\n\nFiles: icons/*\nLicense: MIT\n"
APT = """#!{python}
import json, pathlib, shutil, sys
folder = pathlib.Path({folder!r})
words = [word for word in sys.argv[1:] if not word.startswith("-") and "::" not in word and "=/" not in word]
with (folder / "asked").open("a") as log:
    print(*words, file=log)
known = json.loads((folder / "index.json").read_text())
if not words[0:1] or words[0] == "update":
    (folder / "updated").touch()
    if (folder / "next.json").exists():
        (folder / "next.json").replace(folder / "index.json")
    sys.exit(0)
if not (folder / "updated").exists():
    sys.exit(100)
name, _, version = words[1].partition("=")
found = [one for one in known if one["Package"] == name and version in ("", one["Version"])]
if not found:
    sys.exit(100)
if words[0] == "show":
    print("\\n\\n".join("\\n".join(f"{{key}}: {{value}}" for key, value in one.items()) for one in found))
else:
    file = found[0]["File"]
    shutil.copy(folder / file, file)
"""


def deb(files, links=(), data="data.tar.xz"):
    """Return a package with files and links, as bytes."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:xz") as tar:
        for name, target in links:
            entry = tarfile.TarInfo(f"./{name}")
            entry.type, entry.linkname = tarfile.SYMTYPE, target
            tar.addfile(entry)
        for name, content in files.items():
            entry = tarfile.TarInfo(f"./{name}")
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    parts = {"debian-binary": b"2.0\n", "control.tar.xz": b"x" * 7, data: buffer.getvalue()}
    packed = b"!<arch>\n"
    for name, content in parts.items():
        packed += f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(content):<10}`\n".encode() + content
        packed += b"\n" * (len(content) % 2)
    return packed


@pytest.fixture
def publish(tmp_path, monkeypatch):
    """Play apt with packages that are given to the function returned; what it was asked is in the file ``asked``."""
    monkeypatch.setenv("METIER_HOME", str(tmp_path / "home"))
    folder = tmp_path / "apt"
    (folder / "bin").mkdir(parents=True)
    known = []
    for program in ("apt-get", "apt-cache"):
        script = folder / "bin" / program
        script.write_text(APT.format(python=sys.executable, folder=str(folder)), encoding="utf-8")
        script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}")

    def add(name, version, content, promised=None):
        file = f"{name}_{version.replace(':', '%3a')}_all.deb"
        (folder / file).write_bytes(content)
        known.insert(
            0,
            {
                "Package": name,
                "Version": version,
                "Size": len(content),
                "SHA256": promised or hashlib.sha256(content).hexdigest(),
                "File": file,
            },
        )
        (folder / "index.json").write_text(json.dumps(known), encoding="utf-8")
        return folder

    add("nothing", "1", b"")
    return add


def source(text, **rest):
    return Source(source=text, **{"licence": "own", **rest})


def pairs(text, **rest):
    return read_source(source(text, **rest)).table.pairs


def test_a_package_is_fetched_once_and_read_in_place(publish):
    folder = publish(
        "words", "1:2.0-1", deb({"usr/share/words/rows.tsv": b"one\tun\n", "usr/bin/words": b"#!/bin/false"})
    )
    publish("words", "1:1.0-1", deb({"usr/share/words/rows.tsv": b"old\tvieux\n"}))
    reading = read_source(source("deb:words==1:2.0-1", path="usr/share/words/rows.tsv"))
    assert reading.table.pairs == [("one", "un")]
    assert (reading.name, reading.origin) == ("words", "words_1%3a2.0-1_all.deb")
    content = (folder / "words_1%3a2.0-1_all.deb").read_bytes()
    assert reading.sha256 == hashlib.sha256(content).hexdigest()
    asked = (folder / "asked").read_text()
    assert pairs("deb:words==1:2.0-1", path="usr/share/words/rows.tsv") == [("one", "un")]
    assert (folder / "asked").read_text() == asked
    assert pairs("deb:words==1:1.0-1", path="usr/share/words/rows.tsv") == [("old", "vieux")]
    assert "words" in json.dumps(fingerprint(source("deb:words", path="a.tsv")))


def test_an_unpinned_package_is_the_index_s_first_and_its_version_is_recorded(publish):
    publish("words", "1.0-1", deb({"rows.tsv": b"old\tvieux\n"}))
    publish("words", "2.0-1", deb({"rows.tsv": b"one\tun\n"}))
    assert read_source(source("deb:words", path="rows.tsv")).origin == "words_2.0-1_all.deb"


def test_what_apt_does_not_know_is_an_error_with_the_versions_it_knows(publish):
    publish("words", "2.0-1", deb({"rows.tsv": b"one\tun\n"}))
    with pytest.raises(DataError, match=r"deb:words==9: no version fits. Choose one of: 2\.0-1"):
        fetch_package("words==9")
    with pytest.raises(DataError, match="no such package"):
        fetch_package("worlds")
    for wanted in ("", "-o=x", "words;true", "words==-1", "../words"):
        with pytest.raises(DataError, match="Write 'deb:name'"):
            fetch_package(wanted)


def test_a_package_that_is_not_the_promised_one_is_not_kept(publish, tmp_path):
    publish("words", "1.0-1", deb({"rows.tsv": b"one\tun\n"}), promised="0" * 64)
    with pytest.raises(DataError, match="the index states 0000"):
        fetch_package("words")
    assert not list((tmp_path / "home" / "cache" / "debian").glob("*.deb*"))


def test_without_apt_the_error_says_where_to_put_the_package(publish, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    kept = tmp_path / "home" / "cache" / "debian"
    with pytest.raises(RunError, match=f"apt-get: is not on this machine.*{kept}"):
        fetch_package("words")
    (kept / "words_1.0-1_all.deb").write_bytes(deb({"rows.tsv": b"one\tun\n"}))
    assert pairs("deb:words", path="rows.tsv") == [("one", "un")]


def test_no_name_in_a_package_becomes_a_path(publish, tmp_path):
    outside = tmp_path / "escaped"
    evil = deb({"../../../../../../../" + str(outside).lstrip("/"): b"one\tun\n", "in/rows.tsv": b"two\tdeux\n"})
    publish("words", "1.0-1", evil)
    assert pairs("deb:words", path="in/*.tsv", format="tsv") == [("two", "deux")]
    with pytest.raises(DataError, match="is one of 2 files"):
        pairs("deb:words", path="*", format="tsv")
    assert not outside.exists()


def test_a_damaged_package_is_an_error_with_its_name(publish):
    whole = deb({"rows.tsv": os.urandom(9000)})
    for number, content in enumerate((b"", b"!<arch>\nrubbish", whole[:100], whole[: len(whole) // 2])):
        publish("words", f"{number}.0", content)
        with pytest.raises(DataError, match=rf"words_{number}\.0.*is damaged"):
            pairs(f"deb:words=={number}.0", path="rows.tsv")


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="Python reads zstd")
def test_a_package_that_this_python_cannot_read_is_not_called_damaged(publish):
    publish("words", "1.0", deb({"rows.tsv": b"one\tun\n"}, data="data.tar.zst"))
    with pytest.raises(
        DataError, match=r"^words_1\.0_all\.deb: is compressed with zstd.* Run metier with Python 3\.14"
    ):
        pairs("deb:words", path="rows.tsv")


def test_two_packages_are_two_sides(publish):
    publish("help-de", "1.0-1", deb({"usr/help/de/a.html": b'<p id="1">Eins</p>', "usr/help/de/b.html": b"<p>B</p>"}))
    publish("help-en", "1.0-2", deb({"usr/help/en/a.html": b'<p id="1">One</p>'}))
    reading = read_source(source("deb:help-de,help-en==1.0-2", path="usr/help/de,usr/help/en", format="html"))
    assert reading.table.pairs == [("Eins", "One")]
    assert reading.origin == "help-de_1.0-1_all.deb, help-en_1.0-2_all.deb"
    assert reading.sha256.count(",") == 1


def test_two_packages_want_two_paths(tmp_path):
    job = 'name = "x"\ntask = "text2text"\n[base]\nmodel = "scratch"\n[[data.train]]\nlicence = "own"\n'
    for lines in (
        'source = "deb:a,b"\npath = "x"',
        'source = "deb:a,b"\npath = "x,y"\nformat = "tsv"',
        'source = "deb:a"',
    ):
        (tmp_path / "job.toml").write_text(job + lines, encoding="utf-8")
        with pytest.raises(SpecError, match=r"data\.train\[0\]\.path"):
            load_job(tmp_path)


def test_what_a_package_says_of_its_licences_is_kept_and_a_contradiction_is_told(publish, tmp_path, capsys):
    rows = "".join(f"{word} {n}\tle {n} {word[::-1]}\n" for n, word in enumerate(map(str, range(10_000, 10_400))))
    files = {"usr/share/doc/words/copyright": STATED.encode(), "rows.tsv": rows.encode()}
    publish("words", "1:1.0", deb(files))
    wanted = source("deb:words", path="rows.tsv", licence="MIT")
    shares = Split(test_share=0.1, validation_share=0.1, leak_similarity=1.0)
    prepare(Data(train=[wanted], split=shares), tmp_path / "out")
    (entry,) = read_json(tmp_path / "out" / "ledger.json")["sources"]
    (paper,) = entry["papers"]
    assert (tmp_path / "out" / paper["file"]).read_text() == paper["text"] == STATED
    assert (paper["package"], paper["version"], paper["licences"]) == ("words", "1:1.0", ["GPL-2+"])
    told = capsys.readouterr().err
    assert "its own copyright file states GPL-2+, the job states MIT" in told
    prepare(Data(train=[wanted.model_copy(update={"licence": "GPL-2.0-or-later"})], split=shares), tmp_path / "out")
    assert "copyright file" not in capsys.readouterr().err


def test_a_copyright_file_is_found_behind_a_link_to_another_package(publish):
    publish("words-common", "1.0-1", deb({"usr/share/doc/words-common/copyright": STATED.encode()}))
    publish("words-de", "1.0-1", deb({"a": b""}, [("usr/share/doc/words-de", "words-common")]))
    found = copyright_of(fetch_package("words-de"))
    assert (found.package, found.licences) == ("words-common", ("GPL-2+",))
    publish("odd", "1.0-1", deb({}, [("usr/share/doc/odd", "../../../../etc")]))
    assert copyright_of(fetch_package("odd")) is None
    publish("bare", "1.0-1", deb({"a": b""}))
    assert copyright_of(fetch_package("bare")) is None


def test_the_short_names_of_debian_are_identifiers():
    names = {
        "GPL-2+": "GPL-2.0-or-later",
        "GPL-3": "GPL-3.0-only",
        "LGPL-2.1+": "LGPL-2.1-or-later",
        "GFDL-NIV-1.2+": "GFDL-1.2-or-later",
        "Expat": "MIT",
        "MPL-2.0": "MPL-2.0",
    }
    assert {name: from_debian(name) for name in names} == names


@pytest.fixture
def corpus(tmp_path, monkeypatch):
    """Serve a corpus that mtdata, played by a module of ours, knows; a first download may break off."""
    monkeypatch.setenv("METIER_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    files = {"Pets.en-ja.en": "cat\ndog\n", "Pets.en-ja.ja": "猫\n犬\n", "LICENSE": "CC BY 2.0", "README": "pets"}
    content = zip_bytes({**files, "padding": os.urandom(50_000)})
    served = types.SimpleNamespace(asked=[], broken=[], content=content, headers={})

    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *args):
            served.asked.append(self.headers.get("Range"))

        def do_GET(self):
            content, wanted = served.content, self.headers.get("If-Range")
            start = int((self.headers.get("Range") or "bytes=0-")[6:-1])
            if start >= len(content):
                self.send_response(416)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            if wanted not in (None, *served.headers.values()):
                start = 0
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(content) - start))
            for name, value in served.headers.items():
                self.send_header(name, value)
            self.end_headers()
            part = content[start:]
            self.wfile.write(part[:20_000] if served.broken else part)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()

    def load_all(index):
        address = f"http://127.0.0.1:{server.server_port}/pets.zip"
        index["OPUS-pets-v1-eng-jpn"] = types.SimpleNamespace(url=address, in_paths=["*.en", "*.ja"])

    mtdata, entry, index, package = (types.ModuleType(n) for n in ("mtdata", "entry", "index", "opus"))
    entry.DatasetId, index.Index = types.SimpleNamespace(parse=str), dict
    package.opus_index = types.SimpleNamespace(load_all=load_all)
    for name, module in (("", mtdata), (".entry", entry), (".index", index), (".index.opus", package)):
        monkeypatch.setitem(sys.modules, f"mtdata{name}", module)
    monkeypatch.setattr(opus, "_BLOCK", 1000)
    yield served
    server.shutdown()
    server.server_close()


def test_a_corpus_is_fetched_once_and_its_columns_are_its_languages(corpus):
    wanted = source("opus:OPUS-pets-v1-eng-jpn", input="jpn", output="eng")
    reading = read_source(wanted)
    assert reading.table.pairs == [("猫", "cat"), ("犬", "dog")]
    assert [(paper.version, paper.text) for paper in reading.papers] == [("LICENSE", "CC BY 2.0"), ("README", "pets")]
    assert pairs("opus:OPUS-pets-v1-eng-jpn") == [("cat", "猫"), ("dog", "犬")]
    assert corpus.asked == [None]
    with pytest.raises(DataError, match="no column named 'ja'"):
        pairs("opus:OPUS-pets-v1-eng-jpn", input="ja", output="eng")
    for columns in ({"input": "eng", "output": 1}, {"input": 1, "output": 3}):
        with pytest.raises(DataError, match="has the sides eng and jpn, not"):
            pairs("opus:OPUS-pets-v1-eng-jpn", **columns)


def test_a_download_that_broke_off_goes_on_where_it_was(corpus):
    corpus.broken.append(True)
    with pytest.raises(RunError, match="goes on where it was"):
        pairs("opus:OPUS-pets-v1-eng-jpn")
    corpus.broken.clear()
    assert len(pairs("opus:OPUS-pets-v1-eng-jpn")) == 2
    assert corpus.asked == [None, "bytes=20000-"]


def test_a_part_that_is_whole_already_is_fetched_anew(corpus, tmp_path):
    folder = tmp_path / "home" / "cache" / "opus"
    folder.mkdir(parents=True)
    (folder / ".OPUS-pets-v1-eng-jpn.zip.part").write_bytes(corpus.content)
    assert len(pairs("opus:OPUS-pets-v1-eng-jpn")) == 2
    assert corpus.asked == [f"bytes={len(corpus.content)}-", None]
    assert not list(folder.glob(".*"))


@pytest.mark.parametrize("name", ["ETag", "Last-Modified"])
def test_parts_of_two_versions_are_not_put_together(corpus, tmp_path, name):
    corpus.broken.append(True)
    corpus.headers[name] = '"one"'
    with pytest.raises(RunError, match="goes on where it was"):
        pairs("opus:OPUS-pets-v1-eng-jpn")
    corpus.broken.clear()
    corpus.headers[name] = '"two"'
    corpus.content = zip_bytes({"Pets.en-ja.en": "newt\n", "Pets.en-ja.ja": "いもり\n", "padding": os.urandom(50_000)})
    assert pairs("opus:OPUS-pets-v1-eng-jpn") == [("newt", "いもり")]
    assert corpus.asked == [None, "bytes=20000-"]
    assert not list((tmp_path / "home" / "cache" / "opus").glob(".*"))


def test_a_version_that_two_files_may_share_is_not_asked_for(corpus):
    corpus.broken.append(True)
    corpus.headers["ETag"] = 'W/"one"'
    with pytest.raises(RunError, match="goes on where it was"):
        pairs("opus:OPUS-pets-v1-eng-jpn")
    corpus.broken.clear()
    corpus.headers["ETag"] = 'W/"two"'
    assert len(pairs("opus:OPUS-pets-v1-eng-jpn")) == 2
    assert corpus.asked == [None, "bytes=20000-"]


def test_a_corpus_that_nobody_knows_is_an_error(corpus, tmp_path, monkeypatch):
    with pytest.raises(DataError, match="no such corpus"):
        pairs("opus:OPUS-fish-v1-eng-jpn")
    for wanted in ("pets", "OPUS-pets-v1-eng", "OPUS-../x-v1-eng-jpn"):
        with pytest.raises(DataError, match="is no identifier"):
            pairs(f"opus:{wanted}")
    monkeypatch.setattr(opus.shutil, "disk_usage", lambda _: types.SimpleNamespace(free=10_000))
    with pytest.raises(DataError, match="is larger than"):
        pairs("opus:OPUS-pets-v1-eng-jpn")
    assert not list((tmp_path / "home" / "cache" / "opus").glob(".*"))


def test_opus_without_its_package_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setenv("METIER_HOME", str(tmp_path))
    monkeypatch.setitem(sys.modules, "mtdata", None)
    with pytest.raises(RunError, match=r"metier\[opus\]"):
        pairs("opus:OPUS-pets-v1-eng-jpn")


def test_files_of_a_pattern_are_read_one_after_the_other(tmp_path, monkeypatch):
    monkeypatch.setenv("METIER_HOME", str(tmp_path))
    folder = tmp_path / "cache" / "archives"
    folder.mkdir(parents=True)
    po = 'msgid "{}"\nmsgstr "{}"\n'.format
    files = {"w-1.0/de/b.po": po("two", "zwei").encode(), "w-1.0/de/a.po": po("one", "eins").encode()}
    (folder / "w-1.0.tar.gz").write_bytes(tar_bytes(files))
    assert pairs("pypi:w==1.0", path="de/*.po", format="po") == [("one", "eins"), ("two", "zwei")]
    with pytest.raises(DataError, match="has no file"):
        pairs("pypi:w==1.0", path="fr/*.po", format="po")


def test_what_was_unpacked_is_gone_when_it_was_read(publish, tmp_path):
    publish("words", "1.0-1", deb({"rows.tsv": b"one\tun\n"}))
    with open_source(source("deb:words", path="rows.tsv")) as reading:
        assert any((tmp_path / "home" / "cache" / "unpacked").iterdir())
        assert list(reading.table) == [("one", "un")]
    assert not any((tmp_path / "home" / "cache" / "unpacked").iterdir())


def test_what_killed_processes_left_in_the_cache_goes_when_the_cache_is_used_again(publish, tmp_path):
    cache = tmp_path / "home" / "cache"
    left_over = [cache / "unpacked" / "tmpabc", cache / "debian" / ".part-abc"]
    for folder in left_over:
        folder.mkdir(parents=True)
        (folder / "0").write_bytes(b"half")
    publish("words", "1.0-1", deb({"rows.tsv": b"one\tun\n"}))
    assert pairs("deb:words", path="rows.tsv") == [("one", "un")]
    assert not any(folder.exists() for folder in left_over)
    assert not list(cache.rglob("*.lock"))


def test_a_zip_that_unpacks_to_too_much_is_refused_file_by_file(tmp_path, monkeypatch):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as pack:
        for name in ("a.po", "b.po", "c.po"):
            pack.writestr(name, b"\0" * 400)
    monkeypatch.setenv("METIER_HOME", str(tmp_path))
    monkeypatch.setattr("metier.data.archives._SMALL_BYTES", 1000)
    monkeypatch.setattr("metier.data.archives._RATIO", 0)
    (tmp_path / "cache" / "archives").mkdir(parents=True)
    (tmp_path / "cache" / "archives" / "w-1.0-py3-none-any.whl").write_bytes(buffer.getvalue())
    with pytest.raises(DataError, match="unpacks to over"):
        pairs("pypi:w==1.0", path="*.po", format="po")


def test_an_index_that_is_older_than_the_mirror_is_asked_for_anew(publish):
    folder = publish("words", "1.0-1", deb({"rows.tsv": b"old\tvieux\n"}))
    old = (folder / "index.json").read_text(encoding="utf-8")
    publish("words", "2.0-1", deb({"rows.tsv": b"one\tun\n"}))
    (folder / "index.json").rename(folder / "next.json")
    (folder / "index.json").write_text(old, encoding="utf-8")
    (folder / "updated").touch()
    (folder / "words_1.0-1_all.deb").unlink()
    with pytest.raises(RunError, match=r"apt-get download words=1\.0-1: failed"):
        fetch_package("words==1.0-1")
    assert "update" in (folder / "asked").read_text()
    (folder / "index.json").rename(folder / "next.json")
    (folder / "index.json").write_text(old, encoding="utf-8")
    assert fetch_package("words").version == "2.0-1"
