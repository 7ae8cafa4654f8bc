"""Where a step spends its time."""
