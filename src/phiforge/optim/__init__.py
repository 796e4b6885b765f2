"""Optimizers: which parameter goes to which, and how each is made."""
