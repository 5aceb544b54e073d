"""Reads meters whose figures somebody serves in Prometheus' format: exporters of SNMP, of IPMI, of RAPL."""

from collector.answers import connections
from collector.exposition import Advice, Exposition, Locked, fetch, parse
from collector.meters.access import certificates, http_basic, login
from collector.meters.maps import Figure, PrometheusMap, PrometheusValue, Raw, Refused, fill, reading
from collector.meters.reading import Denied, MeterProblem, Reading
from gigawatch.errors import ExitCode, GigawatchError
from gigawatch.settings import Meter

ADVICE = Advice(
    path="Name the address of the metrics with its path and query, such as http://HOST:9290/metrics.",
    port="Is the exporter running, and is this its port?",
    slow="Does what it asks itself answer? A greater timeout_s may help.",
    locked="Set user and secret_file, if it wants a password.",
)
MOST_SHOWN = 10


class PrometheusDriver:
    """Reads one meter from a metrics endpoint.

    Args:
        settings: of the meter.
        map_: what its series mean.

    Raises:
        GigawatchError: settings and map do not fit, or a file that they name cannot be read.
    """

    def __init__(self, settings: Meter, map_: PrometheusMap) -> None:
        self._url = settings.address
        if not self._url.startswith(("http://", "https://")) or "@" in self._url:
            raise GigawatchError(
                f"The address of the meter {settings.name} is not of the form http://HOST:PORT/PATH",
                "Write it in this form; user and password belong to user and secret_file.",
                ExitCode.CONFIGURATION,
            )
        self._settings = settings
        self._map = map_
        self._words = map_.words(settings.index)
        self._login = login(settings)
        headers = http_basic(*self._login) if self._login else {}
        self._pool = connections(headers=headers, ca_certs=certificates(settings))
        self._metrics = tuple({value.metric for values in map_.readings.values() for value in values})

    def read(self) -> Reading:
        """The meter as it is now.

        Raises:
            MeterProblem: it did not answer in time, or what it answered is not its map's.
        """
        try:
            answer = fetch(self._pool, self._url, self._settings.timeout_s, ADVICE)
            exposition = parse(self._url, answer, ADVICE, self._metrics)
        except GigawatchError as error:
            if isinstance(error, Locked) and self._login:
                raise Denied(error.problem, "Check user and secret_file.", of_account=error.unknown) from None
            raise MeterProblem(error.problem, error.remedy, ExitCode(error.exit_code)) from error
        raws: dict[Figure, list[Raw | Refused]] = {}
        for figure, values in self._map.readings.items():
            told = [self._told(exposition, value) for value in values]
            if all(it is not None for it in told):
                raws[figure] = [it for it in told if it is not None]
        if not raws:
            raise MeterProblem(
                f"{self._url} serves none of the series of the map {self._map.name}: {', '.join(self._metrics)}",
                "Check the address, the index and the exporter's own settings.",
                ExitCode.DATA,
            )
        return reading(self._map, raws, answer.at_s, self._settings.rated_kw)

    def close(self) -> None:
        """Give connections back. It may be read again afterwards."""
        self._pool.clear()

    def _told(self, exposition: Exposition, value: PrometheusValue) -> Raw | None:
        """The series' sample; None where it is not served."""
        wanted = {label: fill(text, self._words) for label, text in value.labels.items()}
        served = exposition.find(value.metric)
        found = [it for it in served if all(it.labels.get(label, "") == text for label, text in wanted.items())]
        if len(found) == 1:
            return found[0].value
        if not served:
            return None
        shown = "; ".join(
            ", ".join(f'{label}="{text}"' for label, text in it.labels.items()) or "no labels"
            for it in served[:MOST_SHOWN]
        )
        wanted_words = ", ".join(f'{label}="{text}"' for label, text in wanted.items()) or "any labels"
        raise MeterProblem(
            f"{self._url} serves {len(found) or 'no'} series {value.metric} with {wanted_words}, among {len(served)}:"
            f" {shown}",
            "Set the index so that one of them is meant; a map of your own can name further labels.",
            ExitCode.CONFIGURATION,
        )
