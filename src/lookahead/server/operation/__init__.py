"""Running a server: signals, saving the memory, metrics."""
