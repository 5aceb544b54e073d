"""The configuration of alerts: a file comes into force whole or not at all, over the rules that ship."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import msgspec
from msgspec import Struct
from sqlalchemy import Connection, Engine, text

from api.alerts import files
from api.alerts.configuration import Budget, Configuration, Route, Target
from api.alerts.delivery import Undeliverable, place_of
from api.alerts.durations import LONGEST_S, seconds
from api.alerts.evaluation import problem_of
from api.alerts.network import Place as Address
from api.alerts.payloads import SECRET_NEEDED, USUAL_URLS
from api.alerts.payloads.request import Impossible, NotYet
from api.alerts.payloads.template import render
from api.alerts.rule import Rule
from api.declared import values
from api.declared.nodes import Form
from api.factors import clocks
from gigawatch.alerts import matchers
from gigawatch.alerts.sending import notification_of_test
from gigawatch.errors import GigawatchError
from gigawatch.findings import Finding, Findings
from gigawatch.findings import Path as Place
from gigawatch.settings import Alerts
from gigawatch.units import JOULES_PER_KWH, MILLIJOULES_PER_JOULE

FORM = Form(
    what="a configuration of alerts",
    begin="Begin with `targets:`, `route:` or `rules:`.",
    shorter="Leave out what is as it is shipped.",
    page="docs/alerts.md",
)
HIDDEN = "/…"
"""In place of a URL's path, where it is shown."""
GRAMS_PER_TONNE = 1_000_000


class Configured(Struct, frozen=True, kw_only=True):
    """A configuration, with the rules that are in force under it."""

    configuration: Configuration
    rules: Mapping[str, Rule]


class Read(Struct, frozen=True, kw_only=True):
    """A file that has no errors."""

    configured: Configured
    warnings: list[Finding]
    sha256: str


class ConfigurationApplied(Struct, frozen=True, kw_only=True):
    """What came into force, or would."""

    dry_run: bool
    targets: int
    rules: int
    """Those that are evaluated."""
    changed_rules: list[str]
    """Shipped ones that are otherwise than shipped, and own ones."""
    budgets: int
    warnings: list[Finding]


def read(body: bytes) -> Read:
    """A file's configuration.

    Raises:
        Unfit: it has errors, all of which it names.
    """
    configuration, findings, lines = values.read(body, Configuration, FORM)
    rules = _rules(configuration, findings)
    _check_targets(configuration.targets, findings)
    if configuration.route is not None:
        _check_route(configuration.route, configuration, findings, ("route",), is_first=True)
    elif configuration.targets:
        findings.warning(("targets",), "there are targets and no route: nobody is told", "Add `route:` with `target:`.")
    _check_relations(configuration, rules, findings)
    _check_budgets(configuration, findings)
    values.refuse(findings, lines, FORM)
    return Read(
        configured=Configured(configuration=configuration, rules=rules),
        warnings=findings.listed(lines),
        sha256=hashlib.sha256(body).hexdigest(),
    )


def in_force(connection: Connection) -> Configured:
    """The newest configuration that was applied; none: the shipped rules, and nobody is told."""
    document = connection.scalar(
        text("SELECT document FROM gigawatch.alert_configuration ORDER BY configuration_id DESC LIMIT 1")
    )
    configuration = Configuration() if document is None else msgspec.convert(document, Configuration, strict=False)
    # What an older version accepted and this one does not is left out, rather than all of it.
    return Configured(configuration=configuration, rules=_rules(configuration, Findings()))


def rules_in_force(connection: Connection) -> Mapping[str, Rule]:
    """The rules under the newest configuration that was applied."""
    return in_force(connection).rules


def apply(
    connection: Connection,
    rules_engine: Engine,
    settings: Alerts,
    found: Read,
    *,
    author: str,
    source: str,
    dry_run: bool,
) -> ConfigurationApplied:
    """Bring a configuration into force, in the caller's transaction.

    Args:
        connection: of the store's owner.
        rules_engine: of the login for rules, as whom those that are changed are tried.
        settings: bounds of rules, and where files of targets are.
        found: the file.
        author: who applies it.
        source: its name.
        dry_run: change nothing.
    """
    configuration, rules = found.configured.configuration, found.configured.rules
    failing = _failing([rules[name] for name in configuration.rules if rules[name].enabled], rules_engine, settings)
    if not dry_run:
        connection.execute(
            text(
                "INSERT INTO gigawatch.alert_configuration (author, source, sha256, document)"
                " VALUES (:author, :source, :sha256, CAST(:document AS json))"
            ),
            {
                "author": author, "source": source, "sha256": found.sha256,
                "document": msgspec.json.encode(configuration).decode(),
            },
        )  # fmt: skip
        _keep_budgets(connection, configuration)
        connection.execute(text("SELECT pg_notify('gigawatch_alerts', '')"))
    return ConfigurationApplied(
        dry_run=dry_run,
        targets=len(configuration.targets),
        rules=sum(it.enabled for it in rules.values()),
        changed_rules=sorted(configuration.rules),
        budgets=len(configuration.budgets),
        warnings=[*found.warnings, *_astray(configuration.targets, settings), *failing],
    )


def _astray(targets: Mapping[str, Target], settings: Alerts) -> Iterator[Finding]:
    """Files of targets that are not where such are read."""
    for name, target in targets.items():
        for field in ("url_file", "secret_file", "bearer_file", "ca_file"):
            path = getattr(target, field)
            if path is None:
                continue
            try:
                place_of(field, path, settings.secrets_dir)
            except Undeliverable as error:
                yield Finding(
                    severity="warning", line=None, place=f"targets.{name}.{field}", problem=f"of {name}, {error}",
                    remedy="Until then it is told nothing: docs/alerts.md.",
                )  # fmt: skip


def _failing(rules: Iterable[Rule], rules_engine: Engine, settings: Alerts) -> list[Finding]:
    """Rules that would fail now. It may be that what they read is yet to come: they are taken."""
    now = datetime.now(UTC)
    problems = {it.name: problem_of(rules_engine, it, now, settings) for it in rules}
    return [
        Finding(
            severity="warning", line=None, place=f"rules.{name}", problem=f"{name} fails at present: {problem}",
            remedy="Mend its sql, or its thresholds; `gigawatch alert test` tries it with data of your own.",
        )
        for name, problem in problems.items()
        if problem is not None
    ]  # fmt: skip


def shown(configuration: Configuration) -> dict[str, Any]:
    """A configuration as plain values, without what may be secret: of a URL its scheme and host alone."""
    plain: dict[str, Any] = msgspec.to_builtins(configuration)
    for name, target in configuration.targets.items():
        if target.url is not None:
            plain["targets"][name]["url"] = f"{Address(target.url.removesuffix(HIDDEN)).address}{HIDDEN}"
    return plain


def _rules(configuration: Configuration, findings: Findings) -> dict[str, Rule]:
    shipped = files.shipped()
    rules = dict(shipped)
    for name, declared in configuration.rules.items():
        rule = files.rule(name, declared, findings, ("rules", name), shipped.get(name))
        if rule is not None:
            rules[name] = rule
    return rules


def _check_targets(targets: Mapping[str, Target], findings: Findings) -> None:
    for name, target in targets.items():
        place: Place = ("targets", name)
        if target.url is not None and target.url_file is not None:
            findings.error(place, f"{name} has both url and url_file", "Keep one of them.")
        if target.url is None and target.url_file is None and target.kind not in USUAL_URLS:
            findings.error(place, f"{name} has no url", "Add `url:`, or `url_file:` where the URL is a secret.")
        if target.url is not None and target.url.endswith(HIDDEN):
            findings.warning((*place, "url"), f"url of {name} is hidden: nothing can be sent there", "Write it whole.")
        elif target.url is not None and (problem := _problem_of_url(target.url)) is not None:
            findings.error(
                (*place, "url"), f"url of {name} is no http or https address: {problem}",
                "Write https://HOST/PATH, without user and password.",
            )  # fmt: skip
        if target.kind in SECRET_NEEDED and target.secret_file is None:
            findings.error(place, f"{name} has no secret_file", "Name the file on the server that holds its key.")
        if (target.kind == "template") != (target.template is not None):
            findings.error(place, f"{name}: kind template and `template:` go together", "Add or remove one of them.")
        elif target.template is not None:
            told = notification_of_test(name, "nobody", uuid4(), datetime.now(UTC))
            try:
                render(target.template, msgspec.to_builtins(told))
            except (Impossible, NotYet) as error:
                findings.warning((*place, "template"), f"{name}: of a test {error}", "Mend it: docs/alerts.md.")


def _problem_of_url(url: str) -> str | None:
    try:
        Address(url)
    except ValueError as error:
        return str(error)
    return None


def _check_route(
    route: Route, configuration: Configuration, findings: Findings, place: Place, *, is_first: bool = False
) -> None:
    if is_first and route.target is None:
        findings.error(place, "the first route has no target", "Add `target:`: it hears of what no other route takes.")
    if is_first and (route.matchers or route.continue_):
        findings.error(place, "the first route takes everything", "Move matchers and continue into `routes:` below it.")
    if route.target is not None and route.target not in configuration.targets:
        findings.unknown(
            (*place, "target"), f"there is no target {route.target!r}", route.target, configuration.targets, "Targets"
        )
    for number, written in enumerate(route.matchers):
        try:
            matchers.parse(written)
        except ValueError as error:
            findings.error((*place, "matchers", number), f"{error}", "As in: severity=critical.")
    for key in ("group_wait", "group_interval", "repeat_interval"):
        duration = getattr(route, key)
        if duration is not None and key != "group_wait" and seconds(duration) == 0:
            findings.error((*place, key), f"{key} = {duration!r} is no interval", "Write 10s or more.")
        if duration is not None and seconds(duration) > LONGEST_S:
            findings.error((*place, key), f"{key} = {duration!r} is longer than a year", "Write 366d at most.")
    for number, below in enumerate(route.routes):
        _check_route(below, configuration, findings, (*place, "routes", number))


def _check_relations(configuration: Configuration, rules: Mapping[str, Rule], findings: Findings) -> None:
    """Whether rules that inhibit others name some that there are, and not each other."""
    for name in configuration.rules.keys() & rules.keys():
        place: Place = ("rules", name, "inhibits")
        for other in rules[name].inhibits:
            if other not in rules:
                findings.unknown(place, f"{name} inhibits {other!r}, which is no rule", other, rules, "Rules")
            elif name in _below(other, rules):
                by_way = "" if other == name else f" by way of {other}"
                findings.error(place, f"{name} inhibits itself{by_way}", "Let the wider one inhibit the other alone.")


def _below(name: str, rules: Mapping[str, Rule]) -> set[str]:
    """A rule, and those that it inhibits, themselves or through others."""
    found: set[str] = set()
    left = [name]
    while left:
        it = left.pop()
        if it in rules and it not in found:
            found.add(it)
            left += rules[it].inhibits
    return found


def _check_budgets(configuration: Configuration, findings: Findings) -> None:
    for name, budget in configuration.budgets.items():
        place: Place = ("budgets", name)
        if sum(it is not None for it in (budget.tenant, budget.deployment, budget.site)) != 1:
            findings.error(place, f"{name} is of no one thing", "Give one of tenant, deployment and site.")
        if all(it is None for it in (budget.energy_mwh, budget.cost, budget.co2e_t)):
            findings.error(place, f"{name} limits nothing", "Give energy_mwh, cost or co2e_t.")
        if (budget.cost is None) != (budget.currency is None):
            findings.error(place, f"{name}: cost and currency go together", "Add or remove one of them.")
        try:
            clocks.zone(budget.time_zone)
        except GigawatchError as error:
            findings.error((*place, "time_zone"), f"{name}: {error.problem}", error.remedy)
        if budget.tenant is not None and budget.tenant not in configuration.tenants:
            findings.unknown(
                (*place, "tenant"),
                f"there is no tenant {budget.tenant!r}",
                budget.tenant,
                configuration.tenants,
                "Tenants",
            )


def _keep_budgets(connection: Connection, configuration: Configuration) -> None:
    connection.execute(text("DELETE FROM gigawatch.alert_budget"))
    rows = [_budget(name, it, configuration) for name, it in configuration.budgets.items()]
    if rows:
        connection.execute(
            text(
                "INSERT INTO gigawatch.alert_budget"
                " (name, deployments, site, time_zone, energy_mj, cost, currency, co2e_g)"
                " VALUES (:name, :deployments, :site, :time_zone, :energy_mj, :cost, :currency, :co2e_g)"
            ),
            rows,
        )


def _budget(name: str, budget: Budget, configuration: Configuration) -> dict[str, Any]:
    deployments = None
    if budget.tenant is not None:
        deployments = list(configuration.tenants[budget.tenant])
    elif budget.deployment is not None:
        deployments = [budget.deployment]
    mj_per_mwh = 1_000 * JOULES_PER_KWH * MILLIJOULES_PER_JOULE
    return {
        "name": name,
        "deployments": deployments,
        "site": budget.site,
        "time_zone": budget.time_zone,
        "energy_mj": None if budget.energy_mwh is None else round(budget.energy_mwh * mj_per_mwh),
        "cost": budget.cost,
        "currency": budget.currency,
        "co2e_g": None if budget.co2e_t is None else round(budget.co2e_t * GRAMS_PER_TONNE),
    }
