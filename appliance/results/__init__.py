"""Result objects: what a model found, as DICOM objects that any PACS takes."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType

from pydicom import Dataset, dcmwrite
from pydicom.dataset import FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian

from appliance.dicom.codes import ACTIONABLE_WITHIN_HOURS
from appliance.dicom.outcome import Enhanced, Findings, Identity, NotAnalysed, Subject
from appliance.dicom.volume import Volume
from appliance.domain.errors import GiveUp
from appliance.domain.identity import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from appliance.domain.recipients import STAND_INS
from appliance.results.attributes import put, quiet
from appliance.results.derived import derive_images
from appliance.results.key_objects import key_object_selection
from appliance.results.secondary_capture import secondary_capture, unanalysed_capture
from appliance.results.segmentation import segmentations
from appliance.results.structured_report import structured_report, unanalysed_report

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Produced:
    """One result object, ready to be written. `kind` is a name of `WRITERS`; `urgent` overtakes.

    `key_sop_instance_uids` are the source images that show an urgent finding: they leave before it.
    """

    kind: str
    urgent: bool
    dataset: Dataset
    ae_title: str
    key_sop_instance_uids: tuple[str, ...] = ()
    stands_for: str | None = None
    """SOP Instance UID of the result whose place it takes where that one is not taken."""
    instead_only: bool = False
    """It is sent only there."""

    @property
    def sop_instance_uid(self) -> str:
        """SOP Instance UID (0008,0018)."""
        return str(self.dataset.SOPInstanceUID)

    @property
    def sop_class_uid(self) -> str:
        """SOP Class UID (0008,0016)."""
        return str(self.dataset.SOPClassUID)

    @property
    def study_instance_uid(self) -> str:
        """Study Instance UID (0020,000D)."""
        return str(self.dataset.StudyInstanceUID)

    @property
    def series_instance_uid(self) -> str:
        """Series Instance UID (0020,000E)."""
        return str(self.dataset.SeriesInstanceUID)

    @property
    def transfer_syntax_uid(self) -> str:
        """The syntax in which `encode` writes: always Explicit VR Little Endian."""
        return str(ExplicitVRLittleEndian)

    def encode(self) -> bytes:
        """A complete Part-10 file.

        Raises:
            GiveUp: the object cannot be written as the standard demands.
        """
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = self.dataset.SOPClassUID
        meta.MediaStorageSOPInstanceUID = self.dataset.SOPInstanceUID
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        meta.ImplementationClassUID = UID(IMPLEMENTATION_CLASS_UID)
        meta.ImplementationVersionName = IMPLEMENTATION_VERSION_NAME
        meta.SourceApplicationEntityTitle = self.ae_title
        self.dataset.file_meta = meta
        buffer = io.BytesIO()
        with quiet():
            try:
                dcmwrite(buffer, self.dataset, enforce_file_format=True)
            except (AttributeError, OSError, TypeError, ValueError) as error:  # pydicom makes OSError of some
                raise GiveUp(f"the {self.kind} object cannot be written: {type(error).__name__}") from None
        return buffer.getvalue()


Writer = Callable[[Enhanced | Findings, Volume, Identity], Iterator[Dataset]]


def _enhanced(outcome: Enhanced | Findings, volume: Volume, identity: Identity) -> Iterator[Dataset]:
    if isinstance(outcome, Enhanced):
        yield from derive_images(outcome, volume, identity)


def _report(outcome: Enhanced | Findings, volume: Volume, identity: Identity) -> Iterator[Dataset]:
    if isinstance(outcome, Findings):
        yield structured_report(outcome, volume, identity)


def _simpler_report(outcome: Enhanced | Findings, volume: Volume, identity: Identity) -> Iterator[Dataset]:
    if isinstance(outcome, Findings):
        yield structured_report(outcome, volume, identity, simpler=True)


def _capture(outcome: Enhanced | Findings, volume: Volume, identity: Identity) -> Iterator[Dataset]:
    if isinstance(outcome, Findings):
        yield secondary_capture(outcome, volume, identity)


def _segmentation(outcome: Enhanced | Findings, volume: Volume, identity: Identity) -> Iterator[Dataset]:
    if isinstance(outcome, Findings):
        yield from segmentations(outcome, volume, identity)


def _key_object(outcome: Enhanced | Findings, volume: Volume, identity: Identity) -> Iterator[Dataset]:
    if isinstance(outcome, Findings) and outcome.positive:
        yield key_object_selection(outcome, volume, identity)


WRITERS: Mapping[str, Writer] = MappingProxyType(
    {"enhanced": _enhanced, "sr": _report, "seg": _segmentation, "sc": _capture, "ko": _key_object}
)
"""Every kind of result object, in the order in which they are produced."""
SIMPLER_WRITERS: Mapping[str, Writer] = MappingProxyType({"sr": _simpler_report})
"""The kinds that have a form of a simpler SOP class, for destinations that refuse the first."""

UnanalysedWriter = Callable[[NotAnalysed, Subject, Sequence[Dataset], Identity], Dataset]

UNANALYSED_WRITERS: Mapping[str, UnanalysedWriter] = MappingProxyType(
    {"sr": unanalysed_report, "sc": unanalysed_capture}
)
"""The kinds of result objects that can say that there is no answer."""
_SIMPLER_UNANALYSED: Mapping[str, UnanalysedWriter] = MappingProxyType(
    {"sr": partial(unanalysed_report, simpler=True)}
)

Numbering = Callable[[str, str, int], int]
"""The series number for (study UID, series UID, wanted number): the wanted one unless something has it."""


@dataclass(frozen=True)
class Order:
    """What is to be made of an outcome: objects of `kinds`, and `stand_ins` that nobody asked for.

    These take the place of another kind at destinations that do not take that one; a kind that is among
    `kinds` as well is made in its simpler form too.
    """

    kinds: Collection[str]
    stand_ins: Collection[str]
    numbering: Numbering


def write(
    outcome: Enhanced | Findings, volume: Volume, identity: Identity, order: Order
) -> Iterator[Produced]:
    """The result objects of one job, one at a time: a large series never exists twice.

    Raises:
        GiveUp: the outcome does not fit the volume, or the source cannot be referred to.
    """
    makers, simpler = (
        {kind: partial(writer, outcome, volume, identity) for kind, writer in writers.items()}
        for writers in (WRITERS, SIMPLER_WRITERS)
    )
    urgent, key_images = is_urgent(outcome), _key_images(outcome, volume)
    for made in _make(makers, simpler, order, identity):
        yield replace(made, urgent=urgent, key_sop_instance_uids=key_images)


def write_unanalysed(
    outcome: NotAnalysed, subject: Subject, sources: Sequence[Dataset], identity: Identity, order: Order
) -> Iterator[Produced]:
    """What says that a triage model gave no answer on the series with the headers `sources`.

    Raises:
        GiveUp: the source cannot be referred to.
    """

    def one(writer: UnanalysedWriter) -> Iterator[Dataset]:
        yield writer(outcome, subject, sources, identity)

    makers, simpler = (
        {kind: partial(one, writer) for kind, writer in writers.items()}
        for writers in (UNANALYSED_WRITERS, _SIMPLER_UNANALYSED)
    )
    yield from _make(makers, simpler, order, identity)


_Maker = Callable[[], Iterator[Dataset]]


def _make(
    makers: Mapping[str, _Maker], simpler: Mapping[str, _Maker], order: Order, identity: Identity
) -> Iterator[Produced]:
    """Each object with the one before it that it can take the place of.

    A kind that cannot be made of the source keeps no other kind from people.
    """
    replaceable: dict[str, str] = {}
    failure: GiveUp | None = None
    made: set[str] = set()
    for kind, maker in makers.items():
        forms = [maker] if kind in order.kinds or kind in order.stand_ins else []
        if kind in order.kinds and kind in order.stand_ins:
            forms.append(simpler[kind])
        number: int | None = None
        stands_for = replaceable.get(kind)
        try:
            for form, dataset in _datasets(kind, forms):
                number = _number(dataset, order.numbering) if number is None else number
                put(dataset, "SeriesNumber", number)
                extra = kind not in order.kinds or form is not maker
                instead_only = extra and stands_for is not None
                yield Produced(kind, False, dataset, identity.station.ae_title, (), stands_for, instead_only)
                made.add(kind)
                if kind in STAND_INS:
                    stands_for = replaceable[STAND_INS[kind]] = str(dataset.SOPInstanceUID)
        except GiveUp as error:
            if kind in made:  # half a series is worse than none
                raise
            _log.error("result_not_made", extra={"kind": kind, "error": str(error)})
            failure = error
    if failure is not None and not made:
        raise failure


def _datasets(kind: str, forms: Sequence[_Maker]) -> Iterator[tuple[_Maker, Dataset]]:
    for form in forms:
        try:
            for dataset in form():
                yield form, dataset
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            # The libraries' messages quote attribute values, which may be a patient's.
            raise GiveUp(f"no {kind} object can be made of this source: {type(error).__name__}") from None


def _key_images(outcome: Enhanced | Findings, volume: Volume) -> tuple[str, ...]:
    if not isinstance(outcome, Findings) or not is_urgent(outcome):
        return ()
    return (str(volume.sources[outcome.key_slice].SOPInstanceUID),)


def _number(dataset: Dataset, numbering: Numbering) -> int:
    return numbering(str(dataset.StudyInstanceUID), str(dataset.SeriesInstanceUID), int(dataset.SeriesNumber))


def is_urgent(outcome: Enhanced | Findings) -> bool:
    """Whether the results overtake others: a positive finding to act on within minutes or hours."""
    match outcome:
        case Findings():
            return outcome.positive and outcome.urgency.value in ACTIONABLE_WITHIN_HOURS
        case Enhanced():
            return False
