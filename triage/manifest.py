"""What ``bundle.toml`` says: a bundle's input grid, transform, flows and origin; nothing unknown is accepted."""

from math import prod
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, FiniteFloat, model_validator

from triage.calibration import COMBINED, FLOWS, LOCAL_CLASSIFIER, SET_CLASSIFIER

Size = Annotated[tuple[Annotated[int, Field(ge=1, le=4096)], ...], Field(min_length=2, max_length=3)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Preprocessing(_Part):
    """The grid onto which a study is brought before it is sent to be scored.

    Attributes
    ----------
    size : tuple of int
        (H, W) pixels for CXR, (D, H, W) voxels for BCT.
    spacing_mm : tuple of float or None
        BCT: distance of voxel centres, mm, in the order of ``size``; the grid is centred on the head.
    grey_levels : int
        Pixels are integers from 0 to ``grey_levels - 1``: 256 levels of a CXR, 128 of a BCT.
    hu_offset : int
        BCT: pixel = clip(HU + hu_offset, 0, grey_levels - 1) (paper, equation 4): 14.
    straighten : bool
        BCT: turn the grid about the slices' normal to lie along the head's midline (not in the paper).
    brain_hu : float or None
        BCT: brighten or darken a head, by 4 HU at most, so that its brain's most frequent density is this, HU (not in
        the paper).
    smooth_mm : float
        BCT: slices on the grid are smoothed so far, Gaussian: grain is the kernel's and the dose's (not in the paper).
    """

    size: Size
    spacing_mm: tuple[Annotated[float, Field(gt=0)], ...] | None = None
    grey_levels: int
    hu_offset: int = 14
    straighten: bool = False
    brain_hu: Annotated[float, Field(ge=25, le=45)] | None = None
    smooth_mm: float = Field(0.0, ge=0, le=10)

    @model_validator(mode="after")
    def _spacing_fits(self) -> Self:
        if self.spacing_mm is not None and len(self.spacing_mm) != len(self.size):
            raise ValueError("spacing_mm needs one number for each axis of size")
        return self

    @model_validator(mode="after")
    def _grey_values_are_the_nodes(self) -> Self:
        # Written down to be read: the gate, and all that is done to a head before it is scored, know no others.
        levels = 256 if len(self.size) == 2 else 128
        if (self.grey_levels, self.hu_offset) != (levels, 14):
            raise ValueError(f"grey_levels and hu_offset must be {levels} and 14: no study is brought onto others")
        return self


class InputTransform(_Part):
    """What is done to the grid's grey values before the flows see them; in this order.

    Attributes
    ----------
    clip : int or None
        Grey values above it are set to it.
    pool : tuple of int
        Mean over blocks of this shape; sets the flows' grid to ``size / pool``.
    standardise : bool
        Give every image the same mean and spread.
    spread : float
        Standard deviation after ``standardise``, as a share of the whole grey scale.
    views : int
        The flows' statistic is the mean over so many slightly turned, zoomed and shifted copies of the image, itself
        among them (a volume's are cut elsewhere, too: see `workers.flows.views`); log densities are of the image
        itself.
    """

    clip: int | None = None
    pool: tuple[Annotated[int, Field(ge=1)], ...] = (1, 1)
    standardise: bool = False
    spread: float = Field(0.2, gt=0, le=1)
    views: int = Field(1, ge=1, le=64)


Prior = Literal["fixed", "learned"]
Scale = Literal["paper", "openai"]
Convolution = Literal["lu", "plain"]


class Architecture(_Part):
    """The shape of both flows: Glow (arXiv:1807.03039) in two or three dimensions, as the paper runs it by default.

    The options are those places where the paper departs from the code that it started from
    (github.com/openai/glow, here "openai"), or leaves it open.

    Attributes
    ----------
    size : tuple of int
        The flows' grid, (H, W) or (D, H, W).
    grey_levels : int
        n: the flows see integers from 0 to n - 1.
    depth : int
        Steps per level, K.
    widths : tuple of int
        Hidden channels of the couplings, one number a level; its length is the number of levels, L.
    prior : str
        ``"fixed"``: every level's latents are N(0, 1) (paper, section 3.2: "the variance and the mean of the latent
        variables are set to 1 and 0"). ``"learned"``: the half that is split off is normal with a mean and a spread
        that a convolution tells from the other half (openai, `split2d_prior`); the coarsest level stays N(0, 1)
        (openai without ``--learntop``).
    scale : str
        Of the couplings, from the net's output a. ``"paper"``: sigmoid(a - 0.1) + 0.6 (section 3.2), between 0.6 and
        1.6. ``"openai"``: sigmoid(a + 2).
    convolution : str
        The 1x1(x1) convolution: ``"lu"`` keeps W's LU decomposition (arXiv:1807.03039, section 3.2), ``"plain"`` W
        itself with its determinant in float64 (openai's default path). The same functions can be reached by either.
    edge : bool
        3x3(x3) convolutions see one more channel that is 1 on the padding and 0 inside (openai, `add_edge_padding`).
    shared_levels : int
        Finest levels that both flows have in common, to the last bit: they cancel in the ratio, are computed once,
        and are kept in normal.safetensors alone. (Ours; the paper trains two separate flows: 0.)
    """

    kind: Literal["glow"] = "glow"
    size: Size
    grey_levels: int = Field(ge=2, le=256)
    depth: int = Field(ge=1, le=64)
    widths: tuple[Annotated[int, Field(ge=1, le=4096)], ...] = Field(min_length=1, max_length=12)
    prior: Prior = "fixed"
    scale: Scale = "paper"
    convolution: Convolution = "lu"
    edge: bool = True
    shared_levels: int = Field(0, ge=0)

    @property
    def levels(self) -> int:
        """The number of levels, L."""
        return len(self.widths)

    @property
    def dimensions(self) -> int:
        """The number of pixels or voxels, D."""
        return prod(self.size)

    @model_validator(mode="after")
    def _size_divides(self) -> Self:
        if any(n % 2**self.levels for n in self.size):
            raise ValueError(f"every axis of size must be a multiple of {2**self.levels} for {self.levels} levels")
        if self.shared_levels > self.levels:
            raise ValueError(f"shared_levels is more than the {self.levels} levels that there are")
        return self


def _ascending(window: tuple[float, float]) -> tuple[float, float]:
    if not window[0] < window[1]:
        raise ValueError("window ends before it starts")
    return window


Window = Annotated[tuple[FiniteFloat, FiniteFloat], AfterValidator(_ascending)]


class Classifier(_Part):
    """The second estimator: a linear classifier of the normal set against the mixture, on features of a frozen network.

    Its logit estimates the same density ratio as the flows do, up to a constant. The network is the first blocks of
    EfficientNet-Lite0 as trained on ImageNet; ``classifier.safetensors`` holds them and the linear head.

    Attributes
    ----------
    size : tuple of int
        (H, W) at which the network sees an image or a slice.
    blocks : tuple of int
        Whose outputs are features, counted from 0, ascending.
    statistics : tuple of str
        How a block's output is pooled over its positions.
    window : (float, float) or None
        Grey values that become -1 and 1; None gives every image the same mean and spread.
    slab : int
        BCT: so many neighbouring slices are averaged.
    smooth : float
        Images or slices are smoothed so far before the network sees them, Gaussian, pixels: it minds grain.
    top : int
        BCT: every feature is the mean over the so many slabs where it is largest.
    symmetric : bool
        The network's second and third channel are the image mirrored left to right, and the difference to that.
    views : int
        The logit is the mean over so many slightly turned, zoomed and shifted copies of the image, itself among them;
        see `workers.flows.views`.
    """

    kind: Literal["stages"] = "stages"
    size: Annotated[tuple[Annotated[int, Field(ge=8, le=512)], ...], Field(min_length=2, max_length=2)]
    blocks: Annotated[tuple[Annotated[int, Field(ge=0, le=15)], ...], Field(min_length=1, max_length=16)]
    statistics: Annotated[tuple[Literal["mean", "sd", "max"], ...], Field(min_length=1, max_length=3)]
    window: Window | None = None
    slab: int = Field(1, ge=1, le=64)
    smooth: float = Field(0.0, ge=0, le=8)
    top: int = Field(1, ge=1, le=64)
    symmetric: bool = False
    views: int = Field(1, ge=1, le=64)

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        if list(self.blocks) != sorted(set(self.blocks)):
            raise ValueError("blocks are not in ascending order")
        return self


class Local(_Part):
    """The third estimator: a small network that marks, place by place, what looks planted into a normal image.

    It was trained on normal and unlabelled images into half of which artificial abnormalities were planted, and to tell
    the two sets apart; no label of a disease was needed. ``local.safetensors`` holds its weights.

    Attributes
    ----------
    size : tuple of int
        (H, W) at which the network sees an image or a slice; multiples of 8.
    widths : tuple of int
        Channels of the stem and of the maps at 1/2, 1/4 and 1/8 of ``size``.
    members : int
        Networks whose outputs are averaged.
    window : (float, float) or None
        Grey values that become -1 and 1; None gives every image the same mean and spread.
    soften : float
        Images, or slices, are smoothed so far, Gaussian, pixels of the bundle's grid, before a network sees them.
    neighbours : int
        BCT: so many slices on either side of one are further channels.
    components : int
        Principal components of normal images; what they leave of an image is a further channel. 0: no such channel.
    turns : tuple of float
        CXR: statistics are means over the image turned by so many degrees: how upright a patient stands means little.
    top : float
        The map's statistic is the mean of this share of its highest logits; BCT: of every slice's.
    slices : int
        BCT: statistics are means over the so many slices where they are highest.
    smooth : float
        BCT: logits within the skull are smoothed so far, Gaussian, pixels of the map and slices.
    symmetric : bool
        BCT: the slice's mirror image is one more channel.
    extent : float
        BCT: map and statistic of a slice that shows less brain than the largest are lower by this times the logarithm
        of the ratio, in standard deviations: blood is anywhere in a brain alike, so it is where there is more of it.
    weights : tuple of float
        Of the three standardised statistics in the estimator's value: the map's, and the logits of "something was
        planted" and of "from the mixture" for the whole image.
    """

    kind: Literal["pyramid"] = "pyramid"
    size: Annotated[tuple[Annotated[int, Field(ge=16, le=512, multiple_of=8)], ...], Field(min_length=2, max_length=2)]
    widths: Annotated[tuple[Annotated[int, Field(ge=1, le=512)], ...], Field(min_length=4, max_length=4)]
    members: int = Field(1, ge=1, le=16)
    window: Window | None = None
    soften: float = Field(0.0, ge=0, le=8)
    neighbours: int = Field(0, ge=0, le=4)
    components: int = Field(0, ge=0, le=512)
    turns: Annotated[tuple[Annotated[FiniteFloat, Field(ge=-45, le=45)], ...], Field(min_length=1, max_length=9)] = (
        0.0,
    )
    top: float = Field(0.02, gt=0, le=1)
    slices: int = Field(1, ge=1, le=64)
    smooth: float = Field(0.0, ge=0, le=8)
    symmetric: bool = False
    extent: float = Field(0.0, ge=0, le=8)
    weights: Annotated[tuple[Annotated[FiniteFloat, Field(ge=0)], ...], Field(min_length=3, max_length=3)]

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        if not any(self.weights):
            raise ValueError("all weights are 0")
        return self


class DataSource(_Part):
    """Images that a bundle was made from."""

    name: str
    licence: str
    credit: str


class Training(_Part):
    """How a bundle was made.

    ``acquisition_auc`` says how well header, borders and noise alone told the two training sets apart (0.5: not at
    all); None where it wasn't looked at.
    """

    preset: str
    seed: int
    images_normal: int = Field(ge=0)
    images_mixture: int = Field(ge=0)
    bits_per_dim_normal: float
    bits_per_dim_mixture: float
    made_with: str
    acquisition_auc: Annotated[float, Field(ge=0, le=1)] | None = None
    data: tuple[DataSource, ...] = ()


class Manifest(_Part):
    """``bundle.toml``."""

    format: Literal[1] = 1
    name: Name
    version: Name
    modality: Literal["CXR", "BCT"]
    summary: str = ""
    preprocessing: Preprocessing
    transform: InputTransform = InputTransform()
    architecture: Architecture
    classifier: Classifier | None = None
    local: Local | None = None
    training: Training

    @property
    def estimators(self) -> tuple[str, ...]:
        """The names of what the bundle tells of an image; see `workers.flows.measure`."""
        classifiers = ((SET_CLASSIFIER, self.classifier), (LOCAL_CLASSIFIER, self.local))
        there = (name for name, section in classifiers if section is not None)
        return "log_prob_normal", "plain_ratio", FLOWS, *there, COMBINED

    @model_validator(mode="after")
    def _grids_fit(self) -> Self:
        axes = 2 if self.modality == "CXR" else 3
        size, pool = self.preprocessing.size, self.transform.pool
        if not len(size) == len(pool) == len(self.architecture.size) == axes:
            raise ValueError(f"a {self.modality} bundle has grids of {axes} axes")
        if self.modality == "BCT" and self.preprocessing.spacing_mm is None:
            raise ValueError("a BCT bundle needs preprocessing.spacing_mm")
        if any(n != m * f for n, m, f in zip(size, self.architecture.size, pool, strict=True)):
            raise ValueError("preprocessing.size is not architecture.size times transform.pool")
        if self.classifier is not None and axes == 2 and (self.classifier.slab, self.classifier.top) != (1, 1):
            raise ValueError("a CXR has no slices to take slabs of")
        if (
            self.classifier is not None
            and axes == 3
            and (size[0] % self.classifier.slab or size[0] // self.classifier.slab < self.classifier.top)
        ):
            raise ValueError("classifier.slab and classifier.top don't fit the slices")
        if self.local is not None and axes == 2 and (self.local.neighbours, self.local.slices) != (0, 1):
            raise ValueError("a CXR has no neighbouring slices")
        if self.local is not None and axes == 3 and self.local.slices > size[0]:
            raise ValueError("local.slices is more than there are")
        return self
