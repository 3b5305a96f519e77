"""The original gradient death, replayed on a seeded, simulated stream in which positions open.

Until 40% of the updates 2% of the windows hold a position, from 60% on all do. Raw units die then;
layer_norm alone bounds the loss and learns little; the default treatment lives.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812  # torch's own convention

from featurekit.nn.treatments import COMPARED, treated
from featurekit.nn.trial import Record, Trial, one_thread
from featurekit.nn.vitals import block_worth, blocks_of, dormant, questions
from featurekit.nn.worlds import NAMES, Structure, Windows, stream
from featurekit.profile import Profile
from featurekit.scaling import Scaling, ScalingSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from featurekit.nn.encoder import TemporalEncoder

UPDATES, BATCH = 1_500, 32
ONSET, FULL = 0.4, 0.6  # of the updates: positions open, and all windows hold one
BEFORE = 0.02  # of the windows hold a position before
LAST = 0.2  # of the updates are "after"
CHUNK = 50  # updates whose windows are made together
TEST_WINDOWS, FIT_WINDOWS = 2_000, 6_000  # even a flag of 1% is then up on 1,000 rows


@dataclass(frozen=True, slots=True)
class Promises:
    """What was promised of an encoder, measured; of several seeds the means.

    Args:
        zeros_before: Share of exact zeros in the projection's gradient until positions open.
        zeros_after: The same over the last fifth of the updates.
        corr_activity: Correlation of zeros with the share of windows in a position.
        dormant_active: Share of units that are dormant on windows in a position.
        r2_active: R2 of the value on held-out windows in a position; noise leaves 0.85.
        pooling_cv: Coefficient of variation of the norm of the pooling's gradient after onset, as
            the optimizer gets it.
        onset_peak: Largest loss after onset over the median before.
    """

    zeros_before: float
    zeros_after: float
    corr_activity: float
    dormant_active: float
    r2_active: float
    pooling_cv: float
    onset_peak: float

    @staticmethod
    def mean(each: Sequence[Promises]) -> Promises:
        """Of several seeds."""
        names = [field.name for field in fields(Promises)]
        return Promises(*(float(np.mean([getattr(one, name) for one in each])) for name in names))


@dataclass(frozen=True, slots=True)
class Replay:
    """One treatment on one seed: what was measured, every update, and what each block is worth."""

    treatment: str
    seed: int
    promises: Promises
    record: Record
    worth: dict[str, float]


def reproduce(
    names: Sequence[str] = COMPARED,
    seeds: Sequence[int] = (0, 1, 2),
    updates: int = UPDATES,
    tell: Callable[[str, int, int], None] = lambda what, done, of: None,
) -> list[Replay]:
    """Trains an encoder under each treatment on the same windows, for each seed.

    Raises:
        ConfigError: when there is no such treatment.
    """
    replays: list[Replay] = []
    with one_thread():
        for at, seed in enumerate(seeds):

            def told(steps: int, before: int = at * updates) -> None:
                tell("updates", before + steps, len(seeds) * updates)

            replays += _replay(names, seed, updates, told)
    return replays


def means(replays: Sequence[Replay]) -> dict[str, Promises]:
    """The promises of each treatment, the mean over its seeds."""
    names = dict.fromkeys(replay.treatment for replay in replays)
    return {
        name: Promises.mean([each.promises for each in replays if each.treatment == name])
        for name in names
    }


def activity(step: int, updates: int) -> float:
    """Share of windows in a position at an update.

    Example:
        >>> [activity(step, 10) for step in (0, 4, 5, 9)]
        [0.02, 0.02, 0.51, 1.0]
    """
    ramp = min(max((step / updates - ONSET) / (FULL - ONSET), 0.0), 1.0)
    return round(BEFORE + (1.0 - BEFORE) * ramp, 9)


def _replay(
    names: Sequence[str], seed: int, updates: int, tell: Callable[[int], None]
) -> list[Replay]:
    structure = Structure.of(seed)
    shares = np.array([activity(step, updates) for step in range(updates)])
    scaling = _fitted(structure, seed, float(shares.mean()))
    trials = {}
    for name in names:
        torch.manual_seed(seed)
        trials[name] = Trial(treated(name, scaling, max_window=32), outputs=4)
    rng = np.random.default_rng([seed, 1])
    for start in range(0, updates, CHUNK):
        steps = min(CHUNK, updates - start)
        active = rng.random((steps, BATCH)) < shares[start : start + steps, None]
        windows = stream(rng, structure, active.ravel(), calm=True)
        for trial in trials.values():
            torch.manual_seed(seed * updates + start)  # of dropout: the same whatever is compared
            _train(trial, windows)
        tell(start + steps)
    test = stream(
        np.random.default_rng([seed, 2]), structure, np.ones(TEST_WINDOWS, np.bool_), calm=True
    )
    return [_judged(name, seed, trial, test) for name, trial in trials.items()]


def _fitted(structure: Structure, seed: int, share: float) -> Scaling:
    """The scaling of the stream as a whole: a train split holds positions as later rows do."""
    rng = np.random.default_rng([seed, 3])
    windows = stream(rng, structure, rng.random(FIT_WINDOWS) < share, calm=True)
    return Scaling.fit(Profile.of(windows.x.reshape(-1, len(NAMES)), NAMES), ScalingSpec())


def _train(trial: Trial, windows: Windows) -> None:
    x, value, action = map(torch.from_numpy, (windows.x, windows.value, windows.action))
    for start in range(0, len(x), BATCH):
        at = slice(start, start + BATCH)

        def loss(out: torch.Tensor, at: slice = at) -> torch.Tensor:
            return F.mse_loss(out[:, 0], value[at]) + F.cross_entropy(out[:, 1:], action[at])

        trial.step(x[at], loss, float(windows.active[at].mean()))


def _judged(name: str, seed: int, trial: Trial, test: Windows) -> Replay:
    x = torch.from_numpy(test.x)
    predicted = trial.predict(x)[:, 0]
    rest = ((test.value - predicted) ** 2).sum()
    r2 = 1.0 - rest / ((test.value - test.value.mean()) ** 2).sum()
    h_ND = units(trial.encoder, x)
    rows = x.reshape(-1, x.shape[-1])
    return Replay(
        name,
        seed,
        _promises(trial.record, dormant(h_ND), float(r2)),
        trial.record,
        block_worth(h_ND[:8192], questions(rows[:8192]), blocks_of(NAMES, len(NAMES))),
    )


def units(encoder: TemporalEncoder, x_nTF: torch.Tensor) -> torch.Tensor:
    """Outputs of the projection's units [n * T, D], after the activation, in eval."""
    training = encoder.training
    encoder.eval()
    with torch.no_grad():
        h_nTD = encoder.activation(encoder.project(x_nTF))
    encoder.train(training)
    return h_nTD.reshape(-1, h_nTD.shape[-1])


def _promises(record: Record, dormant_active: float, r2_active: float) -> Promises:
    loss, zeros, pooling, share = (
        np.array(each) for each in (record.loss, record.zeros, record.pooling, record.activity)
    )
    onset, last = int(ONSET * len(loss)), int((1.0 - LAST) * len(loss))
    return Promises(
        zeros_before=float(zeros[:onset].mean()),
        zeros_after=float(zeros[last:].mean()),
        corr_activity=_correlation(zeros, share),
        dormant_active=dormant_active,
        r2_active=r2_active,
        pooling_cv=float(pooling[onset:].std() / pooling[onset:].mean()),
        onset_peak=float(loss[onset:].max() / np.median(loss[:onset])),
    )


def _correlation(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Pearson's; 0 where one of them does not vary: there is then nothing that follows."""
    if a.std() == 0.0 or b.std() == 0.0:
        return 0.0
    return float(np.corrcoef(a, b)[0, 1])
