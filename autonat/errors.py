"""What may go wrong on the user's side."""


class UserError(Exception):
    """Something the user can mend. The command line prints the message in one line and exits with status 2."""


class StudyStopped(Exception):  # noqa: N818 - nothing went wrong
    """The study was asked to stop, and nothing is in flight any more."""
