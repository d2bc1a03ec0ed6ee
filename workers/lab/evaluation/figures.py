"""The paper's plots, drawn with matplotlib: ROC curves, histograms, zero pixels, percentiles."""

import warnings
from collections.abc import Mapping, Sequence
from io import BytesIO

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text
from sklearn.metrics import roc_curve

from workers.lab.evaluation.labels import NORMAL_LABEL
from workers.lab.evaluation.metrics import ALL, masks, zero_share
from workers.lab.evaluation.scores import Scored, Scores

mpl.use("Agg")  # no display, and nothing is asked of one

NORMAL_COLOUR = "#3b7dd8"
# Okabe & Ito's colours, which colour-blind readers tell apart; grey-black is for "all".
COLOURS = ("#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6d31", "#7a3fa0")
ALL_COLOUR = "#444444"

TITLES = {
    "log_prob_normal": "−log p(x|normal)",
    "plain_ratio": "log p(x) − log p(x|normal), plain (the paper's log posterior, negated)",
    "flows": "the flows' weighted ratio",
    "set_classifier": "set classifier's logit",
    "local_classifier": "local classifier",
    "combined": "combined (what ranks)",
}


def colour(label: str, labels: Sequence[str]) -> str:
    """Return a label's colour, the same in every figure."""
    if label == NORMAL_LABEL:
        return NORMAL_COLOUR
    return ALL_COLOUR if label == ALL else COLOURS[list(labels).index(label) % len(COLOURS)]


def shown(labels: Sequence[str]) -> list[str]:
    """Return the labels that figures tell apart: "all" says nothing new beside a single label."""
    return [label for label in labels if label != ALL] if len(labels) == 2 else list(labels)


def png(figure: Figure, *, tight: bool = True) -> bytes:
    """Return a figure's PNG; the same figure gives the same bytes."""
    stream = BytesIO()
    for text in figure.findobj(Text):
        text.set_parse_math(False)  # a label may hold dollars
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph", UserWarning)  # the report's tables show what the font hasn't
        figure.savefig(
            stream, format="png", dpi=110, bbox_inches="tight" if tight else None, metadata={"Software": None}
        )
    return stream.getvalue()


def legend_text(label: str) -> str:
    """Return a label for a legend, which leaves out what begins with an underscore."""
    return f" {label}" if label.startswith("_") else label


def roc(estimator: str, scores: Scores, scored: Scored, metrics: Mapping[str, Mapping[str, object]]) -> bytes:
    """Draw the ROC curve of every label with its AUC and, as a circle, Youden's point (figures 3, 4, A.16)."""
    labels = list(metrics)
    figure, axes = _axes(5.2, 5.0)
    for label in shown(labels):
        entry = metrics[label]
        if entry["auc"] is None:
            continue
        normal, abnormal = masks(scored.images, label)
        keep = normal | abnormal
        false_rate, true_rate, _ = roc_curve(abnormal[keep], scores[keep])
        line = colour(label, labels)
        axes.plot(false_rate, true_rate, color=line, lw=1.8, label=legend_text(f"{label} ({entry['auc']:.3f})"))
        point = entry["youden"]
        if isinstance(point, Mapping):
            axes.plot(1 - point["specificity"], point["sensitivity"], "o", ms=8, mfc="none", mew=1.8, color=line)
    axes.plot([0, 1], [0, 1], color="#999999", lw=0.8, ls="--")
    axes.set(xlabel="1 − specificity", ylabel="sensitivity", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    axes.set_title(TITLES.get(estimator, estimator), fontsize=10)
    axes.set_aspect("equal")
    axes.legend(loc="lower right", fontsize=9, title="label (AUC)")
    return png(figure)


def histogram(estimator: str, scores: Scores, scored: Scored, labels: Sequence[str]) -> bytes:
    """Draw the distribution of a metric for normal and for every label, each of area 1 (figures 5, 6, A.18, A.19)."""
    figure, axes = _axes(6.4, 3.8)
    low, high = np.percentile(scores, [0.5, 99.5])
    bins = int(np.clip(np.sqrt(len(scores)) * 1.5, 10, 40))
    room = 0.08 * (high - low) or 1.0
    edges = np.linspace(low - room, high + room, bins + 1)
    inside = np.clip(scores, edges[0], edges[-1])  # the outermost bins hold what lies beyond them
    groups = [label for label in labels if label != ALL]
    for label in (NORMAL_LABEL, *groups):
        chosen = masks(scored.images, ALL)[0] if label == NORMAL_LABEL else masks(scored.images, label)[1]
        if chosen.any():
            line = colour(label, labels)
            text = legend_text(f"{label} (n = {int(chosen.sum())})")
            axes.hist(inside[chosen], edges.tolist(), density=True, histtype="stepfilled", alpha=0.18, color=line)
            axes.hist(inside[chosen], edges.tolist(), density=True, histtype="step", lw=1.6, color=line, label=text)
    unit = {"set_classifier": "logit", "local_classifier": "score", "combined": "score"}.get(estimator, "nats")
    axes.set(xlabel=f"{TITLES.get(estimator, estimator)}, {unit} (right = more abnormal)", ylabel="density")
    axes.legend(fontsize=9)
    return png(figure)


def zero_pixels(panels: Mapping[str, Scores], scored: Scored, tables: Mapping[str, Mapping[str, object]]) -> bytes:
    """Draw each estimator against the share of zero pixels, with its correlation (figure A.20)."""
    figure = Figure(figsize=(4.4 * len(panels), 3.9), layout="constrained")
    share = zero_share(scored)
    normal, abnormal = masks(scored.images, ALL)
    for axes, (name, scores) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        for chosen, label, line in ((abnormal, "abnormal", COLOURS[0]), (normal, NORMAL_LABEL, NORMAL_COLOUR)):
            axes.scatter(share[chosen], scores[chosen], s=9, alpha=0.55, color=line, label=label, lw=0)
        table = tables[name]["all"]
        rho = table["spearman"] if isinstance(table, Mapping) else None
        axes.set_title("no spread" if rho is None else f"Spearman's ρ = {rho:+.2f}", fontsize=10)
        axes.set(xlabel="share of zero pixels", ylabel=TITLES.get(name, name).split(",")[0])
        _plain(axes)
    figure.axes[0].legend(fontsize=9)
    return png(figure)


def percentiles(scored: Scored, labels: Sequence[str]) -> bytes:
    """Draw, by label, which share of the images lies below each percentile of the bundle's reference."""
    figure, axes = _axes(5.6, 4.4)
    for label in (NORMAL_LABEL, *shown(labels)):
        chosen = masks(scored.images, ALL)[0] if label == NORMAL_LABEL else masks(scored.images, label)[1]
        if chosen.any():
            values = np.sort(scored.percentiles[chosen])
            steps = np.arange(1, len(values) + 1) / len(values)
            line, text = colour(label, labels), legend_text(label)
            axes.step(np.r_[0, values, 100], np.r_[0, steps, 1], where="post", color=line, label=text)
    axes.plot([0, 100], [0, 1], color="#999999", lw=0.8, ls="--", label="as the reference")
    axes.set(xlabel="percentile", ylabel="share of images at or below", xlim=(0, 100), ylim=(0, 1.01))
    axes.legend(fontsize=9, loc="upper left")
    return png(figure)


def _axes(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    _plain(axes)
    return figure, axes


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(visible=True, lw=0.4, alpha=0.5)
