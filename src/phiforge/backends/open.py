"""From what a person names to a backend."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from phiforge.core.errors import ConfigError, RunError
from phiforge.core.runs import Run


def open_backend(target: str) -> Any:
    """A Backend for `target`: an export run or a .gguf file (llama.cpp), any other run or a model folder (our engine), or a URL.

    Raises ConfigError, RunError or DataError in one line when nothing there can talk.
    """
    if target.startswith(("http://", "https://")):
        from phiforge.backends.url import UrlBackend

        return UrlBackend(target)
    path = Path(target)
    gguf = path if path.is_file() else next(iter(sorted(path.glob("model-*.gguf"))), None) if path.is_dir() else None
    if gguf is not None:
        if gguf.suffix != ".gguf":
            raise ConfigError(f"{path}: is a file but no .gguf", fix="give a run, a .gguf file, a model folder or a URL")
        from phiforge.backends.llamacpp import LlamaCppBackend

        return LlamaCppBackend(gguf)
    from phiforge.backends.engine import EngineBackend

    if Run.is_run(path):
        run = Run.open(path)
        if not run.model_dir.is_dir():
            raise RunError(f"{path}: a {run.manifest.stage} run ({run.status}) with no model in it", fix="give a finished training run")
        return EngineBackend(run.model_dir, name=path.resolve().name)
    if Run.is_model_folder(path):
        return EngineBackend(path)
    if inside := Run.inside(path, with_model=True):
        raise ConfigError(f"{target}: is no run itself", fix=f"it holds {', '.join(inside)}")
    raise ConfigError(
        f"{target}: {'no model in it' if path.exists() else 'does not exist'}", fix="give a run, a .gguf file, a model folder or a URL"
    )
