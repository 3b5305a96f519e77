"""The built-in blocks; each module defines one. Definitions only."""

from featurekit.blocks.indicator import indicator
from featurekit.blocks.market import market
from featurekit.blocks.position import position

__all__ = ["indicator", "market", "position"]
