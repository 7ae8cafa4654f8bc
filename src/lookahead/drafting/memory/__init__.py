"""DraftMemory, the public draft memory, and its file."""
