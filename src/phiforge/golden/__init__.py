"""Every golden-ratio idea as pure functions: rates, batches, phases, regularisation, sampling, shapes."""
