"""What `data stats` prints: lines and tables of a report, for a terminal."""

from __future__ import annotations

from typing import Any

_COUNTS = (
    ("long texts cut", "cut_long_texts"),
    ("encoding repaired", "encoding_repaired"),
    ("Gutenberg headers off", "gutenberg_stripped"),
)
_COLUMNS = 4  # sources that fit beside the whole on a terminal

Table = tuple[str, list[str], list[list[Any]]]  # title, columns, rows


def rows(found: dict[str, Any]) -> list[list[Any]]:
    """[what, value] lines of a report, for a table."""
    lengths = found["lengths"]
    out: list[list[Any]] = [["source", _source(source)] for source in found["sources"]]
    out += [
        ["documents", f"{found['documents']:,}"],
        ["characters", f"{found['characters']:,}"],
        ["bytes", f"{found['bytes']:,}"],
        ["document length", f"{lengths['shortest']:,} to {lengths['longest']:,} characters, median {lengths['median']:,}"],
        ["longest document", lengths["longest_source"]],
    ]
    out += [[f"left out: {reason}", _counted(n, found["dropped_examples"].get(reason))] for reason, n in found["dropped"].items()]
    out += [[name, f"{found[key]:,}"] for name, key in _COUNTS if found[key]]
    for title, key in (("licence hint", "licences"), ("personal data", "personal_data")):
        out += [[f"{title}: {name}", _flagged(flag)] for name, flag in found[key].items()]
    if "split" in found:
        out += _split_rows(found["split"])
    if "measured" in found:
        out += _measured_rows(found["measured"])
    out += [["sample", f"{sample['source']}: {sample['line'][:100]}"] for sample in found["samples"]]
    if "sha256" in found:
        out.append(["sha256", found["sha256"]])
    return out


def _source(source: dict[str, Any]) -> str:
    licence = f" (licence {source['licence']})" if source.get("licence") else ""
    return f"{source['about']}{licence}: {source['documents']:,} documents, {source['bytes']:,} bytes"


def _counted(count: int, example: str | None) -> str:
    return f"{count:,}" + (f", the first: {example}" if example else "")


def _flagged(flag: dict[str, Any]) -> str:
    return f"{flag['count']:,} in {flag['documents']:,} documents, for example {'; '.join(flag['examples'][:2])}"


def _split_rows(split: dict[str, Any]) -> list[list[Any]]:
    sides = [
        [side, f"{split[side]['documents']:,} documents, {split[side]['characters']:,} characters, {split[side]['bytes']:,} bytes"]
        for side in ("train", "validation")
    ]
    return [["split", f"{split['method']}: {split['got_fraction']:.1%} held out ({split['why']})"], *sides]


def _measured_rows(measured: dict[str, Any]) -> list[list[Any]]:
    vocabulary, out = measured["vocabulary"], [["counted in", sampled(measured)]]
    if vocabulary["words"]:
        once = vocabulary["once"] / vocabulary["distinct"]
        out.append(["words", f"{vocabulary['words']:,}, {vocabulary['distinct']:,} of them different ({once:.0%} come once)"])
    if vocabulary["heaps"] is not None:
        out.append(["vocabulary growth", f"different words ~ words ^ {vocabulary['heaps']:.2f} (Heaps; about 0.5 is usual in English)"])
    if vocabulary["zipf"] is not None:
        out.append(["rank and frequency", f"frequency ~ rank ^ {vocabulary['zipf']:.2f}, ranks 10 to 1,000 (Zipf: about -1)"])
    if vocabulary["top"]:
        out.append(["most frequent", " ".join(word for word, _ in vocabulary["top"][:15])])
    languages = measured["languages"]
    if languages["looked_at"]:
        of = f"of {languages['looked_at']:,} documents: "
        shares = ((name, count / languages["looked_at"]) for name, count in list(languages["documents"].items())[:8])
        out.append(["languages", of + ", ".join(f"{'undecided' if name == 'und' else name} {percent(share)}" for name, share in shares)])
    scripts = measured["scripts"]
    total = sum(scripts.values()) or 1
    out.append(["characters", ", ".join(f"{name} {percent(count / total)}" for name, count in list(scripts.items())[:8])])
    return out


def percent(share: float) -> str:
    """A share in as many digits as it needs.

    >>> percent(0.5), percent(0.0123), percent(0.00004)
    ('50 %', '1.2 %', '< 0.1 %')
    """
    return "< 0.1 %" if 0 < share < 0.001 else f"{share:.0%}".replace("%", " %") if share >= 0.095 else f"{share:.1%}".replace("%", " %")


def sampled(measured: dict[str, Any]) -> str:
    """Whether words were counted in all of the text."""
    sample = measured["sample"]
    if sample["share"] >= 1 and not (sample["full"] and sample["bytes"] < measured["bytes"]):
        return "all of the text"
    how = "the first of it" if sample["full"] else "blocks drawn evenly"
    return f"a sample: {sample['bytes'] / 1e6:,.1f} MB of {measured['bytes'] / 1e6:,.1f} MB, {how} (--sample-mb sets how much)"


def tables(found: dict[str, Any]) -> list[Table]:
    """The other tables: lengths, axioms by source, the suggested mix."""
    measured = found["measured"]
    lengths = [
        [f"{low:,} to {high:,}", count, "█" * max(1, round(30 * count / most))]
        for low, high, count in measured["lengths"]
        for most in [max(n for *_, n in measured["lengths"])]
    ]
    out: list[Table] = [("Document lengths", ["characters", "documents", ""], lengths)] if lengths else []
    found_in = measured["coverage"]
    if found_in["whole"]["words"]:
        out.append(_axioms(found_in))
    mix = [[name, f"{there:.1%}", f"{share:.1%}"] for name, there, share in mixed(found_in)]
    if len(mix) > 1:
        out.append(("A mix that speaks of all axioms more evenly (a suggestion)", ["source", "words now", "suggested"], mix))
    return out


def _axioms(found_in: dict[str, Any]) -> Table:
    sources = list(found_in["sources"].items())
    shown = sources[:_COLUMNS] if len(sources) > 1 else []
    title = "Content axioms: lexicon words per 1,000 words"
    if len(sources) > len(shown) and shown:
        title += f" (the {len(shown)} largest of {len(sources)} sources; --json and --html show all)"
    lines = []
    for i, (axiom, pole) in enumerate(found_in["poles"]):
        whole = found_in["whole"]
        line = ["" if i % 2 else axiom, pole, f"{whole['per_1000_words'][i]:.1f}", percent(whole["share"][i])]
        lines.append([*line, *(f"{source['per_1000_words'][i]:.1f}" for _, source in shown)])
    return title, ["axiom", "pole", "whole corpus", "of all hits", *(name for name, _ in shown)], lines


def mixed(found_in: dict[str, Any]) -> list[tuple[str, float, float]]:
    """(source, share of the words now, suggested share)."""
    mix = found_in["suggested_mix"]
    total = sum(found_in["sources"][name]["words"] for name in mix) or 1
    return [(name, found_in["sources"][name]["words"] / total, share) for name, share in mix.items()]


def warnings(found: dict[str, Any]) -> list[str]:
    """What is short, a line each: of the corpus as a whole, then how many sources are."""
    short = found["measured"]["coverage"]["short"]
    lines = [f"{line['source']}: {lacks(line)}" for line in short]
    return lines if len(lines) <= 6 else [*lines[:5], f"and {len(lines) - 5} more sources (--json and --html show all)"]


def lacks(line: dict[str, Any]) -> str:
    """What one source is short of."""
    if not line["poles"]:
        return str(line["why"])
    return "little about " + ", ".join(f"{axiom}: {pole} ({percent(share)})" for axiom, pole, share in line["poles"]) + f" - {line['why']}"
