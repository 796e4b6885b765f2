"""Recipes: YAML lists of stages, the one runner behind every verb, and the plan made before it."""
