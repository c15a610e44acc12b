"""Uploads a folder to the hub by huggingface_hub, which finds the token in its own environment.

Files that the hub has are not sent again, so the same command resumes after an error.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.errors import UserError, one_line

NO_TOKEN = "no token for the hub: `hf auth login`, or set HF_TOKEN"
# Files of an earlier upload. New ones do not overwrite all of them when they are fewer.
EARLIER = [
    "data/*-?????-of-?????.parquet",
    "traces/*-?????-of-?????.parquet",
    "model*.safetensors*",
    "model*.onnx*",
]


def send(folder: Path, name: str, kind: str, private: bool, leave_out: list[str] | None = None) -> str:
    """Creates the repository if needed and uploads the folder; returns its URL.

    kind: "dataset" or "model". leave_out: patterns of files that are not sent. Raises UserError.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    with _errors_in_one_line(name):
        url = api.create_repo(name, repo_type=kind, private=private or None, exist_ok=True)
        api.upload_folder(
            repo_id=name,
            folder_path=folder,
            repo_type=kind,
            ignore_patterns=leave_out,
            delete_patterns=EARLIER,
            commit_message="Published by retort",
        )
    return str(url)


def check_access(name: str) -> None:
    """Raises UserError unless the token is valid and its user or their organization owns the name."""
    from huggingface_hub import HfApi

    with _errors_in_one_line(name):
        user = HfApi().whoami()
    owners = [user["name"], *(group["name"] for group in user.get("orgs", ()))]
    if name.partition("/")[0] not in owners:
        raise UserError(f"hub:{name}: the token is {owners[0]}'s, who may write to {', '.join(owners)}")


@contextmanager
def _errors_in_one_line(name: str) -> Iterator[None]:
    from huggingface_hub.errors import HTTPError, LocalTokenNotFoundError  # type: ignore[attr-defined]

    try:
        yield
    except LocalTokenNotFoundError:
        raise UserError(NO_TOKEN) from None
    except (HTTPError, OSError, ValueError) as e:
        raise UserError(f"hub:{name}: {one_line(e)}") from None
