"""Reads data sets with the `datasets` library, from the hub or a local folder, streamed without a disk cache.

A folder written by `save_to_disk` is opened with `load_from_disk`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from itertools import islice
from pathlib import Path
from typing import Any

from pipeline.config.sources import DatasetSource
from pipeline.errors import user_error
from pipeline.ingest.files import HEAD, BadRow, Record, sha256, skeleton, top_level


def records(source: DatasetSource, columns: tuple[str, ...]) -> Iterator[Record | BadRow]:
    """Yields the rows, with the named columns only, or () for all. Images and the like stay undecoded.

    Raises UserError if the data set cannot be read.
    """
    with _one_line_errors(source):
        data = _open(source)
        names = data.column_names
        if names and columns:  # a stream of JSON does not know its columns yet
            data = data.select_columns(top_level(columns, names))
        if data.features:
            data = _undecoded(data)
        for number, row in enumerate(data, start=1):
            yield Record(f"{source.path} {source.dataset_split} row {number}", row)


def head(source: DatasetSource) -> Iterator[Record | BadRow]:
    """Yields the schema as one row without values, or the first rows if there is no schema."""
    with _one_line_errors(source):
        data = _open(source)
        if not data.features:
            yield from (Record(source.path, row) for row in islice(data, HEAD))
        elif next(iter(data.select_columns(data.column_names[:1])), None) is not None:
            yield Record(source.path, skeleton(data.features.arrow_schema))


def fingerprint(source: DatasetSource) -> dict[str, Any]:
    """Returns the identity of the rows: a local folder's content, or a hub data set's revision."""
    known = {"subset": source.subset, "split": source.dataset_split}
    folder = Path(source.path)
    if not folder.is_dir():
        return {"dataset": source.path, "revision": source.revision, **known}
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        digest.update(bytes.fromhex(sha256(path)))
        digest.update(str(path.relative_to(folder)).encode())
    return {"folder": folder.name, "sha256": digest.hexdigest(), **known}


def _open(source: DatasetSource) -> Any:
    from datasets import DatasetDict, load_dataset, load_from_disk
    from huggingface_hub.utils.logging import set_verbosity_error

    set_verbosity_error()  # an unreachable hub is reported in one line, not once per retry
    folder = Path(source.path)
    if any((folder / name).is_file() for name in ("state.json", "dataset_dict.json")):
        data = load_from_disk(source.path)
        if not isinstance(data, DatasetDict):
            return data
        if source.dataset_split not in data:
            raise ValueError(f"no split {source.dataset_split!r}; there are {', '.join(data)}")
        return data[source.dataset_split]
    if folder.is_file():
        raise ValueError('it is a file: use kind = "file"')
    return load_dataset(
        source.path, source.subset, split=source.dataset_split, revision=source.revision, streaming=True
    )


def _undecoded(data: Any) -> Any:
    """The data set with images, audio and video as the bytes that are stored."""
    from datasets import Dataset

    stream = data.to_iterable_dataset() if isinstance(data, Dataset) else data
    return stream.decode(False)


def _one_line_errors(source: DatasetSource) -> AbstractContextManager[None]:
    """Turns the errors of `datasets` and the hub, often pages long, into a one-line UserError."""
    import pyarrow as pa
    from datasets.exceptions import DatasetsError
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]  # of its HTTP library

    kinds = (DatasetsError, HTTPError, OSError, ValueError, LookupError, RuntimeError, pa.ArrowException)
    return user_error(f"data set {source.path}", *kinds)
