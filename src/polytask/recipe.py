"""Recipe: a whole experiment as one object, which is also one YAML file."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

import yaml
from pydantic import Field, model_validator

from polytask.augmentation import Augmentation
from polytask.balancer import Balancer
from polytask.cells import ColumnKind
from polytask.component import FAMILY_MARK, Component, Settings
from polytask.encoder import Encoder
from polytask.errors import PolytaskError, did_you_mean, listed, no_such_file, one_line
from polytask.head import Head
from polytask.images import Images
from polytask.mixing import Mixing
from polytask.reading import check_reads
from polytask.sharing import Sharing
from polytask.source import Source, open_source
from polytask.splitting import Split
from polytask.task import Task
from polytask.training import Trainer
from polytask.warm_start import WarmStart

# The encoder where an image is among the inputs is cnn, and where one has several frames cnn_lstm.
DEFAULT_KINDS = {"encoder": "tabm", "sharing": "hard", "head": "linear", "balancer": "equal"}
FAMILIES: dict[str, type[Component]] = {family.family: family for family in (Source, Task, Encoder, Sharing, Head, Balancer)}

S = TypeVar("S", bound=Settings)


class Recipe(Settings):
    """What to learn from what, and how.

    Args:
        sources: Where rows come from: source objects, file paths or data frames.
        tasks: What to predict.
        encoder: What turns the input columns into features; tabm by default, cnn where one of them holds
            images, cnn_lstm where these have several frames.
        sharing: How the tasks share the encoder.
        head: For tasks that do not have one of their own.
        balancer: What turns the tasks' losses into one update.
        trainer: Epochs, optimizer, early stopping.
        mixing: The share of each source in an epoch, where there are several.
        split: Which rows choose and which rows judge.
        columns: The kind of an input column, where the guess from its values is wrong, or it holds paths of images.
        images: How images are read: their size, color and frames, and what to do with damaged ones.
        augmentation: How the images of training rows are changed at random; not at all by default.
        drop: Columns that are not inputs.
        primary: The tasks whose validation losses choose the epochs, the others only help them to learn; empty for all.
        unlabeled: What to do where a task has no label in the training rows: stop with an error, or keep its untrained head.
        warm_start: The earlier run whose weights the training begins with; None for new ones.
        seed: Of the split, the initial weights, dropout, augmentation and the order of rows.

    Raises:
        PolytaskError: Two tasks or sources have the same name, a name does not exist, or there is nothing to balance.

    Example:
        >>> from polytask.sources import CSV
        >>> from polytask.tasks import Regression
        >>> recipe = Recipe(sources=[CSV("houses.csv")], tasks=[Regression("price")], balancer="dwa")
        >>> Recipe.from_yaml_text(recipe.to_yaml()) == recipe
        True
    """

    sources: tuple[Source, ...] = Field(min_length=1)
    tasks: tuple[Task, ...] = Field(min_length=1)
    encoder: Encoder = Field(default_factory=partial(Encoder.coerce, DEFAULT_KINDS["encoder"]))
    sharing: Sharing = Field(default_factory=partial(Sharing.coerce, DEFAULT_KINDS["sharing"]))
    head: Head = Field(default_factory=partial(Head.coerce, DEFAULT_KINDS["head"]))
    balancer: Balancer = Field(default_factory=partial(Balancer.coerce, DEFAULT_KINDS["balancer"]))
    trainer: Trainer = Trainer()
    mixing: Mixing = Mixing()
    split: Split = Split()
    columns: Mapping[str, ColumnKind] = Field(default_factory=dict)
    images: Images = Images()
    augmentation: Augmentation = Augmentation()
    drop: tuple[str, ...] = ()
    primary: tuple[str, ...] = ()
    unlabeled: Literal["error", "keep"] = "error"
    warm_start: WarmStart | None = None
    seed: int = Field(default=0, ge=0)

    @model_validator(mode="before")
    @classmethod
    def _is_settled(cls, fields: Any) -> Any:
        """What is to be searched has no value yet."""
        place = searched_place(fields)
        if place is not None:
            mend = "`polytask tune` finds one and writes a recipe for `polytask fit`."
            raise PolytaskError("the recipe says what to search here, not a value", where=place, mend=mend)
        return fields

    @model_validator(mode="before")
    @classmethod
    def _default_kinds(cls, fields: Any) -> Any:
        """A part that says only how it differs, as in ``encoder: {width: 64}``, is of the default kind."""
        if not isinstance(fields, dict):
            return fields
        bare = {name for name in DEFAULT_KINDS if isinstance(fields.get(name), dict) and "kind" not in fields[name]}
        defaults = DEFAULT_KINDS
        if "encoder" in bare or "encoder" not in fields:
            fields, kind = _with_encoder_known(fields)
            defaults = {**DEFAULT_KINDS, "encoder": kind}
        made = {name: {"kind": defaults[name], **fields[name]} for name in bare}
        return {"encoder": defaults["encoder"], **fields, **made}

    @model_validator(mode="after")
    def _names_agree(self) -> Self:
        tasks = [task.name for task in self.tasks]
        sources = [source.label for source in self.sources]
        for words, what, mend in (
            (tasks, "tasks", "Name them apart: a=file.csv:column."),
            (sources, "sources", "Give each a name."),
        ):
            twice = sorted({word for word in words if words.count(word) > 1})
            if twice:
                raise PolytaskError(f"two {what} are called {listed(map(repr, twice))}", where=what, mend=mend)
        self.mixing.check_sources(sources)
        for name in self.primary:
            if name not in tasks:
                raise PolytaskError(f"no task {name!r}", where="primary", mend=did_you_mean(name, tasks))
        for task in self.tasks:
            if task.source is not None and task.source not in sources:
                mend = did_you_mean(task.source, sources)
                raise PolytaskError(f"no source {task.source!r}", where=f"task {task.name!r}", mend=mend)
            if task.spatial is not None:
                self.encoder.check_pixels(task.name, task.kind)
        begun = self.warm_start
        check_reads(
            self.tasks, self.sharing, others=begun is not None and begun.freeze != "nothing"
        )  # those of the earlier run
        self.sharing.check_balancer(self.balancer)
        return self

    def kinds_of(self, source: Source) -> dict[str, ColumnKind]:
        """The kinds of a source's columns that are known before its rows are read: images, and those that the recipe tells."""
        return {**dict.fromkeys(source.images, "image"), **self.columns}

    @classmethod
    def from_yaml(cls, path: str | Path, changes: Sequence[str] = ()) -> Recipe:
        """Read a recipe from a file; ``changes`` are texts such as ``"trainer.epochs=5"``.

        Raises:
            PolytaskError: No such file, not YAML, or an unknown field or kind.
        """
        return cls.from_yaml_text(_text_of(path), changes, where=str(path))

    @classmethod
    def from_yaml_text(cls, text: str, changes: Sequence[str] = (), where: str = "recipe") -> Recipe:
        """As ``from_yaml``, from a text."""
        with told_of(where):
            return cls(**changed(_fields_of(text), changes))

    def keep(self, tasks: Collection[str], columns: Mapping[str, Collection[str]]) -> Recipe:
        """The same recipe for these tasks only.

        Args:
            tasks: Their names.
            columns: The input columns of each source that labels one of them; the other sources are left out. They are named
                in the recipe, for a column that labeled another task would be an input of those that are left.
        """
        sources = {source.label: source for source in self.sources if source.label in columns}
        stratify = self.split.stratify
        chosen = tuple(name for name in stratify if name in tasks) if isinstance(stratify, tuple) else stratify
        inputs = {name for names in columns.values() for name in names}
        return self.model_copy(
            update={
                "sources": tuple(s.model_copy(update={"inputs": tuple(columns[label])}) for label, s in sources.items()),
                "tasks": tuple(task for task in self.tasks if task.name in tasks),
                "balancer": _without(self.balancer, {task.name for task in self.tasks} - set(tasks)),
                "mixing": _without(self.mixing, {source.label for source in self.sources} - sources.keys()),
                "split": self.split.model_copy(update={"stratify": chosen}),
                "columns": {name: kind for name, kind in self.columns.items() if name in inputs},
                "drop": (),
                "primary": tuple(name for name in self.primary if name in tasks),
            }
        )

    def fingerprints(self) -> dict[str, str]:
        """What tells each source's data from others, by its name."""
        return {source.label: source.fingerprint() for source in self.sources}

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        return self.model_dump(mode="json")

    def to_yaml(self) -> str:
        """As YAML, with every default written out."""
        return yaml.safe_dump(self.to_dict(), sort_keys=False, allow_unicode=True, width=120)

    @classmethod
    def json_schema(cls) -> dict[str, Any]:
        """The JSON schema of a recipe file, with every kind that can be imported, for editors to complete from."""
        schema = cls.model_json_schema(mode="validation")
        definitions = schema.setdefault("$defs", {})
        for family in FAMILIES.values():
            choices = []
            for kind in family.kinds():
                try:
                    plugin = family.find(kind)
                except PolytaskError:  # its extra is not installed, so it cannot be used either
                    continue
                own = plugin.model_json_schema(mode="validation")
                definitions.update(own.pop("$defs", {}))
                own["properties"] = {"kind": {"const": kind}, **own.get("properties", {})}
                own["required"] = ["kind", *own.get("required", [])]
                definitions[f"{family.family}.{kind}"] = own
                choices.append({"$ref": f"#/$defs/{family.family}.{kind}"})
            definitions[family.family] = {"anyOf": [{"enum": family.kinds()}, *choices]}
        return dict(_with_references(schema))


def _with_encoder_known(fields: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """The fields, with sources made of what stands for them, and the usual encoder of the inputs that they tell of."""
    columns, sources, images = (fields.get(name) for name in ("columns", "sources", "images"))
    told = isinstance(columns, Mapping) and "image" in columns.values()
    try:
        made = [Source.coerce(source) for source in sources] if isinstance(sources, list | tuple) else []
    except PolytaskError:  # it is told when the field is read
        made = []
    frames = images.get("frames") if isinstance(images, Mapping) else getattr(images, "frames", None)
    kind = DEFAULT_KINDS["encoder"]
    if told or any(source.images for source in made):
        several = any(source.clips for source in made) if frames is None else isinstance(frames, int) and frames > 1
        kind = "cnn_lstm" if several else "cnn"
    return ({**fields, "sources": made} if made else fields), kind


def read_fields(path: str | Path, changes: Sequence[str] = ()) -> dict[str, Any]:
    """The plain values of a recipe's file after changes, whether or not they make a recipe: some may be to be searched.

    Raises:
        PolytaskError: No such file, or not YAML of a recipe.
    """
    with told_of(str(path)):
        return changed(_fields_of(_text_of(path)), changes)


def searched_place(value: object, place: str = "") -> str | None:
    """Where plain values have something to be searched (``{search: [...]}``) in place of a value; None where nowhere.

    Example:
        >>> searched_place({"seed": 1, "encoder": {"width": {"search": [64, 256]}}})
        'encoder.width'
    """
    if isinstance(value, Mapping):
        if isinstance(value.get("search"), list | tuple):
            return place
        inner: Iterable[tuple[object, object]] = value.items()
    elif isinstance(value, list | tuple):
        inner = ((_name_of(item) or index, item) for index, item in enumerate(value))
    else:
        return None
    places = (searched_place(item, f"{place}.{key}" if place else str(key)) for key, item in inner)
    return next((found for found in places if found is not None), None)


@contextmanager
def told_of(where: str) -> Iterator[None]:
    """Within, mistakes are told as those of this file."""
    try:
        yield
    except PolytaskError as error:
        place = error.where if error.where in ("", where) else f"{where}, {error.where}"
        raise PolytaskError(error.what, where=place or where, found=error.found, mend=error.mend) from None


class _Loader(yaml.SafeLoader):
    """As SafeLoader, but a key that stands twice in a mapping is an error: the first would be lost without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            name = str(key.value)
            if name in seen or not isinstance(key, yaml.ScalarNode):
                wrong = f"the key {name!r} stands twice" if name in seen else "a key is a single word"
                raise yaml.constructor.ConstructorError(None, None, wrong, key.start_mark)
            seen.add(name)
        return super().construct_mapping(node, deep)


def changed(fields: Mapping[str, Any], changes: Sequence[str]) -> dict[str, Any]:
    """A recipe's plain values after changes such as ``"trainer.epochs=5"`` or ``"tasks.price.weight=2"``.

    The values are read as YAML.

    Raises:
        PolytaskError: A change has no "=", or its path leads nowhere.

    Example:
        >>> changed({"trainer": {"epochs": 9}}, ["trainer.epochs=5", "balancer=dwa"])
        {'trainer': {'epochs': 5}, 'balancer': 'dwa'}
    """
    result: dict[str, Any] = json.loads(json.dumps(fields, default=str))
    for change in changes:
        path, equals, value = change.partition("=")
        if not equals:
            raise PolytaskError(f"{change!r} does not say what to set", where="--set", mend="Write it as field.field=value.")
        *parents, last = path.split(".")
        place: Any = result
        for depth, key in enumerate(parents):
            place = _step(place, key, ".".join(parents[: depth + 1]))
        try:
            read = yaml.safe_load(value)
        except yaml.YAMLError:
            raise PolytaskError(f"cannot read the value {value!r}", where=f"--set {path}", mend="Values are YAML.") from None
        if isinstance(place, list):
            place[_index(place, last, path)] = read
        else:
            place[last] = read
    return result


def _text_of(path: str | Path) -> str:
    try:
        return Path(path).expanduser().read_text(encoding="utf-8")
    except FileNotFoundError:
        raise no_such_file(Path(path).expanduser()) from None
    except (OSError, UnicodeDecodeError) as error:
        found, mend = one_line(error), "Give a file of UTF-8 text. `polytask init` writes one."
        raise PolytaskError("cannot read the recipe", where=str(path), found=found, mend=mend) from None


def _fields_of(text: str) -> dict[str, Any]:
    try:
        fields = yaml.load(text, Loader=_Loader)
        json.dumps(fields, default=str)
    except (yaml.YAMLError, TypeError, ValueError, RecursionError) as error:  # no YAMLError where a value holds itself
        mend = "Mend the file there; `polytask init` writes a recipe."
        raise PolytaskError("not valid YAML", found=one_line(error), mend=mend) from None
    if not isinstance(fields, dict):
        mend = "A recipe has at least sources: and tasks:. `polytask init` writes one."
        raise PolytaskError("not a recipe", found=type(fields).__name__, mend=mend)
    return fields


def _without(settings: S, names: Collection[str]) -> S:
    """Settings without what their mappings say of these tasks or sources."""
    mappings = {field: value for field, value in settings if isinstance(value, Mapping)}
    left = {field: {key: v for key, v in value.items() if key not in names} for field, value in mappings.items()}
    return settings.model_copy(update=left)


def _step(place: Any, key: str, path: str) -> Any:
    if isinstance(place, list):
        index = _index(place, key, path)
        if isinstance(place[index], str):  # a source by its path alone
            place[index] = open_source(place[index]).to_dict()
        return place[index]
    inner = place.get(key)
    if inner is None or isinstance(inner, str):  # a kind alone, as in `balancer: dwa`
        inner = place[key] = {} if inner is None else {"kind": inner}
    if not isinstance(inner, dict | list):
        raise PolytaskError(f"{path!r} is a single value", where="--set", found=repr(inner))
    return inner


def _index(items: list[Any], key: str, path: str) -> int:
    names = [_name_of(item) or str(i) for i, item in enumerate(items)]
    if key in names:
        return names.index(key)
    if key.isdecimal() and int(key) < len(items):
        return int(key)
    raise PolytaskError(f"no {key!r} at {path!r}", where="--set", mend=did_you_mean(key, names))


def _name_of(item: Any) -> str:
    """What a task or source in plain values is called: its name, or its file's."""
    if isinstance(item, str):
        item = {"path": item}
    if not isinstance(item, dict):
        return ""
    return str(item.get("name") or Path(str(item.get("path", "")).removesuffix(".gz")).stem)


def _with_references(node: Any) -> Any:
    """The schema with each family's mark replaced by a reference to its kinds."""
    if isinstance(node, dict):
        if FAMILY_MARK in node:
            rest = {key: value for key, value in node.items() if key not in (FAMILY_MARK, "default")}
            return {**rest, "$ref": f"#/$defs/{node[FAMILY_MARK]}"}
        return {key: _with_references(value) for key, value in node.items()}
    return [_with_references(item) for item in node] if isinstance(node, list) else node
