"""Layouts of others: catalogues, translation memories, pages, dictionaries, Parquet; and what is wrong with them."""

import builtins

import pytest
from babel.messages.catalog import Catalog
from babel.messages.mofile import write_mo
from babel.messages.pofile import write_po

from metier.data.catalogues import clean_message
from metier.data.sources import fingerprint, read_source
from metier.data.tables import LeftOut
from metier.errors import DataError, RunError
from metier.spec.data import Source

UNITS = """
<tu><tuv xml:lang="en-GB"><seg>The <hi>red</hi> fox<ph>{1}</ph> sleeps.</seg></tuv>
    <tuv xml:lang="DE"><seg>Der rote Fuchs schläft.</seg></tuv></tu>
<tu><tuv xml:lang="en"><seg>Good morning</seg></tuv><tuv xml:lang="fr"><seg>Bonjour</seg></tuv></tu>
"""
DICTIONARY = """　？？？ /EDICT, a made-up file/Copyright: us/
山川 [やまかわ] /(n) (1) mountains and rivers (as scenery)/landscape/(P)/EntL1234560X/
かきくけ /(v5k,vi) to rattle {geol} softly/
昔言葉 [むかしことば] /(n,arch) word of old/
無内容 [むないよう] /(P)/
これは行ではない
"""


def source(text, **rest):
    return Source(source=text, licence="own", **rest)


def table(path, **rest):
    return read_source(source(f"file:{path}", **rest)).table


def tmx(path, units=UNITS, doctype='<!DOCTYPE tmx SYSTEM "tmx14.dtd">'):
    text = f'<?xml version="1.0"?>\n{doctype}\n<tmx version="1.4"><header/><body>{units}</body></tmx>'
    path.write_text(text, encoding="utf-8")
    return path


def catalogue(path, messages):
    """Write a catalogue: original to translation, both maybe of two forms; None for a fuzzy one."""
    made = Catalog(locale="de")
    for original, translated in messages.items():
        context, _, text = original.rpartition("\4") if isinstance(original, str) else ("", "", original)
        flags = ["fuzzy"] if translated is None else []
        made.add(text, translated or "unsicher", context=context or None, flags=flags)
    with path.open("wb") as file:
        write_po(file, made) if path.suffix == ".po" else write_mo(file, made, use_fuzzy=True)
    return path


def page(path, body, head="", encoding="utf-8"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"<html><head><title>t</title>{head}</head><body>{body}</body></html>", encoding=encoding)


def test_a_translation_memory_gives_the_segments_of_two_languages_without_its_codes(tmp_path):
    found = table(tmx(tmp_path / "a.tmx"), input="de", output="en")
    assert found.pairs == [("Der rote Fuchs schläft.", "The red fox sleeps.")]
    assert (found.read, dict(found.removed)) == (2, {"language missing": 1})
    assert table(tmp_path / "a.tmx").pairs[1] == ("Good morning", "Bonjour")


def test_a_translation_memory_with_entities_is_refused(tmp_path):
    bomb = '<!DOCTYPE tmx [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>'
    with pytest.raises(DataError, match="declares entities"):
        table(tmx(tmp_path / "a.tmx", UNITS.replace("Bonjour", "&b;"), bomb))
    secret = tmp_path / "secret"
    secret.write_text("sesame", encoding="utf-8")
    outside = f'<!DOCTYPE tmx [<!ENTITY x SYSTEM "{secret.as_uri()}">]>'
    with pytest.raises(DataError, match="declares entities"):
        table(tmx(tmp_path / "a.tmx", UNITS.replace("Bonjour", "&x;"), outside))


def test_a_cut_or_foreign_translation_memory_is_an_error_with_its_line(tmp_path):
    whole = tmx(tmp_path / "a.tmx").read_text(encoding="utf-8")
    (tmp_path / "a.tmx").write_text(whole[:-30], encoding="utf-8")
    with pytest.raises(DataError, match=r"a\.tmx, line \d+: is not XML"):
        table(tmp_path / "a.tmx")
    (tmp_path / "b.tmx").write_text("<html></html>", encoding="utf-8")
    with pytest.raises(DataError, match="begins with <html>"):
        table(tmp_path / "b.tmx")


@pytest.mark.parametrize("suffix", ["po", "mo"])
def test_a_catalogue_gives_originals_and_translations_and_counts_the_rest(tmp_path, suffix):
    messages = {
        "_Open the gate": "_Öffne das Tor",
        ("one gate", "many gates"): ("ein Tor", "viele Tore"),
        "menu\4Close": "Schließen",
        "Save %d gates": "Sichere %d Tore",
        "Radio": "Radio",
        "A doubtful gate": None,
    }
    if suffix == "mo":
        del messages["A doubtful gate"]  # msgfmt leaves these out
    found = table(catalogue(tmp_path / f"a.{suffix}", messages), input="msgstr", output="msgid")
    assert sorted(found.pairs) == [
        ("Schließen", "Close"),
        ("ein Tor", "one gate"),
        ("viele Tore", "many gates"),
        ("Öffne das Tor", "Open the gate"),
    ]
    fuzzy = {"fuzzy": 1} if suffix == "po" else {}
    assert found.removed == {"placeholder": 1, "untranslated": 1, **fuzzy}
    assert found.read == len(found.pairs) + found.removed.total()


def test_two_catalogues_of_the_same_originals_give_pairs_of_their_translations(tmp_path):
    german = {"Cat": "Katze", "Dog": "Hund", ("hen", "hens"): ("Huhn", "Hühner"), "a\4Bow": "Bogen", "b\4Bow": "Bug"}
    french = {"Dog": "Chien", "Cat": "Chat", ("hen", "hens"): ("poule", "poules"), "b\4Bow": "Proue"}
    one, two = catalogue(tmp_path / "de.po", german), catalogue(tmp_path / "fr.po", french)
    found = table(f"{one},{two}", format="po")
    assert sorted(found.pairs) == [
        ("Bug", "Proue"),
        ("Huhn", "poule"),
        ("Hund", "Chien"),
        ("Hühner", "poules"),
        ("Katze", "Chat"),
    ]
    assert found.removed == {"no counterpart": 1}


def test_a_language_with_one_form_gets_the_plural_alone(tmp_path):
    path = tmp_path / "ja.po"
    path.write_text(
        'msgid ""\nmsgstr "Plural-Forms: nplurals=1; plural=0;\\nContent-Type: text/plain; charset=utf-8\\n"\n\n'
        'msgid "a boat"\nmsgid_plural "boats"\nmsgstr[0] "ふね"\n',
        encoding="utf-8",
    )
    assert table(path).pairs == [("boats", "ふね")]


@pytest.mark.parametrize(
    ("one", "two", "shown"),
    [
        ("_Datei", "_File", ("Datei", "File")),
        ("ファイル (_F)", "_File", ("ファイル", "File")),
        ("B&eenden", "E&xit", ("B&eenden", "E&xit")),  # no side says that it is a key: R&D is none
        ("&Ende", "E&xit", ("Ende", "Exit")),
        ("Forschung & Lehre", "research & teaching", ("Forschung & Lehre", "research & teaching")),
        ("<b>Fett</b> und mager", "<b>Bold</b> and thin", ("Fett und mager", "Bold and thin")),
        ("<b><i>Fett</i></b>", '<span size="8">Bold</span>', ("Fett", "Bold")),
        ("snake_case", "camel_case", ("snake_case", "camel_case")),
    ],
)
def test_keys_and_enclosing_tags_go_and_the_rest_of_a_message_stays(one, two, shown):
    assert clean_message(one, two) == list(shown)


@pytest.mark.parametrize(
    ("one", "two", "reason"),
    [
        *(
            (text, "x", "placeholder")
            for text in ("%s", "%(name)s", "%1$d", "{0}", "{name}", "$HOME", "%1", "@VERSION@")
        ),
        *((text, "x", "markup") for text in ("<br/>", "a <npc> b", "&nbsp;", "one\\n")),
        ("unit^Bow", "Bogen", "remark for translators"),
        ("Radio", "Radio ", "untranslated"),
    ],
)
def test_a_message_that_only_a_program_understands_is_left_out(one, two, reason):
    found = clean_message(one, two)
    assert isinstance(found, LeftOut) and found == reason


def test_percent_signs_of_prose_are_no_placeholders():
    assert clean_message("100 % Wolle", "100 % wool") == ["100 % Wolle", "100 % wool"]


def test_a_damaged_catalogue_is_an_error_with_its_name(tmp_path):
    whole = catalogue(tmp_path / "a.mo", {"cat": "Katze", "dog": "Hund"}).read_bytes()
    for content in (b"", b"no catalogue", whole[: len(whole) // 2], whole[:4]):
        (tmp_path / "a.mo").write_bytes(content)
        with pytest.raises(DataError, match=r"a\.mo"):
            table(tmp_path / "a.mo")
    (tmp_path / "a.po").write_text('msgid "cat"\nmsgstr "Katze"\nHund\n', encoding="utf-8")
    with pytest.raises(DataError, match=r"a\.po, line 3: is not a catalogue"):
        table(tmp_path / "a.po")


def test_pages_are_paired_by_the_ids_of_their_blocks(tmp_path):
    page(
        tmp_path / "de/x/a.html",
        '<h1 id="t">Titel</h1><div><p id="p1">Ein <b>Satz</b>.</p><p id="p2">Nur hier</p></div>',
    )
    page(tmp_path / "en/x/a.html", '<div><p id="p1">One\n  sentence.</p></div><h1 id="t">Title</h1><p id="p3">x</p>')
    page(tmp_path / "de/only.html", "<p>Allein</p>")
    found = table(f"{tmp_path / 'de'},{tmp_path / 'en'}", format="html")
    assert found.pairs == [("Titel", "Title"), ("Ein Satz.", "One sentence.")]
    assert (found.read, dict(found.removed)) == (3, {"no counterpart": 1})


def test_pages_without_ids_are_paired_by_order_if_they_are_built_alike(tmp_path):
    page(tmp_path / "de/a.html", "<ul><li><p>Eins</p></li><li>Zwei<script>drei()</script></li></ul><p>Logo</p>")
    page(tmp_path / "en/a.html", "<ul><li><p>One</p></li><li>Two</li></ul><p>Logo</p>")
    page(tmp_path / "de/b.html", "<p>Anders</p><p>gebaut</p>")
    page(tmp_path / "en/b.html", "<p>Different</p>")
    found = table(f"{tmp_path / 'de'},{tmp_path / 'en'}", format="html")
    assert found.pairs == [("Eins", "One"), ("Zwei", "Two")]
    assert found.removed == {"untranslated": 1, "page of another structure": 2}


def test_a_block_with_a_part_for_some_readers_only_is_left_out(tmp_path):
    page(
        tmp_path / "de/a.html",
        '<p id="a">Drücke <span hidden="true">Befehl</span><span>Strg</span></p><p id="b">Ja</p>',
    )
    page(tmp_path / "en/a.html", '<p id="a">Press Ctrl</p><p id="b">Yes</p>')
    found = table(f"{tmp_path / 'de'},{tmp_path / 'en'}", format="html")
    assert found.pairs == [("Ja", "Yes")]
    assert found.removed == {"hidden text": 1}


@pytest.mark.parametrize(
    "head",
    [
        '<meta charset="shift_jis">',
        "<META http-equiv='Content-Type' content='text/html; charset=Shift_JIS'>",
        '<?xml version="1.0" encoding="Shift_JIS"?>',
        "",
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf_8", "mac_roman"])
def test_the_given_encoding_is_that_of_pages_that_do_not_state_one(tmp_path, head, encoding):
    page(tmp_path / "ja/a.html", "<p>猫</p>" if head else "<p>cat</p>", head, "shift_jis")
    page(tmp_path / "fr/a.html", "<p>été</p>", encoding=encoding)
    found = table(f"{tmp_path / 'ja'},{tmp_path / 'fr'}", format="html", encoding=encoding)
    assert found.pairs == [("猫" if head else "cat", "été")]


def test_a_page_goes_by_its_mark_of_byte_order_and_not_by_a_name_that_nobody_knows_or_that_cannot_be(tmp_path):
    page(tmp_path / "ja/a.html", "<p>猫</p>", encoding="utf-16")
    page(tmp_path / "en/a.html", "<p>naïve</p>", '<meta charset="none-such">', "cp1252")
    page(tmp_path / "ja/b.html", "<p>犬</p>", encoding="utf-8-sig")
    page(tmp_path / "en/b.html", "<p>mêlée</p>", '<meta charset="utf-16">', "cp1252")
    found = table(f"{tmp_path / 'ja'},{tmp_path / 'en'}", format="html", encoding="cp1252")
    assert found.pairs == [("猫", "naïve"), ("犬", "mêlée")]


def test_a_page_that_is_not_of_the_given_encoding_is_an_error_with_its_place(tmp_path):
    page(tmp_path / "ja/a.html", "\n<p>猫</p>", encoding="shift_jis")
    page(tmp_path / "en/a.html", "<p>cat</p>")
    with pytest.raises(DataError, match=r'a\.html, line 2: byte [0-9]+ is not utf-8 text. Set encoding = "shift_jis"'):
        table(f"{tmp_path / 'ja'},{tmp_path / 'en'}", format="html")


def test_folders_of_pages_are_known_by_what_is_in_them(tmp_path):
    page(tmp_path / "de/a.html", "<p>Eins</p>")
    page(tmp_path / "en/a.html", "<p>One</p>")
    pages = source(f"file:{tmp_path / 'de'},{tmp_path / 'en'}", format="html")
    first = fingerprint(pages)
    assert read_source(pages).sha256.count(",") == 1
    page(tmp_path / "en/a.html", "<p>Won</p>")
    assert fingerprint(pages) != first
    page(tmp_path / "fr/b.html", "<p>Un</p>")
    with pytest.raises(DataError, match="none of the same path"):
        table(f"{tmp_path / 'de'},{tmp_path / 'fr'}", format="html")
    with pytest.raises(DataError, match="no translations"):
        table(tmp_path / "de", format="html")


def test_a_dictionary_gives_headwords_and_first_meanings_without_remarks(tmp_path):
    (tmp_path / "words").write_bytes(DICTIONARY.encode("euc_jp"))
    found = table(tmp_path / "words", format="edict", encoding="euc_jp")
    assert found.pairs == [("山川", "mountains and rivers"), ("かきくけ", "to rattle softly")]
    assert found.removed == {"unusual word": 1, "no plain meaning": 1, "not an entry": 1}
    readings = table(tmp_path / "words", format="edict", encoding="euc_jp", input="reading", output="meaning")
    assert readings.pairs[0] == ("やまかわ", "mountains and rivers")


def test_parquet_is_read_by_name_or_number_and_inside_columns(tmp_path):
    pytest.importorskip("pyarrow")
    import pyarrow
    from pyarrow import parquet

    rows = [{"id": n, "pair": {"ja": "猫" * n, "en": "cat " * n}, "note": None} for n in range(1, 12_000)]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    found = table(tmp_path / "a.parquet", input="pair.ja", output="pair.en")
    assert len(found.pairs) == found.read == 11_999
    assert found.pairs[1] == ("猫猫", "cat cat ")
    with pytest.raises(DataError, match=r"has no column 'jp'\. It has: id, pair, note"):
        table(tmp_path / "a.parquet", input="jp", output="pair.en")
    assert table(tmp_path / "a.parquet", input=1, output=3).removed == {"value missing": 11_999}
    whole = (tmp_path / "a.parquet").read_bytes()
    (tmp_path / "a.parquet").write_bytes(whole[:-50])
    with pytest.raises(DataError, match="is damaged or no Parquet file"):
        table(tmp_path / "a.parquet", input=1, output=3)


def test_parquet_without_its_package_names_the_extra(tmp_path, monkeypatch):
    real = builtins.__import__

    def without(name, *rest):
        if name == "pyarrow":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    with pytest.raises(RunError, match=r"metier\[parquet\]"):
        table(tmp_path / "a.parquet")
