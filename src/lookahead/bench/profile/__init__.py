"""Profiles: where the time of a decoding step goes."""
