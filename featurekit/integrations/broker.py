"""A simulated broker: orders of one symbol, filled on the bar that follows, with spread and fee."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite

from featurekit.errors import ConfigError, Problem
from featurekit.ledger import Fill

BASIS_POINT = 1e-4


@dataclass(frozen=True, slots=True)
class Terms:
    """What trading costs, in basis points, how positions are sized, and where they are left.

    Args:
        fee_bps: Commission of each fill, of its notional.
        spread_bps: Between bid and ask, of the price; each fill is worse by half of it.
        lot: The smallest step of a quantity, in units.
        stop: Loss at which a position is closed, as a share of its opening price; None for none.
        target: Gain at which it is closed, likewise.

    Raises:
        ConfigError: when one of them is negative, or no number.
    """

    fee_bps: float = 0.0
    spread_bps: float = 0.0
    lot: float = 0.01
    stop: float | None = None
    target: float | None = None

    def __post_init__(self) -> None:
        least = {"fee_bps": 0.0, "spread_bps": 0.0, "lot": 5e-324, "stop": 5e-324, "target": 5e-324}
        problems = [
            Problem(
                f"{name} is out of range",
                expected="a finite number " + ("of 0 or more" if low == 0 else "above 0"),
                got=repr(value),
                fix=f"{name}=0.01",
            )
            for name, low in least.items()
            if (value := getattr(self, name)) is not None
            and not (isinstance(value, int | float) and isfinite(value) and value >= low)
        ]
        if problems:
            raise ConfigError(*problems)


class Broker:
    """Fills of one symbol; the position and its orders are the ledger's, told before each bar.

    A market order given at a bar's close is filled at the next bar's open. A stop or target is
    filled in the bar that reaches it, at its level, or at the open where the price jumped over it;
    of a bar that reaches both, the stop is taken: which came first is not known.

    Args:
        symbol: Whose fills.
        multiplier: Account currency per unit of quantity and price.
        terms: Of trading.
        open_delay: ns after a bar's close at which a fill at the next open is stamped: what makes
            the next bar, and no bar before, see it.

    Example:
        >>> broker = Broker("GOLD", 1.0, Terms(spread_bps=10.0, stop=0.01), open_delay=0)
        >>> [entry, stopped] = broker.trade((100.0, 101.0, 98.0, 99.0), (0, 3600), 0.0, 2.0)
        >>> entry.price, entry.stop, stopped.side, stopped.price, stopped.time
        (100.05, 99.0495, 'sell', 98.99997525, 3599)
    """

    def __init__(self, symbol: str, multiplier: float, terms: Terms, open_delay: int) -> None:
        self.symbol, self.multiplier, self.terms = symbol, multiplier, terms
        self._open_delay = open_delay
        self._half_spread = terms.spread_bps * BASIS_POINT / 2
        self._fee = terms.fee_bps * BASIS_POINT * multiplier

    def units(self, notional: float, price: float) -> float:
        """The quantity of a notional in account currency, in whole lots."""
        lots = round(notional / (price * self.multiplier) / self.terms.lot)
        return lots * self.terms.lot

    def trade(
        self,
        bar: tuple[float, float, float, float],
        between: tuple[int, int],
        held: float,
        wanted: float,
        stop: float = 0.0,
        target: float = 0.0,
    ) -> list[Fill]:
        """The fills of a bar: of the order to hold `wanted` instead of `held`, and of its levels.

        Args:
            bar: Open, high, low, close.
            between: When the bar before closed and when this one closes, in UTC ns.
            held: Signed quantity before the bar, with its `stop` and `target`, 0 for none.
            wanted: Signed quantity from the open on.
            stop: Price of the order that is in place.
            target: Likewise.
        """
        fills = []
        opening, high, low, _ = bar
        if wanted != held:
            fill = self._fill(between[0] + self._open_delay, wanted - held, opening)
            if wanted * held <= 0:
                stop, target = self._levels(wanted, fill.price)
                fill = fill._replace(stop=stop or None, target=target or None)
            fills.append(fill)
        if wanted and (stop or target):
            long = wanted > 0
            level = None
            if stop and (low <= stop if long else high >= stop):
                level = min(opening, stop) if long else max(opening, stop)
            elif target and (high >= target if long else low <= target):
                level = max(opening, target) if long else min(opening, target)
            if level is not None:
                fills.append(self._fill(between[1] - 1, -wanted, level))
        return fills

    def _fill(self, time: int, quantity: float, price: float) -> Fill:
        buys = quantity > 0
        paid = price * (1 + self._half_spread if buys else 1 - self._half_spread)
        size = abs(quantity)
        fee = self._fee * size * paid
        return Fill(time, self.symbol, "buy" if buys else "sell", size, paid, fee, None, None, None)

    def _levels(self, quantity: float, price: float) -> tuple[float, float]:
        """Prices of stop and target of a position opened at a price; 0 for none."""
        side = (quantity > 0) - (quantity < 0)
        stop, target = self.terms.stop, self.terms.target
        return (
            price * (1 - side * stop) if stop and side else 0.0,
            price * (1 + side * target) if target and side else 0.0,
        )


def check_levels(levels: tuple[float, ...], leverage: float) -> None:
    """Refuses exposures that no account can hold, or among which there is nothing to choose.

    Raises:
        ConfigError: when there are fewer than two, or one is beyond the leverage.
    """
    within = all(abs(level) <= leverage for level in levels)
    if len(set(levels)) < max(len(levels), 2) or not within:
        raise ConfigError(
            Problem(
                "these are no exposures to choose among",
                where="levels",
                expected=f"distinct multiples of equity, two or more, at most {leverage} in size",
                got=repr(levels),
                fix="levels=(-1.0, 0.0, 1.0), or account: {leverage: 30} in the pipeline",
            )
        )
