"""Ids in, ids out: sampling as pure functions on logits, and a batched, cached engine for any of our models."""
