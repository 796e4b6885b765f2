"""Text that the parity gate reads: prose and code for the logits; scripts, signs and odd blanks for the token ids. Written for this."""

from __future__ import annotations

from phiforge.data.chat import Message

PROSE = """The mill stood where the river bent, and nobody in the village could say who had built it. In spring the water rose to the
third step; by August you could cross on stones without wetting your shoes. Old Marta, who kept the key, used to tell the
children that the wheel turned backwards once, on the night of the great frost, and that every clock in the valley lost an hour.

"Is it true?" asked the smallest.
"It's as true as anything that I've told you," she said, and she'd say no more. They didn't believe her; they never did. But when
the winter came they listened at the door, counting: one, two, three... twelve. Then thirteen.

A measurement is worth what its error bar is worth. We weighed the same stone 40 times in 1998, and again in 2021: 12.4 kg, then
12.37 kg, with a standard error of 0.02 kg. Has it lost 30 grams? Perhaps; the scales had been moved, and the cellar was damp. If
you can't tell two numbers apart, don't write a story about their difference. What follows is the table, the method, and a list of
everything that went wrong, in the order in which it went wrong.
"""

CODE = '''from collections import Counter
from pathlib import Path


class Ledger:
    """Counts what was seen; `top(n)` gives the n most frequent."""

    def __init__(self, limit: int = 10_000) -> None:
        self._seen: Counter[str] = Counter()
        self.limit = limit

    def add(self, line: str) -> bool:
        words = [w.strip(".,;:!?\\"'()").lower() for w in line.split()]
        if len(self._seen) + len(words) > self.limit:
            raise OverflowError(f"more than {self.limit:,} words")
        self._seen.update(w for w in words if w)
        return True

    def top(self, n: int = 5):
        return sorted(self._seen.items(), key=lambda item: (-item[1], item[0]))[:n]


def read(path: Path) -> Ledger:
    ledger = Ledger()
    with path.open(encoding="utf-8") as stream:
        for number, line in enumerate(stream, start=1):
            try:
                ledger.add(line)
            except OverflowError as error:
                print(f"{path}:{number}: {error}")
                break
    return ledger


if __name__ == "__main__":
    for i in range(0, 0x1F, 3):
        x = (i ** 2 + 3.14e-2) % 7 if i != 9 else -1
\tprint(x)  # a tab, on purpose
'''

SCRIPTS = """Zażółć gęślą jaźń. Příliš žluťoučký kůň. Ça, c'est où? Straße, Fußgängerübergänge, naïve façade, İstanbul'da ığdır.
Каждый вечер мы считали звёзды и сбивались со счёта. Η γάτα κοιμάται στο παράθυρο. Կատուն քնած է։ კატას სძინავს.
החתול ישן על החלון. القطة نائمة عند النافذة، والمطر لا يتوقف. گربه خوابیده است و باران می‌بارد.
बिल्ली खिड़की पर सो रही है। বিড়ালটি জানালায় ঘুমাচ্ছে। பூனை ஜன்னலில் தூங்குகிறது. పిల్లి కిటికీ దగ్గర నిద్రపోతోంది. แมวนอนอยู่ริมหน้าต่าง ແມວນອນ ကြောင်အိပ်နေသည် ឆ្មាកំពុងដេក
猫が窓辺で眠っています。カタカナとひらがな、漢字。 고양이가 창가에서 자고 있다. 小貓睡在窗邊,外面下著雨。𠮷野家 ᠮᠣᠩᠭᠣᠯ
ድመቷ ተኝታለች ᏣᎳᎩ ⵜⴰⵎⴰⵣⵉⵖⵜ
"""

SIGNS = """😀 👍🏽 👩‍👩‍👧‍👦 🇫🇷🇯🇵 ❤️‍🔥 🧑🏿‍🚀 ☕️ ✅ 1️⃣ 🏴󠁧󠁢󠁳󠁣󠁴󠁿 e\u0301 o\u0308 \u212b \ufb01 ½ ² ③ Ⅷ ٣٤٥ ४५६ 𝟙𝟚𝟛 𝔘𝔫𝔦 ∑ᵢ xᵢ² ≤ ∞ ∂f/∂x → ⇒ ∀ε>0 ∃δ
« guillemets » „Gänsefüßchen“ ‘single’ “double” — – ‐ … · • † ‡ § ¶ © ® ™ € £ ¥ ₹ ₿ ° ′ ″
a\u00a0b c\u2009d e\u3000f g\u200bh i\ufeffj k\u00adl \x0b\x0c|\r\n|\r|\n\n\n|    four|\t\ttabs|   \n  trailing   \n
I'M we'Re THEY'LL don'T it'ſ 'tis ''' \"\"\" ``` {{x}} [[y]] <z> &amp; %20 $HOME #tag @name a_b-c.d/e\\f
C++ C# .NET 3.14159 1e-10 0xFF 1,234,567 2024-02-30T25:61
!!!??? ---- ==== ~~~~ **** //// \\\\\\\\ ;;;;;;;; ........ (((((((( aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa 00000000000000000000
"""

LOGITS_TEXT = PROSE + "\n" + CODE
TOKENS_TEXT = PROSE + "\n" + CODE + "\n" + SCRIPTS + "\n" + SIGNS

CONVERSATIONS: tuple[tuple[Message, ...], ...] = (
    ({"role": "user", "content": "What's a mill?"},),
    (
        {"role": "system", "content": "You answer in one line.\nYou don't guess."},
        {"role": "user", "content": "  Zwei Wörter über  Café ☕️?  "},
        {"role": "assistant", "content": "Warm, dunkel.\n"},
        {"role": "user", "content": "def f(x):\n    return x ** 2  # {{ braces }} {% percent %} <b>&amp;</b>\n"},
    ),
)
