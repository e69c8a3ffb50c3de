"""Programs side by side: each returns what it returns alone, and all of them take as many turns as the longest."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st
from studies_for_tests import tiny_recipe

from autonat.orchestrator import run_program
from autonat.search.alternation import start_of
from autonat.search.program import Ask, Decision, Phase, together

TRAINING = start_of(tiny_recipe())[1].training
PHASE = Phase("test", 0)

# A program's events in order: how many requests are asked for at once, or None for a decision.
EVENTS = st.lists(st.integers(1, 3) | st.none(), max_size=6)


class Echo:
    """Answers each request with its seed; remembers what was asked for at once."""

    def __init__(self):
        self.turns = []

    def fulfil(self, requests):
        self.turns.append([spec.seed for spec in requests])
        return list(self.turns[-1])


class Witness:
    """Remembers the decisions."""

    def __init__(self):
        self.decisions = []

    asked = answered = lambda *_: None

    def decided(self, decision):
        self.decisions.append((decision.facts["program"], decision.facts["place"]))


def program(number, events):
    """Asks for seeds that nobody else asks for, and returns all answers with the places of the events before them."""
    answers = []
    for place, event in enumerate(events):
        if event is None:
            answer = yield Decision(PHASE, {"program": number, "place": place})
        else:
            seeds = [100 * number + 10 * place + each for each in range(event)]
            answer = yield Ask(Phase(f"program {number}", place), tuple(replace(TRAINING, seed=seed) for seed in seeds))
            assert answer == seeds
        answers.append(answer)
    return number, answers


def run(started):
    """What a program returns, what was asked for at once, and the decisions."""
    echo, witness = Echo(), Witness()
    return run_program(started, echo, witness), echo.turns, witness.decisions


@given(st.lists(EVENTS, max_size=5))
def test_programs_side_by_side_return_what_each_returns_alone(lists):
    """Their requests of one turn are one Ask, in the programs' order; each program's decisions keep their order."""
    alone = [run(program(number, events)) for number, events in enumerate(lists)]
    returned, turns, decisions = run(together([program(number, events) for number, events in enumerate(lists)]))
    assert returned == [result for result, _, _ in alone]
    assert len(turns) == max((len(own) for _, own, _ in alone), default=0)
    for turn, asked in enumerate(turns):
        assert asked == [seed for _, own, _ in alone for seed in (own[turn] if turn < len(own) else [])]
    for number, (_, _, own) in enumerate(alone):
        assert [place for place in decisions if place[0] == number] == own


def test_a_turn_has_the_phase_of_the_first_program_that_asks():
    started = together([program(0, []), program(1, [2, 1]), program(2, [1])])
    event = next(started)
    assert (event.phase.name, [spec.seed for spec in event.requests]) == ("program 1", [100, 101, 200])
