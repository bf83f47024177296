"""Debian packages as archives: fetched by apt's own client into our cache, never installed or run.

apt works here without root and on folders of its own: it reads the system's list of package sources and writes nothing
outside the cache. It checks every package against the signed index; the hash it states is checked once more and kept.
"""

import email
import os
import re
import subprocess
import time
from functools import cache
from pathlib import Path
from typing import NamedTuple

from metier.artifact import sha256_file, write_atomically
from metier.data.archives import intact, open_member, real_path
from metier.data.scratch_folders import scratch_folder
from metier.errors import DataError, RunError
from metier.home import cache_dir
from metier.progress import bar

_WANTED = re.compile(r"(?P<name>[a-z0-9][a-z0-9+.-]+)(==(?P<version>[0-9][A-Za-z0-9.+:~-]*))?")


_MOST_COPYRIGHT = 1 << 20


class Package(NamedTuple):
    """A package as a file."""

    path: Path
    name: str
    version: str
    sha256: str


class Copyright(NamedTuple):
    """What a package says of its licences."""

    package: str
    version: str
    text: str
    licences: tuple[str, ...]
    """Short names for most of its files, where the text is in the form that machines read."""


def fetch_package(wanted: str) -> Package:
    """Return a package's file, fetching it if no kept one fits.

    Kept packages live in the cache folder ``debian`` beside a file with their SHA-256; one put there by hand is taken
    too. A kept one that fits is used without a network; pin a version to be sure which.

    Args:
        wanted: ``name`` or ``name==version``.

    Raises:
        DataError: when there is no such package or version, or its hash is not the stated one.
        RunError: when apt is not here, or the network refuses.
    """
    match = _WANTED.fullmatch(wanted.strip())
    if not match:
        raise DataError(
            f"deb:{wanted}", "is not a package name with a version", "Write 'deb:name' or 'deb:name==1.2-3'"
        )
    name, version = match["name"], match["version"]
    folder = cache_dir("debian")
    if kept := _kept(folder, name, version):
        return kept
    facts = _facts(name, version)
    with scratch_folder(folder) as scratch:
        try:
            part = _download(facts, scratch)
        except RunError:  # the index may be older than the mirror, which has another version by now
            _apt("apt-get", "update")
            facts = _facts(name, version)
            part = _download(facts, scratch)
        if (found := sha256_file(part)) != facts["SHA256"]:
            raise DataError(f"deb:{wanted}", f"has SHA-256 {found}, the index states {facts['SHA256']}", "Try again")
        path = folder / part.name
        write_atomically(path.with_name(path.name + ".sha256"), facts["SHA256"])
        part.replace(path)
    return Package(path, name, facts["Version"], facts["SHA256"])


def copyright_of(package: Package) -> Copyright | None:
    """Return a package's copyright file, from the package that its link leads to if it is a link; None without one."""
    where = f"usr/share/doc/{package.name}/copyright"
    while found := real_path(package.path, where):
        if found == where:
            with open_member(package.path, where) as stream:
                text = stream.read(_MOST_COPYRIGHT).decode("utf-8", "replace")
            return Copyright(package.name, package.version, text, _licences(text))
        other = re.fullmatch(r"usr/share/doc/([a-z0-9][a-z0-9+.-]+)/.+", found)
        if not other or other[1] == package.name:
            return None
        package, where = fetch_package(f"{other[1]}=={package.version}"), found
    return None


def _licences(text: str) -> tuple[str, ...]:
    """Return the licences that the machine-readable form (DEP-5) states for all files that no other part names."""
    for paragraph in re.split(r"\n[ \t]*\n", text.replace("\r\n", "\n")):
        if re.search(r"^Files:\s*\*\s*$", paragraph, re.MULTILINE):
            stated = re.search(r"^License:[ \t]*(\S.*)$", paragraph, re.MULTILINE)
            return tuple(re.split(r"\s+(?:and|or)\s+|\s*,\s*", stated[1].strip())) if stated else ()
    return ()


def _kept(folder: Path, name: str, version: str | None) -> Package | None:
    found = []
    for path in folder.glob(f"{name}_*.deb"):
        _, kept, _ = path.stem.split("_", 2) if path.stem.count("_") >= 2 else ("", "", "")
        kept = kept.replace("%3a", ":")
        if kept and (version is None or kept == version) and intact(path):
            found.append((path.stat().st_mtime, Package(path, name, kept, sha256_file(path))))
    return max(found)[1] if found else None


def _facts(name: str, version: str | None) -> dict[str, str]:
    """Return what the index says of a package, asking for a new index where the present one lacks it.

    Without a version it is the newest one of a new index, or of the present one where there is no network.
    """
    asked = name if version is None else f"{name}={version}"
    if version is None:
        _renew(cache_dir("debian"))
    for fresh in (False, True):
        if fresh:
            _apt("apt-get", "update")
        shown = _apt("apt-cache", "show", "--no-all-versions", asked, check=False)
        stanza = email.message_from_string(shown.partition("\n\n")[0])
        if {"Package", "Version", "SHA256", "Size"} <= set(stanza):
            return {key: str(value) for key, value in stanza.items()}
    versions = re.findall(r"^Version: (\S+)", _apt("apt-cache", "show", name, check=False), re.MULTILINE)
    if versions:
        fix = f"Choose one of: {', '.join(versions)}"
        raise DataError(f"deb:{name}=={version}", "no version fits", fix)
    raise DataError(f"deb:{name}", "the package sources of this machine have no such package", "Check the name")


@cache
def _renew(_folder: Path) -> None:
    """Ask for a new index, once in a process for each cache; without a network the present one stays."""
    _apt("apt-get", "update", check=False)


def _download(facts: dict[str, str], folder: Path) -> Path:
    """Download one version of a package into a folder; return its file."""
    size = int(facts["Size"])
    asked = f"{facts['Package']}={facts['Version']}"
    command = ["apt-get", *_options(), "download", asked]
    with bar("MiB") as progress:
        task = progress.add_task(f"fetching {facts['Package']}", total=size / 2**20)
        running = subprocess.Popen(
            command,
            cwd=folder,
            env=os.environ | {"LC_ALL": "C"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        while running.poll() is None:
            time.sleep(0.1)
            progress.update(task, completed=sum(file.stat().st_size for file in folder.iterdir()) / 2**20)
    files = list(folder.glob("*.deb"))
    if running.returncode or len(files) != 1:
        raise _refused(f"apt-get download {asked}")
    return files[0]


def _apt(program: str, *words: str, check: bool = True) -> str:
    """Run apt's client and return its output."""
    try:
        done = subprocess.run(
            [program, *_options(), *words],
            capture_output=True,
            text=True,
            errors="replace",
            env=os.environ | {"LC_ALL": "C"},
            check=False,
        )
    except FileNotFoundError as error:
        raise RunError(
            program,
            "is not on this machine, and 'deb:' sources are fetched with it",
            f"Work on Debian or a system like it, or put the .deb file into {cache_dir('debian')}",
        ) from error
    if check and done.returncode:
        raise _refused(f"{program} {' '.join(words)}")
    return done.stdout


def _options() -> list[str]:
    """Return the options by which apt keeps to folders of ours."""
    folder = cache_dir("debian") / "apt"
    for name in ("state/lists/partial", "cache/archives/partial"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    status = folder / "status"  # of installed packages: none
    status.touch()
    places = {"State": folder / "state", "State::status": status, "Cache": folder / "cache"}
    sandbox = ["-o", "APT::Sandbox::User=" + ("root" if os.getuid() == 0 else "")]
    return ["-q", *sandbox, *(word for key, value in places.items() for word in ("-o", f"Dir::{key}={value}"))]


def _refused(command: str) -> RunError:
    # apt's own message may carry the address of a private mirror with a password in it.
    return RunError(
        command,
        "failed",
        "Run it yourself to see why, connect to the network and try again, or put the .deb file into "
        f"{cache_dir('debian')}: a copy there is used without a network",
    )
