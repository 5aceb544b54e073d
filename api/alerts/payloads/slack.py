"""Slack's incoming webhook: a line of text, and below it a block for each alert beside a bar in the severity's colour.

Source: docs.slack.dev, "Sending messages using incoming webhooks", "Formatting message text", and the reference of
Block Kit: at most 50 blocks, 3,000 characters a section.
"""

from typing import Any

from api.alerts.payloads.request import Request, Telling, about, clip, headline, json_request, more
from gigawatch.alerts.notification import AlertTold

BLOCKS = 50
SECTION = 3_000
COLOURS = {"critical": "#d32f2f", "warning": "#f59e0b", "info": "#2563eb"}
RESOLVED = "#2e7d32"


def request(telling: Telling) -> Request:
    """The message."""
    told = telling.notification
    # One block is left for what is not shown.
    shown = told.alerts[: BLOCKS - 1]
    blocks: list[dict[str, Any]] = [{"type": "section", "text": _text(_words(it))} for it in shown]
    if rest := more(told, len(shown)):
        blocks.append({"type": "context", "elements": [_text(rest)]})
    colour = RESOLVED if told.status == "resolved" else COLOURS[told.severity]
    return json_request(
        telling.url,
        {
            "text": _link(told.external_url, clip(headline(told), 300)),
            "attachments": [{"color": colour, "blocks": blocks}],
        },
    )


def _words(alert: AlertTold) -> str:
    """An alert, cut before it is escaped: half an escape or link would be seen as it is."""
    mark = "resolved: " if alert.status == "resolved" else ""
    lines = [f"*{_link(alert.url, clip(mark + alert.summary, 300))}*"]
    length = len(lines[0])
    for name, text in about(alert).items():
        line = f"{_escaped(clip(name, 100))}: {_escaped(clip(text, 200))}"
        # Room is left for the runbook.
        if length + len(line) > SECTION - 300:
            break
        lines.append(line)
        length += len(line) + 1
    if alert.runbook and length + len(runbook := _link(alert.runbook, "Runbook")) < SECTION:
        lines.append(runbook)
    return "\n".join(lines)


def _text(words: str) -> dict[str, Any]:
    return {"type": "mrkdwn", "text": words, "verbatim": True}


def _link(url: str | None, words: str) -> str:
    # A bar would end the URL, and > the link.
    return f"<{_escaped(url).replace('|', '%7C')}|{_escaped(words)}>" if url else _escaped(words)


def _escaped(words: str) -> str:
    return words.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
