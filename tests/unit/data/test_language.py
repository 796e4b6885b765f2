"""Languages are told apart from a sample of a document, noisy pages too; what can't be decided is not dropped."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path

import pytest

from phiforge.core.errors import ConfigError
from phiforge.data.language import UNDECIDED, detect, language_check

pytest.importorskip("py3langid")
TEXTS = {
    "en": "When the sun had gone down behind the hills, the old man closed the gate and walked slowly back to his house.",
    "de": "Als die Sonne hinter den Hügeln untergegangen war, schloss der alte Mann das Tor und ging langsam nach Hause.",
    "fr": "Lorsque le soleil se fut couché derrière les collines, le vieil homme ferma la porte et rentra lentement chez lui.",
    "ru": "Когда солнце скрылось за холмами, старик закрыл ворота и медленно пошёл домой.",
    "zh": "太阳落山以后，老人关上了大门，慢慢地走回家去。",
}
DECLARATIONS = {
    **{"eng": "en", "deu_1901": "de", "fra": "fr", "spa": "es", "ita": "it", "por_PT": "pt", "nld": "nl", "dan": "da", "swe": "sv"},
    **{"fin": "fi", "pol": "pl", "ces": "cs", "hun": "hu", "ron": "ro", "rus": "ru", "ukr": "uk", "ell_monotonic": "el", "tur": "tr"},
    **{"heb": "he", "arb": "ar", "hin": "hi", "tha": "th", "vie": "vi", "jpn": "ja", "kor": "ko", "cmn_hans": "zh", "lat": "la"},
}


@pytest.mark.parametrize("code", TEXTS)
def test_a_sentence_is_enough(code: str) -> None:
    found, sure = detect(TEXTS[code])
    assert found == code and 0.5 <= sure <= 1


@pytest.mark.parametrize("text", ["", " \n", "12 34 - 56", "Yes.", "3.1415926535 8979323846 2643383279"])
def test_what_says_nothing_is_undecided(text: str) -> None:
    assert detect(text) == (UNDECIDED, 0.0)
    assert language_check(["de"])(text) is None


def test_a_long_document_is_judged_by_three_places() -> None:
    foreword = TEXTS["fr"] * 3
    assert detect(foreword + TEXTS["en"] * 500)[0] == "en"
    assert detect((TEXTS["en"] + "\n") * 100_000)[0] == "en"


def test_the_check_names_the_language() -> None:
    check = language_check(["en", "DEU"])
    assert [check(text) for text in TEXTS.values()] == [None, None, "language: fr", "language: ru", "language: zh"]


@pytest.mark.parametrize("code", ["english", "xx", "e", "zxx"])
def test_an_unknown_code_is_refused_in_one_line(code: str) -> None:
    with pytest.raises(ConfigError, match=f"language={code}: not a language that can be told") as error:
        language_check([code])
    assert "ISO 639 codes" in str(error.value) and "\n" not in str(error.value)


def test_real_declarations_and_noisy_pages(shared_data: Path) -> None:
    lines = gzip.decompress((shared_data / "udhr" / "udhr2.jsonl.gz").read_bytes()).decode().splitlines()
    texts = {record["id"]: record["text"] for record in map(json.loads, lines)}
    rng = random.Random(0)
    wrong = []
    for name, code in DECLARATIONS.items():
        for size in (200, 2000):
            at = rng.randrange(200, 2000)
            page = "".join(rng.choice("ecl1o0i;.~mn") if rng.random() < 0.03 else letter for letter in texts[name][at : at + size])
            if detect(page)[0] != code:
                wrong.append((name, size))
    assert len(wrong) <= 1, wrong
    foreign = [name for name, text in texts.items() if name not in ("eng", "sco", "pcm", "kri") and detect(text)[0] == "en"]
    assert foreign == []  # of 384 other languages, most of which the model has never seen
