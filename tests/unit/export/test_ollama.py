"""The Modelfile: the Go template renders what training rendered, and what Ollama needs is in it."""

from __future__ import annotations

import pytest

from phiforge.core.errors import ConfigError
from phiforge.data.chat import CHATML, PLAIN, Template
from phiforge.data.vocabulary import BOS
from phiforge.export import sample
from phiforge.export.gotemplate import render
from phiforge.export.ollama import check_name, modelfile, parse_modelfile, render_modelfile, stops_of, template_for


@pytest.mark.parametrize("template", [PLAIN, CHATML], ids=lambda template: template.name)
@pytest.mark.parametrize("messages", sample.CONVERSATIONS)
def test_the_go_template_renders_what_training_renders(template: Template, messages: list[dict[str, str]]) -> None:
    text = modelfile("model-F16.gguf", template, stops=["<|im_end|>"])
    assert BOS + render_modelfile(text, messages) == template.render(messages, add_generation_prompt=True)  # type: ignore[arg-type]


def test_parameters_and_stops() -> None:
    found = parse_modelfile(modelfile("model-F16.gguf", CHATML, stops=["<|im_end|>", "<|eos|>"]))
    assert found["FROM"] == ["./model-F16.gguf"]
    assert found["PARAMETER"] == [
        'stop "<|im_end|>"', 'stop "<|eos|>"', "temperature 0.7", "top_k 40", "top_p 0.9", "repeat_penalty 1.1",
    ]  # fmt: skip


def test_stops_are_those_that_the_vocabulary_has() -> None:
    assert stops_of(CHATML, ["<|pad|>", "<|bos|>", "<|eos|>", "<|im_start|>", "<|im_end|>"], 2, 4) == ["<|im_end|>", "<|eos|>"]
    assert stops_of(PLAIN, ["a", "<|endoftext|>"], 1, None) == ["<|endoftext|>"]


def test_whose_template_is_ours() -> None:
    assert template_for(CHATML.jinja) is CHATML
    assert template_for(None) is PLAIN
    assert template_for(CHATML.jinja + " ") is None


@pytest.mark.parametrize("name", ["../a.gguf", 'a".gguf', "a\nSYSTEM x"])
def test_a_file_name_can_not_write_instructions(name: str) -> None:
    with pytest.raises(ConfigError):
        modelfile(name, PLAIN, stops=[])


@pytest.mark.parametrize("name", ["", "A", "a b", "-x", "a:b:c", "a/../b"])
def test_names_that_ollama_does_not_take(name: str) -> None:
    with pytest.raises(ConfigError):
        check_name(name)
    assert check_name("codette:1m") == "codette:1m"


MESSAGES = {"Messages": [{"Role": "user", "Content": " a "}, {"Role": "assistant", "Content": ""}], "Empty": []}


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("x {{- range .Messages -}} {{ .Role }} {{- end }} y", "xuserassistant y"),
        ("{{ range .Messages }}[{{ .Content }}]{{ end }}", "[ a ][]"),
        ("{{ range .Empty }}a{{ else }}none{{ end }}", "none"),
        ("{{ range .Messages }}{{ if .Content }}+{{ else }}-{{ end }}{{ end }}", "+-"),
        ("{{ range .Messages }}{{ if .Content }}{{ range .Role }}{{ end }}{{ end }}{{ end }}", ""),
        ("} { {{ if .Empty }}a{{ end }} }}", "} {  }}"),
    ],
)
def test_the_subset_of_go(template: str, expected: str) -> None:
    data = MESSAGES if "range .Role" not in template else {"Messages": [{"Role": [], "Content": "x"}]}
    assert render(template, data) == expected


@pytest.mark.parametrize(
    "template", ["{{ printf .Role }}", "{{ range .Messages }}", "{{ end }}", "{{ .Nobody }}", "{{ range $i, $m := .Messages }}{{ end }}"]
)
def test_outside_the_subset_is_refused(template: str) -> None:
    with pytest.raises(ConfigError):
        render(template, MESSAGES)
