"""Engines that call functions elsewhere: in other processes, on other machines.

Each module of an engine has ``opened``; see ``settings.py`` for what they have in common.
"""

from kd._startup import exports

_MODULES = {"Lost": "settings", "Spread": "settings", "read_spread": "settings"}
__all__ = [*_MODULES]
__getattr__ = exports(__name__, _MODULES)
