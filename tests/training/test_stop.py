import os
import signal
import threading

import pytest

from genkit.errors import Interrupted, Terminated
from genkit.training.stop import StopSignal


@pytest.mark.parametrize(("number", "kind"), [(signal.SIGINT, Interrupted), (signal.SIGTERM, Terminated)])
def test_the_first_signal_is_noted_and_names_the_way_back(number: signal.Signals, kind: type) -> None:
    before = signal.getsignal(number)
    with StopSignal() as stop:
        os.kill(os.getpid(), number)
        assert stop.received is number
        error = stop.error("at step 3 in run", "genkit train-text --resume --out run")
    assert signal.getsignal(number) is before
    assert isinstance(error, kind)
    assert f"stopped by {number.name}; saved at step 3 in run" in str(error)
    assert "genkit train-text --resume --out run" in str(error)


def test_the_second_signal_does_not_wait() -> None:
    with StopSignal() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.received
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_outside_the_main_thread_nothing_is_caught() -> None:
    found: list[object] = []

    def work() -> None:
        with StopSignal() as stop:
            found.append(stop.received)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [None]
