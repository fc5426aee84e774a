"""Send a bundle to a repository of the Hugging Face hub, in one commit: the hub then has all of its files, or none.

The token is the one that the hub's own tools use (`hf auth login`, or the variable `HF_TOKEN`); it is never printed.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple

from compress import __version__, plugins
from compress.errors import CompressError, Unreachable
from exporters.bundle.checksums import list_files
from exporters.bundle.hub import write_hub_folder

if TYPE_CHECKING:
    from huggingface_hub import HfApi

REPOSITORY = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}", re.ASCII)
REFUSED = 401, 403
MISSING = 404


class Pushed(NamedTuple):
    """What is on the hub by now."""

    repository: str
    commit: str
    """By which the files can be named for good: `hf-hub:OWNER/NAME@COMMIT`."""
    address: str
    private: bool


def push_bundle(bundle: Path, repository: str, *, licence: str, revision: str | None = None, public: bool = False) -> Pushed:
    """Write a bundle in the layout of the hub and send it.

    Args:
        bundle: The bundle.
        repository: `OWNER/NAME`; made where it is not there.
        licence: The hub's identifier of the licence of the weights.
        revision: Branch that gets the commit; made where it is not there. Default: the main one.
        public: Everybody may read it; else a repository that is public already is refused.

    Raises:
        CompressError: The name is none, the bundle is not what its manifest says, or the repository is public.
        Unreachable: There is no token, the hub refuses it, or cannot be reached; it has nothing of the bundle then.
    """
    if REPOSITORY.fullmatch(repository) is None:
        raise CompressError(f"--push: {repository!r} is no repository of the hub; write OWNER/NAME")
    api = _open_hub()
    _check_name(repository)
    with TemporaryDirectory(prefix="edge-compress-hub-") as temporary:
        folder = Path(temporary) / "files"
        write_hub_folder(bundle, folder, licence=licence)
        return _send(api, folder, repository, revision=revision, public=public)


def _open_hub() -> HfApi:
    """Return the hub's own client with a token.

    Raises:
        Unreachable: Its package is not installed, or there is no token.
    """
    try:
        from huggingface_hub import HfApi, get_token
        from huggingface_hub.utils import disable_progress_bars
    except ModuleNotFoundError as error:
        raise Unreachable(plugins.explain_missing_package("export --push", error)) from error
    disable_progress_bars()  # a message stands alone
    token = get_token()
    if token is None:
        raise Unreachable("export --push: there is no token for the hub; type `hf auth login`, or set HF_TOKEN")
    return HfApi(os.environ.get("HF_ENDPOINT"), token=token, library_name="edge-compress", library_version=__version__)


def _check_name(repository: str) -> None:
    """Refuse a name that the hub does not take.

    Raises:
        CompressError: It takes none such; the message is the hub's own.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise CompressError(f"--push: {error}") from error


def _send(api: HfApi, folder: Path, repository: str, *, revision: str | None, public: bool) -> Pushed:
    """Make what is missing on the hub, and commit all files at once.

    Raises:
        CompressError: The repository is public and shall not be.
        Unreachable: The hub refuses, or cannot be reached.
    """
    from huggingface_hub import CommitOperationAdd
    from huggingface_hub.errors import HfHubHTTPError

    done = "nothing was changed there"
    try:
        private = _find_privacy(api, repository)
        if private is False and not public:
            raise CompressError(
                f"{repository}: is there already, and everybody can read it; allow that with --public, or name another one"
            )
        if private is None:
            api.create_repo(repository, private=not public)
            done, private = f"{repository} was made there and is empty", not public
        if revision is not None:
            api.create_branch(repository, branch=revision, exist_ok=True)
        done += ", unless the hub had all files when the connection ended; the same command goes on"
        files = [CommitOperationAdd(name, folder / name) for name in list_files(folder)]
        sent = api.create_commit(repository, files, commit_message=f"Bundle of edge-compress {__version__}", revision=revision)
    except (*HfHubHTTPError.__bases__, RuntimeError) as error:  # its client's base of all failures, OSError, of uploads
        raise Unreachable(f"{repository}: {_explain(api, error)}; {done}") from error
    return Pushed(repository, str(sent.oid), f"{api.endpoint}/{repository}/tree/{sent.oid}", private)


def _find_privacy(api: HfApi, repository: str) -> bool | None:
    """Return whether only some can read a repository; nothing where there is none."""
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        return bool(api.repo_info(repository).private)
    except RepositoryNotFoundError as error:
        if error.response.status_code != MISSING:  # so the client also calls what a refused token gives
            raise
        return None


def _explain(api: HfApi, error: Any) -> str:
    """Return what went wrong in one clause; never headers, which hold the token."""
    cause = error.__cause__ if isinstance(error, RuntimeError) and error.__cause__ is not None else error
    status = getattr(getattr(cause, "response", None), "status_code", None)
    if status in REFUSED:
        return f"the hub ({api.endpoint}) refuses the token ({status}); it must be one that may write there: `hf auth login`"
    if status is not None:
        return f"the hub ({api.endpoint}) answers {status}"
    reason = str(cause).partition("\n")[0] or type(cause).__name__
    return f"the hub ({api.endpoint}) cannot be reached ({reason})"
