"""Corpora that are known by name, and the words that ask for them on the command line. Imports nothing heavy.

All of them are plain data files on the Hugging Face hub, so that no program of theirs is ever run. Ids, layouts and column names were
looked up in the hub's pages; sizes and counts are those of the pages or of the papers named here, in round numbers. `checked` False:
no page could be consulted for the id, and the first use will tell.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from phiforge.core.errors import ConfigError, DataError

GB = 10**9


@dataclass(frozen=True)
class Corpus:
    """A corpus of the hub. `config` and `split` may hold {language}. `max_bytes` is of text, the rest of the set is not read."""

    name: str
    id: str
    about: str
    size: str
    documents: str
    licence: str
    languages: tuple[str, ...]  # ("*",): as many as there are, and the set says which
    config: str = ""
    split: str = "train"
    text_column: str = "text"
    max_bytes: int | None = None
    checked: bool = True

    def sources(self, languages: Sequence[str] | None) -> list[str]:
        """What to read, a `hub:...` for each language; English where none is asked for. Raises DataError."""
        asked = list(languages or ("en",))
        missing = [language for language in asked if self.languages != ("*",) and language not in self.languages]
        if missing:
            raise DataError(
                f"{self.name}: has no text in {', '.join(missing)}", fix=f"it has {', '.join(self.languages)}; or choose another corpus"
            )
        if "{language}" not in self.config + self.split:
            asked = asked[:1]
        configs = [self.config.format(language=language) for language in asked]
        splits = [self.split.format(language=language) for language in asked]
        return [f"hub:{self.id}{f':{c}' if c else ''}@{s}" for c, s in zip(configs, splits, strict=True)]


_KNOWN = (
    Corpus(
        "gutenberg", "manu/project_gutenberg", "books of Project Gutenberg, with their headers", "14.4 GB", "75,570 books",
        "public domain in the USA; Project Gutenberg's terms", ("de", "en", "es", "fr", "it", "nl", "pl", "pt", "ru", "sv", "zh"),
        split="{language}",
    ),
    Corpus(
        "wikipedia", "wikimedia/wikipedia", "articles of Wikipedia, November 2023, without markup", "20 GB in English",
        "6.4 million in English",
        "CC BY-SA 3.0 and GFDL", ("*",), config="20231101.{language}",
    ),
    Corpus(
        "arxiv", "common-pile/arxiv_papers", "papers of arXiv under open licences, LaTeX to text", "about 20 GB",
        "about 0.3 million papers",
        "CC BY, CC BY-SA, CC0, by document", ("en",), checked=False,
    ),
    Corpus(
        "stackexchange", "common-pile/stackexchange", "questions with their answers from all sites of Stack Exchange", "about 100 GB",
        "about 30 million pages", "CC BY-SA", ("en",),
    ),
    Corpus(
        "pg19", "emozilla/pg19", "books of Project Gutenberg published before 1919 (PG-19), headers off", "11 GB", "28,602 books",
        "public domain in the USA; the collection Apache-2.0", ("en",),
    ),
)  # fmt: skip
# Option C of the training plan: 10, 6, 10 and 10 GB. Its Books3 was withdrawn; PG-19 stands in for it.
_PILE = (("pg19", 10), ("wikipedia", 6), ("arxiv", 10), ("stackexchange", 10))
_BY_NAME = {corpus.name: corpus for corpus in _KNOWN}
CORPORA: dict[str, Corpus] = {
    **_BY_NAME,
    **{f"pile/{name}": replace(_BY_NAME[name], name=f"pile/{name}", max_bytes=size * GB) for name, size in _PILE},
}
SWITCHES: dict[str, tuple[str, ...]] = {
    **{f"--{name}": (name,) for name in _BY_NAME},
    "--all": ("gutenberg", "wikipedia"),
    "--pile": tuple(f"pile/{name}" for name, _ in _PILE),
}


def known(source: str) -> Corpus | None:
    """The corpus of that name, or None."""
    return CORPORA.get(source)


def spelled_out(words: Sequence[str] | None) -> list[str] | None:
    """The words of `data prepare` with every switch and name of a corpus as part of one `source=[...]`. Raises ConfigError."""
    rest: list[str] = []
    sources: list[str] = []
    for word in words or ():
        if word in SWITCHES or word in CORPORA or word.startswith("hub:"):
            sources += SWITCHES.get(word, (word,))
        else:
            rest.append(word)
    if "--stats" in rest:
        raise ConfigError("--stats is a verb of its own", fix="phiforge data stats RUN|FOLDER|NAME")
    if not sources:
        return list(words) if words is not None else None
    if any(word.lstrip("-").replace("-", "_").startswith(("source=", "data=")) for word in rest) or "--source" in rest:
        raise ConfigError(f"source= and {sources[0]!r} both say what to read", fix=f"source=[{', '.join(sources)}, ...] alone")
    return [*rest, f"source=[{', '.join(dict.fromkeys(sources))}]"]
