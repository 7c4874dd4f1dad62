"""Going back: counted for each cause by itself."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from genkit.errors import TrainingStopped
from genkit.training.log import Loggers
from genkit.training.recovery import COLLAPSED, data_step, lr_factor, roll_back
from genkit.training.rundir import RunDir
from genkit.training.state import TrainState


def test_each_cause_has_its_own_count(tmp_path: Path) -> None:
    state = TrainState(modules={"model": torch.nn.Linear(1, 1)}, optimizers={})
    with RunDir.create(tmp_path / "run") as run:
        run.save_checkpoint(state)

        def go_back(cause: str) -> None:
            state.step += 1
            roll_back(run, state, Loggers(), problem="bad", remedy="mend it", cause=cause, most=2)
            run.save_checkpoint(state)

        go_back("not finite")
        go_back("not finite")
        go_back(COLLAPSED)
        assert lr_factor(state) == 0.125  # all of them count for the rate
        assert (state.step, data_step(state)) == (0, 6)  # batches 1, 3 and 5 were bad
        go_back(COLLAPSED)
        with pytest.raises(TrainingStopped, match="bad, after going back 2 times"):
            go_back(COLLAPSED)
        with pytest.raises(TrainingStopped, match="after going back 2 times"):
            go_back("not finite")
