"""The ground floor: errors, configs, run folders, seeds, hardware, console."""
