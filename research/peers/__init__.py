"""Other systems' drafts, re-implemented or wrapped, to compare with in replay; one module per system."""
