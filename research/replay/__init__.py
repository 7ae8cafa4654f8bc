"""`lookahead replay` for the project's own documents: other systems, costs, calibration, experiments."""
