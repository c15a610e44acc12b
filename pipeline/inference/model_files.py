"""Finds models: hub names, local folders, GGUF files converted and students pruned into a cache.

`check()` is quick and builds nothing; `resolve()` returns what vLLM and transformers accept (they download
hub models themselves). model_cache.py runs the builders, convert_gguf.py and prune.py in train/trainer/.
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

from pipeline import generations, install_hints
from pipeline.engine.manifest import MODEL_FILES
from pipeline.errors import UserError
from pipeline.inference import model_cache
from pipeline.inference.pruning import PRUNING_VERSION, Pruning

WHOLE = 32 << 20  # bytes of a file up to which it is hashed whole; of a larger one SAMPLES blocks are
BLOCK, SAMPLES = 4096, 64

CONVERT_VERSION = 1  # raised when convert_gguf.py writes different files: older folders are then ignored
MAX_BF16_PER_BYTE = 11  # 16 bits over 1.56, the smallest GGUF quantization (IQ1_S)

_DECIDING = (".safetensors", ".bin", ".gguf", ".json", ".jinja", ".model", ".txt")
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", re.ASCII)


def environment(*models: str) -> dict[str, str]:
    """The environment of a process that loads models: our defaults, overridden by this process's."""
    # No process may import a module from the current folder
    defaults = {"DO_NOT_TRACK": "1", "PYTHONSAFEPATH": "1"}
    if all(map(os.path.isdir, models)):
        defaults["HF_HUB_OFFLINE"] = "1"
    return defaults | dict(os.environ)


def check(model: str, pruning: Pruning | None = None) -> None:
    """Raises UserError for missing or malformed models, missing libraries, or no room to build."""
    path = _local(model)
    if path is None:
        return
    folder = path
    if path.is_file():
        folder = _converted_folder(path)
        _check_convertible(path, folder)
    if pruning is not None and folder.exists():
        _check_prunable(str(folder), pruning, _pruned_folder(str(folder), pruning))


def resolve(model: str, say: Callable[[str], None] | None = None, pruning: Pruning | None = None) -> str:
    """Returns the hub name unchanged, or the absolute path of a model folder, built first if necessary.

    `pruning`: a folder with the model pruned like this. A hub model is pruned once, even if the hub's files
    change later. Raises UserError.
    """
    say = say or (lambda _text: None)
    path = _local(model)
    if path is None:
        whole = model
    elif path.is_dir():
        whole = str(path)
    else:
        folder = _converted_folder(path)
        _check_convertible(path, folder)
        doing = f"converting {path} to a model folder"
        whole = model_cache.build_once(folder, ["convert_gguf", str(path)], doing, say)
    if pruning is None:
        return whole
    folder = _pruned_folder(whole, pruning)
    _check_prunable(whole, pruning, folder)
    if pruning.measured and not pruning.content:
        raise UserError("what is dropped from the student is measured on examples: run `retort select` first")
    doing = f"pruning {whole} to {pruning.words}"
    return model_cache.build_once(folder, ["prune", whole, pruning.model_dump_json()], doing, say)


def existing(model: str, pruning: Pruning | None = None) -> str | None:
    """Returns what `resolve` returns; None where it would have to build that. Raises UserError."""
    path = _local(model)
    whole = path and (path if path.is_dir() else _converted_folder(path))
    if whole and not whole.exists():
        return None
    if pruning is None:
        return str(whole or model)
    folder = _pruned_folder(str(whole or model), pruning)
    return str(folder) if folder.exists() else None


def sizes(model: str) -> tuple[dict[str, Any], int] | None:
    """Returns the text model's config and the bytes of the weights of a resolved model; None if unknown."""
    found, _ = weights(model)
    config = _config(model, download=True)
    text = config.get("text_config", config)
    return (text, found) if found and isinstance(text, dict) else None


def generation(model: str, download: bool = False) -> str | None:
    """Returns the generation that a model's config.json says; None if unknown, as for a GGUF file.

    `download`: read that of a hub model even if it is not here yet.
    """
    return generations.read(_config(model, download).get(generations.MARK))


def _config(model: str, download: bool) -> dict[str, Any]:
    """Returns config.json of a folder or a hub model; {} if it cannot be read."""
    from huggingface_hub import hf_hub_download

    try:
        if os.path.isdir(folder := os.path.expanduser(model)):
            file = f"{folder}/config.json"
        else:
            file = hf_hub_download(model, "config.json", local_files_only=not download)
        config = json.loads(Path(file).read_bytes())
    except (OSError, ValueError):
        return {}
    return config if isinstance(config, dict) else {}


def weights(model: str) -> tuple[int | None, bool]:
    """Returns the bytes of a resolved model's weights, None if unknown, and whether they are here."""
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]  # of its HTTP library

    is_folder = os.path.isdir(model)
    try:
        folder = Path(model if is_folder else snapshot_download(model, local_files_only=True))
        found = sum(path.stat().st_size for path in folder.iterdir() if _holds_weights(path.name))
        if found or is_folder:
            return found or None, True
    except (OSError, ValueError):
        pass  # not in the hub's cache
    try:
        files = HfApi().model_info(model, files_metadata=True).siblings or []
    except (HTTPError, OSError, ValueError):
        return None, False
    return sum(file.size or 0 for file in files if _holds_weights(file.rfilename)) or None, False


def _holds_weights(name: str) -> bool:
    """Whether vLLM reads weights from the file; Mistral's folders hold them twice."""
    return name.endswith(".safetensors") and not name.startswith("consolidated") and "/" not in name


def content(model: str) -> dict[str, str]:
    """{"model_files": a hash of the files that decide a local model's output}; {} for a hub model or none.

    Of weights it reads SAMPLES blocks: training changes nearly all of them. Ages of files and the folder's
    name do not matter, so a copy has the same hash.
    """
    try:
        if (path := _local(model)) is None:
            return {}
        found = [path] if path.is_file() else [each for each in sorted(path.iterdir()) if _decides(each)]
        stats = [(each, each.stat()) for each in found]
        parts = [f"{each.name} {_sampled(each, stat.st_size, stat.st_mtime_ns)}" for each, stat in stats]
    except (OSError, UserError):
        return {}
    return {MODEL_FILES: hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]}


def _decides(path: Path) -> bool:
    """Whether the file in a model folder holds weights, configuration, tokenizer or chat template."""
    is_state = path.name.startswith("train")  # trainer_state.json, training_args.bin
    return path.suffix in _DECIDING and not is_state and path.is_file()


@lru_cache(maxsize=4096)
def _sampled(path: Path, size: int, _modified: int) -> str:
    """Hashes a file's size with all of it or, if it is large, with evenly spaced blocks."""
    found = hashlib.sha256(str(size).encode())
    starts = [0] if size <= WHOLE else [i * (size - BLOCK) // (SAMPLES - 1) for i in range(SAMPLES)]
    with path.open("rb") as file:
        for start in starts:
            file.seek(start)
            found.update(file.read(WHOLE if size <= WHOLE else BLOCK))
    return found.hexdigest()


def label(model: str) -> str:
    """Returns a short name that is safe as a file name: the part after the last slash, without .gguf."""
    name = model.rstrip("/").rpartition("/")[2].removesuffix(".gguf")
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip(".-")[:80] or "model"


def _local(model: str) -> Path | None:
    """Returns the absolute path of a model folder or GGUF file, after checking it; None for a hub name."""
    if model.startswith("package:"):
        path = _packaged(model)
    elif (
        model.startswith(("/", "./", "../", "~"))
        or model.endswith(".gguf")
        or (model and os.path.isdir(model))
    ):
        path = Path(os.path.abspath(os.path.expanduser(model)))
    elif _HUB_NAME.fullmatch(model):
        return None
    else:
        raise UserError(f"{model!r}: neither a hub name (org/name), a folder, nor a .gguf file")
    if os.path.isdir(path):  # path.is_dir() raises without permission
        if not os.path.isfile(path / "config.json"):
            raise UserError(f"{model}: no config.json in this folder, so it is not a model folder")
    elif not os.path.isfile(path):
        raise UserError(f"{model}: no such model folder or file")
    elif not _is_gguf(path):
        raise UserError(f"{model}: not a GGUF file; give a .gguf file, a model folder or a hub name")
    return path


def _is_gguf(path: Path) -> bool:
    try:
        with path.open("rb") as f:
            return f.read(4) == b"GGUF"
    except OSError as e:
        raise UserError(f"{path}: cannot be read: {e.strerror}") from None


def _packaged(model: str) -> Path:
    """Returns the file of an installed package, found in its metadata: nothing is imported."""
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
def _sha256(gguf: Path, _size: int, _modified: int) -> str:
    """Returns the hash of a file, read once per process unless its size or time changes."""
    with gguf.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _converted_folder(gguf: Path) -> Path:
    stat = gguf.stat()
    content = _sha256(gguf, stat.st_size, stat.st_mtime_ns)
    return model_cache.folder(label(str(gguf)), f"{content} convert {CONVERT_VERSION}")


def _pruned_folder(whole: str, pruning: Pruning) -> Path:
    """Returns the folder of the pruned model, keyed by hub name, or by path, size and age of its files."""
    files = sorted(path for path in Path(whole).glob("*") if path.is_file()) if os.path.isdir(whole) else []
    stats = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    key = f"{whole} {stats} pruning {pruning.settings} {pruning.content} {PRUNING_VERSION}"
    return model_cache.folder(f"{label(whole)}-{pruning.name}", key)


def _check_convertible(gguf: Path, target: Path) -> None:
    if target.exists():
        return
    check_libraries(f"{gguf}: converting it", ("gguf", "torch", "transformers"))
    if model_cache.free(target.parent) >= gguf.stat().st_size * MAX_BF16_PER_BYTE:
        return  # enough in any case; counting the tensors takes seconds
    from gguf import GGUFReader

    needed = 2 * sum(int(tensor.n_elements) for tensor in GGUFReader(gguf).tensors)
    model_cache.check_room(f"convert {gguf.name}", needed, target.parent)


def _check_prunable(whole: str, pruning: Pruning, target: Path) -> None:
    """Checks sizes, libraries and room; the last only for a local model."""
    pruning.check(whole)
    if target.exists():
        return
    check_libraries(f"{whole}: pruning it", ("torch", "transformers"))
    if os.path.isdir(whole):
        weights = sum(path.stat().st_size for path in Path(whole).glob("*.safetensors"))
        model_cache.check_room(f"prune {whole} to {pruning.words}", weights, target.parent)


def check_libraries(what: str, names: Sequence[str]) -> None:
    """Raises UserError where libraries are missing that something needs."""
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"{what} needs {', '.join(missing)}: {install_hints.extra('train')}")
