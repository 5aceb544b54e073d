"""Looks at the meters of the settings."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from collector.finding import Finding
from collector.meters.probe import MISSING, probe
from collector.meters.reader import check_names
from collector.meters.reading import Denied
from gigawatch.errors import GigawatchError
from gigawatch.settings import Meter

AT_ONCE = 16


def examine_meters(settings: Sequence[Meter]) -> list[Finding]:
    """Whether each meter can be read, and what it tells; those of one connection one after the other."""
    try:
        check_names(settings)
    except GigawatchError as error:
        return [Finding("meters", "bad", error.problem, error.remedy)]
    connections: dict[tuple[str, str], list[Meter]] = {}
    for it in settings:
        connections.setdefault((it.driver, it.address), []).append(it)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return [finding for findings in pool.map(_connection, connections.values()) for finding in findings]


def _connection(meters: Sequence[Meter]) -> list[Finding]:
    findings: list[Finding] = []
    denied: dict[tuple[str | None, str | None], GigawatchError] = {}
    for it in meters:
        account = (it.user, it.secret_file)
        error = denied.get(account)
        try:
            if error is None:
                findings.append(_meter(it))
        except GigawatchError as its_error:
            error = its_error
            if isinstance(error, Denied) and error.of_account:
                # Tried once for each of many meters, it would be locked.
                denied[account] = error
        if error is not None:
            findings.append(Finding(f"meter {it.name}", "bad", error.problem, error.remedy))
    return findings


def _meter(settings: Meter) -> Finding:
    """What a meter tells.

    Raises:
        GigawatchError: it cannot be read.
    """
    subject, report = f"meter {settings.name}", probe(settings)
    told = ", ".join(
        f"{it.figure} {_shown(it.value)} {it.unit}".strip() for it in report.figures if it.value is not None
    )
    text = f"{report.title}: {told}"
    remedy = f"`gigawatch meter probe --name {settings.name}` shows what it tells."
    if refused := [f"{it.figure} was refused ({it.refused})" for it in report.figures if it.refused]:
        return Finding(subject, "bad", f"{text}; {'; '.join(refused)}", remedy)
    if report.tells("power") and not report.tells("energy"):
        return Finding(subject, "note", f"{text}; no energy: {MISSING['energy']}", remedy)
    if report.tells("energy") and settings.rated_kw is None:
        return Finding(
            subject, "note", f"{text}; without rated_kw a glitch of its register can pass for energy",
            "Set rated_kw in its [[meters]]: the most that can flow through it, such as what its breaker takes.",
        )  # fmt: skip
    if report.tells("volume") and settings.rated_m3_h is None:
        return Finding(
            subject, "note", f"{text}; without rated_m3_h a glitch of its register can pass for water",
            "Set rated_m3_h in its [[meters]]: the greatest flow, which is 1.25 times the Q3 on its dial.",
        )  # fmt: skip
    return Finding(subject, "good", text)


def _shown(value: float | str | None) -> str:
    return f"{value:,.6g}" if isinstance(value, float) else str(value)
