"""The bodies of `/lookahead/memory/…`."""

from typing import Annotated

from pydantic import Field

from lookahead.drafting.store import DEFAULT_NAMESPACE
from lookahead.server.protocol.common import Body

MAX_TEXTS = 10_000


class WarmBody(Body):
    """Texts to remember as if they had been answers.

    Attributes:
        texts: The texts.
        namespace: Whose they are.
    """

    texts: Annotated[list[str], Field(min_length=1, max_length=MAX_TEXTS)]
    namespace: str = DEFAULT_NAMESPACE


class ForgetBody(Body):
    """The namespace to forget."""

    namespace: str
