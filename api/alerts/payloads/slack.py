"""Slack's incoming webhook: a line of text, and below it a block for each alert beside a bar in the severity's colour.

Source: docs.slack.dev, "Sending messages using incoming webhooks", "Formatting message text", and the reference of
Block Kit: at most 50 blocks, 3,000 characters a section. What it does not say: of more than some 13,200 characters in
all it takes none (slackapi/bolt-js, issue 2509).
"""

from typing import Any

from api.alerts.payloads.request import Request, Telling, about, clip, headline, json_request, more
from gigawatch.alerts.notification import AlertTold

BLOCKS = 50
SECTION = 3_000
TEXT = 12_000
"""Characters of all sections."""
COLOURS = {"critical": "#d32f2f", "warning": "#f59e0b", "info": "#2563eb"}
RESOLVED = "#2e7d32"


def request(telling: Telling) -> Request:
    """The message."""
    told = telling.notification
    # One block is left for what is not shown.
    titles = [_title(it) for it in told.alerts[: BLOCKS - 1]]
    while sum(map(len, titles)) > TEXT:
        titles.pop()
    # The worst come first, and are told in full.
    room = TEXT - sum(map(len, titles))
    blocks: list[dict[str, Any]] = []
    for alert, title in zip(told.alerts, titles, strict=False):
        words = _words(alert, title, min(len(title) + room, SECTION))
        room -= len(words) - len(title)
        blocks.append({"type": "section", "text": _text(words)})
    if rest := more(told, len(titles)):
        blocks.append({"type": "context", "elements": [_text(rest)]})
    colour = RESOLVED if told.status == "resolved" else COLOURS[told.severity]
    return json_request(
        telling.url,
        {
            "text": _link(told.external_url, clip(headline(told), 300)),
            "attachments": [{"color": colour, "blocks": blocks}],
        },
    )


def _title(alert: AlertTold) -> str:
    """An alert in a line, cut before it is escaped: half an escape or link would be seen as it is."""
    mark = "resolved: " if alert.status == "resolved" else ""
    return f"*{_link(alert.url, clip(mark + alert.summary, 300))}*"


def _words(alert: AlertTold, title: str, most: int) -> str:
    """An alert, in so many characters at most."""
    lines = [title]
    length = len(lines[0])
    for name, text in about(alert).items():
        line = f"{_escaped(clip(name, 100))}: {_escaped(clip(text, 200))}"
        # Room is left for the runbook.
        if length + len(line) > most - 300:
            break
        lines.append(line)
        length += len(line) + 1
    if alert.runbook and length + len(runbook := _link(alert.runbook, "Runbook")) < most:
        lines.append(runbook)
    return "\n".join(lines)


def _text(words: str) -> dict[str, Any]:
    return {"type": "mrkdwn", "text": words, "verbatim": True}


def _link(url: str | None, words: str) -> str:
    # A bar would end the URL, and > the link.
    return f"<{_escaped(url).replace('|', '%7C')}|{_escaped(words)}>" if url else _escaped(words)


def _escaped(words: str) -> str:
    return words.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
