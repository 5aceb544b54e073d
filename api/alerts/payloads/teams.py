"""Microsoft Teams' workflow "when a webhook request is received": a message with an adaptive card.

Source: learn.microsoft.com, "Create incoming webhooks with Workflows" and "Format cards"; adaptivecards.io, schema of
1.5. Words that we do not write ourselves stand in text runs, which are shown as they are: text blocks are Markdown. A
message may have about 28 KB, as Microsoft counts; refusals are told of from 21 KB on.
"""

from typing import Any

from api.alerts.payloads.request import Request, Telling, about, clip, fitting, headline, json_request, more
from gigawatch.alerts.notification import AlertTold

SIZE = 20_000
STYLES = {"critical": "attention", "warning": "warning", "info": "accent"}


def request(telling: Telling) -> Request:
    """The message, with as many alerts as it may have."""
    told = telling.notification

    def message(shown: int) -> dict[str, Any]:
        style = "good" if told.status == "resolved" else STYLES[told.severity]
        title = [_run(clip(headline(told), 300), size="medium", weight="bolder")]
        body: list[dict[str, Any]] = [{"type": "Container", "style": style, "items": [_words(title)]}]
        body += [
            {"type": "Container", "separator": True, "items": [_words(line) for line in _lines(it)]}
            for it in told.alerts[:shown]
        ]
        if rest := more(told, shown):
            body.append(_words([_run(rest, isSubtle=True)]))
        card: dict[str, Any] = {
            "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
            "type": "AdaptiveCard",
            "version": "1.4",
            "fallbackText": "This client does not show adaptive cards.",
            "body": body,
        }
        if told.external_url:
            card["actions"] = [{"type": "Action.OpenUrl", "title": "Dashboard", "url": told.external_url}]
        content_type = "application/vnd.microsoft.card.adaptive"
        attachment = {"contentType": content_type, "contentUrl": None, "content": card}
        return {"type": "message", "attachments": [attachment]}

    return json_request(telling.url, fitting(message, len(told.alerts), SIZE))


def _lines(alert: AlertTold) -> list[list[dict[str, Any]]]:
    mark = "resolved: " if alert.status == "resolved" else ""
    summary = _run(clip(mark + alert.summary, 300), weight="bolder", **_opens(alert.url))
    facts = ", ".join(f"{clip(name, 100)}: {clip(text, 200)}" for name, text in about(alert).items())
    lines = [[summary], [_run(clip(facts, 2_000), isSubtle=True)]]
    if alert.runbook:
        lines.append([_run("Runbook", **_opens(alert.runbook))])
    return lines


def _words(runs: list[dict[str, Any]]) -> dict[str, Any]:
    return {"type": "RichTextBlock", "inlines": runs}


def _run(text: str, **how: object) -> dict[str, Any]:
    return {"type": "TextRun", "text": text, **how}


def _opens(url: str | None) -> dict[str, Any]:
    return {"selectAction": {"type": "Action.OpenUrl", "url": url}} if url else {}
