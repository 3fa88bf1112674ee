"""What can go wrong, by what is to be done about it."""


class Wrong(Exception):
    """The command, the table or a workflow is wrong: nothing is run. The text says the fix."""


class RowFailed(Exception):
    """The workflow itself failed on this row: another try would fail again."""


class TryAgain(RowFailed):
    """A failure that a host with emptied memory may not have: it gets one more try."""


class HostGone(Exception):
    """The host does not answer, or forgot the row: the row is still to be done."""


class DiskFull(Exception):
    """Nothing more can be written: the batch stops, and what is done stays done."""
