"""The routing analysis of real models: what is planted is found, and the page shows it and nothing else."""

import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from typing import NamedTuple

import numpy as np
import pytest
import torch
from mixtures import CHOSEN, EXPERTS, dense, mixture, planted, saved, text, tokenizer

from metier.analysis import texts as texts_module
from metier.analysis.collect import Settings, collect
from metier.analysis.counts import DROP_RULES, RULES
from metier.analysis.findings import findings
from metier.analysis.page import page
from metier.analysis.routing import examine
from metier.analysis.routing import settings as checked_settings
from metier.analysis.texts import Named, documents, named, read_texts
from metier.analysis.tokens import shown
from metier.analysis.watch import forward, read, watched
from metier.cli import main
from metier.errors import ArtifactError, DataError, SpecError
from metier.model import openmoe

SETTINGS = Settings(batch_rows=8, capacity_factor=1.25, group="sequence")


def metier(*arguments, folder):
    env = os.environ | {"METIER_HOME": str(folder / "home"), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-m", "metier", *map(str, arguments)], env=env, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "animals.txt"
    path.write_text(text(), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("planted"), planted("qwen3_moe"))


@pytest.fixture(scope="module")
def found(folder, corpus):
    """Findings on a model whose token ids decide, over two halves of one text under different names."""
    return examine(str(folder), [f"all={corpus}", str(corpus)], row_tokens=24, max_tokens=6000, settings=SETTINGS).found


@pytest.mark.parametrize("kind", ["qwen3_moe", "mixtral", "olmoe", "deepseek_v3"])
def test_the_routers_of_every_architecture_are_seen_where_they_decide(kind):
    model = mixture(kind)
    ids_BT = np.arange(10, 22, dtype=np.int32).reshape(2, 6)
    with watched(model, kind) as watch:
        forward(model, ids_BT)
        assert (watch.experts, watch.chosen) == (EXPERTS, CHOSEN)
        assert len(watch.layers) == (3 if kind in ("mixtral", "olmoe") else 2)
        for seen in watch.latest:
            assert seen.experts_NK.shape == (12, CHOSEN)
            assert (np.diff(seen.weights_NK, axis=1) <= 0).all()
            assert seen.probabilities_NE.sum(1) == pytest.approx(np.ones(12), abs=1e-5)
            if kind != "deepseek_v3":  # that one also weighs with a bias and within groups
                best = np.argsort(-seen.probabilities_NE, axis=1, kind="stable")[:, :CHOSEN]
                assert (best == seen.experts_NK).all()
    forward(model, ids_BT)
    assert len(watch.latest) == len(watch.layers)  # the hooks are gone


def test_probabilities_are_not_taken_through_a_second_softmax():
    p_NE = torch.tensor([[0.7, 0.2, 0.1]])
    weights, experts = p_NE.topk(2)
    assert read((p_NE, weights, experts)).probabilities_NE[0].tolist() == pytest.approx([0.7, 0.2, 0.1])
    assert read((p_NE.log(), weights, experts)).probabilities_NE[0].tolist() == pytest.approx([0.7, 0.2, 0.1])


class Decision(NamedTuple):
    """What OpenMoE's sparse layer returns beside its answer."""

    logits_NE: torch.Tensor
    expert_NK: torch.Tensor
    weight_NK: torch.Tensor
    kept_NK: torch.Tensor
    capacity: int | None
    groups: int


def test_choices_in_any_order_are_sorted_best_first_together_with_what_was_kept():
    weights, experts, kept = torch.tensor([[0.1, 0.6]]), torch.tensor([[3, 1]]), torch.tensor([[True, False]])
    assert read((torch.zeros(1, 4), weights, experts)).experts_NK.tolist() == [[1, 3]]
    seen = read((torch.zeros(1, 1, 9), Decision(torch.zeros(1, 4), experts, weights, kept, 4, 1)))
    assert (seen.experts_NK.tolist(), seen.kept_NK.tolist()) == ([[1, 3]], [[False, True]])
    dropless = Decision(torch.zeros(1, 4), experts, weights, kept, None, 1)
    assert read((torch.zeros(1, 1, 9), dropless)).kept_NK is None


def test_a_module_that_hands_on_the_decision_of_one_inside_it_is_no_second_router():
    class Sparse(torch.nn.Module):
        def forward(self, x_BTH):
            scores_NE = x_BTH.reshape(-1, 4)
            weights, experts = scores_NE.softmax(1).topk(2)
            return x_BTH, Decision(scores_NE, experts, weights, torch.ones_like(experts) > 0, 4, 1)

    class Layer(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.mlp = Sparse()

        def forward(self, x_BTH):
            return self.mlp(x_BTH)

    class Model(torch.nn.Module):
        device = "cpu"

        def __init__(self):
            super().__init__()
            self.layers = torch.nn.ModuleList([Layer(), Layer()])

        def forward(self, input_ids, use_cache):
            x_BTH = torch.randn(*input_ids.shape, 4)
            for layer in self.layers:
                x_BTH, _ = layer(x_BTH)

    with watched(Model(), "model") as watch:
        assert watch.layers == ["layers.0.mlp", "layers.1.mlp"]


@pytest.mark.parametrize("rule", RULES)
def test_what_openmoe_drops_itself_is_what_the_simulation_of_its_rule_drops(rule, corpus):
    torch.manual_seed(0)
    config = openmoe.OpenMoeConfig(
        vocab_size=320,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=4,
        head_dim=8,
        num_attention_heads=2,
        num_experts=EXPERTS,
        moe_layer_interval=2,
        router_mode_eval=rule,
        router_capacity_factor_eval=1.0,
    )
    model = openmoe.OpenMoeForCausalLM(config).eval()
    with torch.no_grad():
        for layer in (1, 3):
            model.get_submodule(f"model.layers.{layer}.mlp").gate_weight.normal_()
    texts = read_texts([Named("a", corpus, None)], tokenizer(), 32, 3000)
    alike = Settings(batch_rows=4, capacity_factor=config.router_capacity_factor_eval, group="batch")
    drops = findings("openmoe", collect(model, "openmoe", texts, alike), texts, tokenizer(), alike)["drops"]["rules"]
    own = {
        key: value
        for key, value in drops["model"].items()
        if key not in ("room", "dropped_if_even", "dropped_by_chance")
    }
    assert own == {key: drops[rule][key] for key in own}
    assert own["dropped"] > 0.01


@pytest.mark.parametrize(
    "output",
    [
        torch.zeros(2, 4),
        (torch.zeros(2, 4), None, None),
        (torch.zeros(2, 4), torch.zeros(2, 2), torch.zeros(2, 2)),  # no choices
        (torch.zeros(2, 4), torch.zeros(2, 2), torch.zeros(2, 3, dtype=torch.long)),
        (torch.zeros(2, 1), torch.zeros(2, 2), torch.zeros(2, 2, dtype=torch.long)),
    ],
)
def test_what_is_no_routers_answer_is_not_taken_for_one(output):
    assert read(output) is None


@pytest.mark.parametrize("kind", ["qwen3_moe", "mixtral"])
def test_a_router_that_goes_by_token_id_alone_reaches_the_largest_possible_specialisation(kind, corpus):
    pieces = tokenizer()
    texts = read_texts([Named("a", corpus, None)], pieces, 32, 4000)
    result = findings(kind, collect(planted(kind), kind, texts, SETTINGS), texts, pieces, SETTINGS)
    for layer in result["layers"]:
        assert layer["token_specialisation"]["groups"] >= 5
        assert layer["token_specialisation"]["mean"] == pytest.approx(1)
        assert layer["vocabulary_specialisation"] == pytest.approx(1)
    for one in result["detail"]["token_ids"]:
        pair = one["id"] % (EXPERTS // CHOSEN) * CHOSEN
        assert [(e["expert"], e["share"]) for e in one["experts"]] == [(pair, 1), (pair + 1, 1)]
    shares_EE = np.array(result["detail"]["coactivation"]["shares"])
    assert shares_EE.tolist() == np.kron(np.eye(EXPERTS // CHOSEN), [[0, 1], [1, 0]]).tolist()


def test_findings_add_up(found):
    assert [one["name"] for one in found["texts"]] == ["all", "animals"]
    tokens = sum(one["tokens"] for one in found["texts"])
    assert found["tokens"] == tokens
    for layer in found["layers"]:
        assert sum(layer["use"]) == tokens * CHOSEN
        assert np.sum([one["use"] for one in layer["texts"].values()], axis=0).tolist() == layer["use"]
        assert layer["texts"]["all"]["to_others"] == 0  # the same text twice
        assert 0 < layer["texts"]["all"]["between_halves"] < 0.2
    assert np.sum(found["detail"]["positions"]["bins"]) == tokens * CHOSEN
    assert found["detail"]["positions"]["spread_of_largest"][0] == pytest.approx(1)  # the begin mark
    assert found["drops"]["rules"]["jax"]["dropped"] > found["drops"]["rules"]["pytorch"]["dropped"] > 0
    assert found["drops"]["rules"]["jax"]["dropped_if_even"] == pytest.approx(1 - 4 * EXPERTS / (24 * CHOSEN))
    assert found["drops"]["rules"]["pytorch"]["dropped_if_even"] == 0
    assert found["model"]["layers"] == [1, 2] and found["detail"]["layer"] == 2
    assert not found["too_little"]


def test_the_keys_of_the_json_are_those_that_programs_rely_on(found):
    assert found["format"] == 1
    assert sorted(found) == sorted(
        [
            *("format", "model", "texts", "tokens", "row_tokens", "begins_with"),
            *("layers", "detail", "drops", "stability", "too_little"),
        ]
    )
    assert sorted(found["texts"][0]) == ["enough", "name", "rows", "tokens"]
    assert sorted(found["model"]) == ["chosen", "experts", "largest_spread", "layers", "name"]
    layer = found["layers"][0]
    assert sorted(layer) == sorted(
        [
            *("use", "balance", "confidence", "token_specialisation", "position_specialisation"),
            *("vocabulary_specialisation", "texts"),
        ]
    )
    assert sorted(layer["balance"]) == ["max_over_mean", "unused", "variation", "variation_chance"]
    assert sorted(layer["confidence"]) == ["chosen_probability", "entropy_share", "weights"]
    assert sorted(layer["token_specialisation"]) == ["chance", "groups", "high", "load", "low", "mean"]
    assert sorted(layer["texts"]["all"]) == ["between_halves", "to_others", "use"]
    detail = found["detail"]
    assert sorted(detail) == ["coactivation", "index", "layer", "positions", "token_ids", "top_tokens"]
    assert sorted(detail["token_ids"][0]) == ["chance", "experts", "id", "spread_of_largest", "text", "tokens"]
    assert sorted(detail["top_tokens"][0][0]) == ["id", "share", "text", "tokens"]
    rule = found["drops"]["rules"]["jax"]
    assert sorted(rule) == [
        "by_position",
        "dropped",
        "dropped_by_chance",
        "dropped_by_layer",
        "dropped_if_even",
        "lost",
        "lost_by_layer",
        "room",
    ]
    json.dumps(found, allow_nan=False)


@pytest.fixture(scope="module")
def html(found):
    return page(found)


class Page(HTMLParser):
    """What a browser would find in a page."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.links, self.words = [], [], []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for key, value in attrs if key in ("src", "href", "xlink:href", "data", "action")]

    def handle_data(self, data):
        self.words.append(data)


def test_the_page_needs_nothing_from_outside(found, html):
    assert not re.findall(r"\S{0,20}://\S{0,40}|@import", html)
    assert all(link.startswith(("#", "data:image/png;base64,")) for link in Page(html).links)
    assert all(place.startswith("#") for place in re.findall(r"url\(([^)]*)\)", html))
    assert not {"script", "link", "iframe", "object", "embed"} & set(Page(html).tags)
    again = page(found) == html  # a comparison of its own: a difference of pages is no message
    assert again


def test_text_of_vocabulary_data_and_names_cannot_become_markup(found, html):
    evil = "</script><script>alert(1)</script><img src=x onerror=y>--> $x^2$ ]]>&amp;"
    poisoned = json.loads(json.dumps(found))
    poisoned["model"]["name"] = poisoned["begins_with"] = evil
    poisoned["too_little"] = [evil]
    for one in (*poisoned["detail"]["token_ids"], *(t for top in poisoned["detail"]["top_tokens"] for t in top)):
        one["text"] = evil
    poisoned["texts"][0]["name"] = evil
    for layer in poisoned["layers"]:
        layer["texts"][evil] = layer["texts"].pop("all")
    for rule in poisoned["drops"]["rules"].values():
        rule["by_position"][evil] = rule["by_position"].pop("all")
    poisoned["stability"] = {
        "last": evil,
        "tokens": 9,
        "chance": 0.2,
        "threshold": 0.9,
        "settled_at": evil,
        "checkpoints": [{"name": evil, "saturation": [0.5, 0.5], "equal": [0.5, 0.5]}],
    }
    dirty_html = page(poisoned)
    assert not re.findall(r"<script|<img|-->", re.sub(r"<!--.*?-->", "", dirty_html, flags=re.DOTALL))
    clean, dirty = Page(html), Page(dirty_html)
    assert "script" not in dirty.tags and "img" not in dirty.tags
    assert set(dirty.tags) == set(clean.tags) | {"ul", "li"}
    assert sum(evil in word for word in dirty.words) > 20


def test_a_token_is_shown_with_its_spaces_and_control_characters():
    class Pieces:
        def __init__(self, piece, decoded):
            self.convert_ids_to_tokens = lambda id_: piece
            self.decode = lambda ids, **_: decoded

    assert shown(Pieces("▁the", "the"), 5) == "␣the"
    assert shown(Pieces("Ġthe", " the"), 5) == "␣the"
    assert shown(Pieces("\n\t", "\n\t"), 5) == "\\n\\t"
    assert shown(Pieces("\u202e", "\u202e"), 5) == "\\u202e"
    assert shown(Pieces("<0xE3>", "\ufffd"), 5) == "<0xE3>"


def test_checkpoints_are_compared_token_by_token(folder, corpus, tmp_path):
    other = planted("qwen3_moe")
    with torch.no_grad():  # in one of two layers, one of the four kinds of ids goes elsewhere
        gate = other.get_submodule("model.layers.1.mlp.gate").weight
        gate[[0, 1, 2, 3]] = gate[[2, 3, 0, 1]]
    early = saved(tmp_path / "early", mixture("qwen3_moe", seed=3))
    moved = saved(tmp_path / "moved", other)
    result = examine(
        str(folder),
        [str(corpus)],
        checkpoints=[str(early), str(moved), str(folder)],
        row_tokens=32,
        max_tokens=4000,
        settings=SETTINGS,
    ).found
    stability = result["stability"]
    first, second, same = stability["checkpoints"]
    assert np.mean(first["saturation"]) < 0.6
    changed = np.array(result["layers"][0]["use"])[:4].sum() / result["tokens"] / CHOSEN
    assert second["saturation"] == pytest.approx([1 - changed, 1])
    assert second["equal"] == pytest.approx([1 - changed, 1])
    assert second["token_id_cosine"][0] == pytest.approx(second["token_id_overlap"][0]) and 0 < changed < 1
    assert same["saturation"] == same["equal"] == [1, 1]
    assert stability["settled_at"] == folder.name
    assert re.findall("<h2>Checkpoints</h2>", page(result))


def test_checkpoints_with_another_tokenizer_are_refused(folder, corpus, tmp_path):
    other = saved(tmp_path / "other", mixture("qwen3_moe"), size=300)
    with pytest.raises(ArtifactError, match="its tokenizer has another vocabulary"):
        examine(str(folder), [str(corpus)], checkpoints=[str(other)], row_tokens=32, max_tokens=2000, settings=SETTINGS)


def test_checkpoints_with_other_experts_are_refused(folder, corpus, tmp_path):
    other = saved(tmp_path / "other", mixture("mixtral"))
    with pytest.raises(ArtifactError, match="other layers or experts"):
        examine(str(folder), [str(corpus)], checkpoints=[str(other)], row_tokens=32, max_tokens=2000, settings=SETTINGS)


def test_too_little_text_is_said_instead_of_measured(folder, tmp_path):
    (tmp_path / "short.txt").write_text("Two cats and a dog.", encoding="utf-8")
    result = examine(
        str(folder), [str(tmp_path / "short.txt")], row_tokens=8, checkpoints=[str(folder)], settings=SETTINGS
    ).found
    layer = result["layers"][0]
    assert (
        layer["token_specialisation"] is layer["position_specialisation"] is layer["vocabulary_specialisation"] is None
    )
    assert result["detail"]["token_ids"] == [] and result["detail"]["coactivation"] is None
    assert result["stability"] is None
    said = " ".join(result["too_little"])
    for measure in ("token id", "position", "drops by text: short has", "pairs of experts", "stability"):
        assert measure in said
    assert re.findall("<h2>(Too little text|Drops by position)</h2>", page(result)) == ["Too little text"]


def test_a_dense_model_has_no_experts_to_look_at(tmp_path, corpus):
    with pytest.raises(ArtifactError, match="has no experts: it is a dense model"):
        examine(str(dense(tmp_path / "dense")), [str(corpus)], settings=SETTINGS)


def test_rows_begin_with_the_begin_mark_and_documents_end_with_the_end_mark(tmp_path):
    pieces = tokenizer()
    (tmp_path / "two.jsonl").write_text('{"text": "one cat"}\n\n"two dogs"\n', encoding="utf-8")
    (made,) = read_texts([named(f"pets={tmp_path / 'two.jsonl'}")], pieces, 8, 1000)
    assert made.name == "pets" and {len(row) for row in made.rows[:-1]} == {8}
    assert all(row[0] == pieces.bos_token_id for row in made.rows)
    rest = np.concatenate([row[1:] for row in made.rows]).tolist()
    expected = [
        pieces(one, add_special_tokens=False)["input_ids"] + [pieces.eos_token_id] for one in ("one cat", "two dogs")
    ]
    assert rest == [id_ for one in expected for id_ in one]


def test_text_in_which_the_tokenizer_finds_nothing_is_refused(corpus):
    class Deaf:
        bos_token_id, eos_token_id = 2, None

        def __call__(self, text, **_):
            return {"input_ids": []}

    with pytest.raises(DataError, match="the tokenizer finds nothing in it"):
        read_texts([Named("a", corpus, None)], Deaf(), 16, 100)


def test_no_more_than_the_wanted_tokens_are_read_under_a_name(corpus):
    (made,) = read_texts([Named("a", corpus, None), Named("a", corpus, None)], tokenizer(), 16, 100)
    assert sum(len(row) - 1 for row in made.rows) == 100


@pytest.mark.parametrize(
    ("name", "content", "column", "expected"),
    [
        ("a.txt", "one\ntwo\n", None, ["one\ntwo\n"]),
        ("a.tsv", 'in\tout\n"x\ty\n', "out", ["y"]),
        ("a.tsv", "x\ty\nz\tw\n", "2", ["y", "w"]),
        ("a.tsv", "x\ty\n", None, ["x\ty"]),
        ("a.tsv", "x\ty\r\n\r\nz\tw\r\n", "2", ["y", "w"]),
        ("a.csv", 'x,"y, z"\n', "2", ["y, z"]),
        ("a.jsonl", '{"body": "x"}\n{"body": " "}\n', "body", ["x"]),
    ],
)
def test_documents_are_read_from_plain_files_tables_and_json_lines(tmp_path, name, content, column, expected):
    (tmp_path / name).write_text(content, encoding="utf-8")
    wanted = named(f"{tmp_path / name}" + (f"#{column}" if column else ""))
    assert wanted == Named("a", tmp_path / name, column)
    assert list(documents(wanted)) == expected


@pytest.mark.parametrize("name", ["a.txt", "a.tsv", "a.jsonl"])
def test_no_more_of_a_file_is_read_than_is_taken(tmp_path, name):
    line = b'"word word word"\n'
    (tmp_path / name).write_bytes(line * 100_000 + b"\xff")
    document = next(documents(Named("a", tmp_path / name, None), 10))
    assert document.strip('"').startswith("word word") and len(document) <= 16


@pytest.mark.parametrize(
    ("name", "content", "column", "message"),
    [
        ("a.txt", b" \n", None, "holds no text"),
        ("a.txt", b"caf\xe9", None, "is not utf-8 text. Save the file as UTF-8"),
        ("a.txt", b"text", "2", "plain text has no columns"),
        ("a.jsonl", b'{"text": "x"}\n{"te', None, "line 2: is not JSON"),
        ("a.jsonl", b'{"body": "x"}', None, r"has no text under 'text' \(keys body\)"),
        ("a.tsv", b"x\ty", "out", "has no column named 'out'. It has: x, y"),
        ("a.tsv", b"x\ty\nz\n", "2", "line 2: has 1 columns"),
        ("missing.txt", None, None, "cannot be read"),
    ],
)
def test_what_cannot_be_read_is_said_with_its_place(tmp_path, name, content, column, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        list(documents(Named("a", tmp_path / name, column)))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"row_tokens": 4}, "--row: 4 is too little"),
        ({"row_tokens": 600, "max_tokens": 600}, "--row: 600 tokens are more than the 512 positions"),
        ({"max_tokens": 20}, "--tokens: 20 is too little"),
        ({"layer": 0}, "--layer: layer 0 has no experts.* 1, 2"),
    ],
)
def test_numbers_out_of_range_are_refused_with_the_options_name(folder, corpus, changed, message):
    with pytest.raises(SpecError, match=message):
        examine(str(folder), [str(corpus)], **{"row_tokens": 32, "max_tokens": 200, **changed}, settings=SETTINGS)


@pytest.mark.parametrize(
    ("values", "message"),
    [((0, 1.0, "batch"), "--batch"), ((1, float("nan"), "batch"), "--capacity"), ((1, 1.0, "word"), "no group 'word'")],
)
def test_settings_out_of_range_are_refused_with_the_options_name(values, message):
    with pytest.raises(SpecError, match=message):
        checked_settings(*values)


def test_the_command_writes_the_page_and_the_numbers_in_a_process_of_its_own(folder, corpus, tmp_path):
    out = tmp_path / "seen"
    done = metier(
        *("routing", folder, "--data", f"animals={corpus}", "--checkpoints", folder, "--row", 32, "--tokens", 3000),
        *("--batch", 4, "--capacity", 1.25, "--layer", 1, "--group", "batch", "--out", out, "--json"),
        folder=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told == json.loads((out / "routing.json").read_text("utf-8"))
    assert told["detail"]["layer"] == 1 and told["drops"]["group_tokens"] == 128
    assert told["layers"][0]["token_specialisation"]["mean"] == pytest.approx(1)
    assert (out / "routing.html").read_text("utf-8").startswith("<!doctype html>")
    assert {path.name for path in out.iterdir()} == {"routing.html", "routing.json", "routing.npz"}
    with np.load(out / "routing.npz") as counts:
        assert counts["use_LDHE"].sum((1, 2)).tolist() == [layer["use"] for layer in told["layers"]]
        assert counts["layers"].tolist() == told["model"]["layers"]
        assert counts["drop_rules"].tolist() == list(DROP_RULES)
        assert counts["dropped_RLDT"][0].sum((1, 2)).tolist() == pytest.approx(
            np.array(told["drops"]["rules"]["jax"]["dropped_by_layer"]) * told["tokens"] * CHOSEN
        )


def test_the_command_prints_a_table_and_errors_in_one_line(folder, corpus, tmp_path, monkeypatch, capsys):
    def told(*arguments):
        monkeypatch.setattr(sys, "argv", ["metier", "routing", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            main()
        return end.value.code, *capsys.readouterr()

    code, out, _ = told(folder, "--data", corpus, "--row", 32, "--tokens", 2000)
    assert code == 0 and "8 experts, 2 chosen" in out and "100%" in out
    assert max(map(len, out.splitlines()[3:7])) <= 80
    code, out, error = told(dense(tmp_path / "dense"), "--data", corpus)
    assert (code, out) == (4, "")
    assert re.fullmatch(r"error: .*has no experts.*\n", error)


def test_progress_is_shown_while_text_is_read(monkeypatch, corpus):
    seen = []
    monkeypatch.setattr(texts_module, "track", lambda items, what, total: seen.append((what, total)) or items)
    read_texts([Named("a", corpus, None)], tokenizer(), 16, 100)
    assert seen == [("reading", 1)]
