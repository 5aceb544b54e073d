"""What the demo's sites pay, emit and draw beside their IT equipment: made up, and each value's source says so."""

from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path

from sqlalchemy import Engine, text

SOURCE = "made up for the demo"
CONTRACT = """\
time_zone = "UTC"
from = {first}
to = {beyond}
currency = "EUR"
price_per_kwh = 0.09
source = "{source}"

[[periods]]
days = "every day"
hours = "07:00-21:00"
price_per_kwh = 0.15
"""
INTENSITIES = """\
start,stop,g_per_kwh,source
{first}T00:00Z,{beyond}T00:00Z,290,{source}
"""


def unpriced_sites(engine: Engine) -> list[str]:
    """Sites that never had a price."""
    with engine.connect() as connection:
        found = connection.scalars(
            text(
                "SELECT name FROM gigawatch.site"
                " WHERE NOT EXISTS (SELECT FROM gigawatch.tariff WHERE tariff.site_id = site.site_id) ORDER BY name"
            )
        )
        return list(found)


def pricing_verbs(site: str, folder: Path) -> Iterator[list[str]]:
    """The verbs that give a site prices and carbon intensities, from last year to the next.

    It has no configured PUE: its meters measure one.

    Args:
        site: its name.
        folder: of the files that they read.
    """
    this_year = datetime.now(UTC).year
    first, beyond = date(this_year - 1, 1, 1), date(this_year + 2, 1, 1)
    contract, intensities = folder / "demo-contract.toml", folder / "demo-intensities.csv"
    for path, content in ((contract, CONTRACT), (intensities, INTENSITIES)):
        path.write_text(content.format(first=first, beyond=beyond, source=SOURCE), encoding="utf-8")
    yield ["tariff", "import", str(contract), "--site", site]
    yield ["intensity", "import", str(intensities), "--site", site, "--method", "location"]
