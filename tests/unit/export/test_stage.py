"""The stage: what it writes, what it records, and that a file that fails the gate does not get its name."""

from __future__ import annotations

from pathlib import Path

import pytest

from phiforge.core.config import build
from phiforge.core.errors import ConfigError, GateFailed
from phiforge.core.runs import Run
from phiforge.export import gguf as writer
from phiforge.export import stage, vocabulary
from phiforge.export.config import ExportConfig
from phiforge.export.hf import model_card
from phiforge.export.ollama import parse_modelfile
from phiforge.export.stages import EXPORT
from phiforge.recipes.runner import run_stage
from tests.pico_export import pico_folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return Run.borrow(pico_folder("starcoder2", tmp_path_factory.mktemp("codette"), steps=40))


def test_gguf_with_its_gate(model: Run, tmp_path: Path) -> None:
    run = run_stage(EXPORT, ExportConfig(name="Codette Pico"), {"model": model}, tmp_path / "out")
    assert run.status == "complete"
    assert {"model-F16.gguf", "Modelfile"} <= set(run.manifest.artefacts)
    assert (
        run.manifest.artefacts["model-F16.gguf"].bytes == run.manifest.metrics["gguf_bytes"] == (run.path / "model-F16.gguf").stat().st_size
    )
    assert not list(run.path.glob("unchecked-*"))
    (gate,) = run.manifest.gates
    assert gate.gate == "parity" and gate.passed
    assert 0 <= run.manifest.metrics["parity_kl"] < 1e-4
    assert parse_modelfile((run.path / "Modelfile").read_text())["FROM"] == ["./model-F16.gguf"]
    assert "ollama create codette-pico -f Modelfile" in (run.path / "log.txt").read_text()


def test_a_failed_gate_is_not_done(model: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = vocabulary.read_vocabulary

    def without_bos(folder: Path, size: int) -> vocabulary.Vocabulary:
        found = real(folder, size)
        return vocabulary.Vocabulary(**{**found.__dict__, "add_bos": False})

    monkeypatch.setattr(writer, "read_vocabulary", without_bos)
    with pytest.raises(GateFailed, match="parity gate failed") as failed:
        run_stage(EXPORT, ExportConfig(outtype="q8_0"), {"model": model}, tmp_path / "out")
    assert failed.value.exit_code == 4 and "\n" not in str(failed.value)
    run = Run.open(tmp_path / "out")
    assert run.status == "failed" and not run.manifest.gates[0].passed
    assert not (run.path / "model-Q8_0.gguf").exists() and not (run.path / "Modelfile").exists()


def test_without_the_gate_the_run_says_so(model: Run, tmp_path: Path) -> None:
    run = run_stage(EXPORT, ExportConfig(gate=False, outtype="f32"), {"model": model}, tmp_path / "out")
    assert not run.manifest.gates[0].passed and "not checked" in run.manifest.gates[0].note


def test_hf_folder_and_model_card(model: Run, tmp_path: Path) -> None:
    run = run_stage(EXPORT, ExportConfig(to="hf", name="pico"), {"model": model}, tmp_path / "out")
    card = (run.model_dir / "README.md").read_text()
    assert f"{run.manifest.metrics['parameters']:,} parameters" in card and "# pico" in card and "not recorded" in card
    assert (run.model_dir / "model.safetensors").read_bytes() == (model.model_dir / "model.safetensors").read_bytes()
    assert Run.is_model_folder(run.model_dir) and "model/README.md" in run.manifest.artefacts


def test_the_card_shows_standard_errors_and_only_what_is_known(model: Run) -> None:
    manifest = model.manifest.model_copy(
        update={"metrics": {"eval_bits_per_byte": 2.125, "eval_bits_per_byte_standard_error": 0.0125, "eval_loss": 3.0}}
    )
    card = model_card(Run(model.path, manifest), "a | b\n<script>")
    assert "| 2.125 ± 0.013 |" in card or "| 2.125 ± 0.012 |" in card
    assert "| 3 (no standard error recorded) |" in card
    assert "<script>" not in card and "/tmp" not in card


def test_another_template_can_not_go_to_ollama(tmp_path: Path) -> None:
    folder = pico_folder("llama", tmp_path / "m", steps=0)
    (folder / "chat_template.jinja").write_text("{% for message in messages %}[{{ message['content'] }}]{% endfor %}")
    with pytest.raises(ConfigError, match="chat template"):
        run_stage(EXPORT, ExportConfig(to="ollama"), {"model": Run.borrow(folder)}, tmp_path / "out")
    run = run_stage(EXPORT, ExportConfig(outtype="f32"), {"model": Run.borrow(folder)}, tmp_path / "gguf")
    assert run.manifest.gates[0].passed and not (run.path / "Modelfile").exists()


@pytest.mark.parametrize("data", [{"outtype": "q4"}, {"to": "onnx"}, {"outype": "f16"}, {"name": ""}, {"name": "a\nb"}, {"tolerance": 1.0}])
def test_bad_settings_are_one_line(data: dict[str, object]) -> None:
    with pytest.raises(ConfigError) as error:
        build(ExportConfig, data, where="test")
    assert "\n" not in str(error.value)


def test_names() -> None:
    assert build(ExportConfig, {"outtype": "Q8_0"}, where="test").outtype == "q8_0"
    assert stage.ollama_name("Codette 1M!") == "codette-1m" and stage.ollama_name("___") == "model"
