"""What tests of drafting share."""

import pytest

from lookahead.drafting.log import calibration, requests


@pytest.fixture
def matches_alone(monkeypatch):
    """Count no frequent tokens: what is drafted are matches and successors, which these tests are about."""
    for module in (calibration, requests):
        monkeypatch.setattr(module, "count_tokens", lambda _counts, _tokens: None)
