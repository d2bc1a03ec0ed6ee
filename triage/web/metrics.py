"""``GET /metrics``: what the ledger holds, counted when asked, and what this web process served.

Labels hold states, stages, priorities, destinations' names and routes: nothing of a patient.
"""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, PlatformCollector, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from triage.config.schema import Configuration
from triage.ledger import Ledger, OutboxState
from triage.ledger.statistics import Counts, Statistics
from triage.store import free_bytes


class LedgerCollector(Collector):
    """Counts the ledger at every scrape.

    Parameters
    ----------
    config : Configuration
        For the destinations, the maximum wait and the data folder.
    ledger : Ledger
        What is counted.
    """

    def __init__(self, config: Configuration, ledger: Ledger) -> None:
        self._config = config
        self._statistics = Statistics.of(ledger)

    def describe(self) -> list[Metric]:
        """Return nothing: asking the ledger at registration would tie start-up to it."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield one family per question."""
        counts = self._statistics.counts(self._config.rank.max_wait_s)
        yield from _worklist(counts)
        yield from _work(counts)
        yield from _deliveries(counts, [d.name for d in self._config.destination])
        yield CounterMetricFamily("triage_received_objects", "Objects received and kept.", value=counts.objects)
        yield CounterMetricFamily("triage_received_bytes", "Bytes of those objects.", value=counts.object_bytes)
        yield GaugeMetricFamily(
            "triage_data_dir_free_bytes",
            "Free bytes on the disk that holds data_dir.",
            value=free_bytes(self._config.data_dir),
        )


def _worklist(counts: Counts) -> Iterator[Metric]:
    studies = GaugeMetricFamily("triage_studies", "Study revisions by state.", labels=["state"])
    for state, count in counts.studies.items():
        studies.add_metric([state.value], count)
    yield studies
    unread = GaugeMetricFamily(
        "triage_unread_studies", "Studies not marked read, by suggested priority.", labels=["priority"]
    )
    for priority, count in counts.unread.items():
        unread.add_metric([priority.value if priority else "none"], count)
    yield unread
    yield GaugeMetricFamily(
        "triage_oldest_unread_seconds",
        "How long the oldest unread study has waited; 0 when none waits.",
        value=counts.oldest_unread_s,
    )
    yield GaugeMetricFamily(
        "triage_overdue_studies", "Unread studies that waited longer than rank.max_wait_s.", value=counts.overdue
    )


def _work(counts: Counts) -> Iterator[Metric]:
    jobs = GaugeMetricFamily("triage_jobs", "Jobs by stage and state.", labels=["stage", "state"])
    for (stage, state), count in counts.jobs.items():
        jobs.add_metric([stage.value, state.value], count)
    yield jobs


def _deliveries(counts: Counts, configured: list[str]) -> Iterator[Metric]:
    # A destination that left the configuration may still have rows.
    names = sorted({*configured, *(name for name, _ in counts.outbox)})
    waiting = GaugeMetricFamily(
        "triage_outbox", "Results on their way, by destination and state.", labels=["destination", "state"]
    )
    delivered = CounterMetricFamily(
        "triage_delivered",
        "Results that a destination has proved to hold, or took without offering any proof.",
        labels=["destination"],
    )
    for name in names:
        for state in OutboxState:
            waiting.add_metric([name, state.value], counts.outbox.get((name, state), 0))
        delivered.add_metric([name], counts.outbox.get((name, OutboxState.COMMITTED), 0))
    yield waiting
    yield delivered


class WebMetrics:
    """This application's registry: the ledger's collector and counters of the web process.

    Parameters
    ----------
    config : Configuration
        See `LedgerCollector`.
    ledger : Ledger
        See `LedgerCollector`.
    """

    def __init__(self, config: Configuration, ledger: Ledger) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(LedgerCollector(config, ledger))
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        self._requests = Counter(
            "triage_web_requests", "HTTP answers.", ["method", "route", "status"], registry=self._registry
        )
        self.listeners = Gauge("triage_web_event_listeners", "Open event streams.", registry=self._registry)

    def count(self, method: str, route: str, status: int) -> None:
        """Count an answer; `route` is the route's pattern, never the path asked for, which holds UIDs."""
        known = method if method in {"GET", "HEAD", "POST", "OPTIONS"} else "other"
        self._requests.labels(known, route, str(status)).inc()

    def exposition(self) -> bytes:
        """Return all of it in Prometheus's text format 0.0.4."""
        return generate_latest(self._registry)
