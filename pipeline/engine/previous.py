"""Results of earlier settings, kept in RUN/previous/STAGE/0001 and so on, and brought back if wanted.

Problems are also taken from the run to reuse, so that the sources of several runs are read once.

A stage that is made again starts in an empty folder; what was there is moved here first. Paid rows are taken
over from here (`earlier_rows.py`), and `retort diff` compares with the newest.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from pipeline.engine import layout
from pipeline.engine.atomic_files import sync_files
from pipeline.engine.manifest import Manifest
from pipeline.engine.stage import Stage
from pipeline.engine.store import Output
from pipeline.rows import Row

FOLDER = "previous"  # in the run's folder
NUMBERED = "[0-9][0-9][0-9][0-9]"  # the folder of a result; no set of evaluate has such a name
MOST_KEPT = 2  # results of a free stage; paid rows are kept as long as the present result lacks one of them


def earlier_outputs(run_dir: Path, name: str, row: type[Row]) -> list[Output]:
    """The results of a stage that were set aside, newest first."""
    folders = sorted((run_dir / FOLDER / name).glob(NUMBERED), reverse=True)
    return [Output(folder, row) for folder in folders if (folder / "manifest.json").exists()]


def all_results(run_dir: Path) -> list[Output]:
    """The results of all stages that were set aside. A move that was interrupted is none yet."""
    root = run_dir / FOLDER
    results = [manifest.parent for manifest in sorted(root.rglob(f"{NUMBERED}/manifest.json"))]
    return [Output(f, layout.parse(str(f.parent.relative_to(root))).row) for f in results]


def results_before(run_dir: Path) -> dict[str, Output]:
    """The result of each stage before the last change; stages that it did not reach may be left out.

    A result that reads others tells which ones. So one that an earlier change set aside is not among them.
    """
    found: dict[str, Output] = {}
    read: dict[str, str] = {}  # stage -> the content id that the results found so far were made from
    for name, row in reversed(layout.ROWS.items()):
        now, aside = Output(run_dir / name, row), earlier_outputs(run_dir, name, row)
        chosen = now
        if name in read:
            chosen = next((each for each in (now, *aside) if _content_id(each) == read[name]), now)
        elif not is_outdated(now, run_dir):
            if not aside:
                continue
            chosen = aside[0]
        found[name] = chosen
        read = (manifest.inputs if (manifest := chosen.manifest()) else {}) | read
    return found


def _content_id(output: Output) -> str | None:
    manifest = output.manifest()
    return manifest.content_id if manifest else None


def is_outdated(output: Output, run_dir: Path) -> bool:
    """Whether an input of the result has changed since. One whose folder is gone counts as unchanged."""
    manifest = output.manifest()
    inputs = manifest.inputs if manifest else {}
    now = {name: Output(run_dir / name, layout.ROWS[name]) for name in inputs.keys() & layout.ROWS.keys()}
    return any(_content_id(each) not in (None, inputs[name]) for name, each in now.items())


def set_aside(stage: Stage, run_dir: Path) -> Path | None:
    """Moves what the stage's folder holds to a new folder and returns that folder.

    The manifest moves last, so a move that was interrupted is known by its absence. An unfinished result of a
    free stage is deleted instead.
    """
    if stage.free and not stage.output(run_dir).complete:
        _remove(run_dir / stage.name)
        return None
    last = max((int(folder.name) for folder in _folder(stage, run_dir).glob(NUMBERED)), default=0)
    target = _folder(stage, run_dir) / f"{last + 1:04d}"
    target.mkdir(parents=True)
    _move(run_dir / stage.name, target)
    return target


def interrupted_move(stage: Stage, run_dir: Path) -> Path | None:
    """The folder of a `set_aside` that was killed: it has no manifest, so nothing else finds its rows."""
    folders = sorted(_folder(stage, run_dir).glob(NUMBERED))
    return folders[-1] if folders and not (folders[-1] / "manifest.json").exists() else None


def move_back(stage: Stage, run_dir: Path, moved: Path) -> None:
    """Undoes an interrupted move, and removes its folder, which would count as one again."""
    _move(moved, run_dir / stage.name)
    moved.rmdir()


def bring_back(stage: Stage, run_dir: Path, wanted: Manifest) -> bool:
    """Whether a complete result of exactly these settings and inputs was set aside; it is then moved back."""
    for output in earlier_outputs(run_dir, stage.name, stage.row):
        found = output.manifest()
        if found and found.made_as(wanted) and output.complete and not found.partial:
            if stage.output(run_dir).manifest() is not None:
                set_aside(stage, run_dir)
            _move(output.folder, run_dir / stage.name)
            remove(output)
            return True
    return False


def copy_problems(stage: Stage, run_dir: Path, wanted: Manifest, reuse: str | None) -> bool:
    """Whether the run to reuse read the same sources; what it read is then copied, and they are not read."""
    if stage.reads or reuse is None:
        return False
    other, output = stage.output(run_dir.parent / reuse), stage.output(run_dir)
    found = other.manifest()
    if not (found and found.made_as(wanted) and other.complete):
        return False
    for path in _own_files(other.folder)[:-1]:  # the manifest comes last, when the rest is on disk
        if path.is_dir():
            shutil.copytree(path, output.folder / path.name, dirs_exist_ok=True)
        else:
            shutil.copyfile(path, output.folder / path.name)
    sync_files(output.folder)
    output.save(found)
    return True


def remove_old(stage: Stage, run_dir: Path) -> None:
    """Removes all but the newest results of a free stage."""
    for output in earlier_outputs(run_dir, stage.name, stage.row)[MOST_KEPT:]:
        remove(output)


def remove(output: Output) -> None:
    """Removes a result that was set aside, and folders that are then empty."""
    gone = output.folder.with_name(f".{output.folder.name}")  # no result, if the removal is interrupted
    shutil.rmtree(gone, ignore_errors=True)
    output.folder.rename(gone)
    shutil.rmtree(gone)
    for folder in output.folder.parents:
        if folder.name == FOLDER or any(folder.iterdir()):
            break
        folder.rmdir()


def _folder(stage: Stage, run_dir: Path) -> Path:
    return run_dir / FOLDER / stage.name


def _remove(folder: Path) -> None:
    for path in _own_files(folder):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def _move(source: Path, target: Path) -> None:
    for path in _own_files(source):
        path.replace(target / path.name)


def _own_files(folder: Path) -> list[Path]:
    """The entries of a stage's folder but its lock and the folders of nested stages; the manifest last.

    What was spent stays, too, whatever becomes of the rows.
    """
    found = [p for p in folder.iterdir() if p.name != ".lock" and not p.match("usage.*.json")]
    own = [path for path in found if not (path.is_dir() and any(path.rglob("manifest.json")))]
    return sorted(own, key=lambda path: path.name == "manifest.json")
