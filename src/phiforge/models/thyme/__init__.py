"""Thyme: language models whose whole memory of a text is 2,304 bytes. `phiforge.models.thyme.modeling` registers them with transformers."""
