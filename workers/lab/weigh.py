"""How much each estimator counts in a bundle's ranking: what held-out images of the two sets say, without labels.

All estimators estimate one thing, the log ratio of the mixture's density to the normals'. So the weighting that tells
held-out images of the two sets apart better is the more credible one; and where the images are few, or the mixture
holds little that isn't normal, no weighting is much more credible than another and the preset's prior stands.
"""

from collections.abc import Mapping
from itertools import product

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize

from triage.calibration import Pooling, Term, pooled

Numbers = npt.NDArray[np.float64]

#: Weights are looked at in steps of this share of their sum.
STEPS = 20
#: Standardised values end here: one odd image shall not decide.
FARTHEST = 5.0


def weighed(
    terms: Mapping[str, Term],
    normal: Mapping[str, Numbers],
    mixture: Mapping[str, Numbers],
    pooling: Pooling = "logarithmic",
) -> dict[str, Term]:
    """Return the terms of the combined statistic with new weights: their posterior mean, of the same sum as before.

    The model is P(of the mixture | image) = sigmoid(a + b s), s being the pooled statistic; a and b >= 0 the most
    likely, b with a normal prior of spread 1, or a handful of images that anything separates would decide. The weights'
    prior is a Dirichlet distribution whose mean are the terms' weights and which knows as much as a flat one.

    Parameters
    ----------
    terms : mapping of str to Term
        By estimator; centres and spreads stay as they are.
    normal, mixture : mapping of str to numpy.ndarray
        Every estimator's values of held-out normal images, float64, (N,), and of held-out images that aren't known to
        be normal, (M,).
    pooling : str
        How the estimators become one statistic.
    """
    names = list(terms)
    before = np.array([terms[name].weight for name in names])
    if len(names) < 2 or not before.all():
        return dict(terms)
    z = np.concatenate([_standardised(terms, values) for values in (normal, mixture)])
    of_mixture = np.arange(len(z)) >= len(next(iter(normal.values())))
    grid = _simplex(len(names))
    prior = np.log(grid) @ (len(names) * before / before.sum() - 1)
    credible = prior + [_log_likelihood(pooled(z, weights, pooling), of_mixture) for weights in grid]
    share = np.exp(credible - credible.max())
    mean = share @ grid / share.sum()
    return {
        name: terms[name].model_copy(update={"weight": round(float(weight), 3)})
        for name, weight in zip(names, mean * before.sum(), strict=True)
    }


def _standardised(terms: Mapping[str, Term], values: Mapping[str, Numbers]) -> Numbers:
    columns = [(values[name] - term.centre) / term.spread for name, term in terms.items()]
    return np.stack(columns, 1).clip(-FARTHEST, FARTHEST)


def _simplex(count: int) -> Numbers:
    """Return all weightings in steps, (G, count), each of sum 1; moved off the edges, where a prior may be infinite."""
    steps = [one for one in product(range(STEPS + 1), repeat=count) if sum(one) == STEPS]
    whole = np.array(steps) + 1 / count
    found: Numbers = whole / whole.sum(1, keepdims=True)
    return found


def _log_likelihood(statistic: Numbers, of_mixture: npt.NDArray[np.bool_]) -> float:
    sign = np.where(of_mixture, 1.0, -1.0)

    def loss(line: Numbers) -> float:
        slope, start = line
        return float(np.logaddexp(0.0, -sign * (slope * statistic + start)).sum() + slope**2 / 2)

    return -float(minimize(loss, (1.0, 0.0), method="L-BFGS-B", bounds=[(0.0, None), (None, None)]).fun)
