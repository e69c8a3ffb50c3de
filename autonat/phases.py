"""Names of a study's phases that others ask about."""


def front_phase(num_steps: int) -> str:
    """The phase that tunes a study's pair for another number of steps."""
    return f"front T={num_steps}"


def is_front(phase: str) -> bool:
    """Whether a phase tunes for another number of steps than the study's: its distances do not compare with those."""
    return phase.startswith("front")
