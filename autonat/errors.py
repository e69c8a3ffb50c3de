"""What may go wrong on the user's side."""


class UserError(Exception):
    """Something the user can mend. The command line prints the message in one line and exits with status 2."""
