"""The parity gate: what was exported computes what was trained, or the export is not done.

Five questions, each with its measured answer in the report: does the file hold the trained weights and settings
(`phiforge.export.contents`); does llama.cpp cut text into the same ids; is a conversation rendered alike in training, in the GGUF file and
in the Modelfile; are the next-token probabilities the same at 512 positions; does greedy text agree for 64 tokens.
The cache is float32 and flash attention off, so that what is compared is the export and not llama.cpp's approximations.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from phiforge.core.errors import PhiforgeError
from phiforge.core.gates import Check, GateReport
from phiforge.data.chat import PLAIN, encode_chat
from phiforge.data.tokenizer import Tokenizer
from phiforge.data.vocabulary import BOS
from phiforge.export import sample
from phiforge.export.contents import check_contents
from phiforge.export.divergence import Divergence, compare
from phiforge.export.layouts import layout_of
from phiforge.export.native import NativeModel, NativeUnavailable
from phiforge.export.ollama import render_modelfile, template_for
from phiforge.export.reference import Reference
from phiforge.export.server import LlamaCpp
from phiforge.export.tensors import read_json
from phiforge.export.vocabulary import Vocabulary, read_vocabulary

POSITIONS = 512
GREEDY = 64
PROMPT = 16  # tokens before greedy text begins


@dataclass(frozen=True)
class Limit:
    """What a type of file may lose. None: not asked of this type."""

    kl: float | None = None
    top1: float | None = None


LIMITS = {"F16": Limit(1e-4, 0.99), "BF16": Limit(1e-4, 0.99), "Q8_0": Limit(1e-3, 0.97)}


def parity_gate(model_dir: Path, gguf: Path, *, outtype: str, modelfile: str | None = None, text: str | None = None) -> GateReport:
    """Hold `gguf` (and the text of a Modelfile) against the model folder it came from.

    `text` gives the positions at which probabilities are compared; held-out text of the model's own kind tells most. By default
    prose and code of ours. Never raises for a difference: the report says what differs.
    """
    reference = Reference(model_dir)
    config = read_json(model_dir / "config.json")  # what the writer thought is not asked
    layout = layout_of(config)
    checks = check_contents(model_dir, gguf, layout)
    vocabulary = read_vocabulary(model_dir, layout.dims(config)["V"])
    ids = positions(model_dir, text or sample.LOGITS_TEXT, vocabulary)
    note = f"transformers in float32 against llama.cpp, {outtype}, float32 cache, flash attention off"
    try:
        with _open(gguf) as candidate:
            checks.append(check_token_ids(model_dir, candidate, sample.TOKENS_TEXT, vocabulary))
            checks += check_predictions(reference, candidate, ids, outtype.upper(), layout.f32_tolerance)
        checks += check_chat(model_dir, reference, gguf, vocabulary, modelfile)
    except PhiforgeError as error:
        checks.append(Check(name="llama.cpp runs the file", limit="yes", value="no", passed=False, note=error.what))
    return GateReport(gate="parity", checks=checks, note=note)


def _open(gguf: Path) -> NativeModel | ServedModel:
    try:
        return NativeModel(gguf, window=POSITIONS)
    except NativeUnavailable:
        return ServedModel(gguf)


def positions(model_dir: Path, text: str, vocabulary: Vocabulary) -> list[int]:
    """512 token ids with the beginning-of-text token first where training put one; a short text is repeated."""
    ids = Tokenizer.load(model_dir).encode(text).tolist() or [0]
    ids = ids * -(-(POSITIONS + 1) // len(ids))
    return [*_bos(vocabulary), *ids][: POSITIONS + 1]


# ---- probabilities -------------------------------------------------------------------------------------------------------


def check_predictions(
    reference: Reference, candidate: NativeModel | ServedModel, ids: Sequence[int], outtype: str, tolerance: float
) -> list[Check]:
    """Next-token distributions at 512 positions, in windows that fit the context; greedy text in F32."""
    size = min(candidate.window, POSITIONS)
    starts = range(0, POSITIONS, size)
    windows = [list(ids[start : min(start + size, POSITIONS)]) for start in starts]
    ours = np.concatenate([candidate.logits(window) for window in windows])
    theirs = np.concatenate([reference.logits(window) for window in windows])
    if ours.shape != theirs.shape:
        return [Check(name="vocabulary", value=ours.shape[1], limit=f"{theirs.shape[1]}", passed=False, note="size of the distributions")]
    found = compare(theirs, ours, np.asarray(ids[1 : POSITIONS + 1]))
    if outtype not in LIMITS:
        return [_f32_check(found, tolerance), check_greedy(reference, candidate, list(ids[:PROMPT]), tolerance)]
    return _mean_checks(found, LIMITS[outtype])


def _f32_check(found: Divergence, tolerance: float) -> Check:
    note = f"at position {found.worst}; over every token above 1e-4: {found.any_token:.2g}; mean entropy {found.entropy:.2f} nats"
    name = f"largest |difference of next-token log-probability| at {found.positions} positions"
    return Check(name=name, value=found.next_token, limit=f"<= {tolerance:g}", passed=found.next_token <= tolerance, note=note)


def _mean_checks(found: Divergence, limit: Limit) -> list[Check]:
    checks = []
    if limit.kl is not None:
        note = f"nats over {found.positions} positions, mean entropy {found.entropy:.2f}"
        checks.append(Check(name="mean KL", value=found.kl, limit=f"<= {limit.kl:g}", passed=found.kl <= limit.kl, note=note))
    if limit.top1 is not None:
        passed = found.top1 >= limit.top1
        checks.append(Check(name="top-1 agreement", value=found.top1, limit=f">= {limit.top1:g}", passed=passed))
    return checks


def check_greedy(reference: Reference, candidate: NativeModel | ServedModel, prompt: list[int], tolerance: float) -> Check:
    """64 greedy tokens through both caches. Where two tokens are closer than both sides' tolerance, either may come first."""
    new = min(GREEDY, candidate.window - len(prompt))
    expected, lead = reference.greedy(prompt, new)
    chosen = candidate.greedy(prompt, new, follow=expected)
    differs = [step for step in range(new) if chosen[step] != expected[step]]
    real = [step for step in differs if lead[step] > 2 * tolerance]
    note = f"first at token {real[0]}" if real else f"{len(differs)} ties within {2 * tolerance:g}" if differs else ""
    return Check(name=f"greedy ids that differ in {new} tokens", value=len(real), limit="0", passed=not real, note=note)


# ---- ids and conversations -----------------------------------------------------------------------------------------------


def check_token_ids(model_dir: Path, candidate: NativeModel | ServedModel, text: str, vocabulary: Vocabulary) -> Check:
    """Ids of a mixed text, the beginning-of-text token included. What looks like a control token in it stays text on both sides."""
    note = ""
    if vocabulary.normalizer:
        text = unicodedata.normalize(vocabulary.normalizer, text)
        note = f"text brought to {vocabulary.normalizer} first: llama.cpp does not normalize"
    expected = [*_bos(vocabulary), *Tokenizer.load(model_dir).encode(text).tolist()]
    found = candidate.tokenize(text, add_special=True, parse_special=False)
    same = expected == found
    if not same:
        at = next((i for i, (a, b) in enumerate(zip(expected, found, strict=False)) if a != b), min(len(expected), len(found)))
        note = f"first at token {at}: {expected[at : at + 3]} in training, {found[at : at + 3]} in llama.cpp"
    value = f"{len(found):,} ids" if same else "different"
    return Check(name=f"token ids of {len(text.encode()):,} bytes", value=value, limit="equal", passed=same, note=note)


def _bos(vocabulary: Vocabulary) -> list[int]:
    """The token before every text, where training put one."""
    return [vocabulary.bos_id] if vocabulary.add_bos and vocabulary.bos_id is not None else []


def check_chat(model_dir: Path, reference: Reference, gguf: Path, vocabulary: Vocabulary, modelfile: str | None) -> list[Check]:
    """The same conversations as training renders and encodes them, through llama.cpp's reading of the file, and through the Modelfile."""
    if not reference.has_template:
        return []
    bos = vocabulary.tokens[_bos(vocabulary)[0]] if _bos(vocabulary) else ""
    tokenizer = Tokenizer.load(model_dir)
    ours = template_for(vocabulary.chat_template) if vocabulary.chat_template else None
    wrong: dict[str, str] = {}
    with LlamaCpp(gguf, context_length=POSITIONS, threads=1, web_page=False) as server:
        for messages in sample.CONVERSATIONS:
            body = reference.render(messages).removeprefix(bos)
            renderings = {"GGUF": server.apply_template(messages).removeprefix(bos)}
            if modelfile is not None:
                renderings["Modelfile"] = render_modelfile(modelfile, messages)
            if ours is not None:
                renderings["training"] = ours.render(messages, add_generation_prompt=True).removeprefix(BOS)
            for where, found in renderings.items():
                if found != body:
                    wrong.setdefault(where, _difference(body, found))
            expected = [*_bos(vocabulary), *tokenizer.encode(body, specials=True).tolist()]
            if ours is not None and ours is not PLAIN and vocabulary.add_bos:  # plain texts are encoded whole, as documents are
                expected = encode_chat(messages, tokenizer, ours, add_generation_prompt=True)[0].tolist()
            if (found_ids := server.tokenize(body)) != expected:
                wrong.setdefault("ids", f"{len(expected)} in training, {len(found_ids)} in llama.cpp")
    named = {"GGUF": "chat template in the GGUF file"}
    named |= {"Modelfile": "chat template in the Modelfile"} if modelfile is not None else {}
    named |= {"training": "chat template of training"} if ours is not None else {}
    named["ids"] = "ids of rendered chats"
    return [
        Check(name=name, value="different" if kind in wrong else "equal", limit="equal", passed=kind not in wrong, note=wrong.get(kind, ""))
        for kind, name in named.items()
    ]


def _difference(expected: str, found: str) -> str:
    at = next((i for i, (a, b) in enumerate(zip(expected, found, strict=False)) if a != b), min(len(expected), len(found)))
    return f"first at character {at}: {expected[at : at + 20]!r} in training, {found[at : at + 20]!r} here"


# ---- where the C interface is not there ----------------------------------------------------------------------------------


class ServedModel:
    """The same answers from the server, one request a position: slow and sure; the reference of `NativeModel`."""

    def __init__(self, path: Path, *, window: int = POSITIONS) -> None:
        self._server = LlamaCpp(path, full_precision=True, threads=1, web_page=False)
        about = self._server.get("/v1/models")["data"][0]["meta"]
        self.vocab_size = int(about["n_vocab"])
        self.window = min(window, int(about["n_ctx_train"]) - 1)
        # Half a character or an end token brings no probabilities along, so a letter is made to come; the bias acts after they are taken.
        self._plain = [[self._server.tokenize("a", add_special=False)[0], 1e4]]

    def __enter__(self) -> ServedModel:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop the server."""
        self._server.close()

    def tokenize(self, text: str, *, add_special: bool = True, parse_special: bool = False) -> list[int]:
        """Token ids as llama.cpp makes them."""
        return self._server.tokenize(text, add_special=add_special, parse_special=parse_special)

    def logits(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """Log-probabilities (T, V) after each prefix; the prompt cache makes each request one new position."""
        return np.stack([self._after(ids[: index + 1]) for index in range(len(ids))])

    def greedy(self, prompt: Sequence[int], new: int, follow: Sequence[int] = ()) -> list[int]:
        """As NativeModel.greedy."""
        ids, chosen = list(prompt), []
        for step in range(new):
            chosen.append(int(self._after(ids).argmax()))
            ids.append(int(follow[step]) if step < len(follow) else chosen[-1])
        return chosen

    def _after(self, prefix: Sequence[int]) -> NDArray[np.float32]:
        options = {"max_tokens": 1, "temperature": 0.0, "repeat_penalty": 1.0, "n_probs": self.vocab_size, "logit_bias": self._plain}
        reply = self._server.complete(prefix, **options).raw["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
        row = np.full(self.vocab_size, -np.inf, np.float32)
        row[[entry["id"] for entry in reply]] = [entry["logprob"] for entry in reply]
        return row
