"""Going back to a good checkpoint when numbers are no longer finite, or the model no longer good."""

from __future__ import annotations

from genkit.errors import TrainingStopped
from genkit.training.log import MetricLogger
from genkit.training.rundir import RunDir
from genkit.training.state import TrainState

MOST = 3  # times a run and cause; each halves the learning rate
NOT_FINITE, COLLAPSED = "not finite", "collapsed"  # causes
_KEY = "recovery"


def data_step(state: TrainState) -> int:
    """Which batch the next step takes: its own number, and as many more as were passed over."""
    return state.step + int(state.extra.get(_KEY, {}).get("passed_over", 0))


def lr_factor(state: TrainState) -> float:
    """What is left of the learning rate after the times the run went back."""
    return float(0.5 ** int(state.extra.get(_KEY, {}).get("times", 0)))


def roll_back(
    run: RunDir,
    state: TrainState,
    logger: MetricLogger,
    *,
    problem: str,
    remedy: str,
    cause: str = NOT_FINITE,
    up_to: int | None = None,
    most: int = MOST,
) -> None:
    """Restore a checkpoint, halve the learning rate and pass over the data up to here.

    The caller saves at once, so that a run which is killed now does not forget it.

    Args:
        problem: what is wrong, and where.
        remedy: for the error.
        cause: times are counted for each by itself.
        up_to: the latest step to go back to; default: the newest checkpoint.

    Raises:
        TrainingStopped: it went back `most` times for this cause already; the last checkpoint is kept.
    """
    held = state.extra.get(_KEY, {})
    times = int(held.get("times", 0)) + 1
    causes = {**held.get("causes", {}), cause: int(held.get("causes", {}).get(cause, 0)) + 1}
    bad = data_step(state)
    if causes[cause] > most:
        back = f"{most} time{'s' * (most != 1)}"
        raise TrainingStopped(f"{problem}, after going back {back}; the last checkpoint is kept", remedy)
    state.restore(run.load_checkpoint(up_to))
    state.extra[_KEY] = {"times": times, "causes": causes, "passed_over": bad + 1 - state.step}
    logger.message(f"{problem}: back to step {state.step}, with the learning rate times {0.5**times:g}")
