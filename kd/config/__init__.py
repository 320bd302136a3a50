"""The settings: their schema, how they are checked and shown, and how runs are named by them.

The package may import ``kd.models``, ``kd.methods`` and the small modules at the top of ``kd``;
importing it loads no torch.
"""

from kd.config.messages import explain
from kd.config.naming import run_name
from kd.config.schema import Config, flatten, relevant
from kd.config.validation import validate

__all__ = ["Config", "explain", "flatten", "relevant", "run_name", "validate"]
