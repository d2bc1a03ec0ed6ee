"""One exception tree. An exception's docstring is its default message; a remedy tells what to do about it."""

import traceback

EXIT_FAILED = 1
EXIT_USAGE = 2


class TriageError(Exception):
    """Something went wrong in the triage node.

    Parameters
    ----------
    message : str, optional
        One line that says what is wrong, without patient data. Default: the docstring's first line.
    remedy : str, optional
        One line that says what to do about it.
    """

    def __init__(self, message: str = "", *, remedy: str = "") -> None:
        first_line = (type(self).__doc__ or "").strip().splitlines()[0]
        self.message = message or first_line
        self.remedy = remedy
        super().__init__(f"{self.message} ({remedy})" if remedy else self.message)


class ConfigurationError(TriageError):
    """The configuration cannot be used."""


class TrainingDivergedError(TriageError):
    """A flow is worse than none."""


class InvalidUIDError(TriageError):
    """A peer sent a UID that breaks the rules of PS3.5 section 9.1."""


class StorageFullError(TriageError):
    """The data folder has less free space than listen.min_free_gib, or the disk is full."""


class UnparsableObjectError(TriageError):
    """The bytes received are not a DICOM data set that can be read."""


class MismatchedObjectError(TriageError):
    """The data set's SOP class or instance differs from the command's."""


class ConflictingObjectError(TriageError):
    """A different object is already stored under this SOP Instance UID."""


class LedgerError(TriageError):
    """The ledger cannot do what was asked."""


class ForbiddenTransitionError(LedgerError):
    """The table of transitions does not allow this step."""


class NotFoundError(LedgerError):
    """The ledger knows no such entry."""


class BrokerError(TriageError):
    """The broker cannot be reached."""


class BundleError(TriageError):
    """A model bundle is unknown, altered or does not fit."""


class MachineError(TriageError):
    """This machine's arithmetic can't be trusted with a bundle."""


class NotScoredError(TriageError):
    """The study is not scored; the message is the reason a radiographer reads."""


class ReportError(TriageError):
    """A Structured Report cannot be built from these sources."""


class DeliveryError(TriageError):
    """A destination did not take or did not prove an object."""


class AssociationError(DeliveryError):
    """There is no association with a peer."""


class RejectedError(AssociationError):
    """A peer rejected our association."""


class QueryError(DeliveryError):
    """A peer failed a query, or answered with what cannot be read."""


def exit_code(exc: TriageError) -> int:
    """Return what a command or a role ends with: 2 where the site's configuration or its models must change first.

    All else may mend itself (a database that is not up yet), so that it is worth starting a role again.
    """
    return EXIT_USAGE if isinstance(exc, ConfigurationError | BundleError) else EXIT_FAILED


def place_of(exc: BaseException) -> str:
    """Return where an exception was raised, as ``file:line``; unlike its message, that quotes no data set."""
    frames = traceback.extract_tb(exc.__traceback__)
    return f"{frames[-1].filename}:{frames[-1].lineno}" if frames else ""
