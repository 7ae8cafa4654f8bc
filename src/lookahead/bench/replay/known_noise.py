"""What drafts may know of the noise of sampled answers."""

from enum import StrEnum


class KnownNoise(StrEnum):
    """What a drafter is told of the noise of the coming draws; another seed's must gain nothing."""

    OWN = "own"
    OTHER = "other"
    NONE = "none"
