"""llama.cpp answers this process, and nobody else."""

import http.client
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from doubles import tiny_gguf

from metier.errors import ArtifactError, RunError
from metier.run.engine import Engine

ROUTES = [
    *(("GET", f"/{route}") for route in ("props", "slots", "metrics", "models", "v1/models", "lora-adapters")),
    *(("POST", f"/{route}") for route in ("completion", "completions", "v1/completions", "infill", "props")),
    *(("POST", f"/{route}") for route in ("chat/completions", "v1/chat/completions", "v1/responses")),
    *(("POST", f"/{route}") for route in ("v1/messages", "api/chat", "embedding", "v1/embeddings", "rerank")),
    *(("POST", f"/{route}") for route in ("tokenize", "detokenize", "apply-template", "slots/0?action=save")),
    *(("GET", f"/{route}") for route in ("tools", "cors-proxy", "api/tags", "none-such")),
]
"""What llama.cpp's server can be asked for."""

PUBLIC = ["/", "/index.html", "/health", "/v1/health"]
"""What llama.cpp's server shows without a key."""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf")


@pytest.fixture(scope="module")
def engine(tiny: Path) -> Iterator[Engine]:
    with Engine(tiny, slots=2, context_tokens=512) as loaded:
        yield loaded


def asked(
    engine: Engine, method: str, route: str, key: str | None, headers: dict[str, str] | None = None
) -> http.client.HTTPResponse:
    address = urlsplit(engine._server.listening_address)
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=20)
    sent = {"Content-Type": "application/json", **(headers or {})}
    if key is not None:
        sent["Authorization"] = f"Bearer {key}"
    body = json.dumps({"prompt": "a", "content": "a", "messages": [{"role": "user", "content": "a"}], "n_predict": 1})
    connection.request(method, route, body if method == "POST" else None, sent)
    response = connection.getresponse()
    response.text = response.read().decode()  # type: ignore[attr-defined]
    connection.close()
    return response


@pytest.mark.parametrize("key", [None, "", "wrong"])
@pytest.mark.parametrize("behind_prefix", [True, False])
def test_no_route_answers_without_the_key(engine: Engine, key: str | None, behind_prefix: bool) -> None:
    prefix = engine._prefix if behind_prefix else ""
    answers = {route: asked(engine, *(route[0], prefix + route[1]), key).status for route in ROUTES}
    assert {route: status for route, status in answers.items() if status not in (401, 403)} == {}


@pytest.mark.parametrize("route", PUBLIC)
def test_what_llama_cpp_shows_to_all_is_gone(engine: Engine, route: str) -> None:
    assert asked(engine, "GET", route, None).status in (401, 404)
    assert asked(engine, "GET", engine._prefix + route, None).status == 401


def test_the_key_opens_what_the_engine_needs(engine: Engine) -> None:
    for route in ("completion", "v1/chat/completions", "tokenize", "apply-template"):
        assert asked(engine, "POST", f"{engine._prefix}/{route}", engine._key).status == 200
    assert asked(engine, "POST", "/completion", engine._key).status == 404, "without the prefix not even the key helps"


def test_two_engines_have_different_keys(engine: Engine, tiny: Path) -> None:
    with Engine(tiny) as other:
        assert len(engine._key) >= 32 and engine._key != other._key and engine._prefix != other._prefix
        assert asked(other, "POST", f"{other._prefix}/completion", engine._key).status == 401


def test_no_web_page_may_read_an_answer(engine: Engine) -> None:
    origin = {"Origin": "http://other.example"}
    for method in ("GET", "POST", "OPTIONS"):
        response = asked(engine, method, f"{engine._prefix}/completion", None, origin)
        assert not response.getheader("Access-Control-Allow-Origin")
        assert response.getheader("Access-Control-Allow-Credentials") in (None, "false")


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere 127.0.0.2 is no address of this machine")
def test_only_the_loopback_address_listens(engine: Engine) -> None:
    address = urlsplit(engine._server.listening_address)
    assert address.hostname == "127.0.0.1"
    # A listener on all addresses would answer here, too.
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", address.port or 0), timeout=5)


def test_a_closed_engine_listens_no_more(tiny: Path) -> None:
    with Engine(tiny) as engine:
        address = urlsplit(engine._server.listening_address)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", address.port or 0), timeout=5)


QUIET = """
import sys
seen = []
sys.addaudithook(lambda name, args: seen.append(args[1]) if name == "socket.connect" else None)
from pathlib import Path
from metier.errors import ArtifactError
from metier.run.engine import Engine
with Engine(Path(sys.argv[1])) as engine:
    engine.chat("the cat", max_tokens=3)
try:
    Engine(Path(sys.argv[2]))
except ArtifactError:
    assert all(address[0] == "127.0.0.1" for address in seen) and seen
    assert not {"torch", "numpy", "gguf", "pydantic"} & set(sys.modules)
    sys.exit(7)
"""


def test_loading_and_refusing_says_nothing_connects_nowhere_and_needs_no_workshop(tiny: Path, foreign: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", QUIET, str(tiny), str(foreign)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "http_proxy": "http://192.0.2.1:9", "HTTP_PROXY": "http://192.0.2.1:9"},
    )
    assert (done.returncode, done.stdout, done.stderr) == (7, "", "")


@pytest.fixture(scope="module")
def foreign(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole GGUF file of an architecture that nobody knows."""
    path = tmp_path_factory.mktemp("gguf") / "foreign.gguf"
    path.write_bytes(tiny.read_bytes().replace(b"gemma3", b"gemmaX"))
    return path


def test_a_file_that_llama_cpp_refuses_is_named_with_its_architecture(foreign: Path) -> None:
    with pytest.raises(ArtifactError, match=r"foreign\.gguf.*architecture 'gemmaX'"):
        Engine(foreign)


def test_a_half_file_is_refused_before_llama_cpp_sees_it(tiny: Path, tmp_path: Path) -> None:
    half = tmp_path / "half.gguf"
    half.write_bytes(tiny.read_bytes()[:60_000])
    with pytest.raises(ArtifactError, match="cut short"):
        Engine(half)


def test_a_completion_is_greedy_and_the_same_for_text_and_its_ids(engine: Engine) -> None:
    ids = engine.tokenize("the cat")
    by_text, by_ids = (engine.complete(prompt, max_tokens=5, probabilities=4) for prompt in ("the cat", ids))
    assert by_text.token_ids == by_ids.token_ids and len(by_ids.token_ids) == 5
    assert by_text.prompt_tokens == by_ids.prompt_tokens == len(ids)
    assert by_ids.top[0][0] == by_ids.token_ids[0]
    logprobs = [logprob for _, logprob in by_ids.top]
    assert len(logprobs) == 4 and logprobs == sorted(logprobs, reverse=True) and logprobs[0] < 0
    assert not by_ids.finished


def test_no_probabilities_are_returned_unasked(engine: Engine) -> None:
    assert engine.complete("the cat", max_tokens=2).top == ()


def test_a_stop_text_ends_a_completion_and_is_left_out(engine: Engine) -> None:
    free = engine.complete("a b c", max_tokens=30)
    assert len(free.text) > 3 and not free.finished
    stopped = engine.complete("a b c", max_tokens=30, stop=[free.text[1:3]])
    assert stopped.text == free.text.split(free.text[1:3])[0] and stopped.finished


def test_tokens_carry_the_start_token_and_read_names_only_when_special(engine: Engine) -> None:
    plain = engine.tokenize("the<eos>", special=False)
    assert engine.tokenize("the")[0] == 2 and 2 not in plain and 1 not in plain
    assert engine.tokenize("the<eos>") == [2, *engine.tokenize("the", special=False), 1]


def test_a_chat_goes_through_the_template_of_the_file(engine: Engine) -> None:
    history = [{"role": "user", "content": "one"}, {"role": "assistant", "content": "two"}]
    messages = [{"role": "system", "content": "zero"}, *history, {"role": "user", "content": "three"}]
    assert engine.apply_template(messages) == "system: zero\nuser: one\nassistant: two\nuser: three\nanswer:"
    prompt = engine.apply_template([{"role": "user", "content": "three"}])
    reply = engine.chat("three", max_tokens=6)
    expected = engine.complete(prompt, max_tokens=6)
    assert (reply.text, reply.tokens, reply.finished) == (expected.text, 6, False)
    assert reply.prompt_tokens == expected.prompt_tokens == len(engine.tokenize(prompt))


def test_a_file_without_a_template_says_so(tmp_path: Path) -> None:
    with Engine(tiny_gguf(tmp_path / "base.gguf", chat_template=None)) as engine:
        assert engine.complete("a", max_tokens=1).token_ids
        for ask in (lambda: engine.chat("a", max_tokens=1), lambda: engine.apply_template([])):
            with pytest.raises(ArtifactError, match="no chat template"):
                ask()


@pytest.mark.parametrize("prompt", ["the cat " * 400, [280] * 600])
def test_a_prompt_above_the_context_is_refused_with_both_numbers(engine: Engine, prompt: str | list[int]) -> None:
    tokens = len(engine.tokenize(prompt)) if isinstance(prompt, str) else len(prompt)
    with pytest.raises(RunError, match=rf"has {tokens:,} tokens .* holds 512 tokens"):
        engine.complete(prompt, max_tokens=1)


def test_ten_megabytes_are_refused_without_being_tokenized(engine: Engine) -> None:
    text = "a" * 10_000_000
    for ask in (engine.chat, engine.complete):
        with pytest.raises(RunError, match="10,000,000 characters"):
            ask(text, max_tokens=1)


def test_an_answer_ends_with_the_context(engine: Engine) -> None:
    cut = engine.complete([280] * 500, max_tokens=100)
    assert 1 <= len(cut.token_ids) <= 13 and not cut.finished


@pytest.mark.parametrize("prompt", [[], [10**8], [-1], "\ud800"])
def test_what_llama_cpp_refuses_is_an_error_of_ours(engine: Engine, prompt: str | list[int]) -> None:
    with pytest.raises(RunError, match="cpp refused"):
        engine.complete(prompt, max_tokens=1)


AT_ONCE = """
import sys
from pathlib import Path
from metier.run.engine import Engine
for _ in range(10):
    Engine(Path(sys.argv[1])).close()
"""


def test_an_engine_can_be_closed_at_once(tiny: Path) -> None:
    # In a process of its own: llama.cpp would hang in a place where no timeout of this one could stop it.
    subprocess.run([sys.executable, "-c", AT_ONCE, str(tiny)], check=True, timeout=60)


def test_a_server_that_is_gone_is_an_error_of_ours(tiny: Path) -> None:
    with Engine(tiny) as engine:
        pass
    with pytest.raises(RunError, match="stopped answering"):
        engine.tokenize("a")


def test_many_works_on_as_many_as_there_are_slots_and_keeps_the_order(engine: Engine) -> None:
    both = threading.Barrier(engine.slots)
    most_at_once, at_once, lock = 0, 0, threading.Lock()

    def work(item: int) -> int:
        nonlocal most_at_once, at_once
        with lock:
            at_once += 1
            most_at_once = max(most_at_once, at_once)
        both.wait(timeout=10)
        with lock:
            at_once -= 1
        return item * item

    assert list(engine.many(work, range(20))) == [item * item for item in range(20)]
    assert most_at_once == engine.slots


def test_many_reads_only_a_little_ahead(engine: Engine) -> None:
    read = []
    found = engine.many(str, (read.append(item) or item for item in range(10_000)))
    assert [next(found), next(found)] == ["0", "1"]
    found.close()
    assert len(read) < 20


def test_requests_at_the_same_time_answer_like_one_after_the_other(engine: Engine) -> None:
    prompts = [f"the cat {word}" for word in ("is", "in", "at", "on", "an", "as")]
    alone = [engine.complete(prompt, max_tokens=6).token_ids for prompt in prompts]
    together = engine.many(lambda prompt: engine.complete(prompt, max_tokens=6).token_ids, prompts)
    assert list(together) == alone


def test_a_shared_beginning_is_computed_once(engine: Engine) -> None:
    head = "the cat is in the hat. " * 3  # shorter than the sliding window: without swa_full nothing would be kept
    assert 40 < len(engine.tokenize(head)) < 64
    answers = [
        engine._post("/completion", {"prompt": head + end, "n_predict": 1, "cache_prompt": True, "id_slot": 0})
        for end in ("one", "two")
    ]
    assert answers[1]["timings"]["cache_n"] > 0.9 * len(engine.tokenize(head))
