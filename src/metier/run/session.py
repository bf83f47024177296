"""Ask a model its job: text of any length in, the answer with the same layout out, offline."""

import json
import re
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from queue import SimpleQueue
from threading import Semaphore, Thread
from typing import Any, Self, TypeVar

from metier.errors import ArtifactError, InputError
from metier.facts.confidence import Calibration
from metier.facts.store import Store, open_store
from metier.progress import bar, say
from metier.run.asking import Answer, Asker
from metier.run.engine import Engine
from metier.run.locate import locate
from metier.tasks.qa import Qa
from metier.tasks.registry import Task, task_from_json
from metier.tasks.segment import Piece, fill, split_whole

A = TypeVar("A")
B = TypeVar("B")

TASK_KEY, FORMAT_KEY = "metier.task", "metier.format"
"""Keys of the GGUF metadata that say what a file's task is, as JSON, and in which version of that."""
FILE_FORMAT = 1

_SLOTS = 4
_REMEMBERED = 4096
_QUIET_CHARS = 400
# Shorter texts are answered before a progress bar could be read.

_SURROGATE = re.compile("[\ud800-\udfff]")


class Session:
    """An opened model that knows its task; safe to use from several threads.

    Args:
        engine: the loaded model; closed with the session.
        task: what the model does, which says how text is cut and put back; None answers a text as a whole.
        store: of a qa job, what its answers are looked up in; closed with the session.
        calibration: of a qa job, how sure the file's answers are; without it the model's first word is given.
    """

    def __init__(
        self, engine: Engine, task: Task | None, store: Store | None = None, calibration: Calibration | None = None
    ) -> None:
        self.engine, self.task, self.store = engine, task, store
        self.asker = Asker(engine, task, store, calibration) if isinstance(task, Qa) else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the model and close the store."""
        self.engine.close()
        if self.store is not None:
            self.store.close()

    def answer(self, text: str) -> str:
        """Answer a text of any length, keeping its line breaks, indentation and bullets; a question by the bare answer.

        Raises:
            RunError: when the task takes its input as a whole, and it does not fit into the context.
        """
        [(_, answer)] = self._answers([text], len(text))
        return _given(answer)

    def answer_lines(self, lines: Iterable[str], *, quiet: bool = False) -> Iterator[tuple[str, str | InputError]]:
        """Yield each line with its answer, in order and without their line ends, as they are ready.

        Takes the memory of the longest line, however many there are. While answers are being worked on, up to
        four times as many sentences as there are slots are read ahead; with one slot, none is. An answer that is ready
        does not wait for the next line.

        When the task takes its input as a whole, a line that does not fit into the context comes with the error that
        says so in place of an answer: the lines after it are answered.

        Args:
            lines: one text each.
            quiet: whether to show no progress, as beside lines that are being typed.
        """
        yield from self._answers(_without_ends(lines), 0 if quiet else None)

    def ask(self, question: str) -> Answer:
        """Answer a question of a qa job, with confidence and sources. Raises as `Asker.ask`."""
        [(_, answer)] = self._asked([question], len(question))
        return _given(answer)

    def ask_lines(self, lines: Iterable[str], *, quiet: bool = False) -> Iterator[tuple[str, Answer | InputError]]:
        """Yield each line with its answer or its error, as `answer_lines` does, for a qa job."""
        yield from self._asked(_without_ends(lines), 0 if quiet else None)

    def _answers(self, texts: Iterable[str], chars: int | None) -> Iterator[tuple[str, str | InputError]]:
        if self.asker is not None:
            asked = self._asked(texts, chars)
            return ((text, answer.text if isinstance(answer, Answer) else answer) for text, answer in asked)
        return self._worked(texts, chars, self._split, self._piece, self._join)

    def _asked(self, texts: Iterable[str], chars: int | None) -> Iterator[tuple[str, Answer | InputError]]:
        assert self.asker is not None, "only a qa job is asked"
        return self._worked(
            texts, chars, lambda text: [Piece(text, True)], self.asker.ask, lambda pieces, answers: answers[0]
        )

    def _worked(
        self,
        texts: Iterable[str],
        chars: int | None,
        split: Callable[[str], list[Piece]],
        ask: Callable[[str], A],
        join: Callable[[Sequence[Piece], Sequence[A]], B],
    ) -> Iterator[tuple[str, B | InputError]]:
        slots = self.engine.slots
        ahead = 4 * slots if slots > 1 else 1
        waiting: deque[tuple[str, list[Piece], list[Future[A]]]] = deque()
        pool = ThreadPoolExecutor(slots)
        asked = _once(lambda text: pool.submit(ask, text))

        def joined(text: str, pieces: Sequence[Piece], futures: Iterable[Future[A]]) -> tuple[str, B | InputError]:
            answers, remaining = [], iter(futures)
            for piece in pieces:
                if piece.translate:
                    try:
                        answers.append(next(remaining).result())
                    except InputError as error:
                        return text, error
                advance(len(piece.text))
            return text, join(pieces, answers)

        with _progress(chars) as advance, _Reader(texts) as reader:
            try:
                while not reader.ended:
                    if (text := reader.next()) is not None:
                        pieces = split(clean(text))
                        futures = [asked(piece.text) for piece in pieces if piece.translate]
                        for future in futures:
                            future.add_done_callback(lambda _: reader.wake())
                        waiting.append((text, pieces, futures))
                    while waiting and (_ready(waiting[0]) or max(len(waiting), _unfinished(waiting)) >= ahead):
                        yield joined(*waiting.popleft())
                while waiting:
                    yield joined(*waiting.popleft())
                reader.raise_error()
            finally:
                pool.shutdown(cancel_futures=True)

    def _join(self, pieces: Sequence[Piece], answers: Sequence[str]) -> str:
        return self.task.join(pieces, answers) if self.task else "".join(fill(pieces, answers))

    def _split(self, text: str) -> list[Piece]:
        return self.task.split(text) if self.task else split_whole(text)

    def _piece(self, text: str) -> str:
        half = self.engine.context_tokens // 2
        if self.task is None or self.task.name != "translation":
            reply = self.engine.chat(text, max_tokens=self.engine.context_tokens)
            if not reply.finished:
                say(f"  cut where the context of {self.engine.context_tokens} tokens ends: the answer to {text!r:.60}")
            return reply.text
        tokens = len(self.engine.tokenize(text, special=False))
        if tokens > half and len(text) > 1:
            # Even a short piece is too long when the vocabulary spells most of its characters in bytes.
            middle = len(text) // 2
            return f"{self._piece(text[:middle])} {self._piece(text[middle:])}"
        # The limit is for a model that goes round in circles.
        return self.engine.chat(text, max_tokens=min(half, 3 * tokens + 32)).text


class _Reader:
    """Takes texts from wherever they come, in a thread of its own: who types the next one wants the last one answered.

    No text is read before it is asked for.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        self.ended = False
        self._texts = iter(texts)
        self._come: SimpleQueue[str | Exception | None] = SimpleQueue()
        self._wanted, self._waiting = Semaphore(0), False
        self._error: Exception | None = None

    def __enter__(self) -> Self:
        Thread(target=self._read, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended = True
        self._wanted.release()

    def next(self) -> str | None:
        """Wait for the next text, and return it; None when `wake` was called, or nothing more comes (``ended``)."""
        if not self._waiting:
            self._waiting = True
            self._wanted.release()
        come = self._come.get()
        if isinstance(come, Exception):
            self.ended, self._error = True, come
            return None
        self._waiting = self._waiting and come is None
        return come

    def wake(self) -> None:
        """Let `next` return."""
        self._come.put(None)

    def raise_error(self) -> None:
        """Raise what ended the texts, if it was not their end."""
        if not isinstance(self._error, StopIteration):
            assert self._error is not None
            raise self._error

    def _read(self) -> None:
        while self._wanted.acquire() and not self.ended:
            try:
                self._come.put(next(self._texts))
            except Exception as error:  # noqa: BLE001 - told by who asked
                self._come.put(error)
                return


def open_session(reference: str, *, slots: int | None = None, context_tokens: int | None = None) -> Session:
    """Open a model to ask it.

    Args:
        reference: a ``.gguf`` file, an export folder, a run folder or the name of a job that was built.
        slots: how many sentences are worked on at the same time.
        context_tokens: longest question and answer together; by default what the folder around the file says, or 1,024.

    Raises:
        ArtifactError: when nothing is there, or it is damaged, unfinished or of another version; or when its folder
            names a fact store that is missing, damaged or from another build.
        RunError: when another program holds the fact store locked.
    """
    found = locate(reference)
    engine = Engine(found.file, slots=slots or _SLOTS, context_tokens=context_tokens or found.context_tokens)
    try:
        task = _task(str(found.file), engine.header.metadata, found.task)
        store = open_store(found.store, found.store_key) if found.store and isinstance(task, Qa) else None
    except BaseException:
        engine.close()
        raise
    return Session(engine, task, store, found.calibration)


def clean(text: str) -> str:
    """Return the text without NUL characters, and U+FFFD in place of lone surrogates."""
    return _SURROGATE.sub("\ufffd", text.replace("\0", ""))


def _task(where: str, metadata: Mapping[str, Any], beside: dict[str, Any] | None) -> Task | None:
    written = metadata.get(TASK_KEY)
    if written is None:
        return task_from_json(beside) if beside else None
    if (form := metadata.get(FORMAT_KEY, FILE_FORMAT)) != FILE_FORMAT:
        found = f"written in format {form!r:.40}, this metier reads format {FILE_FORMAT}"
        raise ArtifactError(where, found, "Use the version of metier that wrote it")
    try:
        return task_from_json(json.loads(str(written)))
    except ValueError as error:
        found = f"its {TASK_KEY} is not JSON ({str(written)!r:.80})"
        raise ArtifactError(where, found, "Build the file again") from error


def _given(answer: A | InputError) -> A:
    if isinstance(answer, InputError):
        raise answer
    return answer


def _without_ends(lines: Iterable[str]) -> Iterator[str]:
    return (line.removesuffix("\n").removesuffix("\r") for line in lines)


def _once(submit: Callable[[str], Future[A]]) -> Callable[[str], Future[A]]:
    """Return ``submit`` with a memory of the latest texts: what is asked again is not worked on again."""
    asked: OrderedDict[str, Future[A]] = OrderedDict()

    def ask(text: str) -> Future[A]:
        if text in asked:
            asked.move_to_end(text)
            return asked[text]
        asked[text] = submit(text)
        if len(asked) > _REMEMBERED:
            asked.popitem(last=False)
        return asked[text]

    return ask


def _ready(row: tuple[str, list[Piece], list[Future[Any]]]) -> bool:
    return all(future.done() for future in row[2])


def _unfinished(rows: Iterable[tuple[str, list[Piece], list[Future[Any]]]]) -> int:
    return sum(not future.done() for _, _, futures in rows for future in futures)


@contextmanager
def _progress(chars: int | None) -> Iterator[Callable[[int], None]]:
    """Show how many characters are answered, except of a text so short that it takes a moment."""
    if chars is not None and chars <= _QUIET_CHARS:
        yield lambda count: None
        return
    with bar() as display:
        task = display.add_task("answering", total=chars)
        yield lambda count: display.update(task, advance=count)
