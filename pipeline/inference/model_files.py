"""Where a model is: hub names as they are, local folders checked, what has to be made in a cache.

`check()` is quick and makes nothing; `resolve()` gives what vLLM and transformers take. Leaves out
downloading (they do that themselves for hub names), the conversion of GGUF files (training/convert.py) and
the cutting of students from a model (training/cut.py), programs that model_cache.py runs.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
import os
import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from pipeline import install_hints
from pipeline.errors import UserError
from pipeline.inference import model_cache as cache

CONVERT_VERSION = 1  # raise it when convert.py writes something else: older folders are then left alone
CUT_VERSION = 1  # the same for cut.py
MOST_BF16_PER_BYTE = 11  # 16 bits over 1.56, the smallest GGUF quantisation (IQ1_S)

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", re.ASCII)


def check(model: str, layers: int | None = None) -> None:
    """Find the mistakes that need no work: what is missing, what is malformed, no room to convert or cut."""
    path = _local(model)
    if path is None:
        return
    folder = path
    if path.is_file():
        folder = _cached(path)
        _check_convertible(path, folder)
    if layers is not None and folder.exists():
        _check_cut(str(folder), layers, _cached_cut(str(folder), layers))


def resolve(model: str, say: Callable[[str], None] | None = None, layers: int | None = None) -> str:
    """The hub name unchanged, or the absolute path of an ordinary model folder; may convert (half a minute).

    With `layers`, a folder with the model cut to so many of its layers (training/cut.py); of a hub name it is
    cut once, whatever the hub holds later. Raises UserError.
    """
    say = say or (lambda _text: None)
    path = _local(model)
    whole = model if path is None else str(path) if path.is_dir() else _converted(path, say)
    return whole if layers is None else _cut(whole, layers, say)


def sizes(model: str) -> tuple[dict[str, Any], int] | None:
    """The text model's config and the bytes of the weights of what `resolve` gave; None where unknown."""
    from huggingface_hub import HfApi, hf_hub_download, snapshot_download

    try:
        if os.path.isdir(model):
            return _sizes_in(Path(model))
        try:
            found = HfApi().model_info(model, files_metadata=True).siblings or []
            weights = sum(file.size or 0 for file in found if _holds_weights(file.rfilename))
            config = json.loads(Path(hf_hub_download(model, "config.json")).read_bytes())
        except OSError:  # no network; perhaps it is here
            return _sizes_in(Path(snapshot_download(model, local_files_only=True)))
        return config.get("text_config", config), weights
    except (OSError, ValueError, AttributeError):
        return None


def _sizes_in(folder: Path) -> tuple[dict[str, Any], int] | None:
    config = json.loads((folder / "config.json").read_bytes())
    weights = sum(path.stat().st_size for path in folder.iterdir() if _holds_weights(path.name))
    return (config.get("text_config", config), weights) if weights else None


def _holds_weights(name: str) -> bool:
    """Whether vLLM reads weights from the file; Mistral's folders hold them twice."""
    return name.endswith(".safetensors") and not name.startswith("consolidated") and "/" not in name


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
            f"{model}: the package {name} is not installed: {install_hints.package('--no-deps', name)}"
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
    return cache.folder(label(str(gguf)), f"{content} convert {CONVERT_VERSION}")


def _cached_cut(whole: str, layers: int) -> Path:
    """Where the cut model lives: keyed by the hub's name for it, or by path, size and age of its files."""
    files = sorted(path for path in Path(whole).glob("*") if path.is_file()) if os.path.isdir(whole) else []
    stats = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return cache.folder(f"{label(whole)}-{layers}-layers", f"{whole} {stats} cut {layers} {CUT_VERSION}")


def _check_convertible(gguf: Path, target: Path) -> None:
    if target.exists():
        return
    _check_libraries(f"{gguf}: converting it", ("gguf", "torch", "transformers"))
    if cache.free(target.parent) < gguf.stat().st_size * MOST_BF16_PER_BYTE:  # else surely enough
        cache.check_room(f"convert {gguf.name}", _bf16_bytes(gguf), target.parent)  # counting takes seconds


def _bf16_bytes(gguf: Path) -> int:
    from gguf import GGUFReader

    return 2 * sum(int(tensor.n_elements) for tensor in GGUFReader(gguf).tensors)


def _check_cut(whole: str, layers: int, target: Path) -> None:
    """Of a hub name only the libraries are known: the rest is found when it is cut."""
    if layers < 1:
        raise UserError(f"student.layers = {layers}: a model needs 1 layer at least")
    if target.exists():
        return
    _check_libraries(f"{whole}: cutting layers from it", ("torch", "transformers"))
    if os.path.isdir(whole):
        has = _layers_of(Path(whole))
        if has is not None and layers > has:
            raise UserError(f"student.layers = {layers}: {whole} has {has} layers")
        weights = sum(path.stat().st_size for path in Path(whole).glob("*.safetensors"))
        cache.check_room(f"cut {layers} layers from {whole}", weights, target.parent)


def _layers_of(folder: Path) -> int | None:
    """How many layers the model has; None where its config calls them something that we do not know."""
    try:
        config = json.loads((folder / "config.json").read_bytes())
        found = config.get("text_config", config).get("num_hidden_layers")
    except (OSError, ValueError, AttributeError) as e:
        raise UserError(f"{folder}/config.json cannot be read: {str(e).splitlines()[0]}") from None
    return found if isinstance(found, int) else None


def _check_libraries(what: str, names: Sequence[str]) -> None:
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"{what} needs {', '.join(missing)}: {install_hints.extra('train')}")


def _converted(gguf: Path, say: Callable[[str], None]) -> str:
    target = _cached(gguf)
    _check_convertible(gguf, target)
    return cache.made(target, ["convert", str(gguf)], f"converting {gguf} to a model folder", say)


def _cut(whole: str, layers: int, say: Callable[[str], None]) -> str:
    target = _cached_cut(whole, layers)
    _check_cut(whole, layers, target)
    return cache.made(target, ["cut", whole, str(layers)], f"cutting {layers} layers from {whole}", say)
