"""Errors, by what is to be done about them."""


class Trouble(Exception):
    """Something that the user can mend. The text says how."""


class BadInput(Trouble):
    """The command, the table or a workflow is wrong: nothing is run."""


class HostAway(BadInput):
    """A host of the command line does not answer yet: the others may begin without it."""


class RowFailed(Trouble):
    """The workflow itself failed on this row: another try would fail again."""


class TryAgain(RowFailed):
    """A failure that a host with emptied memory may not have: it gets one more try."""


class HostGone(Trouble):
    """The host does not answer, or forgot the row: the row is still to be done."""


class NotLetIn(HostGone):
    """The host, or a proxy before it, wants credentials or another address."""


class DiskFull(Trouble):
    """Nothing more can be written: the batch stops, and what is done stays done."""
