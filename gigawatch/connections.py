"""How many connections our servers hold open: an agent, and a relay, keeps its own for as long as it runs."""

import resource

MOST_CONNECTIONS = 16_384
"""In one process; what comes beyond waits unanswered."""
BACKLOG = 4_096
"""Connections that may come at once, as after a restart."""


def allow_open_files() -> None:
    """Raise the limit of open files as far as we may: 1,024 is a usual one."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
