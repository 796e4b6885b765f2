"""The default corpus: source and documentation topics that come with the running interpreter, zipped or not.

Nothing is imported but documentation: sources are read through the finders, so that a library in python311.zip works too.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
import sys
import sysconfig
from collections.abc import Iterator
from importlib.machinery import PathFinder
from pathlib import Path
from types import BuiltinFunctionType
from typing import Any, Literal

from phiforge.core.errors import DataError
from phiforge.data.document import Document
from phiforge.data.filters import normalise_line_ends

LICENCE = "PSF-2.0"
# Left out of "core": test suites, an editor's parts, character tables, generated or obsolete code, installers.
_LEFT_OUT = re.compile(
    r"(?:test|idlelib|lib2to3|turtledemo|encodings|pydoc_data|ensurepip|distutils|msilib|lib-dynload|__phello__|antigravity|this"
    r"|_sysconfigdata.*|_aix_support|_osx_support|_bootsubprocess|stringprep|nturl2path|cgi|cgitb|sre_.*)(?:\..*)?"
    r"|.*\.(?:tests?|__main__|cElementTree|_casefix|entities)(?:\..*)?"
)


def describe() -> str:
    """What the corpus is, for reports."""
    return f"standard library and documentation topics of Python {sys.version.split()[0]}"


def library_paths() -> list[str]:
    """Where the standard library lies: folders and zip files, and not where one's own modules lie."""
    named = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib")]
    zipped = [path for path in sys.path if re.fullmatch(r"python\d+\.zip", Path(path).name)]
    return [path for path in dict.fromkeys([*zipped, *named]) if path and Path(path).exists()]


def read_python(scope: Literal["core", "all"] = "core", paths: list[str] | None = None) -> Iterator[Document]:
    """Topics, then builtin modules' documentation, then modules by name. Raises DataError when there is nothing at all."""
    found = False
    for name, text in _texts(scope, library_paths() if paths is None else paths):
        found = True
        yield Document.of(normalise_line_ends(text), f"python/{name}")
    if not found:
        raise DataError("this Python comes without sources and documentation", fix="give a file or folder of text as source")


def _texts(scope: str, paths: list[str]) -> Iterator[tuple[str, str]]:
    yield from _topics()
    yield from _builtin_modules()
    for name in sorted(sys.stdlib_module_names):
        spec = PathFinder.find_spec(name, paths)
        if spec is not None:
            yield from _sources(spec, scope)


def _topics() -> Iterator[tuple[str, str]]:
    try:
        topics = importlib.import_module("pydoc_data.topics").topics
    except (ImportError, AttributeError):
        return
    for name, text in sorted(topics.items()):
        yield f"topics/{name}", text.strip() + "\n"


def _sources(spec: Any, scope: str) -> Iterator[tuple[str, str]]:
    """The module behind `spec`, then what is below it when it is a package."""
    if scope == "core" and _LEFT_OUT.fullmatch(spec.name):
        return
    text = _source(spec)
    if text and text.strip():
        yield spec.name, text
    if spec.submodule_search_locations is None:
        return
    for finder, name, _ in sorted(pkgutil.iter_modules(spec.submodule_search_locations), key=lambda found: found.name):
        below = finder.find_spec(f"{spec.name}.{name}", None)
        if below is not None:
            yield from _sources(below, scope)


def _source(spec: Any) -> str | None:
    try:
        return spec.loader.get_source(spec.name)
    except (AttributeError, ImportError, SyntaxError, UnicodeDecodeError, OSError):
        return None  # an extension module, only byte code, or a test file that is broken on purpose


def _builtin_modules() -> Iterator[tuple[str, str]]:
    """What `help()` tells of the modules written in C, whose sources do not come with the interpreter."""
    for name in sorted(name for name in sys.builtin_module_names if not name.startswith("_")):
        module = importlib.import_module(name)
        parts = [f"{name}: {inspect.getdoc(module) or ''}".strip()]
        for member, value in sorted(vars(module).items()):
            # what a program may have put there (sys.excepthook, builtins.exit) would make the corpus depend on who asks
            if member.startswith("_") or member.endswith("hook") or not isinstance(value, BuiltinFunctionType | type):
                continue
            parts += _documented(member, value)
        if len(parts) > 1:
            yield f"builtin/{name}", "\n\n".join(parts) + "\n"


def _documented(name: str, value: Any) -> Iterator[str]:
    members = [(name, value)]
    if isinstance(value, type):
        members += [(f"{name}.{key}", item) for key, item in sorted(vars(value).items()) if not key.startswith("_")]
    for label, item in members:
        text = item.__doc__ if isinstance(getattr(item, "__doc__", None), str) else ""
        if text and len(text) > 40:
            yield f"{label}{getattr(item, '__text_signature__', None) or ''}\n    " + inspect.cleandoc(text).replace("\n", "\n    ")
