"""The package index that pip is set up for: which archives there are, and their bytes."""

import ast
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import cache
from pathlib import Path
from typing import Any, Self

import requests
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version
from pypi_simple import (
    PYPI_SIMPLE_ENDPOINT,
    DistributionPackage,
    NoSuchProjectError,
    PyPISimple,
    UnsupportedRepoVersionError,
)

from metier.errors import DataError, RunError
from metier.home import cache_dir
from metier.progress import bar, say

Package = DistributionPackage

_TIMEOUT_SECONDS = (20.0, 120.0)
_SDIST_SUFFIXES = (".tar.gz", ".tgz", ".zip", ".tar.bz2", ".tar.xz")


def candidates(wanted: Requirement) -> list[Package]:
    """Return the archives of the newest version that fits: pure wheels, then the sdist, else any wheel.

    Raises:
        DataError: when the index knows no such package or version.
        RunError: when the index cannot be reached.
    """
    try:
        with _client() as client:
            page = client.get_project_page(wanted.name, timeout=_TIMEOUT_SECONDS)
    except NoSuchProjectError as error:
        raise DataError(f"pypi:{wanted}", "the package index has no such package", "Check the name") from error
    # ValueError: an answer that is no index page, as from a network's log-in page.
    except (requests.RequestException, UnsupportedRepoVersionError, ValueError) as error:
        raise _unreachable(str(wanted), error) from error
    return _newest(wanted, page.packages)


def download(package: Package, path: Path) -> None:
    """Download an archive to a path, its SHA-256 checked against the index.

    Raises:
        DataError: when the bytes are not what the index promised.
        RunError: when the network or the disk refuses.
    """
    if "sha256" not in package.digests:
        raise DataError(package.filename, "the package index states no SHA-256", "Use another package index")
    try:
        with _client() as client:
            client.download_package(package, path, progress=_progress(package.filename), timeout=_TIMEOUT_SECONDS)
    except requests.RequestException as error:
        raise _unreachable(package.filename, error) from error
    except OSError as error:
        raise RunError(str(path), f"cannot be written ({error.strerror})", "Free space on the disk") from error
    except ValueError as error:  # the library's digest errors
        raise DataError(
            package.filename, "the bytes received are not those the package index promised", "Try again"
        ) from error


def _newest(wanted: Requirement, packages: list[Package]) -> list[Package]:
    pinned = any(spec.operator in {"==", "==="} for spec in wanted.specifier)
    usable = [
        (version, package)
        for package in packages
        if canonicalize_name(package.project or "") == canonicalize_name(wanted.name)
        and package.filename == Path(package.filename).name
        and (package.filename.endswith(".whl") or _is_sdist(package))
        and (pinned or not package.is_yanked)
        and (version := _version(package)) is not None
    ]
    versions = list(wanted.specifier.filter({version for version, _ in usable}))
    if not versions:
        known = ", ".join(str(v) for v in sorted({version for version, _ in usable}, reverse=True)[:5])
        raise DataError(f"pypi:{wanted}", "no version fits", f"Choose one of: {known or 'none is offered'}")
    newest = [package for version, package in usable if version == max(versions)]
    pure = [package for package in newest if package.filename.endswith("-none-any.whl")]
    return pure + [package for package in newest if _is_sdist(package)] or newest[:1]


def _is_sdist(package: Package) -> bool:
    return package.package_type == "sdist" and package.filename.endswith(_SDIST_SUFFIXES)


def _version(package: Package) -> Version | None:
    try:
        return Version(package.version or "")
    except InvalidVersion:
        return None


def _client() -> PyPISimple:
    settings = _pip_settings()
    session = requests.Session()
    if settings.get("cert"):
        session.verify = settings["cert"]
    return PyPISimple(settings.get("index-url") or PYPI_SIMPLE_ENDPOINT, session=session)


def _pip_settings() -> dict[str, str]:
    """Return pip's ``index-url`` and ``cert``: from its environment variables, else from its files."""
    settings = dict(_pip_files())
    for name, variable in (("index-url", "PIP_INDEX_URL"), ("cert", "PIP_CERT")):
        if chosen := os.environ.get(variable):
            settings[name] = chosen
    return settings


@cache
def _pip_files() -> dict[str, str]:
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=False
    )
    if listed.returncode != 0:
        why = (listed.stderr.strip() or "no message").splitlines()[-1]
        say(f"pip's settings cannot be read ({why}): packages are looked for in the public index")
    lines = listed.stdout.splitlines() if listed.returncode == 0 else []
    settings: dict[str, str] = {}
    for line in lines:
        key, _, value = line.partition("=")
        section, _, name = key.rpartition(".")
        if section == "global" and name in {"index-url", "cert"}:
            settings[name] = str(ast.literal_eval(value))
    return settings


def _unreachable(what: str, error: Exception) -> RunError:
    # The library's message may carry the index's address with a password in it: the kind of error is enough.
    status = getattr(getattr(error, "response", None), "status_code", None)
    return RunError(
        f"pypi:{what}",
        f"cannot be fetched ({type(error).__name__}{f', status {status}' if status else ''})",
        "Connect to the network and try again, or put the archive (.whl or .tar.gz) into "
        f"{cache_dir('archives')}: a copy there is used without a network",
    )


def _progress(name: str) -> Callable[[int | None], "_Download"]:
    return lambda size: _Download(name, size)


class _Download:
    """The library's progress protocol on our bar, in MiB."""

    def __init__(self, name: str, size_bytes: int | None) -> None:
        self._name, self._size = name, size_bytes
        self._bar: AbstractContextManager[Any] = bar("MiB")

    def __enter__(self) -> Self:
        self._progress = self._bar.__enter__()
        total = self._size / 2**20 if self._size else None
        self._task = self._progress.add_task(f"fetching {self._name}", total=total)
        return self

    def __exit__(self, *failure: Any) -> None:
        self._bar.__exit__(*failure)

    def update(self, increment: int) -> None:
        self._progress.update(self._task, advance=increment / 2**20)
