"""Paired tests, intervals, corrections, sequential tests: pure functions of arrays."""
