"""Exported folders on the Hugging Face Hub: fetched by name, and uploaded.

Wherever a path of an export is taken, `resolve` takes "user/name" too. huggingface_hub is imported
here alone, when a name is not a folder's, and is set as always: HF_TOKEN, HF_HOME, HF_ENDPOINT,
HF_HUB_OFFLINE.
"""

from __future__ import annotations

import contextlib
import pathlib
import re
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import vqlab
from vqlab.export import package
from vqlab.export.card import check_license, licensed, renamed

_REPOSITORY = r"[A-Za-z0-9][A-Za-z0-9_.-]*/[A-Za-z0-9][A-Za-z0-9_.-]*"
_NAME = re.compile(rf"({_REPOSITORY})(?:@([A-Za-z0-9_./-]+))?")
_WHO = {"library_name": "vqlab", "library_version": vqlab.__version__}
_LOG_IN = "log in by `hf auth login`, or set HF_TOKEN"


def is_name(path: str | pathlib.Path) -> bool:
    """Whether `path` is "user/name" or "user/name@revision", and no folder or file here.

    A `pathlib.Path` is always one of this machine.
    """
    if not isinstance(path, str) or not _NAME.fullmatch(path):
        return False
    return not pathlib.Path(path).exists()


def resolve(path: str | pathlib.Path) -> pathlib.Path:
    """The folder that `path` means: itself, or that of a repository on the Hub, fetched if need be.

    Of a repository the two files that loading takes are fetched, at one commit, into the Hub's own
    cache. Where the Hub cannot be reached, what the cache holds is taken.

    Raises:
      ValueError: without huggingface_hub; no such repository or revision, or no right to read it;
        not exported by vqlab; neither reached nor in the cache.
    """
    if not is_name(path):
        return pathlib.Path(path).expanduser()
    repo, revision = _NAME.fullmatch(path).groups()
    library = _library(f"{path}: no such folder; looking for it on the Hugging Face Hub")
    with _errors_in_one_line(repo, revision):
        api = library.HfApi(**_WHO)
        commit = api.resolve_revision(repo, revision=revision)
        config = api.hf_hub_download(repo, package.CONFIG_FILE, revision=commit)
        folder = pathlib.Path(config).parent
        package.read_config(folder, f"{repo} on {_host()}")  # before gigabytes of something else
        api.hf_hub_download(repo, package.WEIGHTS_FILE, revision=commit)
    return folder


def check_upload(repo: str) -> None:
    """Raises ValueError unless something may be uploaded, before there is anything to upload."""
    if not re.fullmatch(_REPOSITORY, repo):
        raise ValueError(f"{repo!r} is no name of a repository: user/name")
    if _library("uploading to the Hugging Face Hub").get_token() is None:
        raise ValueError(f"uploading to {_host()} needs a token that may write: {_LOG_IN}")


def push(
    folder: str | pathlib.Path,
    repo: str,
    *,
    license: str = "",
    private: bool = False,
    revision: str = "",
    message: str = "",
) -> str:
    """Uploads an exported folder in one commit, and returns where it is.

    All its files go as they are, but that the card's example loads `repo`. Hidden files stay.

    Args:
      folder: an exported one, which is read through before.
      repo: "user/name", made if there is none.
      license: written into the card in place of its own; "" for its own.
      private: whether only its owner may see it.
      revision: a branch, made if there is none; "" for the main one.
      message: of the commit.

    Raises:
      ValueError: no export; no token, or one that may not write there; a private upload to a
        repository that is public; the Hub cannot be reached.
    """
    check_upload(repo)
    folder = pathlib.Path(folder)
    package.load_package(folder)
    files = _files(folder) | {package.CARD_FILE: _card(folder, repo, license)}
    import huggingface_hub

    with _errors_in_one_line(repo, revision):
        api = huggingface_hub.HfApi(**_WHO)
        address = str(api.create_repo(repo, private=private or None, exist_ok=True))
        if private and not api.model_info(repo).private:
            raise ValueError(f"{address} is public: nothing was uploaded; make it private there")
        if revision and not api.revision_exists(repo, revision):
            api.create_branch(repo, branch=revision)
        api.create_commit(
            repo,
            [huggingface_hub.CommitOperationAdd(*file) for file in files.items()],
            commit_message=message or f"A tokenizer of vqlab {vqlab.__version__}",
            revision=revision or None,
        )
    return f"{address}/tree/{revision}" if revision else address


def _card(folder: pathlib.Path, repo: str, license: str) -> bytes:
    """The card as it goes to `repo`."""
    path = folder / package.CARD_FILE
    try:
        text = renamed(path.read_text(), repo)
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    if license:
        check_license(license)
        text = licensed(text, license)
    return text.encode()


def _files(folder: pathlib.Path) -> dict[str, Any]:
    """{name in the repository: file} of all that is not hidden."""
    files = {file.relative_to(folder): file for file in sorted(folder.rglob("*")) if file.is_file()}
    return {
        name.as_posix(): file
        for name, file in files.items()
        if not any(part.startswith(".") for part in name.parts)
    }


def _library(why: str) -> ModuleType:
    try:
        import huggingface_hub
        from huggingface_hub.errors import RevisionResolutionError  # noqa: F401  older ones lack it
    except ImportError as error:
        install = "pip install 'huggingface_hub>=2.4.0'"
        raise ValueError(f"{why} needs huggingface_hub: {install}") from error
    return huggingface_hub


def _host() -> str:
    from huggingface_hub import constants

    return constants.ENDPOINT.partition("://")[2]


@contextlib.contextmanager
def _errors_in_one_line(repo: str, revision: str | None) -> Iterator[None]:
    """What huggingface_hub raises, as a ValueError that says what to do."""
    from huggingface_hub import errors

    unreached = (errors.HTTPError, errors.RevisionResolutionError, ConnectionError)
    try:
        yield
    except (*unreached, errors.EntryNotFoundError, errors.HFValidationError, RuntimeError) as error:
        raise ValueError(_explained(error, repo, revision)) from error


def _explained(error: Exception, repo: str, revision: str | None) -> str:
    from huggingface_hub import constants, errors

    host, cause = _host(), _line(error.__cause__ or error)
    files = f"{package.CONFIG_FILE} or {package.WEIGHTS_FILE}"
    unreached = (
        f"{repo}: no such folder, not in {constants.HF_HUB_CACHE}, and {host} was not reached: "
        f"{cause}"
    )
    sentences = {  # the first that fits: most of these errors are kinds of later ones
        errors.HFValidationError: f"{repo} is no name of a repository: {_line(error)}",
        errors.GatedRepoError: f"{repo} is for those who asked for it: ask at "
        f"{constants.ENDPOINT}/{repo}, then {_LOG_IN}",
        errors.RepositoryNotFoundError: f"{repo}: no such folder, and no such repository on "
        f"{host}; if it is private, {_LOG_IN}",
        errors.RevisionNotFoundError: f"{repo} on {host} has no revision {revision!r}",
        errors.RevisionResolutionError: unreached,
        errors.LocalEntryNotFoundError: unreached,
        errors.EntryNotFoundError: f"{repo} on {host} is no exported tokenizer: no {files}",
        errors.HfHubHTTPError: f"{repo} on {host}: "
        f"{getattr(error, 'server_message', '') or _line(error)}",
        Exception: f"{repo} on {host}: {cause}",
    }
    return next(text for kind, text in sentences.items() if isinstance(error, kind))


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())
