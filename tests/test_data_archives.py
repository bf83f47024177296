"""Package archives: fetched from an index on this machine, checked, kept, and read without unpacking."""

import hashlib
import http.server
import io
import tarfile
import threading
import zipfile
from functools import partial
from types import SimpleNamespace

import pytest

from metier.data import archives, registry
from metier.data.archives import members, open_member
from metier.data.packages import fetch_archive
from metier.errors import DataError, RunError

ROWS = b"one\tun\ntwo\tdeux\n"


def tar_bytes(files, mode="w:gz"):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            if isinstance(content, str):
                entry.type, entry.linkname = tarfile.SYMTYPE, content
                tar.addfile(entry)
            else:
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def zip_bytes(files):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as pack:
        for name, content in files.items():
            pack.writestr(name, content)
    return buffer.getvalue()


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """Make an empty cache and a package index that nobody answers for."""
    monkeypatch.setenv("METIER_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple/")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    folder = tmp_path / "home" / "cache" / "archives"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def index(tmp_path, kept, monkeypatch):
    """Serve a package index of the files given to it; returns the function that sets them."""
    root = tmp_path / "index"
    asked = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            asked.append(self.path)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(root)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{server.server_port}/simple/")

    def publish(project, files, promised=None):
        page = root / "simple" / project
        page.mkdir(parents=True, exist_ok=True)
        links = []
        for name, content in files.items():
            (page / name).write_bytes(content)
            digest = promised or hashlib.sha256(content).hexdigest()
            links.append(f'<a href="{name}#sha256={digest}">{name}</a>')
        (page / "index.html").write_text(f"<!DOCTYPE html><html><body>{''.join(links)}</body></html>")
        return asked

    yield publish
    server.shutdown()
    server.server_close()


def read(archive, member):
    with open_member(archive, member) as stream:
        return stream.read()


@pytest.mark.parametrize("mode", ["gz", "bz2", "xz"])
def test_a_file_is_read_from_every_kind_of_tar_by_its_whole_name(tmp_path, mode):
    archive = tmp_path / f"words-1.0.tar.{mode}"
    archive.write_bytes(tar_bytes({"words-1.0/data/rows.tsv": b"another", "data/rows.tsv": ROWS}, f"w:{mode}"))
    assert read(archive, "data/rows.tsv") == ROWS
    assert read(archive, "words-1.0/data/rows.tsv") == b"another"
    assert members(archive) == ["words-1.0/data/rows.tsv", "data/rows.tsv"]


def test_a_file_is_read_from_a_wheel(tmp_path):
    archive = tmp_path / "words-1.0-py3-none-any.whl"
    archive.write_bytes(zip_bytes({"words/rows.tsv": ROWS}))
    assert read(archive, "words/rows.tsv") == ROWS
    assert members(archive) == ["words/rows.tsv"]


def test_an_absent_file_is_answered_with_near_names(tmp_path):
    archive = tmp_path / "words-1.0.tar.gz"
    archive.write_bytes(tar_bytes({"words-1.0/data/sentences.tsv": ROWS}))
    with pytest.raises(DataError, match=r"no file 'sentence.tsv'.*words-1.0/data/sentences.tsv"):
        read(archive, "sentence.tsv")


def test_links_are_neither_listed_nor_followed(tmp_path):
    archive = tmp_path / "words-1.0.tar.gz"
    archive.write_bytes(tar_bytes({"words-1.0/rows.tsv": "/etc/hostname", "words-1.0/real.tsv": ROWS}))
    assert members(archive) == ["words-1.0/real.tsv"]
    with pytest.raises(DataError, match="is a link or a device"):
        read(archive, "words-1.0/rows.tsv")


@pytest.mark.parametrize("name", ["words-1.0.tar.gz", "words-1.0-py3-none-any.whl"])
def test_a_damaged_archive_is_an_error_with_its_name(tmp_path, name):
    whole = (zip_bytes if name.endswith("whl") else tar_bytes)({"words/rows.tsv": bytes(range(256)) * 500})
    for content in (b"", b"no archive", whole[: len(whole) // 2], whole[:60] + b"\xff" * 40 + whole[100:]):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=r"words-1.0"):
            read(tmp_path / name, "words/rows.tsv")


@pytest.mark.parametrize("name", ["words-1.0.tar.gz", "words-1.0-py3-none-any.whl"])
def test_a_decompression_bomb_is_refused(tmp_path, monkeypatch, name):
    monkeypatch.setattr(archives, "_SMALL_BYTES", 1000)
    pack = zip_bytes if name.endswith("whl") else tar_bytes
    (tmp_path / name).write_bytes(pack({"words/rows.tsv": bytes(100_000)}))
    with pytest.raises(DataError, match="unpacks to over"):
        read(tmp_path / name, "words/rows.tsv")


@pytest.mark.parametrize("name", ["words-1.0.tar.gz", "words-1.0-py3-none-any.whl"])
def test_a_large_archive_of_text_is_no_bomb(tmp_path, monkeypatch, name):
    monkeypatch.setattr(archives, "_SMALL_BYTES", 1000)
    pack, text = zip_bytes if name.endswith("whl") else tar_bytes, "".join(f"{n}\tword {n}\n" for n in range(9000))
    (tmp_path / name).write_bytes(pack({"words/rows.tsv": text.encode()}))
    assert read(tmp_path / name, "words/rows.tsv") == text.encode()


def test_files_that_the_disk_has_no_room_for_are_not_unpacked(tmp_path, monkeypatch):
    path = tmp_path / "a.zip"
    path.write_bytes(zip_bytes({"rows.tsv": ROWS}))
    monkeypatch.setattr(archives.shutil, "disk_usage", lambda _: SimpleNamespace(free=len(ROWS) - 1))
    with pytest.raises(RunError, match=r"rows\.tsv: unpacks to .* are free"):
        archives.unpack(path, ["rows.tsv"], tmp_path)
    assert list(tmp_path.iterdir()) == [path]


def test_the_newest_stable_version_is_fetched_once_and_then_kept(index):
    asked = index(
        "words",
        {
            "words-1.2.tar.gz": tar_bytes({"words-1.2/rows.tsv": b"old\told\n"}),
            "words-1.10.tar.gz": tar_bytes({"words-1.10/rows.tsv": ROWS}),
            "words-2.0rc1.tar.gz": tar_bytes({"words-2.0rc1/rows.tsv": b"early\tearly\n"}),
        },
    )
    archive = fetch_archive("words")
    assert archive.name == "words-1.10.tar.gz"
    assert read(archive, "words-1.10/rows.tsv") == ROWS
    requests = len(asked)
    assert fetch_archive("words") == fetch_archive("words==1.10") == archive
    assert len(asked) == requests
    assert fetch_archive("words==1.2").name == "words-1.2.tar.gz"


def test_the_wheel_is_taken_unless_only_the_sdist_has_the_file(index):
    index(
        "words",
        {
            "words-1.0.tar.gz": tar_bytes({"words-1.0/extra/rows.tsv": ROWS}),
            "words-1.0-py3-none-any.whl": zip_bytes({"words/rows.tsv": ROWS}),
        },
    )
    assert fetch_archive("words").suffix == ".whl"
    assert fetch_archive("words", "words/rows.tsv").suffix == ".whl"
    assert fetch_archive("words", "extra/rows.tsv").name == "words-1.0.tar.gz"


def test_bytes_that_differ_from_the_promised_hash_are_not_kept(index, kept):
    index("words", {"words-1.0.tar.gz": tar_bytes({"words-1.0/rows.tsv": ROWS})}, promised="0" * 64)
    with pytest.raises(DataError, match="not those the package index promised"):
        fetch_archive("words")
    assert list(kept.iterdir()) == []


def test_a_kept_archive_that_was_changed_is_fetched_again(index):
    index("words", {"words-1.0.tar.gz": tar_bytes({"words-1.0/rows.tsv": ROWS})})
    archive = fetch_archive("words")
    archive.write_bytes(b"rotten")
    assert read(fetch_archive("words"), "words-1.0/rows.tsv") == ROWS


@pytest.mark.parametrize("wanted", ["nothing-here", "words==9"])
def test_an_unknown_package_or_version_is_an_error(index, wanted):
    index("words", {"words-1.0.tar.gz": tar_bytes({"words-1.0/rows.tsv": ROWS})})
    with pytest.raises(DataError, match=wanted):
        fetch_archive(wanted)


def test_without_a_network_the_error_says_where_to_put_the_archive(kept):
    with pytest.raises(RunError, match=f"pypi:words: cannot be fetched .*{kept}"):
        fetch_archive("words")


def test_an_archive_put_into_the_cache_by_hand_needs_no_network(kept):
    (kept / "Some_Words-1.0.tar.gz").write_bytes(tar_bytes({"some_words-1.0/rows.tsv": ROWS}))
    assert read(fetch_archive("some-words==1.0"), "some_words-1.0/rows.tsv") == ROWS


def test_an_index_address_with_a_password_never_shows_in_an_error(kept, monkeypatch):
    monkeypatch.setenv("PIP_INDEX_URL", "http://me:sesame@127.0.0.1:9/simple/")
    with pytest.raises(RunError) as caught:
        fetch_archive("words")
    assert "sesame" not in str(caught.value)


@pytest.mark.parametrize("wanted", ["", "../words", "words @ http://127.0.0.1/x.whl", "words[extra]"])
def test_only_a_name_with_a_version_is_taken(kept, wanted):
    with pytest.raises(DataError, match="Write 'pypi:name'"):
        fetch_archive(wanted)


def test_pips_settings_are_read_from_its_environment_first(monkeypatch):
    monkeypatch.setattr(registry, "_pip_files", lambda: {"index-url": "http://file/", "cert": "/file.pem"})
    monkeypatch.delenv("PIP_CERT", raising=False)
    monkeypatch.setenv("PIP_INDEX_URL", "http://environment/")
    assert registry._pip_settings() == {"index-url": "http://environment/", "cert": "/file.pem"}


def test_a_file_goes_before_one_of_its_name_below_a_top_folder(tmp_path):
    path = tmp_path / "a.zip"
    path.write_bytes(zip_bytes({"old/rows.tsv": b"old\tvieux\n", "rows.tsv": ROWS, "old/LICENSE": b"old"}))
    (tmp_path / "out").mkdir()
    (rows,), (licence,) = archives.unpack(path, ["rows.tsv", "LICENSE"], tmp_path / "out")
    assert rows.path.read_bytes() == ROWS
    assert licence.path.read_bytes() == b"old"


def test_an_archive_is_too_large_whichever_of_its_files_is(tmp_path, monkeypatch):
    path = tmp_path / "a.tar.gz"
    path.write_bytes(tar_bytes({"rows.tsv": ROWS, "large.bin": b"0" * 500_000}))
    monkeypatch.setattr(archives, "_SMALL_BYTES", 20_000)
    with pytest.raises(DataError, match=r"large.bin: unpacks to over"):
        members(path)
