"""The pictures of the project's own documents."""
