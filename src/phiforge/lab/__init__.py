"""Arms x seeds over recipes -> verdict."""
