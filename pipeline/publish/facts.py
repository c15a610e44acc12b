"""Gathers the contents of a run's cards from its manifests and its recipe.

The manifests hold the settings that made each stage; the recipe holds licences, terms and names. Nothing that
names a machine is taken: no address, folder or environment, and no text sent with requests.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from pipeline import generations
from pipeline.config import Recipe
from pipeline.config.sources import GymSource, Source
from pipeline.errors import UserError
from pipeline.evaluate import metrics
from pipeline.evaluate.acceptance import DraftQuality
from pipeline.evaluate.metrics import Comparison, Summary
from pipeline.filter.funnel import Funnel
from pipeline.ingest import sources
from pipeline.inspect.compression import Compression, compression_of
from pipeline.inspect.run import Run
from pipeline.inspect.score_table import drafts_of, sampling_of
from pipeline.model_rows import Score
from pipeline.rows import Row

# Stages whose results are published or stand on the cards, each made from the inputs that its manifest names
STAGES = ("generate", "filter", "select", "train", "compress", "evaluate")
NOT_STATED = "not stated"
_GENERATIONS = """
select teacher, list(teacher_generation order by teacher_generation)
from (select distinct teacher, teacher_generation from rows) group by teacher
"""
_GIVEN = "select distinct teacher, source from rows where sampling is null order by teacher, source"


class Licensed(Row):
    """A model or a source, with its licence and terms in the recipe."""

    name: str
    licence: str | None
    terms: str | None = None
    origin: str = ""  # of the problems of a source
    problems: int = 0


class Decontamination(Row):
    against: tuple[str, ...]
    ngrams: tuple[int, ...]  # words
    hits: int  # traces


class Facts(Row):
    run: str
    recipe: str  # hash of all settings and inputs behind the examples
    teachers: tuple[Licensed, ...]
    student: Licensed | None
    sources: tuple[Licensed, ...]
    sampling: dict[str, str]
    given: int  # traces that sources gave
    teacher_prompt: tuple[str, str] | None  # name, text; None if nothing was sampled
    student_prompt: tuple[str, str]
    rules: dict[str, str]  # "name@version" -> its parameters
    ignored: tuple[str, ...]  # filters whose verdicts did not decide
    decontamination: Decontamination | None
    funnel: Funnel
    partial: dict[str, int]  # stage -> rows that it lacked when the examples were selected
    selection: dict[str, str]
    scored: dict[str, str]  # sampling settings of evaluate
    summaries: tuple[Summary, ...]  # empty before evaluate is complete, as are the comparisons
    comparisons: tuple[Comparison, ...]
    compression: Compression | None  # of a run whose compressed students are evaluated
    drafts: tuple[DraftQuality, ...]  # empty where they were not measured
    trained_on: dict[str, int]  # set -> its problems among the training examples
    generations: dict[str, str]  # teacher -> its generation in words
    generation: str  # of the student


def public(name: str) -> str:
    """A model's name; of a path only the last part, which names no folder of this machine."""
    is_path = name.startswith(("/", "./", "../", "~")) or name.endswith((".gguf", "/")) or Path(name).is_dir()
    if not is_path or name.startswith("package:"):
        return name
    return Path(name).name or "model"


def public_names(names: Iterable[str]) -> dict[str, str]:
    """Model -> its public name; models in two folders of one name are told apart by a number."""
    found: dict[str, str] = {}
    for name in dict.fromkeys(names):
        taken = [shown for shown in found.values() if shown.partition(" (")[0] == public(name)]
        found[name] = f"{public(name)} ({len(taken) + 1})" if taken else public(name)
    return found


def teacher_names(run: Run) -> dict[str, str]:
    """Teacher -> its public name, of the recipe's teachers and of all that traces name."""
    named = run.rows("generate").query(("teacher",), "select distinct teacher from rows order by teacher")
    return public_names([*(t.display_name for t in run.recipe.teacher), *(name for (name,) in named)])


def public_rule(text: str) -> str:
    """A rule's name, or "rule: reason", without the folder of a file with rules of the user's own."""
    name, colon, reason = text.partition(": ")
    return public(name) + colon + reason


def on_the_hub(name: str) -> bool:
    """Whether a model's name is a repository of the hub, which a card can link to."""
    return public(name) == name and name.count("/") == 1 and ":" not in name


def check_lineage(run: Run) -> None:
    """Raises UserError when a stage was made again and a stage that reads it was not."""
    for stage in STAGES:
        made = run.output(stage).manifest() if run.output(stage).complete else None
        for reads, content in made.inputs.items() if made else ():
            given = run.output(reads).manifest()
            if given and given.content_id != content:
                raise UserError(
                    f"{run.path}: {reads} was made again after {stage}: run `retort {stage}` first"
                )


def missing(recipe: Recipe, trained: bool) -> Iterator[str]:
    """A line for each licence and for the terms that the recipe does not state."""
    for i, teacher in enumerate(recipe.teacher if recipe.samples_problems else ()):
        where = "teacher" if len(recipe.teacher) == 1 else f"teacher.{i}"
        yield from (
            f"{where}.{key} is not stated" for key in ("licence", "terms") if not getattr(teacher, key)
        )
    for i, source in enumerate(recipe.ingest.sources):
        if not source.licence:
            yield f"ingest.sources.{i}.licence is not stated ({sources.name_of(source)})"
    if trained and recipe.student and not recipe.student.licence:
        yield "student.licence is not stated"


def gather(run: Run) -> Facts:
    """Gathers the facts of a run whose examples are complete."""
    recipe = run.recipe
    generate, filtered, select = (_manifest(run, stage) for stage in ("generate", "filter", "select"))
    rules = dict(filtered["settings"]["rules"])
    funnel = Funnel.model_validate(filtered["report"])
    scores, prompt = list(_scores(run)), generate["settings"].get("prompt")
    summaries, names = metrics.summarise(scores), teacher_names(run)
    return Facts(
        run=run.path.name,
        recipe=select["identity"],
        teachers=tuple(_teachers(run, names)),
        student=Licensed(name=public(recipe.student.model), licence=recipe.student.licence)
        if recipe.student
        else None,
        sources=tuple(_sources(recipe, _manifest(run, "ingest"))),
        sampling=_sampling(generate["settings"], generate["report"].get("not_sent", {}), names),
        given=run.report("ingest").get("traces", 0),
        teacher_prompt=(prompt["name"], prompt["text"]) if prompt else None,
        student_prompt=(Path(recipe.select.prompt).stem, select["settings"]["prompt"]),
        decontamination=_decontamination(recipe, rules.pop("contamination", None), funnel),
        rules=_rules(rules | _duplicates(filtered["settings"])),
        ignored=tuple(filtered["settings"].get("ignored", ())),
        funnel=funnel,
        partial=run.partial("select"),
        selection=_selection(select["settings"]),
        scored=sampling_of(run),
        summaries=tuple(summaries),
        comparisons=tuple(metrics.comparisons(scores)),
        compression=compression_of(run, summaries) if scores else None,
        drafts=tuple(drafts_of(run)),
        trained_on=run.report("evaluate").get("trained_on", {}),
        generations=_generations(run, names),
        generation=generations.words(run.report("train").get("generation")),
    )


def _teachers(run: Run, names: Mapping[str, str]) -> Iterator[Licensed]:
    """The models that made the traces; of given traces the licence is that of their source."""
    for t in run.recipe.teacher if run.recipe.samples_problems else ():
        yield Licensed(name=names[t.display_name], licence=t.licence, terms=t.terms)
    licences = {sources.name_of(source): source.licence for source in run.recipe.ingest.sources}
    given = run.rows("generate").query(("teacher", "source", "sampling"), _GIVEN)
    for teacher, found in groupby(given, key=lambda row: row[0]):
        stated = [licences.get(source) for _, source in found]
        licence = ", ".join(dict.fromkeys(filter(None, stated))) if all(stated) else None
        yield Licensed(name=names[teacher], licence=licence)


def _generations(run: Run, names: Mapping[str, str]) -> dict[str, str]:
    """Teacher -> the generation that its traces say, in words; all of them where they differ."""
    found = run.rows("generate").query(("teacher", generations.COLUMN), _GENERATIONS)
    return {names[teacher]: " or ".join(map(generations.words, each)) for teacher, each in found}


def _manifest(run: Run, stage: str) -> dict[str, Any]:
    manifest = run.output(stage).manifest()
    if manifest is None:
        raise UserError(f"{run.path}: {stage} was not run; a run is published with its whole history")
    return {**manifest.model_dump(mode="json"), "identity": manifest.identity}


def _sources(recipe: Recipe, manifest: Mapping[str, Any]) -> Iterator[Licensed]:
    content, counts = manifest["settings"]["content"], manifest["report"]["by_source"]
    for source, fingerprint in zip(recipe.ingest.sources, content, strict=True):
        name = sources.name_of(source)
        yield Licensed(
            name=name,
            licence=source.licence,
            origin=_origin(source, fingerprint),
            problems=counts.get(name, {}).get("problems", 0),
        )


def _origin(source: Source, fingerprint: Mapping[str, Any]) -> str:
    """The origin of a source's problems, without any path."""
    if isinstance(source, GymSource):
        return f"reasoning-gym {fingerprint['reasoning_gym']}, task {source.task}, {source.size} problems"
    if "dataset" in fingerprint:
        revision = fingerprint.get("revision") or "not pinned"
        subset = f"{fingerprint['subset']}, " if fingerprint.get("subset") else ""
        return f"{fingerprint['dataset']} ({subset}split {fingerprint['split']}, revision {revision})"
    if "folder" in fingerprint:
        return f"a data set in a local folder, sha256 {fingerprint['sha256'][:16]}"
    digests = list(fingerprint["files"].values())
    files = "1 local file" if len(digests) == 1 else f"{len(digests)} local files"
    return f"{files}, sha256 {', '.join(digest[:16] for digest in digests[:3])}"


def _decontamination(recipe: Recipe, rule: Any, funnel: Funnel) -> Decontamination | None:
    table = recipe.filter.contamination
    if rule is None or table is None:
        return None
    hits = funnel.rules["contamination"].failed if "contamination" in funnel.rules else 0
    against = tuple(
        f"{sources.name_of(source)}: {_origin(source, fingerprint)}"
        for source, fingerprint in zip(table.against, rule["against"], strict=True)
    )
    return Decontamination(against=against, ngrams=tuple(rule["ngrams"]), hits=hits)


def _duplicates(settings: Mapping[str, Any]) -> dict[str, Any]:
    given = dict(settings.get("duplicates", {}))
    versions = given.pop("versions", {})
    return {name: {"version": version, **given} for name, version in versions.items()}


def _rules(rules: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    return {
        f"{name}@{given['version']}": ", ".join(f"{k} = {v}" for k, v in given.items() if k != "version")
        for name, given in rules.items()
    }


def _sampling(
    settings: Mapping[str, Any], not_sent: Mapping[str, Sequence[str]], names: Mapping[str, str]
) -> dict[str, str]:
    """The sampling settings of generate, and those that a teacher was not sent.

    Texts in `extra_body` are left out: one may be a key.
    """
    shown = _shown(settings, leave_out=("teachers", "prompt", "rules", "split"))
    for teacher in settings["teachers"]:
        extra = {k: v for k, v in teacher["extra_body"].items() if isinstance(v, bool | int | float)}
        shown |= {f"{_name(teacher['name'], names)}: {k}": str(v) for k, v in extra.items()}
    return shown | {f"{_name(name, names)}: not sent": ", ".join(fields) for name, fields in not_sent.items()}


def _name(teacher: str, names: Mapping[str, str]) -> str:
    return names.get(teacher) or public(teacher)


def _selection(settings: Mapping[str, Any]) -> dict[str, str]:
    """The settings of select; of mixed data the name and the amount, as its path names a folder."""
    shown = _shown(settings, leave_out=("prompt", "seed", "mix", "chats", "contamination"))
    for mix in settings.get("mix", ()):
        amount = f"{mix['count']} examples" if mix.get("count") else f"a share of {mix['share']}"
        shown[f"mix of {mix.get('name', mix['kind'])}"] = amount
    return shown


def _shown(settings: Mapping[str, Any], leave_out: Sequence[str]) -> dict[str, str]:
    return {k: str(v) for k, v in settings.items() if k not in leave_out and v is not None}


def _scores(run: Run) -> Iterator[Score]:
    if run.output("evaluate").complete:
        for score in run.scores:
            yield score.model_copy(update={"model": public(score.model)})
