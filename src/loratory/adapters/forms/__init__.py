"""The types of network as they are trained: one form per layer, each the same function as `adapters.deltas` has it."""

from loratory.adapters.forms.base import Form
from loratory.adapters.forms.choose import make_form

__all__ = ["Form", "make_form"]
