"""A configuration of alerts: what comes into force, and what is refused, by line."""

import pytest

from api.alerts import configured
from api.declared.values import Unfit
from dashboard.pages import alert_targets

WHOLE = """\
targets:
  pager: {kind: pagerduty, secret_file: /etc/gigawatch/pager}
  chat:
    kind: slack
    url_file: /etc/gigawatch/slack
  hook: {kind: alertmanager, url: "https://alerts.example.com:9093/hook?token=abc"}
route:
  target: chat
  group_by: [rule, site]
  routes:
    - matchers: [severity=critical, 'site=~"oslo|bergen"']
      target: pager
      group_wait: 0s
      continue: true
    - matchers: [rule=power_cap]
      target: hook
      repeat_interval: 1d
rules:
  gpu_temperature:
    for: 5m
    thresholds: {margin_k: 8}
    overrides:
      - where: {site: oslo, gpu_model: NVIDIA H200}
        set: {margin_k: 10}
  power_cap: {enabled: false}
  hall_hot:
    about: A hall is hot
    summary: "{meter}: {value:.1f} °C"
    labels: [site, meter]
    sql: SELECT site, meter, temp_c AS value FROM report.meters_now WHERE temp_c > :most_c
    thresholds: {most_c: {value: 40, unit: °C}}
tenants:
  acme: [chat-*, search]
budgets:
  acme: {tenant: acme, energy_mwh: 200, cost: 30000, currency: EUR}
  hall: {site: oslo, co2e_t: 10.5}
"""


def refused(body: str) -> str:
    with pytest.raises(Unfit) as caught:
        configured.read(body.encode())
    return str(caught.value)


def test_a_whole_configuration() -> None:
    found = configured.read(WHOLE.encode())
    assert found.warnings == []
    rules = found.configured.rules
    temperature = rules["gpu_temperature"]
    assert (temperature.origin, temperature.for_s, temperature.thresholds["margin_k"].value) == ("shipped", 300, 8)
    assert temperature.thresholds["margin_k"].overrides[0].value == 10
    assert temperature.sql == configured.read(b"{}").configured.rules["gpu_temperature"].sql
    assert not rules["power_cap"].enabled
    assert (rules["hall_hot"].origin, rules["hall_hot"].thresholds["most_c"].unit) == ("own", "°C")
    route = found.configured.configuration.route
    assert route is not None
    assert [(it.target, it.continue_) for it in route.routes] == [("pager", True), ("hook", False)]


def test_nothing_is_a_configuration_in_which_nobody_is_told() -> None:
    found = configured.read(b"{}")
    assert found.configured.configuration.route is None
    assert len(found.configured.rules) > 25
    assert all(it.enabled for it in found.configured.rules.values())
    (warning,) = configured.read(b'targets: {a: {kind: alertmanager, url: "http://a"}}').warnings
    assert (warning.line, warning.problem) == (1, "there are targets and no route: nobody is told")


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ("  target: chat\n", "  target: chatt\n", "line 8: there is no target 'chatt'\n    Did you mean 'chat'?"),
        ("      target: pager\n", "      target: p\n", "line 12: there is no target 'p'\n    Targets are"),
        ("  target: chat\n", "", "line 7: the first route has no target"),
        ("  target: chat\n", "  target: chat\n  matchers: [a=b]\n", "line 7: the first route takes everything"),
        ("rule=power_cap", "power_cap", "line 15: 'power_cap' is no matcher: write LABEL=VALUE"),
        ('site=~"oslo|bergen"', 'site=~"oslo("', "line 11: 'oslo(' is no regular expression"),
        ("repeat_interval: 1d", "repeat_interval: 0s", "line 17: repeat_interval = '0s' is no interval"),
        ("repeat_interval: 1d", "repeat_interval: daily", "line 17: repeat_interval = 'daily'"),
        ("secret_file: /etc/gigawatch/pager", "", "line 2: pager has no secret_file"),
        ("    url_file: /etc/gigawatch/slack\n", "", "line 3: chat has no url\n"),
        ("    url_file: /etc/gigawatch/slack\n", "    url_file: f\n    url: https://a/b\n",
         "line 3: chat has both url and url_file"),
        ("https://alerts.", "https://user:secret@alerts.", "line 6: url of hook is no http or https address"),
        ("https://alerts.", "ftp://alerts.", "line 6: url of hook is no http or https address"),
        (":9093/", ":99999/", "line 6: url of hook is no http or https address"),
        ("kind: slack", "kind: slak", "line 4: kind = 'slak' is not known\n    Did you mean 'slack'?"),
        ("kind: slack", "kind: template", "line 3: chat: kind template and `template:` go together"),
        ("margin_k: 8", "margin: 8", "line 21: threshold 'margin' is not in the SQL of gpu_temperature"),
        ("set: {margin_k: 10}", "set: {margin: 10}", "line 24: gpu_temperature has no threshold 'margin'"),
        ("  power_cap: {enabled", "  power_capp: {enabled", "line 25: power_capp has no about"),
        ("    labels: [site, meter]\n", "    labels: [site, meter]\n    inhibits: [hot_hall]\n",
         "line 30: hall_hot inhibits 'hot_hall', which is no rule"),
        ("    labels: [site, meter]\n", "    labels: [site, meter]\n    inhibits: [hall_hot]\n",
         "line 30: hall_hot inhibits itself"),
        ("  power_cap: {enabled: false}\n", "  agent_silent: {inhibits: [site_silent]}\n",
         "line 25: agent_silent inhibits itself by way of site_silent"),
        ("tenant: acme, energy", "tenant: acme, site: oslo, energy", "line 35: acme is of no one thing"),
        ("tenant: acme, energy", "tenant: acne, energy", "line 35: there is no tenant 'acne'\n    Did you"),
        (", currency: EUR", "", "line 35: acme: cost and currency go together"),
        ("currency: EUR", "currency: euro", "line 35: currency = 'euro'"),
        (", co2e_t: 10.5", "", "line 36: hall limits nothing"),
        ("site: oslo, co2e", "site: oslo, time_zone: Oslo, co2e", "line 36: hall: time zone 'Oslo' is not known"),
        ("co2e_t: 10.5", "co2e_t: -1", "line 36: co2e_t = '-1'"),
        # What the store, or the process that leads, could not take for as long as it is in force.
        ("hall_hot:\n    about: A hall is hot", 'hall_hot:\n    about: "A hall \\0"', "is no text that the store"),
        ("    for: 5m\n", "    for: 9999d\n", "line 20: for of gpu_temperature is longer than a year"),
        ("repeat_interval: 1d", "repeat_interval: 99999999999d", "line 17: repeat_interval = '99999999999d' is longer"),
        ("margin_k: 10}", "margin_k: 1e400}", "line 24: set.margin_k = '1e400' is greater than any number here"),
        ("co2e_t: 10.5", "co2e_t: 1e15", "line 36: co2e_t = '1e15'"),
        ("https://alerts.", "https://\u00e4.", "line 6: url of hook is no http or https address: the URL has"),
        ("kind: slack", 'kind: slack\n    content_type: "text/\u00fc\\r\\nX: y"', "line 5: content_type = "),
        ("targets:\n", "target:\n", "line 1: unknown key 'target'\n    Did you mean 'targets'?"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_by_line(before: str, after: str, words: str) -> None:
    assert WHOLE.count(before) == 1
    assert words in refused(WHOLE.replace(before, after))


def test_all_that_is_wrong_is_told_at_once() -> None:
    words = refused(WHOLE.replace("target: chat", "target: cat").replace(", co2e_t: 10.5", ""))
    assert "line 8: there is no target 'cat'" in words
    assert "line 36: hall limits nothing" in words


def test_what_the_page_teaches_is_a_configuration() -> None:
    read = configured.read(alert_targets.EXAMPLE.encode())
    assert list(read.configured.configuration.targets) == ["on-call"] and read.warnings == []


def test_a_template_that_fails_is_warned_of() -> None:
    targets = "route: {target: own}\ntargets: {own: {kind: template, url: 'http://[fd00::1]:80/x', template: '%s'}}"
    (warning,) = configured.read((targets % "{% if %}").encode()).warnings
    assert warning.problem.startswith("own: of a test the template failed: line 1: Expected an expression")
    good = configured.read((targets % "{{ notification.title }}").encode())
    assert good.warnings == []
    assert configured.shown(good.configured.configuration)["targets"]["own"]["url"] == "http://[fd00::1]:80/…"


def test_of_urls_scheme_and_host_are_shown() -> None:
    shown = configured.shown(configured.read(WHOLE.encode()).configured.configuration)
    assert shown["targets"]["hook"]["url"] == "https://alerts.example.com:9093/…"
    assert "abc" not in str(shown)
