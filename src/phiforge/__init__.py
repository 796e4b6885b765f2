"""phiforge: a local-first lab for small language models. Nothing inside the package imports this root."""

__version__ = "0.1.0"
