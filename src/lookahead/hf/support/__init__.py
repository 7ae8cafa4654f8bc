"""How a model can be decoded: profile, probe, reproducibility, report."""
