"""The content tree: TID 1500 with one TID 1501 group for the study.

No SCOORD3D is used, so one tree serves Comprehensive 3D, Comprehensive and Enhanced SR.

References
----------
PS3.16 TID 1500, 1501, 1600; ``highdicom.sr``.
"""

from collections.abc import Sequence

from highdicom import sr
from highdicom.sr import RelationshipTypeValues
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code

from triage.calibration import COMBINED, FLOWS, LOCAL_CLASSIFIER, SET_CLASSIFIER
from triage.messages import Score
from triage.report import codes
from triage.report.evidence import is_image
from triage.report.result import Algorithm, ReportInput


def content_tree(
    evidence: Sequence[Dataset],
    result: ReportInput,
    *,
    tracking_uid: str,
    device_uid: str,
    inputs_hash: str,
    maps: Sequence[Dataset] = (),
) -> sr.MeasurementReport:
    """Return the report's content.

    Parameters
    ----------
    evidence : sequence of pydicom.dataset.Dataset
        What `triage.report.evidence.as_evidence` returned; all of them scored (or not scored) together.
    result : ReportInput
        What to say about them.
    tracking_uid : str
        Tracking Unique Identifier (112040,DCM), the same for every revision.
    device_uid : str
        Device Observer UID (121012,DCM).
    inputs_hash : str
        SHA-256 over the sorted SOP Instance UIDs, hexadecimal.
    maps : sequence of pydicom.dataset.Dataset
        Images that show where: named in the group, but no sources of it.
    """
    images = [ds for ds in evidence if is_image(ds)]
    report = sr.MeasurementReport(
        sr.ObservationContext(observer_device_context=_observer(result, device_uid)),
        (codes.UNKNOWN_PROCEDURE if result.is_declined else codes.PROCEDURE)[result.modality],
        [_group(images, result, tracking_uid, inputs_hash, maps)],
        title=codes.IMAGING_MEASUREMENT_REPORT,
    )
    if images:
        # Before the measurements (TID 1500 row 6). highdicom's own library repeats geometry for every slice:
        # 130 kB for a head CT, of which no reader makes use.
        tree = report[0].ContentSequence
        tree.insert(len(tree) - 1, _image_library(images))
    return report


def without_failed_values(item: Dataset) -> None:
    """Empty the Measured Value Sequence of every NUM that is qualified as a measurement failure, in place.

    References
    ----------
    PS3.3 section C.18.1: no item means no value, and the Numeric Value Qualifier says why.
    """
    for qualifier in item.get("NumericValueQualifierCodeSequence", []):
        if qualifier.CodeValue == codes.MEASUREMENT_FAILURE.value:
            item.MeasuredValueSequence = []
    for child in item.get("ContentSequence", []):
        without_failed_values(child)


def _observer(result: ReportInput, device_uid: str) -> sr.ObserverContext:
    return sr.ObserverContext(
        sr.CodedConcept.from_code(codes.DEVICE),
        sr.DeviceObserverIdentifyingAttributes(
            uid=device_uid,
            name=result.station,
            manufacturer_name=codes.MANUFACTURER,
            model_name=codes.MODEL_NAME,
            serial_number=result.station,
        ),
    )


def _group(
    images: Sequence[Dataset], result: ReportInput, tracking_uid: str, inputs_hash: str, maps: Sequence[Dataset]
) -> sr.MeasurementsAndQualitativeEvaluations:
    algorithm = result.algorithm
    site = sr.FindingSite(anatomic_location=codes.FINDING_SITE[result.modality])
    group = sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(tracking_uid, "AI triage"),
        finding_type=codes.IMAGING_FINDING,
        finding_sites=None if result.is_declined else [site],
        # Without the family: highdicom would give it back as a qualitative evaluation of the group.
        algorithm_id=_algorithm(algorithm, inputs_hash),
        measurements=_measurements(result, inputs_hash),
        qualitative_evaluations=_evaluations(result),
        source_images=[sr.SourceImageForMeasurementGroup(ds.SOPClassUID, ds.SOPInstanceUID) for ds in images],
    )
    for ds in maps:
        group[0].ContentSequence.append(
            sr.ImageContentItem(
                codes.ILLUSTRATION,
                ds.SOPClassUID,
                ds.SOPInstanceUID,
                relationship_type=RelationshipTypeValues.CONTAINS,
            )
        )
    for name, text in ((codes.REASON_NOT_SCORED, result.not_scored), (codes.COMMENT, result.notes)):
        if text:
            group[0].ContentSequence.append(sr.TextContentItem(name, text, RelationshipTypeValues.CONTAINS))
    return group


def _algorithm(
    algorithm: Algorithm, inputs_hash: str, family: Code | None = None, more: Sequence[str] = ()
) -> sr.AlgorithmIdentification:
    return sr.AlgorithmIdentification(
        name=algorithm.name,
        version=algorithm.version,
        manufacturer=codes.MANUFACTURER,
        parameters=[*algorithm.parameters, *more, f"inputs-sha256={inputs_hash}"],
        family=family,
    )


def _measurements(result: ReportInput, inputs_hash: str) -> list[sr.Measurement]:
    algorithm = _algorithm(result.algorithm, inputs_hash, codes.ARTIFICIAL_INTELLIGENCE)
    if result.not_scored or result.score is None:
        # highdicom cannot hold a NUM without a value; `without_failed_values` takes the placeholder out.
        return [
            sr.Measurement(
                name=codes.LOG_POSTERIOR,
                value=0.0,
                unit=codes.NO_UNITS,
                qualifier=codes.MEASUREMENT_FAILURE,
                algorithm_id=algorithm,
            )
        ]
    score = result.score
    # A probability holds for one prevalence only.
    assumed = [] if score.prevalence is None else [f"prevalence={score.prevalence:g}"]
    certainty = _algorithm(result.algorithm, inputs_hash, codes.ARTIFICIAL_INTELLIGENCE, assumed)
    # The population stands with the abnormality percentile, not with the log posterior: there the same number
    # would rank the other way round, and a reader who trusts the code would take the worst for the best.
    found: list[tuple[Code, float | None, Code, float | None]] = [
        (codes.LOG_POSTERIOR, score.log_posterior, codes.NO_UNITS, None),
        (codes.ABNORMALITY_PERCENTILE, score.percentile, codes.PERCENT, score.percentile),
        (codes.P_VALUE, score.p_value, codes.NO_UNITS, None),
        (codes.CERTAINTY, None if score.calibrated is None else 100 * score.calibrated, codes.PERCENT, None),
    ]
    estimators = [
        # Records of before the flows had a reference of their own have no such statistic, only its default.
        (codes.FLOWS_STATISTIC, score.flows if FLOWS in score.percentiles else None, FLOWS),
        (codes.SET_CLASSIFIER_LOGIT, score.set_classifier, SET_CLASSIFIER),
        (codes.LOCAL_CLASSIFIER_VALUE, score.local_classifier, LOCAL_CLASSIFIER),
        (codes.COMBINED_STATISTIC, score.combined if score.classifiers else None, COMBINED),
    ]
    found += [(name, value, codes.NO_UNITS, score.percentiles.get(estimator)) for name, value, estimator in estimators]
    return [
        sr.Measurement(
            name=name,
            value=value,
            unit=unit,
            algorithm_id=certainty if name is codes.CERTAINTY else algorithm,
            properties=None if percentile is None else _population(score, percentile),
        )
        for name, value, unit, percentile in found
        if value is not None
    ]


def _population(score: Score, percentile: float) -> sr.MeasurementProperties:
    """Return where a value stands among the reference's; 100 is the most abnormal."""
    ranking = sr.NumContentItem(
        codes.PERCENTILE_RANKING, percentile, codes.PERCENT, relationship_type=RelationshipTypeValues.HAS_PROPERTIES
    )
    statistics = sr.MeasurementStatisticalProperties(
        values=[ranking], description=f"calibration set {score.calibration or 'unnamed'}; 100 = most abnormal"
    )
    return sr.MeasurementProperties(measurement_statistical_properties=statistics)


def _evaluations(result: ReportInput) -> list[sr.QualitativeEvaluation]:
    flag = codes.YES if result.suspected_abnormality else codes.UNDETERMINED
    evaluations = [sr.QualitativeEvaluation(codes.SUSPECTED_ABNORMALITY, flag)]
    if result.priority is not None and not result.not_scored:
        evaluations.append(sr.QualitativeEvaluation(codes.READING_PRIORITY, codes.PRIORITY[result.priority]))
    return evaluations


def _image_library(images: Sequence[Dataset]) -> sr.ContainerContentItem:
    library = sr.ContainerContentItem(codes.IMAGE_LIBRARY, relationship_type=RelationshipTypeValues.CONTAINS)
    library.ContentSequence = sr.ContentSequence()
    for modality in sorted({ds.Modality for ds in images}):
        group = sr.ContainerContentItem(codes.IMAGE_LIBRARY_GROUP, relationship_type=RelationshipTypeValues.CONTAINS)
        group.ContentSequence = sr.ContentSequence()
        group.ContentSequence.append(
            sr.CodeContentItem(
                codes.MODALITY,
                codes.ACQUISITION_MODALITY.get(modality, codes.OTHER_MODALITY),
                RelationshipTypeValues.HAS_ACQ_CONTEXT,
            )
        )
        group.ContentSequence.extend(
            sr.ImageContentItem(
                codes.SOURCE,
                ds.SOPClassUID,
                ds.SOPInstanceUID,
                relationship_type=RelationshipTypeValues.CONTAINS,
            )
            for ds in images
            if ds.Modality == modality
        )
        library.ContentSequence.append(group)
    return library
