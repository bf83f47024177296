"""llama.cpp inside this process: load a GGUF file and ask it.

`xllamacpp` answers only through an HTTP listener that it opens itself, by default without a key and open to any web
page. Here it is on the loopback address, every route is behind a random prefix and a random key, and nothing else
is served; the other routes (health, static files) are gone with the prefix.
"""

import http.client
import json
import secrets
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit

from metier.errors import ArtifactError, InputError, RunError
from metier.run.gguf_header import read_header
from metier.run.llama import xllamacpp

A = TypeVar("A")
B = TypeVar("B")

_CHARS_A_TOKEN = 32
"""No text has fewer tokens than one in so many characters; refuses huge texts without tokenizing them."""

_GREEDY = {
    "temperature": 0,
    "repeat_penalty": 1,
    "presence_penalty": 0,
    "frequency_penalty": 0,
    "dry_multiplier": 0,
    "cache_prompt": True,
}
"""Said with every request: a file may carry sampling defaults of its own."""


@dataclass(frozen=True)
class Reply:
    """An answer through the file's chat template."""

    text: str
    tokens: int
    prompt_tokens: int
    finished: bool
    """False when the answer was cut at its limit or at the end of the context."""
    logprob: float | None = None
    """Natural logarithm of the model's own probability of the answer and its end; None where it was not asked for."""


@dataclass(frozen=True)
class Completion:
    """A raw continuation of a prompt."""

    text: str
    token_ids: tuple[int, ...]
    top: tuple[tuple[int, float], ...]
    """The likeliest first tokens, best first, each with its log-probability in nats."""
    prompt_tokens: int
    finished: bool
    """False when the text was cut at its limit or at the end of the context."""
    logprob: float | None = None
    """Natural logarithm of the model's own probability of the text, and of its end where it ended without a stop text;
    None where no probabilities were asked for."""


class Engine:
    """One loaded model, answering greedily; safe to use from several threads.

    Args:
        model: a GGUF file.
        slots: how many requests are worked on at the same time.
        context_tokens: longest prompt and answer together, for each slot.
        threads: CPU threads; by default the physical cores.

    Raises:
        ArtifactError: when the file is damaged, is no model or cannot be loaded by llama.cpp.
    """

    def __init__(self, model: Path, *, slots: int = 1, context_tokens: int = 1024, threads: int | None = None) -> None:
        self.model, self.slots = model, slots
        self.header = read_header(model)
        self._key, prefix = secrets.token_urlsafe(32), f"/{secrets.token_urlsafe(16)}"
        params = _parameters(model, slots, context_tokens, threads)
        params.api_keys, params.api_prefix = [self._key], prefix
        try:
            self._server = xllamacpp.Server(params)
        except RuntimeError as error:
            architecture = self.header.metadata.get("general.architecture")
            raise ArtifactError(
                str(model),
                f"llama.cpp cannot load it (architecture {architecture!r:.40})",
                "Check that the file is a whole language model, that this architecture is supported by the "
                "installed xllamacpp, and that there is enough free memory",
            ) from error
        self._address = urlsplit(self._server.listening_address)
        self._prefix = prefix
        # A server that is freed before its loop runs hangs for ever; this question is answered by the loop.
        self._get("/lora-adapters")
        # llama.cpp rounds the context up, and down to what the model was trained for.
        self.context_tokens = int(self._get("/props")["default_generation_settings"]["n_ctx"])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop the listener and free the model; the engine cannot be used afterwards."""
        self._server = None

    @property
    def has_template(self) -> bool:
        """Whether the file says how it is to be asked."""
        return bool(self.header.metadata.get("tokenizer.chat_template"))

    def chat(
        self,
        text: str,
        *,
        max_tokens: int,
        system: str | None = None,
        history: Sequence[Mapping[str, str]] = (),
        probabilities: bool = False,
    ) -> Reply:
        """Answer a user message through the file's own chat template, greedily.

        Args:
            text: the user's message.
            max_tokens: longest answer.
            system: a system message in front, as other apps send one.
            history: earlier messages, each ``{"role": ..., "content": ...}``.
            probabilities: whether to return how likely the answer is.

        Raises:
            ArtifactError: when the file has no chat template.
            RunError: when the prompt does not fit into the context.
        """
        self._need_template()
        self.check_length(text)
        first = [] if system is None else [{"role": "system", "content": system}]
        messages = [*first, *history, {"role": "user", "content": text}]
        also = {"logprobs": True, "top_logprobs": 1} if probabilities else {}
        found = self._post("/v1/chat/completions", {**_GREEDY, "messages": messages, "max_tokens": max_tokens, **also})
        choice, usage = found["choices"][0], found["usage"]
        logprob = None
        if probabilities:
            places = (choice.get("logprobs") or {}).get("content", ())
            logprob = float(sum(place["logprob"] for place in places))
            if (
                len(places) < usage["completion_tokens"]
            ):  # see _logprob: only with the tokens' ids can the rest be asked
                logprob = self.complete(self.apply_template(messages), max_tokens=max_tokens, probabilities=1).logprob
        return Reply(
            text=choice["message"]["content"] or "",
            tokens=usage["completion_tokens"],
            prompt_tokens=usage["prompt_tokens"],
            finished=choice["finish_reason"] == "stop",
            logprob=logprob,
        )

    def complete(
        self,
        prompt: str | Sequence[int],
        *,
        max_tokens: int,
        stop: Sequence[str] = (),
        probabilities: int = 0,
        stop_at_end: bool = True,
    ) -> Completion:
        """Continue a prompt as it is, greedily.

        Args:
            prompt: text (the model's start token is put in front, names of special tokens are read as these), or
                the exact token ids (nothing is added).
            max_tokens: longest continuation.
            stop: texts that end it; they are not part of it.
            probabilities: how many likeliest tokens to return for the first place; with any, also how likely the
                text is.
            stop_at_end: False goes on for ``max_tokens`` whatever the model says, for measuring speed.

        Raises:
            RunError: when the prompt is empty or does not fit into the context.
        """
        if isinstance(prompt, str):
            self.check_length(prompt)
        found = self._post(
            "/completion",
            {
                **_GREEDY,
                "prompt": prompt if isinstance(prompt, str) else list(prompt),
                "n_predict": max_tokens,
                "stop": list(stop),
                "n_probs": probabilities,
                "ignore_eos": not stop_at_end,
                "return_tokens": True,
            },
        )
        places = found.get("completion_probabilities") or [{}]
        return Completion(
            text=found["content"],
            token_ids=tuple(found["tokens"]),
            top=tuple((token["id"], token["logprob"]) for token in places[0].get("top_logprobs", ())),
            prompt_tokens=found["tokens_evaluated"],
            finished=found["stop_type"] != "limit",
            logprob=self._logprob(prompt, found) if probabilities else None,
        )

    def tokenize(self, text: str, special: bool = True) -> list[int]:
        """Return the token ids of a text.

        Args:
            text: any text.
            special: put the model's start token in front and read the names of special tokens as these.
        """
        found = self._post("/tokenize", {"content": text, "add_special": special, "parse_special": special})
        return [int(token) for token in found["tokens"]]

    def apply_template(self, messages: Sequence[Mapping[str, str]]) -> str:
        """Return the prompt that the file's chat template makes of messages, without the start token.

        Raises:
            ArtifactError: when the file has no chat template.
        """
        self._need_template()
        return str(self._post("/apply-template", {"messages": list(messages)})["prompt"])

    def many(self, function: Callable[[A], B], items: Iterable[A]) -> Iterator[B]:
        """Yield ``function(item)`` for each item, in order, working on as many at a time as there are slots."""
        waiting: deque[Future[B]] = deque()
        pool = ThreadPoolExecutor(self.slots)
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                # Some more than the slots wait, so that none is idle while the first in the row is slow.
                if len(waiting) >= 4 * self.slots:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)

    def _logprob(self, prompt: str | Sequence[int], found: Mapping[str, Any]) -> float:
        """Return the log-probability of a continuation, in nats, its end token included, a stop text left out.

        llama.cpp gives the model's own log-softmax, before any sampling, but not for tokens that leave a character
        unfinished; and before a stop text it takes away as many places as that text alone has tokens. What is missing
        is asked for one by one.
        """
        tokens, places = found["tokens"], found.get("completion_probabilities") or []
        named = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1]["id"], zip(tokens, places, strict=False)))
        kept_bytes = len(found["content"].encode("utf-8", "replace")) if found["stop_type"] == "word" else None
        total, written = 0.0, 0
        ids: list[int] | None = None
        for at, token in enumerate(tokens):
            if kept_bytes is not None and written >= kept_bytes:
                break
            if at < named:
                place = places[at]
            else:
                ids = ids or (self.tokenize(prompt) if isinstance(prompt, str) else list(prompt))
                place = self._place([*ids, *tokens[:at]], token)
            total, written = total + place["logprob"], written + len(place["bytes"])
        return total

    def _place(self, ids: list[int], token: int) -> Mapping[str, Any]:
        """Return the probability and the bytes of the token that the model goes on with, whatever token it is.

        Another token is forced into its place, one that is a whole character: with that, the probabilities are named.
        """
        whole = self.tokenize("a", special=False)[-1]
        body = {**_GREEDY, "prompt": ids, "n_predict": 1, "n_probs": 2, "logit_bias": [[whole, 1e4]]}
        likeliest = self._post("/completion", body)["completion_probabilities"][0]["top_logprobs"]
        found: Mapping[str, Any] = next((place for place in likeliest if place["id"] == token), likeliest[0])
        return found

    def _need_template(self) -> None:
        if not self.has_template:
            raise ArtifactError(
                str(self.model),
                "has no chat template inside, so it does not say how it is to be asked (a base model?)",
                "Use a file built for a job, or build one from this base",
            )

    def check_length(self, text: str) -> None:
        """Raise InputError when a text cannot fit into the context, without a look at its tokens."""
        if len(text) > _CHARS_A_TOKEN * self.context_tokens:
            raise _too_long(f"{len(text):,} characters", self.context_tokens)

    def _get(self, route: str) -> Any:
        return self._request("GET", route, None)

    def _post(self, route: str, body: Mapping[str, Any]) -> Any:
        return self._request("POST", route, json.dumps(body))

    def _request(self, method: str, route: str, body: str | None) -> Any:
        headers = {"Authorization": f"Bearer {self._key}", "Content-Type": "application/json"}
        # One connection a request: it costs 0.3 ms, and http.client never goes through a proxy.
        with closing(http.client.HTTPConnection(self._address.hostname or "", self._address.port)) as connection:
            try:
                connection.request(method, f"{self._prefix}{route}", body, headers)
                response = connection.getresponse()
                found = json.loads(response.read())
            except (OSError, http.client.HTTPException, ValueError) as error:
                raise RunError(
                    str(self.model), f"llama.cpp stopped answering ({error!r})", "Run the command again"
                ) from error
        if response.status == http.HTTPStatus.OK:
            return found
        problem = found.get("error", {})
        if problem.get("type") == "exceed_context_size_error":
            raise _too_long(f"{problem['n_prompt_tokens']:,} tokens", problem["n_ctx"])
        raise RunError(
            str(self.model),
            f"llama.cpp refused the request: {problem.get('message', found)!s:.300}",
            "Change the input",
        )


def _too_long(found: str, context_tokens: int) -> InputError:
    return InputError(
        "the input",
        f"has {found} with its prompt, and the context holds {context_tokens:,} tokens",
        "Shorten the input or cut it into parts",
    )


def _parameters(model: Path, slots: int, context_tokens: int, threads: int | None) -> Any:
    params = xllamacpp.CommonParams()
    params.model.path = str(model)
    params.n_parallel = slots
    params.n_ctx = slots * context_tokens
    # A sliding-window cache forgets a shared beginning; the full one keeps it, so that it is computed once.
    params.swa_full = True
    # Half of the time to load, for a fit that explicit sizes do not need.
    params.fit_params = False
    params.warmup = False
    # No copies of old prompts in memory: by default up to 8 GiB.
    params.cache_ram_mib = 0
    params.n_ctx_checkpoints = 0
    if threads is not None:
        # Both or neither: with one of them set, the other is taken wrongly.
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    # The answer as the model wrote it: no search for thoughts or tool calls.
    params.reasoning_format = xllamacpp.common_reasoning_format.COMMON_REASONING_FORMAT_NONE
    params.force_pure_content_parser = True
    params.verbosity = -1
    params.offline = True
    params.hostnames = ["127.0.0.1"]
    params.cors_origins = params.cors_methods = params.cors_headers = ""
    params.cors_credentials = False
    params.ui = params.endpoint_slots = params.endpoint_props = params.endpoint_metrics = False
    return params
