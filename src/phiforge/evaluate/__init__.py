"""How good a model is on text it has not seen, every figure with its standard error, and what simple methods make of the same text."""
