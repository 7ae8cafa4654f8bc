"""What a model can be trusted with: profile, probe, reproducibility."""
