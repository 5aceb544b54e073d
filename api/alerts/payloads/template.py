"""A body that an administrator writes as a template of Jinja, with `notification` in scope.

It is rendered by a process of its own: no sandbox within Python bounds the time and memory of an expression.
"""

import subprocess
import sys

import msgspec

from api.alerts.payloads.request import Impossible, NotYet, Request, Telling

TIMEOUT_S = 20.0
"""Its process may use two seconds of a processor, for which a busy machine takes so long."""


def request(telling: Telling) -> Request:
    """The template's output.

    Raises:
        Impossible: the template fails, or takes more time or memory than it may.
        NotYet: the machine is too busy to say.
    """
    if telling.target.template is None:
        raise Impossible("a target of kind template needs a template")
    body = render(telling.target.template, msgspec.to_builtins(telling.notification))
    return Request(url=telling.url, body=body.encode(), content_type=telling.target.content_type)


def render(template: str, notification: object) -> str:
    """What a template makes of a notification.

    Raises:
        Impossible: it fails; the message names its line and the reason.
        NotYet: its process had too little of the machine's time to end, or to be ended for the time that it takes.
    """
    try:
        rendering = subprocess.run(
            [sys.executable, "-I", "-m", "api.alerts.rendering"],
            input=msgspec.json.encode({"template": template, "notification": notification}),
            capture_output=True,
            timeout=TIMEOUT_S,
            env={},
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise NotYet(f"the template was not rendered within {TIMEOUT_S:g} s, as the machine is busy") from error
    if rendering.returncode != 0:
        # A process that runs out of memory may have no words left.
        words = rendering.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        raise Impossible(f"the template failed: {words or 'it takes more time or memory than it may'}")
    return rendering.stdout.decode()
