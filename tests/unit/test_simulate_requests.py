"""Requests to simulated engines: such as a recorded hour had, those of a file, and files that are refused."""

import statistics
from datetime import datetime, timedelta
from itertools import islice
from pathlib import Path

import pytest
from click.testing import CliRunner

from collector import simulate as command
from collector.simulated import requests
from collector.simulated.requests import Requests, recorded, synthetic
from gigawatch.up import up

RECORDED_HOUR = Path(__file__).parents[3] / "shared" / "data" / "azure_llm_conv_2023.csv"
HEAD = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
LINE = "2023-11-16 18:15:46.6805900,374,44\n"


def once(source: Requests) -> list[requests.Request]:
    return list(islice(source.of("anybody"), len(source)))


def variation(values: list[float]) -> float:
    return statistics.pstdev(values) / statistics.fmean(values)


@pytest.mark.parametrize("seed", [0, 1, 2**31 - 1])
def test_made_requests_have_the_means_of_the_recorded_hour(seed: int) -> None:
    # Azure LLM inference trace 2023, conversation: means and variations of all 19,366 requests.
    found = once(synthetic(seed))
    assert statistics.fmean(it.prompt_tokens for it in found) == pytest.approx(1_155, rel=1e-3)
    assert statistics.fmean(it.generated_tokens for it in found) == pytest.approx(211, rel=1e-3)
    assert statistics.fmean(it.gap for it in found) == pytest.approx(1)
    assert variation([it.gap for it in found]) == pytest.approx(1.094, rel=0.03)


def test_requests_are_the_same_for_the_same_seed_and_key_and_never_end() -> None:
    assert once(synthetic(1)) == once(synthetic(1)) != once(synthetic(2))
    made = synthetic(1)
    assert list(islice(made.of("a"), 5)) != list(islice(made.of("b"), 5))
    twice = list(islice(made.of("a"), 2 * len(made)))
    assert twice[: len(made)] == twice[len(made) :]


def recorded_hour(path: Path) -> Path:
    """An hour of requests such as the recorded one, in its format: 19,366 made ones, more in its second half."""
    now = datetime(2023, 11, 16, 18, 0)  # noqa: DTZ001 # the format has no offset
    lines = [HEAD]
    for place, it in enumerate(islice(synthetic(7).of("hour"), 19_366)):
        lines.append(f"{now:%Y-%m-%d %H:%M:%S.%f}0,{it.prompt_tokens},{it.generated_tokens}\n")
        now += timedelta(seconds=it.gap * (0.24 if place < 7_500 else 0.15))
    path.write_text("".join(lines), encoding="utf-8")
    return path


def test_a_recorded_hour_is_read_and_the_constants_are_its(tmp_path: Path) -> None:
    # Where the real one is at hand it is read too.
    for path in (recorded_hour(tmp_path / "hour.csv"), *filter(Path.exists, [RECORDED_HOUR])):
        found = recorded(path)
        assert len(found) == 19_366
        assert found.generated_tokens == pytest.approx(requests.GENERATED_TOKENS, rel=5e-3)
        prompts = [it.prompt_tokens for it in once(found)]
        assert statistics.fmean(prompts) == pytest.approx(requests.PROMPT_TOKENS, rel=5e-3)
        # Its lengths are as spread as the made ones, by the middle and the tail.
        made = once(synthetic(1))
        for of_one in (lambda it: it.prompt_tokens, lambda it: it.generated_tokens):
            real, drawn = sorted(map(of_one, once(found))), sorted(map(of_one, made))
            assert statistics.median(drawn) == pytest.approx(statistics.median(real), rel=0.35)
        # Minutes are the load's: three hundred requests take as long wherever they are in the hour.
        gaps = [it.gap for it in once(found)]
        parts = [sum(gaps[first : first + 1_200]) / 1_200 for first in range(0, 18_000, 1_200)]
        assert min(parts) > 0.9
        assert max(parts) < 1.1


def test_a_file_of_few_requests_comes_around(tmp_path: Path) -> None:
    path = tmp_path / "requests.csv"
    lines = ["2023-11-16 18:00:00,10,1", "2023-11-16 18:00:00,20,2", "2023-11-16 18:00:03+00:00,30,3"]
    path.write_text("ContextTokens,x,GeneratedTokens,TIMESTAMP\n", encoding="utf-8")
    with path.open("a", encoding="utf-8") as file:
        for line in lines:
            time, prompt, generated = line.split(",")
            file.write(f"{prompt},anything,{generated},{time.removesuffix('+00:00')}\n")
    found = recorded(path)
    assert len(found) == 3
    assert found.generated_tokens == 2
    assert sorted((it.prompt_tokens, it.generated_tokens) for it in once(found)) == [(10, 1), (20, 2), (30, 3)]
    assert sum(it.gap for it in once(found)) == pytest.approx(3)
    assert min(it.gap for it in once(found)) == 0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["(none)", "TIMESTAMP, ContextTokens, GeneratedTokens"]),
        ("TIMESTAMP,ContextTokens\n", ["has the columns TIMESTAMP, ContextTokens", "It needs"]),
        (HEAD, ["0 requests at 0 times"]),
        (HEAD + LINE, ["1 requests at 1 times", "two requests at different times"]),
        (HEAD + LINE + LINE, ["2 requests at 1 times"]),
        (HEAD + LINE + "soon,1,1\n", ["line 3", "TIMESTAMP = 'soon' is no time", "Mend the line"]),
        (HEAD + LINE + "2023-11-16 18:15:46.5,1,1\n", ["line 3", "is before that of the line above"]),
        (HEAD + "2023-11-16 18:15:46,x,1\n", ["line 2", "ContextTokens = 'x' is not a number"]),
        (HEAD + "2023-11-16 18:15:46,nan,1\n", ["line 2", "ContextTokens = 'nan' is not a number"]),
        (HEAD + "2023-11-16 18:15:46,1.5,1\n", ["line 2", "ContextTokens = 1.5 is no number of tokens"]),
        (HEAD + "2023-11-16 18:15:46,1,0\n", ["line 2", "GeneratedTokens = 0 is no number of tokens"]),
        (HEAD + "2023-11-16 18:15:46,1,-3\n", ["line 2", "GeneratedTokens = -3"]),
        (HEAD + "2023-11-16 18:15:46,1e300,1\n", ["line 2", "1e300 is no number of tokens from 1 to 10,000,000"]),
        (HEAD + "2023-11-16 18:15:46,1\n", ["line 2", "2 cells, and the header has 3"]),
        (HEAD + '2023-11-16 18:15:46,"1\n', ["not CSV"]),
        (HEAD + "\xff\xfe", ["not CSV in UTF-8"]),
    ],
)
def test_a_broken_file_is_refused_with_its_line(tmp_path: Path, text: str, words: list[str]) -> None:
    path = tmp_path / "requests.csv"
    path.write_bytes(text.encode("latin-1"))
    done = CliRunner().invoke(command.simulate, ["--requests", str(path)])
    assert done.exit_code == 7, done.output
    for word in words:
        assert word in done.output


def test_a_file_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "MOST_REQUESTS", 2)
    path = tmp_path / "requests.csv"
    path.write_text(HEAD + 3 * LINE, encoding="utf-8")
    done = CliRunner().invoke(command.simulate, ["--requests", str(path)])
    assert done.exit_code == 7
    assert "line 4: more than 2 requests" in done.output
    assert "Cut an hour out of it." in done.output


def test_requests_of_a_file_are_for_a_demo(tmp_path: Path) -> None:
    path = tmp_path / "requests.csv"
    path.write_text(HEAD + LINE, encoding="utf-8")
    done = CliRunner().invoke(up, ["--requests", str(path)])
    assert done.exit_code == 2
    assert "--requests is for the simulated fleet of --demo" in done.output
