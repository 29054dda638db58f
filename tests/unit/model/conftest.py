"""What the tests of the values share."""

from __future__ import annotations

from hypothesis import settings

# A busy machine is no defect.
settings.register_profile("model", deadline=None)
settings.load_profile("model")
