"""A folder onto the hub, by huggingface_hub, which finds the token in its own environment.

Files that are there already are not sent again, so the same command goes on after an error.
"""

from __future__ import annotations

from pathlib import Path

from pipeline.errors import UserError

NO_TOKEN = "no token for the hub: `hf auth login`, or set HF_TOKEN"
# Shards of an earlier time, which the new ones do not overwrite where they are fewer.
EARLIER = ["data/*-?????-of-?????.parquet", "traces/*-?????-of-?????.parquet", "model*.safetensors*"]


def send(folder: Path, name: str, kind: str, private: bool, leave_out: str | None = None) -> str:
    """Make the repository where it is missing and upload the folder; gives its address.

    kind: "dataset" or "model". leave_out: a pattern of files to keep back. Raises UserError.
    """
    from httpx2 import HTTPError
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    api = HfApi()
    try:
        url = api.create_repo(name, repo_type=kind, private=private or None, exist_ok=True)
        api.upload_folder(
            repo_id=name,
            folder_path=folder,
            repo_type=kind,
            ignore_patterns=leave_out,
            delete_patterns=EARLIER,
            commit_message="Published by retort",
        )
    except LocalTokenNotFoundError:
        raise UserError(NO_TOKEN) from None
    except (HfHubHTTPError, HTTPError, OSError, ValueError) as e:
        raise UserError(f"hub:{name}: {' '.join(str(e).split())[:300]}") from None
    return str(url)


def check_access(name: str) -> None:
    """Raise UserError unless the hub takes our token and the owner of the name is us or one of ours."""
    from httpx2 import HTTPError
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    try:
        said = HfApi().whoami()
    except LocalTokenNotFoundError:
        raise UserError(NO_TOKEN) from None
    except (HfHubHTTPError, HTTPError, OSError, ValueError) as e:
        raise UserError(f"hub:{name}: {' '.join(str(e).split())[:300]}") from None
    ours = [said["name"], *(group["name"] for group in said.get("orgs", ()))]
    owner = name.partition("/")[0]
    if owner not in ours:
        raise UserError(f"hub:{name}: the token is {ours[0]}'s, who may write to {', '.join(ours)}")
