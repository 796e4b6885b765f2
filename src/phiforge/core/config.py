"""Strict configs: YAML in, YAML out, and a mistake is one line that names the nearest valid key.

A config is declared beside what it configures. `build` turns plain data into one; `merge` lays `key=value`
pairs over it first. Nothing here imports torch, so that the command line answers at once.
"""

from __future__ import annotations

import difflib
import functools
import hashlib
import json
import operator
import re
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Discriminator, Tag, ValidationError

from phiforge.core.errors import ConfigError

# The seed documents' own spellings -> ours. Accepted wherever the config has the name on the right and not the one on the left.
ALIASES: dict[str, str] = {
    "lr": "learning_rate",
    "base_learning_rate": "learning_rate",
    "base_weight_decay": "weight_decay",
    "epochs": "num_train_epochs",
    "batch_size": "per_device_train_batch_size",
    "base_batch_size": "per_device_train_batch_size",
    "lambda": "kto_lambda",
    "eval_every": "eval_steps",
    "eval_interval": "eval_steps",
    "save_every": "save_steps",
    "lr_schedule_mode": "lr_scheduler_type",
}
_SHORT_LIST = 20  # names that a line of an error may list
MAX_YAML_BYTES = 1_000_000  # a config is small; anything larger is a mistaken file
MAX_YAML_VALUES, MAX_YAML_DEPTH = 20_000, 32  # counted with every alias written out


class Config(BaseModel):
    """Base of every config: frozen, keyword-only, unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, protected_namespaces=(), allow_inf_nan=False)
    of_the_machine: ClassVar[frozenset[str]] = frozenset()  # fields that change how fast a result comes, not the result


C = TypeVar("C", bound=Config)


def build(cls: type[C], data: Mapping[str, Any], *, where: str) -> C:
    """Make a config of type `cls` from plain data.

    `where` names the source (a file, "the command line") in errors. Raises ConfigError: one line, with the
    key's dotted name, what was expected and, for an unknown key, the nearest valid one.
    """
    try:
        return cls.model_validate(with_aliases(cls, data, where))
    except ValidationError as error:
        raise ConfigError(_explain(cls, error, where)) from None


def with_aliases(cls: type[Config], data: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Plain data with every alias (ALIASES) under the config's own name, nested configs included. Raises ConfigError on a clash."""
    fields = cls.model_fields
    renamed: dict[str, Any] = {}
    given: dict[str, str] = {}
    for raw, value in data.items():
        key = str(raw).replace("-", "_")
        name = ALIASES[key] if key not in fields and ALIASES.get(key) in fields else key
        if name in renamed:
            raise ConfigError(f"{where}: {name} is given twice, as {given[name]} and as {raw}", fix="keep one of them")
        nested = config_type(fields[name].annotation, value) if name in fields else None
        given[name] = str(raw)
        renamed[name] = with_aliases(nested, value, where) if nested and isinstance(value, Mapping) else value
    return renamed


def config_type(annotation: Any, value: Any = None) -> type[Config] | None:
    """The Config class inside an annotation such as `Spec`, `Spec | None`; None where there is none, and for a `dict` of them.

    Of several, told apart by their `family`, the one that `value` (plain data, or a family's name) is of; the first where it doesn't say.
    """
    kinds = config_types(annotation)
    if len(kinds) < 2:
        return kinds[0] if kinds else None
    family = value.get("family") if isinstance(value, Mapping) else value
    return next((kind for kind in kinds if family in typing.get_args(kind.model_fields["family"].annotation)), kinds[0])


def config_types(annotation: Any) -> list[type[Config]]:
    """Every Config class inside an annotation, in order; several are told apart by their field `family`."""
    if typing.get_origin(annotation) is dict:  # the keys are a person's, not fields
        return []
    if typing.get_origin(annotation) is typing.Annotated:
        return config_types(typing.get_args(annotation)[0])
    if isinstance(annotation, type) and issubclass(annotation, Config):
        return [annotation]
    return [kind for part in typing.get_args(annotation) for kind in config_types(part)] if typing.get_args(annotation) else []


def by_family(*kinds: type[Config]) -> Any:
    """The annotation of a field that is one of several configs, told apart by `family`; the first where none is said."""

    def family(value: Any) -> str:
        named = value.get("family") if isinstance(value, Mapping) else getattr(value, "family", None)
        return next(
            (kind.__name__ for kind in kinds if named in typing.get_args(kind.model_fields["family"].annotation)), kinds[0].__name__
        )

    union = functools.reduce(operator.or_, (typing.Annotated[kind, Tag(kind.__name__)] for kind in kinds))
    return typing.Annotated[union, Discriminator(family)]


def _keys_at(cls: type[Config], path: tuple[Any, ...]) -> list[str]:
    for part in path:
        if isinstance(part, int) or part == cls.__name__:  # a place in a list of configs; which of several
            continue
        field = cls.model_fields.get(str(part))
        kinds = config_types(field.annotation) if field else []
        if not kinds:
            return []
        cls = kinds[0] if len(kinds) == 1 else next((kind for kind in kinds if kind.__name__ in path), kinds[0])
    return list(cls.model_fields)


def nearest(word: str, known: Iterable[str]) -> str:
    """`did you mean X?`, or the list of what is known when nothing is near."""
    known = list(known)
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    if close:
        return f"did you mean {close[0]!r}?"
    if len(known) > _SHORT_LIST:
        return "docs/cli.md and `phiforge schema` list what there is"
    return "known: " + ", ".join(sorted(known)) if known else ""


def _explain(cls: type[Config], error: ValidationError, where: str) -> str:
    errors = error.errors(include_url=False)
    first = errors[0]
    if first["type"] == "missing":  # often the unknown key is the missing one, misspelt
        first = next((found for found in errors if found["type"] == "extra_forbidden"), first)
    path = tuple(first["loc"])
    name = ".".join(str(part) for part in path if str(part) not in _tags(cls))  # not which of several configs it was read as
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    if first["type"] == "extra_forbidden":
        return f"{where}: unknown key {name!r}; {nearest(str(path[-1]), _keys_at(cls, path[:-1]))}{more}"
    if first["type"] == "missing":
        about = _about(cls, path)
        return f"{where}: {name} is missing{more} -> give {path[-1]}=..." + (f" ({about})" if about else "")
    message = first["msg"].removeprefix("Value error, ")
    value = first.get("input")
    shown = "" if isinstance(value, Mapping) or first["type"] == "value_error" else f", not {_short(value)}"
    return f"{where}: {name + ': ' if name else ''}{message[:1].lower() + message[1:]}{shown}{more}"


def _tags(cls: type[Config]) -> set[str]:
    """Names under which pydantic reports the members of a field that is one of several configs."""
    members = (config_types(field.annotation) for field in cls.model_fields.values())
    return {kind.__name__ for kinds in members if len(kinds) > 1 for kind in kinds}


def _about(cls: type[Config], path: tuple[Any, ...]) -> str:
    """The description of a field; empty where it isn't a config's own."""
    return str(cls.model_fields[path[0]].description or "") if len(path) == 1 and path[0] in cls.model_fields else ""


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


class _StrictLoader(yaml.SafeLoader):
    """YAML's safe loader that refuses a key given twice (plain YAML keeps the last one silently) and reads 1e-3 as a number."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, list | dict):
                raise yaml.constructor.ConstructorError(None, None, "a key must be a plain word", key_node.start_mark)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is given twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


_StrictLoader.add_implicit_resolver(  # YAML 1.1 takes 1e-3 for text; everyone who writes it means the number
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


def parse_yaml(text: str, *, where: str) -> Any:
    """Plain data from YAML text with the safe loader; ConfigError names the line."""
    if len(text) > MAX_YAML_BYTES:
        raise ConfigError(f"{where}: {len(text):,} characters is too large for a config", fix=f"the limit is {MAX_YAML_BYTES:,}")
    try:
        data = yaml.load(text, Loader=_StrictLoader)  # noqa: S506 - a subclass of SafeLoader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        at = f", line {mark.line + 1}" if mark else ""
        raise ConfigError(f"{where}{at}: not valid YAML: {error.problem or error.context}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{where}: not valid YAML: {str(error).splitlines()[0]}") from None
    except (AttributeError, KeyError, TypeError):  # PyYAML's own, for a value that its tag (!!bool, !!timestamp) doesn't fit
        raise ConfigError(f"{where}: not valid YAML: a value does not fit its tag") from None
    _refuse_bombs(data, where)
    return data


def _refuse_bombs(data: Any, where: str) -> None:
    """Aliases can write billions of values, or a value within itself, in a few lines: what is large once written out is refused."""
    waiting, values = [(data, 0)], 0
    while waiting:
        value, depth = waiting.pop()
        values += 1
        if depth > MAX_YAML_DEPTH:
            raise ConfigError(f"{where}: nested more than {MAX_YAML_DEPTH} levels deep (or within itself)", fix="a config is flat")
        if values > MAX_YAML_VALUES:
            raise ConfigError(f"{where}: more than {MAX_YAML_VALUES:,} values, aliases written out", fix="write the few that are meant")
        if isinstance(value, dict | list):
            waiting += [(inner, depth + 1) for inner in (value.values() if isinstance(value, dict) else value)]


def load_yaml(path: Path) -> dict[str, Any]:
    """A mapping from a YAML file. Raises ConfigError for a missing, unreadable, non-UTF-8 or non-mapping file."""
    try:
        if path.stat().st_size > MAX_YAML_BYTES:
            raise ConfigError(f"{path}: {path.stat().st_size:,} bytes is too large for a config")
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text (byte {error.start})") from None
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from None
    data = parse_yaml(text, where=str(path))
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: a config is a mapping of keys to values, not a {type(data).__name__}")
    return data


def parse_overrides(pairs: Iterable[str]) -> dict[str, Any]:
    """`["a.b=1", "c=x"]` -> `{"a": {"b": 1}, "c": "x"}`; values are read as YAML. Raises ConfigError."""
    out: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        key = key.lstrip("-")
        if not equals or not key or any(not part for part in key.split(".")):
            raise ConfigError(f"{pair!r} is not key=value", fix="for example learning_rate=1e-3")
        merge(out, nest(key, parse_value(value, where=key)), where=pair)
    return out


def parse_value(text: str, *, where: str) -> Any:
    """A value from the command line. Text that YAML would trip over (a path, a prompt with colons) stays text."""
    try:
        value = parse_yaml(text, where=where)
    except ConfigError:
        if text[:1] in "[{":
            raise
        return text
    return text if isinstance(value, dict) and not text.startswith("{") else value


def nest(dotted: str, value: Any) -> dict[str, Any]:
    """`nest("a.b", 1)` -> `{"a": {"b": 1}}`."""
    for part in reversed(dotted.replace("-", "_").split(".")):
        value = {part: value}
    return value


def merge(base: dict[str, Any], over: Mapping[str, Any], *, where: str = "the command line") -> dict[str, Any]:
    """Lay `over` on `base` in place, mapping by mapping."""
    for key, value in over.items():
        if isinstance(value, Mapping) and isinstance(base.get(key), dict):
            merge(base[key], value, where=where)
        else:
            base[key] = dict(value) if isinstance(value, Mapping) else value
    return base


def to_data(config: Config) -> dict[str, Any]:
    """Plain JSON-able data of a config, every value included."""
    return config.model_dump(mode="json")


def to_yaml(config: Config | Mapping[str, Any]) -> str:
    """YAML text with keys in the order of declaration."""
    data = to_data(config) if isinstance(config, Config) else dict(config)
    return yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=120)


def identity(config: Config) -> str:
    """Digest of what a config asks for: equal where the same result must come out, whatever the machine does it with."""
    return digest({key: value for key, value in to_data(config).items() if key not in config.of_the_machine})


def digest(data: Any) -> str:
    """sha256 of the canonical JSON of plain data (sorted keys): equal configs, equal digests."""
    return hashlib.sha256(json.dumps(data, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()).hexdigest()
