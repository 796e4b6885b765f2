"""Models: from a size that a person names to a stock transformers class, counted from its shapes."""
