"""Trainings of any trainer as arms: what is read from each format, what pairs, and what is refused in one line."""

from __future__ import annotations

import importlib.util
import json
import struct
from pathlib import Path
from typing import Any

import pytest

from phiforge.core.errors import ConfigError, DataError, PhiforgeError, RunError
from phiforge.lab.readers import read_all
from phiforge.lab.reading import run_name, split_name
from phiforge.lab.sources import compare_existing, direction
from phiforge.lab.wandb_files import records
from tests.unit.lab.existing import make_run, make_sides, noise

SEEDS = range(1, 7)
BASE = {seed: 2.0 + noise(seed) for seed in SEEDS}
GOLDEN = {seed: 1.9 + noise(seed + 30) for seed in SEEDS}


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("phiforge.core.atomic._fsync", lambda path: None)


def table(path: Path, header: str = "arm,seed,eval_loss", row: str = "{arm},{seed},{value}", encoding: str = "utf-8") -> Path:
    lines = [row.format(arm=arm, seed=s, value=v[s]) for arm, v in (("standard", BASE), ("golden", GOLDEN)) for s in SEEDS]
    path.write_text("\n".join([header, *lines]) + "\n", encoding=encoding)
    return path


def values(verdict: dict[str, Any], arm: str = "golden") -> dict[Any, float | None]:
    return {t["seed"]: t["value"] for a in verdict["arms"] if a["name"] == arm for t in a["trials"]}


def as_expected(verdict: dict[str, Any]) -> None:
    assert values(verdict) == GOLDEN and values(verdict, "standard") == BASE and verdict["baseline"] == "standard"
    row = verdict["comparisons"][0]
    assert row["verdict"] == "better" and row["n"] == 6 and row["p"] == 2 / 64
    assert json.loads(json.dumps(verdict, allow_nan=False)) == verdict


# -- names and directions -----------------------------------------------------------------------------------------------


def test_names_say_arm_and_seed() -> None:
    assert [split_name(word) for word in ("phi-s3", "phi_seed_12", "a.seed=0", "phis3", "v2", "seed-4")] == [
        ("phi", 3), ("phi", 12), ("a", 0), ("phis3", None), ("v2", None), ("", 4)
    ]  # fmt: skip
    assert run_name(Path("/x/out/phi/seed-3")) == "phi/seed-3" and run_name(Path("/x/out/phi-seed-3/pretrain")) == "phi-seed-3"
    assert run_name(Path("/x/out/phi-3")) == "phi-3" and run_name(Path("/x/phi/seed-3/pretrain")) == "phi/seed-3"


@pytest.mark.parametrize(
    ("metric", "lower"),
    [("eval_loss", True), ("val/ppl", True), ("eval_bits_per_byte", True), ("error_rate", True), ("eval_accuracy", False),
     ("rewards/margins_acc", False), ("reward_loss", True), ("mt-bench score", False), ("WER", True)],
)  # fmt: skip
def test_which_way_is_better(metric: str, lower: bool) -> None:
    assert direction(metric) is lower and direction(metric, not lower) is not lower


def test_a_metric_whose_name_tells_nothing_is_asked_about(tmp_path: Path) -> None:
    file = table(tmp_path / "a.csv", "arm,seed,zing")
    with pytest.raises(ConfigError, match=r"'zing'.*which way is better -> lower_is_better=true"):
        compare_existing([file])
    assert compare_existing([file], lower_is_better=False)["comparisons"][0]["verdict"] == "worse"


# -- tables -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "header", "row", "encoding"),
    [
        ("plain", "arm,seed,eval_loss", "{arm},{seed},{value}", "utf-8"),
        ("BOM", "arm,seed,eval_loss", "{arm},{seed},{value}", "utf-8-sig"),
        ("UTF-16 with tabs", "arm\tseed\teval_loss", "{arm}\t{seed}\t{value}", "utf-16"),
        ("semicolons", "Arm;Seed;eval_loss", "{arm};{seed};{value}", "utf-8"),
        ("quotes", '"arm","seed","eval_loss"', '"{arm}","{seed}","{value}"', "utf-8"),
        ("an index, gaps as floats, other order", ",eval_loss,seed,arm", "7,{value},{seed}.0,{arm}", "utf-8"),
        ("blank lines and blanks", "arm, seed, eval_loss", "{arm}, {seed}, {value}\n", "utf-8"),
    ],
)
def test_tables_as_tools_write_them(tmp_path: Path, how: str, header: str, row: str, encoding: str) -> None:
    as_expected(compare_existing([table(tmp_path / "a.csv", header, row, encoding)], metric="eval_loss"))


def test_decimal_commas_where_they_can_be_told(tmp_path: Path) -> None:
    rows = [f"{arm};{s};{str(v[s]).replace('.', ',')}" for arm, v in (("standard", BASE), ("golden", GOLDEN)) for s in SEEDS]
    file = tmp_path / "a.csv"
    file.write_text("\n".join(["arm;seed;loss", *rows]))
    as_expected(compare_existing([file]))
    file.write_text('arm,seed,loss\nstandard,1,"2,5"\n')
    with pytest.raises(DataError, match="line 2: '2,5' is unclear"):
        compare_existing([file])


def test_the_baseline_is_named_known_or_the_first_with_a_note(tmp_path: Path) -> None:
    file = table(tmp_path / "a.csv")
    assert compare_existing([file], ["golden"])["baseline"] == "golden"
    with pytest.raises(ConfigError, match="no arm 'goldn'; did you mean 'golden'"):
        compare_existing([file], ["goldn"])
    file.write_text(file.read_text().replace("standard", "old"))
    verdict = compare_existing([file])
    assert verdict["baseline"] == "old" and any("the first arm of the table" in line for line in verdict["warnings"])


def test_missing_values_are_failed_trials_with_their_line(tmp_path: Path) -> None:
    file = table(tmp_path / "a.csv")
    for number, word in ((8, ""), (9, "NaN"), (10, "-inf"), (11, "NA")):
        lines = file.read_text().splitlines()
        lines[number] = lines[number].rsplit(",", 1)[0] + "," + word
        file.write_text("\n".join(lines))
    verdict = compare_existing([file])
    failed = {failure["seed"]: failure["error"] for failure in verdict["failures"]}
    assert failed == {
        2: "line 9: eval_loss is empty",
        3: "line 10: eval_loss is NaN",
        4: "line 11: eval_loss is -inf",
        5: "line 12: eval_loss is NA",
    }
    assert verdict["comparisons"][0]["n"] == 2 and verdict["comparisons"][0]["verdict"] == "too few seeds to say"


def test_a_table_of_runs_with_states(tmp_path: Path) -> None:
    file = tmp_path / "export.csv"
    rows = [f'"{arm}-seed-{s}","{"crashed" if (arm, s) == ("golden", 6) else "finished"}","{v[s]}"'
            for arm, v in (("standard", BASE), ("golden", GOLDEN)) for s in SEEDS]  # fmt: skip
    file.write_text("\n".join(['"Name","State","eval_loss"', *rows]))
    verdict = compare_existing([file])
    assert values(verdict) == {**GOLDEN, 6: None} and verdict["failures"] == [
        {"arm": "golden", "seed": 6, "error": "line 13: State is crashed"}
    ]


def test_a_history_counts_by_its_last_step_and_a_run_that_ends_early_does_not(tmp_path: Path) -> None:
    file = tmp_path / "h.csv"
    rows = [f"{arm},{s},{step},{v[s] + (100 - step)}" for arm, v in (("standard", BASE), ("golden", GOLDEN)) for s in SEEDS
            for step in (100, 50) if (arm, s, step) != ("golden", 2, 100)]  # fmt: skip
    file.write_text("\n".join(["arm,seed,step,eval_loss", *rows]))
    verdict = compare_existing([file])
    assert values(verdict) == {**GOLDEN, 2: None}
    assert any("golden, seed 2: interrupted: ends at step 50, others of golden at 100" in line for line in verdict["warnings"])
    assert verdict["curves"]["standard"][0]["points"] == [[50.0, None, BASE[1] + 50], [100.0, None, BASE[1]]]


MALFORMED = [
    ("arm,seed,loss\na,1\n", "line 2: 2 fields, and the header has 3"),
    ("arm,seed,loss\na,1,2,3\n", "line 2: 4 fields"),
    ("arm,seed,loss\na,1,2.0\na,2,two\n", "line 3: loss is 'two', which is no number"),
    ("arm,seed,loss\na,1,2.0\n\nb,,2.0\n", "line 4: no seed"),
    ("arm,seed,loss\n,1,2.0\n", "line 2: no arm"),
    ('arm,seed,loss\n"a,1,2.0\nb,1,2.0\n', "line 2: unexpected end of data"),
    ("arm,seed,loss,loss\na,1,2,3\n", "the column 'loss' is there twice"),
    ("arm,loss\na,2.0\n", r"no column seed \(there are arm, loss\)"),
    ("x,y\n1,2\n", "no column arm and seed"),
    ("arm,seed,loss\n", "only a header"),
    ("", "empty"),
    ("arm,seed,loss\na,1,2\na,2,2\na,1,3\nb,1,3\n", "arm a, seed 1 is on line 2 and on line 4"),
    ("arm,seed,loss\na,1,2\na,01,3\nb,1,3\n", "arm a, seed 1 is on line 2 and on line 3"),
    ("arm,seed,loss\na,1,2\n", "one arm"),
    ("arm,seed,loss\na,1,2\nb,2,3\n", "no seed is on both sides"),
    ("arm,seed,loss,acc\na,1,2,3\nb,1,3,3\n", "2 columns hold numbers: loss, acc -> --metric loss"),
    ("arm,seed,note\na,1,x\nb,1,y\n", "no column holds numbers"),
    ("arm,seed,step,loss\na,1,1,2\na,1,1,3\nb,1,1,3\n", "seed 1 at step 1 is on line 2 and on line 3"),
    ("arm,seed,loss\na,1,2\nb,1," + "3" * 140_000 + "\n", "line 3: a cell is longer than 131,072 characters"),
]


@pytest.mark.parametrize(("text", "words"), MALFORMED)
def test_malformed_tables_are_one_line(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "bad.csv"
    file.write_text(text)
    with pytest.raises(PhiforgeError, match=words) as caught:
        compare_existing([file])
    assert "\n" not in str(caught.value)


def test_other_refusals(tmp_path: Path) -> None:
    file = table(tmp_path / "a.csv")
    with pytest.raises(ConfigError, match="no column 'eval_los'; did you mean 'eval_loss'"):
        compare_existing([file], metric="eval_los")
    with pytest.raises(ConfigError, match="a table holds all arms"):
        compare_existing([file, file])
    with pytest.raises(ConfigError, match="alpha=2"):
        compare_existing([file], alpha=2.0)
    (tmp_path / "latin.csv").write_bytes("arm,seed,loss\nä,1,2".encode("latin-1"))
    with pytest.raises(DataError, match=r"not UTF-8 text \(byte 14\)"):
        compare_existing([tmp_path / "latin.csv"])
    with pytest.raises(RunError, match="does not exist"):
        compare_existing([tmp_path / "no"], [tmp_path / "where"])
    with pytest.raises(ConfigError, match="two sides"):
        compare_existing([tmp_path / "no"])
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    with pytest.raises(ConfigError, match="holds files that are no comparison"):
        compare_existing([file], out=tmp_path / "mine")


# -- transformers -------------------------------------------------------------------------------------------------------


def state(folder: Path, value: float, *, done: int = 100, planned: int = 100, seed: int | None = None, stopped: bool = False) -> Path:
    folder.mkdir(parents=True)
    history = [
        {"epoch": 0.5, "step": 50, "loss": 3.0},
        {"epoch": 0.5, "step": 50, "eval_loss": 0.1},
        {"epoch": 1.0, "step": done, "eval_loss": value},
    ]
    content: dict[str, Any] = {"log_history": [*history, {"step": done, "train_runtime": 9.5}], "global_step": done, "max_steps": planned}
    if stopped:
        content["stateful_callbacks"] = {"TrainerControl": {"args": {"should_training_stop": True}, "attributes": {}}}
    (folder / "trainer_state.json").write_text(json.dumps(content))
    if seed is not None:
        (folder / "training_args.json").write_text(json.dumps({"seed": seed}))
    return folder


def test_trainer_states(tmp_path: Path) -> None:
    base = [state(tmp_path / f"standard-s{s}" / "checkpoint-100", BASE[s]).parent for s in SEEDS]
    state(tmp_path / "standard-s1" / "checkpoint-50", 9.0, done=50)
    golden = [state(tmp_path / "golden" / f"run{s}", GOLDEN[s], seed=s) / "trainer_state.json" for s in SEEDS]
    verdict = compare_existing([*golden[:3], tmp_path / "golden" / "run4", *golden[4:]], base, metric="eval_loss")
    assert [a["name"] for a in verdict["arms"]] == ["standard", "run"]
    verdict = compare_existing([tmp_path / "golden"], base)
    assert values(verdict, "run") == GOLDEN and values(verdict, "standard") == BASE and verdict["metric"]["name"] == "eval_loss"
    assert verdict["comparisons"][0]["verdict"] == "better"
    assert verdict["arms"][0]["trials"][0]["seconds"] == 9.5
    assert any("don't log tokens" in line for line in verdict["warnings"])


def test_an_unfinished_trainer_is_not_counted_unless_all_stopped_there(tmp_path: Path) -> None:
    for arm, found in (("standard", BASE), ("golden", GOLDEN)):
        for s in SEEDS:
            state(tmp_path / f"{arm}-s{s}", found[s], done=80, planned=100)
    sides = [[tmp_path / f"{arm}-s{s}" for s in SEEDS] for arm in ("golden", "standard")]
    verdict = compare_existing(*sides)
    as_expected(verdict)
    assert any("every run stopped at step 80" in line for line in verdict["warnings"])
    (sides[0][2] / "trainer_state.json").unlink()
    sides[0][2].rmdir()
    state(sides[0][2], GOLDEN[3], done=100, planned=100)
    verdict = compare_existing(*sides)
    assert verdict["comparisons"][0]["n"] == 0
    state(tmp_path / "golden-s7", 1.0, done=90, planned=100, stopped=True)
    assert read_all(tmp_path / "golden-s7")[0].status == "complete"  # early stopping


def test_a_state_with_nan_and_damaged_ones(tmp_path: Path) -> None:
    folder = state(tmp_path / "a-s1", float("nan"))
    reading = read_all(folder)[0].value("eval_loss")
    assert reading is not None and reading.number is None
    (folder / "trainer_state.json").write_text('{"log_history": [')
    with pytest.raises(DataError, match="not JSON"):
        read_all(folder)
    (folder / "trainer_state.json").write_text("[1]")
    with pytest.raises(DataError, match="a JSON list"):
        read_all(folder)


def test_without_seeds_runs_pair_by_order_and_it_is_told(tmp_path: Path) -> None:
    base = [state(tmp_path / f"standard{chr(96 + s)}", BASE[s]) for s in SEEDS]
    golden = [state(tmp_path / f"golden{chr(96 + s)}", GOLDEN[s]) for s in SEEDS]
    verdict = compare_existing(golden, base)
    as_expected(verdict)
    assert any("by the order in which the runs are listed, as no run says its seed" in line for line in verdict["warnings"])
    named = state(tmp_path / "golden-s3", 1.0)
    with pytest.raises(ConfigError, match="no seed is recorded, and others have one"):
        compare_existing([named, *golden], base)


# -- W&B ----------------------------------------------------------------------------------------------------------------


def test_wandb_offline_runs_as_the_library_writes_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if importlib.util.find_spec("wandb") is None:
        pytest.skip("wandb is not installed")
    for name, value in (("WANDB_MODE", "offline"), ("WANDB_CACHE_DIR", str(tmp_path)), ("WANDB_SILENT", "true")):
        monkeypatch.setenv(name, value)
    import wandb

    run = wandb.init(project="p", name="golden-seed-3", config={"seed": 3, "lr": 1e-3}, dir=str(tmp_path))
    for step in range(3):
        run.log({"train/loss": 3.0 - step, "eval/loss": [2.0, 1.0, 1.5][step]})
    run.log({"train/loss": float("nan")})
    run.finish()
    wandb.teardown()  # its other process still writes after finish()
    (folder,) = tmp_path.glob("wandb/offline-run-*")
    (reading,) = read_all(folder)
    assert (reading.name, reading.seed, reading.status, len(reading.lines)) == ("golden-seed-3", 3, "complete", 4)
    found = reading.value("eval/loss")
    assert found is not None and (found.number, found.step) == (1.5, 2)
    assert reading.value("train/loss").number is None  # type: ignore[union-attr]
    assert reading.curve("eval/loss")[1][2] == 1.0


def varint(number: int) -> bytes:
    out = b""
    while number > 127:
        out, number = out + bytes([number & 127 | 128]), number >> 7
    return out + bytes([number])


def message(*parts: tuple[int, bytes]) -> bytes:
    return b"".join(varint(number << 3 | 2) + varint(len(value)) + value for number, value in parts)


def items(**values: Any) -> bytes:
    return message(*((1, message((1, key.encode()), (16, json.dumps(value).encode()))) for key, value in values.items()))


def wandb_log(folder: Path, found: list[bytes], *, block: int = 32768) -> Path:
    """A .wandb file by the format's description, with records cut over blocks."""
    folder.mkdir(parents=True)
    data = b":W&B" + struct.pack("<HB", 0xBEE1, 0)
    for record in found:
        first = True
        while True:
            room = block - len(data) % block
            if room < 7:
                data += b"\0" * room
                continue
            piece, record = record[: room - 7], record[room - 7 :]
            kind = (1 if not record else 2) if first else (4 if not record else 3)
            data += struct.pack("<IHB", 0, len(piece), kind) + piece
            first = False
            if not record:
                break
    (folder / f"run-{folder.name[-8:]}.wandb").write_bytes(data)
    return folder


def wandb_run(root: Path, arm: str, seed: int, value: float, *, number: int, ends: bool = True) -> Path:
    head = message((17, message((4, items(seed=seed, notes="x" * 40_000)), (8, f"{arm}-{number}".encode()))))
    history = [message((2, items(_step=s, eval_loss=value + 3 - s, _runtime=float(s)))) for s in range(4)]
    history += [message((2, items(_step=4, other=1.0)))]
    end = [varint(18 << 3 | 2) + b"\x02\x08\x00"] if ends else []
    return wandb_log(root / f"offline-run-20260101_0000{number:02d}-{number:08d}", [head, *history, *end])


def test_wandb_logs_over_blocks(tmp_path: Path) -> None:
    base = [wandb_run(tmp_path / "base", "standard", s, BASE[s], number=s) for s in SEEDS]
    for s in SEEDS:
        wandb_run(tmp_path / "golden", "golden", s, GOLDEN[s], number=s + 10, ends=s != 6)
    verdict = compare_existing([tmp_path / "golden"], base)
    assert values(verdict, "standard") == pytest.approx(BASE)
    assert values(verdict, "golden-1") == pytest.approx({s: GOLDEN[s] for s in range(1, 6)} | {6: None})
    assert any("seed 6: interrupted" in line for line in verdict["warnings"])


def test_a_torn_or_foreign_wandb_file(tmp_path: Path) -> None:
    folder = wandb_run(tmp_path, "a", 1, 2.0, number=1)
    (file,) = folder.glob("*.wandb")
    whole = file.read_bytes()
    for length in (7, 100, 33_000, len(whole) - 3):
        file.write_bytes(whole[:length])
        assert len(list(records(file))) < 7
        assert read_all(folder)[0].status == "interrupted"
    file.write_bytes(b"PK\3\4" + whole)
    with pytest.raises(DataError, match="not a W&B log"):
        read_all(folder)


def test_a_wandb_chart(tmp_path: Path) -> None:
    names = [(arm, s) for arm in ("standard", "golden") for s in SEEDS]
    header = ["Step", *(f"{arm}-seed-{s} - eval/loss{end}" for arm, s in names for end in ("", "__MIN", "__MAX"))]
    last = {("standard", s): BASE[s] for s in SEEDS} | {("golden", s): GOLDEN[s] for s in SEEDS}
    rows = [["10", *("9.5" for _ in names for _ in range(3))], ["20", *(str(last[name]) for name in names for _ in range(3))]]
    rows += [["25", *("" for _ in names for _ in range(3))]]
    file = tmp_path / "wandb_export.csv"
    file.write_text("\n".join(",".join(f'"{cell}"' for cell in row) for row in [header, *rows]))
    verdict = compare_existing([file])
    as_expected(verdict)
    assert verdict["metric"]["name"] == "eval/loss"
    rows[1][header.index("golden-seed-4 - eval/loss")] = ""
    file.write_text("\n".join(",".join(f'"{cell}"' for cell in row) for row in [header, *rows]))
    assert values(compare_existing([file])) == {**GOLDEN, 4: None}


# -- lines of JSON, run folders -----------------------------------------------------------------------------------------


def test_lines_of_json(tmp_path: Path) -> None:
    for arm, found in (("standard", BASE), ("golden", GOLDEN)):
        for s in SEEDS:
            lines = [{"_step": n, "eval_loss": found[s] + (5 - n), "_runtime": n / 2} for n in range(6)]
            (tmp_path / f"{arm}-s{s}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"_step": 6, "eval')
    sides = [[tmp_path / f"{arm}-s{s}.jsonl" for s in SEEDS] for arm in ("golden", "standard")]
    verdict = compare_existing(*sides)
    as_expected(verdict)
    assert verdict["comparisons"][0]["equal_seconds"]["seconds"] == 2.5
    sides[0][0].write_text('{"a": 1}\nnonsense\n{"a": 2}\n')
    with pytest.raises(DataError, match="line 2: not JSON"):
        compare_existing(*sides)


def test_lines_where_every_key_is_always_there(tmp_path: Path) -> None:
    """As pandas writes a history: null is what was not logged then, unless nothing more comes where something should."""
    lines = [{"_step": n, "loss": 3.0 - n / 10, "eval_loss": 2.0 - n / 10 if n % 4 == 0 else None} for n in range(11)]
    file = tmp_path / "a-s1.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    value = read_all(file)[0].value("eval_loss")
    assert value is not None and value.number == pytest.approx(1.2) and value.step == 8
    file.write_text("".join(json.dumps({**line, "loss": line["loss"] if line["_step"] < 9 else None}) + "\n" for line in lines))
    value = read_all(file)[0].value("loss")
    assert value is not None and value.number is None and value.step == 10


def test_folders_of_runs_are_arms_by_their_names(tmp_path: Path) -> None:
    make_sides(tmp_path, 6)
    for s in SEEDS:
        make_run(tmp_path / "recipes" / f"large-seed-{s}" / "pretrain", s, 1.0 + noise(s))
        make_run(tmp_path / "recipes" / f"large-seed-{s}" / "tokenizer", s, 1.0, lines=[], metrics={"tokens": None})
    verdict = compare_existing(
        [tmp_path / "golden", tmp_path / "recipes"], [tmp_path / "standard"], metric="eval_loss", out=tmp_path / "out"
    )
    assert [(a["name"], a["role"]) for a in verdict["arms"]] == [("standard", "baseline"), ("golden", "arm"), ("large", "arm")]
    assert verdict["family_size"] == 2 and [row["n"] for row in verdict["comparisons"]] == [6, 6]
    assert [row["p_holm"] for row in verdict["comparisons"]] == [2 * 2 / 64] * 2
    assert json.loads((tmp_path / "out" / "verdict.json").read_text()) == verdict
    trial = verdict["arms"][2]["trials"][0]
    assert Path(trial["path"]).is_dir() and trial["metrics"]["tokens"] == 3000


def test_settings_that_an_arm_has_otherwise_are_shown(tmp_path: Path) -> None:
    for s in SEEDS:
        make_run(tmp_path / "standard" / f"seed-{s}", s, 2.0 + noise(s))
        make_run(tmp_path / "fast" / f"seed-{s}", s, 1.9 + noise(s + 40), config={"learning_rate": 0.5})
    verdict = compare_existing([tmp_path / "fast"], [tmp_path / "standard"])
    assert verdict["arms"][1]["settings"] == {"learning_rate": 0.5} and verdict["metric"]["name"] == "eval_bits_per_byte"


def test_an_unknown_metric_names_the_nearest(tmp_path: Path) -> None:
    arm, base = make_sides(tmp_path, 2)
    with pytest.raises(ConfigError, match="no run has it; did you mean 'eval_loss'"):
        compare_existing(arm, base, metric="evalloss")
    assert compare_existing(arm, base)["comparisons"][0]["verdict"] == "too few seeds to say"


def test_values_that_are_no_numbers_cost_their_trial_only(tmp_path: Path) -> None:
    """What a damaged or foreign log may hold: text, lists, numbers that no float holds."""
    arm, base = make_sides(tmp_path, 6)
    odd = ['{"step": 10, "loss": "x", "seconds": null}', '{"step": 1%s, "loss": [1]}' % ("0" * 400), "[1]", '{"loss": {}, "rollback": 1}']
    (arm[0] / "metrics.jsonl").write_text("\n".join(odd))
    manifest = json.loads((arm[1] / "run.json").read_text())
    manifest["metrics"]["eval_loss"] = "2.0"
    manifest["decisions"]["streams"] = ["t"]
    (arm[1] / "run.json").write_text(json.dumps(manifest))
    (arm[2] / "config.yaml").write_text("a: [")
    verdict = compare_existing(arm, base, metric="eval_loss")
    assert values(verdict)[2] is None and sum(value is not None for value in values(verdict).values()) == 5
    assert any("golden, seed 1: was put back 1 time" in line for line in verdict["warnings"])
