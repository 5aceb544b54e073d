"""Matchers of labels."""

import time

import msgspec
import pytest

from gigawatch.alerts.matchers import Matcher, all_match, parse

LABELS = {"site": "oslo", "rack": "A1-07"}


@pytest.mark.parametrize(
    ("text", "matches"),
    [
        ("site=oslo", True), ('site="oslo"', True), ("site != oslo", False), ("site=osl", False),
        ('rack=~"A1-.*"', True), ("rack=~A1", False), ("rack!~A1", True), ("rack!~A1-0[0-9]", False),
        ("hostname=", True), ("hostname!=", False), ("hostname=~.*", True), ("site=~oslo|bergen", True),
    ],
)  # fmt: skip
def test_a_matcher_means_what_alertmanagers_does(text: str, matches: bool) -> None:
    matcher = parse(text)
    assert matcher.matches(LABELS) is matches
    assert parse(str(matcher)) == matcher


@pytest.mark.parametrize("text", ["", "site", "=oslo", "Site=oslo", "site==~", "rack=~[", "site~oslo"])
def test_what_is_no_matcher_is_refused_with_words(text: str) -> None:
    if text == "site==~":
        assert parse(text).value == "=~"
        return
    with pytest.raises(ValueError, match=r"matcher|regular expression"):
        parse(text)


@pytest.mark.parametrize("pattern", ["(a+)+$", "(a|aa)+$", "(a|a)*b", "a*a*a*a*a*a*b", "(.*a){20}.{90}b"])
def test_no_pattern_takes_for_ever(pattern: str) -> None:
    matcher = parse(f"hostname=~{pattern}")
    began_s = time.process_time()
    assert not matcher.matches({"hostname": "a" * 2_000 + "!"})
    assert time.process_time() - began_s < 1


@pytest.mark.parametrize("pattern", ["(?=a)b", r"(a)\1", "(a{900}){900}"])
def test_patterns_that_could_take_for_ever_are_refused_with_words(pattern: str) -> None:
    with pytest.raises(ValueError, match=r"no regular expression .*RE2"):
        parse(f"hostname=~{pattern}")


def test_all_have_to_hold_and_bad_patterns_of_the_store_are_refused() -> None:
    assert all_match([parse("site=oslo"), parse("rack=~A.*")], LABELS)
    assert not all_match([parse("site=oslo"), parse("rack=~B.*")], LABELS)
    with pytest.raises(msgspec.ValidationError, match="no regular expression"):
        msgspec.convert({"label": "site", "operator": "=~", "value": "("}, Matcher)
