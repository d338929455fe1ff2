import jaxtyping
import pytest


@pytest.fixture
def unchecked(monkeypatch):
    """No checks of shapes in tests of thousands of steps, where they would be most of the time; every class has a test
    with them."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
