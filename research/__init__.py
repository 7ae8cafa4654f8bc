"""Code that measures the project for its own documents and tests. Not part of the wheel."""
