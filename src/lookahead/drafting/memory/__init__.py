"""The draft memory: what outlives a request, saved and loaded."""
