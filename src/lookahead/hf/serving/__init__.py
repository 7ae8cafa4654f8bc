"""The engine's view of a transformers model: requests as rows that join and leave, or one after the other."""
