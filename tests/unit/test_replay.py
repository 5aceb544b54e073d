"""Replay of recorded traces: energy against the trapezoid, and broken files named by line."""

import math
from pathlib import Path

import pytest
from click.testing import CliRunner

from collector.replay import replay
from gigawatch.cli import main
from gigawatch.errors import GigawatchError
from gigawatch.settings import Settings

RECORDINGS = Path(__file__).parents[3] / "shared" / "data"
REAL = ("a100_square_wave_nvml.csv", "a100_step_nvml.csv")


def square_wave(path: Path) -> Path:
    """A made trace like the recorded ones: an A100 under a square wave of 105 ms, polled every 13 ms or so."""
    lines = ["t_s,power_average_w,power_instant_w"]
    t_s = -0.45
    while t_s < 12:
        on = t_s % 0.105 < 0.0525
        lines.append(f"{t_s:.4f},{200 + 5 * math.sin(t_s):.2f},{330 if on else 75}")
        t_s += 0.0131 + 0.001 * math.sin(37 * t_s)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def run(path: Path, column: str | None = None) -> tuple[float, float]:
    done = replay(Settings(), path, column=column, start="2026-01-31T12:00:00Z", gpu_model="A100", dry_run=True)
    return done.energy_j, done.trapezoid_j


def test_windows_agree_with_the_trapezoid(tmp_path: Path) -> None:
    made = square_wave(tmp_path / "trace.csv")
    # Where the real recordings are at hand they are run too.
    recorded = [path for path in (RECORDINGS / name for name in REAL) if path.exists()]
    for path in (made, *recorded):
        for column in ("power_instant_w", "power_average_w"):
            energy_j, trapezoid_j = run(path, column)
            assert energy_j == pytest.approx(trapezoid_j, rel=1e-3), (path, column)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("t_s,power_w\n0,1\n1,x\n", ["line 3", "power_w = 'x' is not a number"]),
        ("t_s,power_w\n0,1\n1\n", ["line 3", "1 cells, and the header has 2"]),
        ("t_s,power_w\n1,1\n0,1\n", ["line 3", "t_s = 0 is before 1"]),
        ("t_s,power_w\n0,1\n1,nan\n", ["line 3", "not a number"]),
        ("t_s,power_w\n0,-5\n1,1\n", ["line 2", "-5 W is impossible"]),
        ("t_s,power_w\n0,1e300\n1,1\n", ["line 2", "impossible"]),
        ("t_s,power_w\n0,1\n", ["has 1 readings"]),
        ("time,watts\n0,1\n", ["time, watts", "It needs t_s"]),
        ("", ["(none)"]),
        ('t_s,power_w\n0,"1\n', ["not CSV"]),
    ],
)
def test_a_broken_file_is_refused_with_its_line(tmp_path: Path, text: str, words: list[str]) -> None:
    path = tmp_path / "trace.csv"
    path.write_text(text, encoding="utf-8")
    done = CliRunner().invoke(main, ["replay", "--dry-run", str(path)])
    assert done.exit_code == 7, done.output
    for word in words:
        assert word in done.output


def test_a_column_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(GigawatchError, match="power_average_w, power_instant_w"):
        run(square_wave(tmp_path / "trace.csv"), "power_wrong_w")
