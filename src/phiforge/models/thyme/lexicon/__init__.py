"""The labelled words of the 12 axioms: seven of content, five of relation. Loads no torch: corpora are measured with it too.

An axiom has two poles. Its first one is +1, its second -1, so that a unit which means the axiom is near +1 for "stone" and near -1
for "justice". Each pole is a list of English words in `<axiom>.yaml`, written for this purpose, by meaning; inflections follow by
rule or are listed. The names and poles of the seven content axioms are the Thyme training plan's; it names the five
relational ones only as a number, so their poles are ours and stand in their files.

    nouns: fox/foxes    the lemma, then (where the rule would get them wrong) all other forms; a form ~ is a mild case (0.5 instead
                        of 1), at the end of an entry all of it
    mass:               nouns without a plural
    verbs:              -s, -ed, -ing by rule, irregular ones listed in full
    short:              adjectives with -er, -est
    words:              as they stand

A fifth of the word families is held out of training for ever, so that the probe asks about words that the auxiliary loss never saw.
A family is what shares its first four letters: happy, happily and happiness stay on one side, and so does a word in every axiom.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import yaml

from phiforge.core.errors import DataError

CONTENT = ("entity", "animacy", "valence", "sociality", "modality", "scale", "openness")
RELATIONAL = ("cardinality", "gradability", "deixis", "dynamism", "temporality")
AXIOMS = (*CONTENT, *RELATIONAL)
POLES: dict[str, tuple[str, str]] = {
    "entity": ("concrete", "abstract"),
    "animacy": ("living", "non-living"),
    "valence": ("positive", "negative"),
    "sociality": ("individual", "collective"),
    "modality": ("physical", "mental"),
    "scale": ("small", "large"),
    "openness": ("bounded", "unbounded"),
    "cardinality": ("one", "many"),
    "gradability": ("graded", "absolute"),
    "deixis": ("near", "far"),
    "dynamism": ("dynamic", "static"),
    "temporality": ("past", "future"),
}
HELD_OUT_SHARE = 5  # one family in so many is never trained on
_MILD = 0.5
_FAMILY = 4  # letters
_SALT = 274  # chosen, before any model was asked, so that each of the 24 poles holds out 15 to 25 % of its lemmas
_VOWELS = "aeiou"


@dataclass(frozen=True, slots=True)
class Entry:
    """A word form with its score on one axiom."""

    form: str
    lemma: str
    axiom: int
    score: float


@cache
def entries() -> tuple[Entry, ...]:
    """Every form of every axiom, in the order of AXIOMS and of the files. Raises DataError: a form on both poles, a file out of shape."""
    return tuple(entry for index, name in enumerate(AXIOMS) for entry in _read(index, name))


@cache
def lexicon() -> Mapping[str, tuple[float | None, ...]]:
    """Lower-case word -> its 12 scores in -1..1, None where the word says nothing about that axiom.

    >>> dict(zip(AXIOMS, lexicon()["stone"]))["animacy"]
    -1.0
    """
    found: dict[str, list[float | None]] = {}
    for entry in entries():
        found.setdefault(entry.form, [None] * len(AXIOMS))[entry.axiom] = entry.score
    return {form: tuple(scores) for form, scores in found.items()}


def held_out(lemma: str) -> bool:
    """Whether the probe alone may use this lemma and its family.

    >>> held_out("happy") == held_out("happiness")
    True
    """
    return hashlib.sha256(f"{_SALT}/{lemma.lower()[:_FAMILY]}".encode()).digest()[0] % HELD_OUT_SHARE == 0


def _read(index: int, name: str) -> Iterator[Entry]:
    path = files(__package__) / f"{name}.yaml"
    sides = yaml.safe_load(path.read_text(encoding="utf-8"))
    taken: dict[str, float] = {}
    for side, sign, pole in (("positive", 1.0, POLES[name][0]), ("negative", -1.0, POLES[name][1])):
        groups = dict(sides[side])
        if groups.pop("pole") != pole:
            raise DataError(f"lexicon {name}: its {side} pole is not {pole!r}", fix="install phiforge again")
        for kind, text in groups.items():
            for word in text.split():
                lemma, forms = _forms(kind, word)
                for form, strength in forms.items():
                    score = sign * strength
                    if taken.setdefault(form, score) * score < 0:
                        raise DataError(f"lexicon {name}: {form!r} is on both poles", fix="install phiforge again")
                    if taken[form] == score:
                        yield Entry(form, lemma, index, score)


def _forms(kind: str, written: str) -> tuple[str, dict[str, float]]:
    """The lemma and its forms with their strengths."""
    listed = {part.rstrip("~"): _MILD if part.endswith("~") else 1.0 for part in written.split("/")}
    lemma = next(iter(listed))
    if len(listed) > 1 or kind in ("mass", "words"):
        return lemma, dict.fromkeys(listed, _MILD) if written.endswith("~") else listed
    made = {"nouns": _plural, "verbs": _verb, "short": _graded}[kind](lemma)
    return lemma, dict.fromkeys((lemma, *made), listed[lemma])


def _plural(noun: str) -> tuple[str, ...]:
    return (_with_s(noun),)


def _with_s(word: str) -> str:
    if word.endswith(("s", "x", "z", "ch", "sh")):
        return word + "es"
    if word.endswith("y") and word[-2] not in _VOWELS:
        return word[:-1] + "ies"
    return word + "s"


def _doubled(word: str) -> str:
    """A short word's last consonant doubles before -ed, -er: stop, stopped; not after two vowels, not w, x, y."""
    short = sum(c in _VOWELS for c in word) == 1 and len(word) > 2
    return word + word[-1] if short and word[-1] not in "aeiouwxy" and word[-2] in _VOWELS else word


def _with_ed(word: str, ending: str) -> str:
    """`ending` is ed, er or est."""
    if word.endswith("e"):
        return word + ending[1:]
    if word.endswith("y") and word[-2] not in _VOWELS:
        return word[:-1] + "i" + ending
    return _doubled(word) + ending


def _verb(verb: str) -> tuple[str, ...]:
    silent = verb.endswith("e") and not verb.endswith(("ee", "ye", "oe"))
    return _with_s(verb), _with_ed(verb, "ed"), (verb[:-1] if silent else _doubled(verb)) + "ing"


def _graded(adjective: str) -> tuple[str, ...]:
    return _with_ed(adjective, "er"), _with_ed(adjective, "est")
