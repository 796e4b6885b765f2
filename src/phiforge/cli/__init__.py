"""The door: one short file per verb. Nothing here imports torch before a verb needs it."""
