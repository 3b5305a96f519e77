"""The 27 position columns, simulated bar by bar from the rules, apart from the ledger."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import pytest
from numpy.typing import NDArray

talib = pytest.importorskip(
    "talib", minversion="0.8", reason="TA-Lib 0.8 publishes no wheel for Python 3.10"
)
F8 = NDArray[np.float64]
NAMES = [
    "side",
    "quantity",
    "notional",
    "exposure",
    "entry_distance",
    "unrealized_pnl",
    "unrealized_return",
    "pnl_in_atr",
    "bars_held",
    "bars_flat",
    "fills_held",
    "max_favorable_excursion",
    "max_adverse_excursion",
    "giveback",
    "stop_distance",
    "target_distance",
    "risk_reward",
    "fees_held",
    "realized_pnl_100",
    "last_trade_return",
    "win_rate_20",
    "mean_trade_return_20",
    "profit_factor_20",
    "trades_100",
    "equity_return_100",
    "equity_drawdown",
    "cash_ratio",
]


@dataclass
class Book:
    """One account with one symbol, as a list of plain numbers."""

    q: float = 0.0
    entry: float = 0.0
    stop: float = 0.0
    target: float = 0.0
    fills: int = 0
    fees_held: float = 0.0
    opened_notional: float = 0.0
    trade_pnl: float = 0.0
    realized: float = 0.0
    fees: float = 0.0
    deposits: float = 0.0
    trades: list[tuple[float, float]] = field(default_factory=list)  # pnl, return

    def fill(self, f: dict[str, float | str | None], m: float, seen: dict[str, float]) -> None:
        """Applies one fill; `seen` collects what happened within the bar."""
        fee = float(f.get("fee") or 0.0)
        if f["side"] in ("deposit", "withdraw"):
            amount = float(f["quantity"] or 0) * (1 if f["side"] == "deposit" else -1)
            self.deposits += amount
            seen["deposit"] += amount
            return
        quantity = float(f["quantity"] or 0) * (1 if f["side"] == "buy" else -1)
        self.fees += fee
        seen["realized"] -= fee
        if quantity == 0:
            self.order(f)
            if self.q:
                self.fees_held += fee
                self.trade_pnl -= fee
            return
        price = float(f["price"] or 0)
        closing = 0.0
        if self.q * quantity < 0:
            closing = min(abs(quantity), abs(self.q))
            pnl = math.copysign(closing, self.q) * (price - self.entry) * m
            part = fee * closing / abs(quantity)
            self.realized += pnl
            seen["realized"] += pnl
            self.trade_pnl += pnl - part
            self.fees_held += part
            self.fills += 1
            left = abs(self.q) - closing
            if left <= 1e-9 * abs(self.q):
                self.trades.append((self.trade_pnl, self.trade_pnl / self.opened_notional))
                seen["trades"] += 1
                seen["exited"] = 1
                self.clear()
                seen["opened"], seen["kept"] = 0, 1.0
            else:
                seen["kept"] *= left / abs(self.q)
                self.q = math.copysign(left, self.q)
        opening = abs(quantity) - closing
        if opening > 1e-12:
            part = fee * opening / abs(quantity)
            if self.q == 0:
                seen["opened"], seen["kept"] = 1, 1.0
                seen["exited"] = 0
                self.fills = 0
            size = abs(self.q)
            self.entry = (size * self.entry + opening * price) / (size + opening)
            self.q = math.copysign(size + opening, quantity)
            self.opened_notional += opening * price * m
            self.trade_pnl -= part
            self.fees_held += part
            self.fills += 1
        if self.q:
            self.order(f)

    def order(self, f: dict[str, float | str | None]) -> None:
        """Null keeps a level, 0 cancels it."""
        if self.q:
            for name in ("stop", "target"):
                if f.get(name) is not None:
                    setattr(self, name, float(f[name] or 0.0))

    def clear(self) -> None:
        """Flat again."""
        self.q = self.entry = self.stop = self.target = 0.0
        self.fees_held = self.opened_notional = self.trade_pnl = 0.0
        self.fills = 0


def position_columns(
    closes: NDArray[np.int64],
    bars: dict[str, F8],
    fills: list[dict[str, float | str | None]],
    *,
    cash: float,
    m: float,
    leverage: float,
) -> dict[str, F8]:
    """All 27 by name; fills carry `time` in ns and are visible from the next later close on."""
    high, low, close = bars["high"], bars["low"], bars["close"]
    atr = talib.ATR(high, low, close, 14)
    book, queue = Book(), sorted(fills, key=lambda f: float(f["time"] or 0))
    rows: list[list[float]] = []
    realized, trades, growth = [], [], []
    held = flat = 0
    best = worst = latched = 0.0
    last_equity = cash
    index = [0.0]
    ever = False
    for t, when in enumerate(closes):
        seen = {"realized": 0.0, "trades": 0, "deposit": 0.0, "opened": 0, "exited": 0, "kept": 1.0}
        while queue and int(queue[0]["time"] or 0) < when:
            book.fill(queue.pop(0), m, seen)
        c = close[t]
        unrealized = book.q * (c - book.entry) * m
        equity = max(cash + book.deposits + book.realized - book.fees + unrealized, 0.01 * cash)
        side = float(np.sign(book.q))
        if seen["exited"] and not book.q:
            ever, flat = True, 0
        flat = 0 if book.q else flat + 1
        if seen["opened"]:
            held, best, worst = 0, 0.0, 0.0
            latched = 0.0 if np.isnan(atr[t]) or atr[t] <= 1e-9 * c else atr[t]
        else:
            best, worst = best * seen["kept"], worst * seen["kept"]
        held = held + 1 if book.q else 0
        best, worst = max(best, unrealized), min(worst, unrealized)
        realized.append(seen["realized"])
        trades.append(seen["trades"])
        growth.append(math.log(max(equity - seen["deposit"], 0.01 * cash) / last_equity))
        last_equity = equity
        index.append(index[-1] + growth[-1])
        recent = book.trades[-20:]
        wins, losses = sum(p for p, _ in recent if p > 0), -sum(p for p, _ in recent if p < 0)
        stop = side * (c - book.stop) if book.stop else 0.0
        target = side * (book.target - c) if book.target else 0.0
        notional = book.q * c * m
        rows.append(
            [
                side,
                book.q,
                notional,
                notional / equity,
                side * math.log(c / book.entry) if book.q else 0.0,
                unrealized,
                unrealized / (abs(book.q) * book.entry * m) if book.q else 0.0,
                side * (c - book.entry) / latched if book.q and latched else 0.0,
                held,
                0 if book.q else (min(flat, 500) if ever else 500),
                book.fills,
                best if book.q else 0.0,
                worst if book.q else 0.0,
                best - unrealized if book.q else 0.0,
                stop,
                target,
                min(target / stop, 10.0) if stop > 0 and target > 0 else 0.0,
                book.fees_held,
                sum(realized[-100:]),
                recent[-1][1] if recent else 0.0,
                sum(p > 0 for p, _ in recent) / len(recent) if recent else 0.0,
                sum(r for _, r in recent) / len(recent) if recent else 0.0,
                (min(wins / losses, 10.0) if losses else 10.0 if wins else 0.0),
                sum(trades[-100:]),
                sum(growth[-100:]),
                math.exp(index[-1] - max(index if len(index) <= 500 else index[-500:])) - 1,
                (equity - abs(notional) / leverage) / equity,
            ]
        )
    table = np.array(rows).T
    return dict(zip(NAMES, table, strict=True))
