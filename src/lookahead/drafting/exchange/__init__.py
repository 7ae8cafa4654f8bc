"""Replicas of one service tell each other what their draft memories learned."""
