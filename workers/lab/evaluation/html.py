"""The report as one HTML page that needs nothing but itself."""

import base64
from collections.abc import Mapping
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from triage.bundles import Bundle
from workers.lab.evaluation.figures import TITLES


def page(bundle: Bundle, metrics: Mapping[str, Any], pictures: Mapping[str, bytes]) -> str:
    """Return the page.

    Parameters
    ----------
    bundle : Bundle
        Its card is quoted.
    metrics : mapping
        ``metrics.json``.
    pictures : mapping of str to bytes
        PNG files by name; they are written into the page.
    """
    environment = Environment(
        loader=PackageLoader("workers.lab.evaluation", "templates"),
        autoescape=select_autoescape(),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["interval"] = interval
    environment.filters["share"] = _share
    inlined = {name: f"data:image/png;base64,{base64.b64encode(data).decode()}" for name, data in pictures.items()}
    estimators = [name for name in TITLES if name in metrics]
    return environment.get_template("report.html").render(
        bundle=bundle, metrics=metrics, pictures=inlined, estimators=estimators, titles=TITLES
    )


def interval(entry: Mapping[str, Any]) -> str:
    """Return an AUC with its 95 % interval."""
    if entry["auc"] is None:
        return "–"
    if entry["ci95"] is None:
        return f"{entry['auc']:.3f} [one patient: no interval]"
    low, high = entry["ci95"]
    return f"{entry['auc']:.3f} [{low:.3f}, {high:.3f}]"


def _share(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"
