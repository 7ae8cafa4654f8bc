"""Other systems' drafts, re-implemented or wrapped, for comparison in replay; one module a system."""
