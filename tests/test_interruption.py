"""Signals in places that cannot be interrupted."""

import signal
import sys
import time

import pytest

from autonat.interruption import Interruption

NUMBERS = [signal.SIGINT, signal.SIGTERM]


def raised_by(number):
    return {signal.SIGINT: KeyboardInterrupt, signal.SIGTERM: SystemExit}[number]


@pytest.mark.parametrize("number", NUMBERS)
def test_a_module_is_imported_to_its_end_and_then_the_signal_comes(number, tmp_path, monkeypatch):
    (tmp_path / "slow_to_import.py").write_text(
        f"import signal, time\nsignal.raise_signal({int(number)})\ntime.sleep(0.2)\nwhole = True\n"
    )
    monkeypatch.syspath_prepend(tmp_path)

    def work():
        with Interruption():
            import slow_to_import

            assert slow_to_import.whole
            time.sleep(10)

    try:
        with pytest.raises(raised_by(number)):
            work()
        assert sys.modules["slow_to_import"].whole
    finally:
        sys.modules.pop("slow_to_import", None)


def test_a_context_within_an_import_is_interrupted_at_once(tmp_path, monkeypatch):
    (tmp_path / "runs_a_study.py").write_text(
        "import signal\nfrom autonat.interruption import Interruption\n"
        "with Interruption():\n    signal.raise_signal(signal.SIGINT)\n    raise AssertionError\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        import runs_a_study  # noqa: F401


@pytest.mark.parametrize("number", NUMBERS)
def test_what_a_destructor_drops_comes_again_and_nothing_is_printed(number, capsys):
    class Dropping:
        def __del__(self):
            signal.raise_signal(number)

    def work():
        with Interruption():
            Dropping()
            time.sleep(10)

    hook = sys.unraisablehook
    with pytest.raises(raised_by(number)):
        work()
    assert capsys.readouterr() == ("", "")
    assert sys.unraisablehook is hook


def test_other_exceptions_in_destructors_are_still_shown(monkeypatch):
    class Broken:
        def __del__(self):
            raise ZeroDivisionError

    shown = []
    monkeypatch.setattr("sys.unraisablehook", lambda unraisable: shown.append(unraisable.exc_type))
    with Interruption():
        Broken()
    assert shown == [ZeroDivisionError]


def test_a_signal_that_was_to_come_again_is_forgotten_with_the_context():
    """Otherwise it would end what runs afterwards."""

    class Dropping:
        def __del__(self):
            signal.raise_signal(signal.SIGTERM)

    came = []
    before = signal.signal(signal.SIGTERM, lambda *_: came.append(1))
    try:
        with Interruption() as interruption:
            Dropping()
        assert interruption.asked == signal.SIGTERM
        time.sleep(0.2)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert came == []
