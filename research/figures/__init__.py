"""The figures and pictures of README and docs, from recorded runs."""
