"""Many requests at once: what an engine is asked and answers, without HTTP, torch and transformers.

>>> from lookahead.engine import EngineSettings, Request, Sampling
>>> with la.engine(model, tokenizer, EngineSettings(max_rows=8)) as engine:  # doctest: +SKIP
...     stream = engine.submit(Request(prompt_ids=ids, sampling=Sampling(temperature=0.7, seed=1)))
...     tokens = stream.result().tokens
"""

from lookahead.engine.events import Event, Finish, FinishReason, TokenLogprobs, Usage
from lookahead.engine.protocol import Engine
from lookahead.engine.request import Request, Sampling
from lookahead.engine.settings import EngineSettings
from lookahead.engine.stats import EngineStats
from lookahead.engine.stream import Answer, Stream

__all__ = [
    "Answer",
    "Engine",
    "EngineSettings",
    "EngineStats",
    "Event",
    "Finish",
    "FinishReason",
    "Request",
    "Sampling",
    "Stream",
    "TokenLogprobs",
    "Usage",
]
