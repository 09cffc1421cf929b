"""The DICOM conformance statement of a configuration, in the outline of PS3.2 annex N.

Its tables are made from what runs: negotiation, statuses, writers. In the repository,
`python -m appliance.services.administration.conformance_statement` writes that of the reference.
"""

from __future__ import annotations

from pathlib import Path

from appliance import __version__
from appliance.config.destinations import Hl7Destination, UpsDestination, WebhookDestination
from appliance.config.load import load
from appliance.config.schema import Config
from appliance.dicom.codes import NOTICE, PRIVATE_SCHEME, PRIVATE_SCHEME_NAME, REJECTIONS
from appliance.domain.identity import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from appliance.network.commitment import PUSH_MODEL
from appliance.network.requestor import MAXIMUM_CONTEXTS
from appliance.network.ups import REQUEST_CANCEL
from appliance.results import SIMPLER_WRITERS, UNANALYSED_WRITERS
from appliance.results.ups_workitem import UPS_PUSH
from appliance.services.administration import conformance_network as network
from appliance.services.administration.conformance_network import name_of, table
from appliance.services.administration.conformance_objects import MadeObject, made_objects
from appliance.services.packages import load_packages

ROOT = Path(__file__).resolve().parents[3]
DOCUMENT = ROOT / "docs" / "conformance.md"
REFERENCE = ROOT / "config" / "site.yaml"

_VERIFICATION = "1.2.840.10008.1.1"
_WORKITEM_ATTEMPTS = UpsDestination.model_fields["attempts"].default

_SECTIONS = """\
# DICOM conformance statement

{product}, version {version}. Written by `appliance conformance --config site.yaml` from the running code and
the configuration; this one is that of `{configuration}`. Do not edit.

## 1 Overview

The appliance stands between scanners and archives. It stores what scanners send, sends it on unchanged,
runs models on it, and sends their results: derived images and objects that tell of findings. Not for
diagnostic use; every result says so: "{notice}"

### 1.1 Services

{services}

### 1.2 SOP classes that are made

{made}

A derived image has the SOP class of its source. {simpler} can be made in the form of a simpler SOP class
(Comprehensive SR), for destinations that refuse the first. {unanalysed} can also say that a series was not
analysed.

### 1.3 Models of this configuration

{models}

## 2 Introduction

For integrators and administrators of scanners, archives and information systems. Terms are those of PS3.2
to PS3.8. Conformance to DICOM does not guarantee that two systems work together: see to it by tests at the
site.

## 3 Implementation model

STORAGE-SCP (with VERIFICATION-SCP and COMMITMENT-SCP) listens; STORAGE-SCU (with VERIFICATION-SCU,
COMMITMENT-SCU and UPS-SCU) calls. All of them have the AE title {ae_title}{others}. What arrives is stored,
then sent on to every destination that the configuration names and independently analysed; results and
messages follow from a durable outbox, urgent ones first. What a scanner wants to be committed is reported
once all required destinations have it.

### 3.1 Destinations of this configuration

{destinations}

### 3.2 Retraction

`appliance results retract` supersedes a report (Predecessor Documents Sequence, same tracking UID) and a
card, corrects HL7 messages and webhook documents, and asks for workitems to be cancelled. Nothing is deleted
at an archive. One with `rejection_notes` is sent a Key Object Selection (TID 2010) as well, which names every
result object of the answer that it has, with one of the titles

{titles}

The form is that of IHE RAD-66, Rejection Note Stored; the profile IOCM as a whole is not claimed. Derived
images, segmentations and key objects at other archives are left to a person, and the command says where.

## 4 Application entities

### 4.1 Common to all associations

| | |
|---|---|
| application context | 1.2.840.10008.3.1.1.1 |
| implementation class UID | {class_uid} |
| implementation version name | {version_name} |
| SOP class extended, common extended negotiation | not offered; not answered |
| asynchronous operations window | not negotiated: one operation at a time |
| user identity negotiation | not offered; what is offered is ignored |

### 4.2 STORAGE-SCP: acceptance of associations

{limits}

Associations are rejected with

{rejections}

### 4.3 STORAGE-SCP: presentation contexts

Every Storage SOP class of PS3.6 is accepted, those of the table in 4.8, retired, future and private ones
alike, in the role SCP. Of the transfer syntaxes that the peer proposes for a class, the one that stands
first here:

{syntaxes}

Verification ({verification}) is accepted in the role SCP; Storage Commitment Push Model ({push_model}) in
both roles, by SCP/SCU role selection.

### 4.4 STORAGE-SCU: initiation and presentation contexts

One association for a batch, kept open for the next one; at most {associations} at a time to one
destination, and at most {contexts} contexts in each. For each SOP class and transfer syntax of the batch:

{proposals}

Only the bytes of the file are sent, unless a destination takes nothing but an uncompressed syntax; then
lossless ones are converted without loss and keep their UID. Lossy ones are never converted. C-STORE has the
priority HIGH for all that belongs to a study with an urgent finding, else MEDIUM. An answer may take
{dimse:g} s.

### 4.5 VERIFICATION-SCU

C-ECHO ({verification}, Implicit VR Little Endian) tells whether a destination that failed answers again. A
destination that rejects Verification counts as there.

### 4.6 COMMITMENT-SCU and COMMITMENT-SCP

| | as SCU, to destinations with `commitment` | as SCP, to scanners |
|---|---|---|
| request | N-ACTION, own transaction UID, new one whenever it is asked again | answered once it is durable |
| report | on the same or another association | on an association of its own, role selection SCP |
| asked or told again | after {report_h:g} h without a report | until answered, for {give_up_h:g} h |

Failure reasons {send_again} have the object sent again; others have it asked about again, {attempts} times
at most. An instance is committed to a scanner once every required destination has stored it or, if it
commits, has committed it.

### 4.7 UPS-SCU

N-CREATE of UPS Push ({ups}) for positive findings that are urgent; N-ACTION with the action type
{cancel_action} (Request UPS Cancel) for the workitem of an answer that was retracted. Explicit or Implicit VR
Little Endian. No other UPS service.

### 4.8 Storage SOP classes of STORAGE-SCP

{storage}

## 5 Statuses

### 5.1 C-STORE, as SCP

{store_statuses}

### 5.2 C-STORE, as SCU: what an answer means

Where no answer comes, the object is sent again under the same UID. What is "not sent again" is left to a
person, except a report, instead of which something simpler is sent (Comprehensive SR, then Secondary
Capture).

{received}

### 5.3 Storage commitment: N-ACTION and N-EVENT-REPORT

{commitment_statuses}

### 5.4 UPS N-CREATE, as SCU ({workitem_attempts} attempts)

{creation}

### 5.5 UPS N-ACTION, Request UPS Cancel, as SCU ({workitem_attempts} attempts)

{cancellation}

## 6 Network

TCP over IPv4 and IPv6. DICOM at {host}, port {port}{tls}. Addresses, ports, AE titles and limits are
settings: see [configuration](configuration.md).

## 7 Security

TLS 1.2 or newer (PS3.15 B.12, BCP 195), with certificates on both sides where so configured; the
certificate of a destination must be for the name that is called. Peers are told apart by calling AE title
and address (`listener.accept`). Not supported: Kerberos, SAML, JWT, audit trail messages (PS3.15 A.5),
de-identification, digital signatures. Logs and metrics hold no identifiers of patients, and UIDs only as
hashes.

## 8 Character sets and time

Everything that is copied keeps its Specific Character Set (0008,0005); what the appliance adds is ASCII.
Messages and workitems are in UTF-8 (ISO_IR 192). New dates and times are in the Timezone Offset From UTC
(0008,0201) of the source, else in that of `station.timezone`.

## 9 Codes

Private coding scheme {scheme} ("{scheme_name}"). Codes of the objects of section 10, beside those of each
model:

{codes}

## 10 Created objects

UIDs are functions of source, model and settings: the same work done twice gives the same object (2.25,
PS3.5 B.2). {private} The tables are those of results made of CT images; sequences are described as a whole.

{objects}

## 11 Other interfaces

{interfaces}

See [messages](messages.md).

## 12 IHE AI Results (AIR): Evidence Creator

| | |
|---|---|
| storage of results to an Image Manager by C-STORE | yes |
| primitives: qualitative finding, measurement, tracking identifier, image reference | yes (TID 1500) |
| carrier | Comprehensive 3D SR, on refusal Comprehensive SR |
| segmentation | yes, where a model draws one |
| location as planar region (TID 1410), parametric map | no |
| device and algorithm identification | yes: TID 1004, TID 4019, Contributing Equipment Sequence |
| result tree of several studies or modalities | no: one report for one series and model |
| tested at a Connectathon | no |

## 13 Known limits

No query, retrieve, worklist or MPPS. No DICOMweb. The workitem of a finding that more images made negative
is not cancelled, unless a person retracts the answer.
"""


def statement(config: Config, configuration: str) -> str:
    """The statement, as Markdown. `configuration` is how the configuration is called in it.

    Raises:
        Misconfigured: a model package is missing or damaged.
    """
    objects = made_objects()
    listener, commitment = config.listener, config.commitment
    return _SECTIONS.format(
        product="Edge Inference Appliance",
        version=__version__,
        configuration=configuration,
        notice=NOTICE,
        services=_services(),
        made=table(["kind", "SOP class", "UID"], [_kind(made) for made in objects]),
        simpler=", ".join(SIMPLER_WRITERS),
        unanalysed=" and ".join(UNANALYSED_WRITERS),
        models=_models(config),
        ae_title=config.station.ae_title,
        others="".join(f", or {title} when called" for title in config.station.other_ae_titles),
        destinations=network.destination_table(config),
        titles=table(
            ["`--rejected-for`", "title"],
            [(why.value, f"({one.value}, {one.scheme}, {one.meaning})") for why, one in REJECTIONS.items()],
        ),
        class_uid=IMPLEMENTATION_CLASS_UID,
        version_name=IMPLEMENTATION_VERSION_NAME,
        limits=network.limit_table(config),
        rejections=network.rejection_table(),
        syntaxes=network.syntax_table(),
        verification=_VERIFICATION,
        push_model=PUSH_MODEL,
        associations=config.delivery.associations,
        contexts=MAXIMUM_CONTEXTS,
        proposals=network.proposal_table(),
        dimse=config.delivery.dimse_timeout_s,
        report_h=commitment.report_timeout_h,
        give_up_h=commitment.give_up_h,
        send_again=network.send_again_codes(),
        attempts=commitment.attempts,
        ups=UPS_PUSH,
        storage=network.storage_class_table(),
        store_statuses=network.store_status_table(),
        received=network.received_store_statuses(),
        commitment_statuses=network.commitment_status_table(),
        workitem_attempts=_WORKITEM_ATTEMPTS,
        creation=network.received_creation_statuses(_WORKITEM_ATTEMPTS),
        cancel_action=REQUEST_CANCEL,
        cancellation=network.received_cancellation_statuses(_WORKITEM_ATTEMPTS),
        host=listener.host,
        port=listener.port,
        tls="" if listener.tls is None else f"; with TLS, port {listener.tls.port}",
        scheme=PRIVATE_SCHEME,
        scheme_name=PRIVATE_SCHEME_NAME,
        codes=_codes(objects),
        private=_private(objects),
        objects="\n\n".join(_attributes(number, made) for number, made in enumerate(objects, 1)),
        interfaces=_interfaces(config),
    )


def _services() -> str:
    return table(
        ["service", "SCU", "SCP"],
        [
            ("Storage", "yes", "yes"),
            (f"Verification ({_VERIFICATION})", "yes", "yes"),
            (f"Storage Commitment Push Model ({PUSH_MODEL})", "yes", "yes"),
            (f"Unified Procedure Step - Push ({UPS_PUSH}), N-CREATE, N-ACTION", "yes", "no"),
        ],
    )


def _kind(made: MadeObject) -> tuple[str, str, str]:
    if made.kind == "enhanced":
        return made.kind, "that of the source", ""
    return made.kind, name_of(made.sop_class_uid), made.sop_class_uid


def _models(config: Config) -> str:
    rows = []
    for package in load_packages(config):
        manifest = package.manifest
        classes = ", ".join(map(name_of, manifest.accepts.sop_classes)) or "any"
        destinations = ", ".join(package.pipeline.destinations)
        rows.append((manifest.id, manifest.version, manifest.task.kind, classes, destinations))
    return table(["model", "version", "task", "SOP classes", "results go to"], rows)


def _codes(objects: list[MadeObject]) -> str:
    codes = {code for made in objects for code in made.concepts}
    return table(
        ["scheme", "value", "meaning"],
        [
            (one.scheme, one.value, one.meaning)
            for one in sorted(codes, key=lambda one: (one.scheme, one.value))
        ],
    )


def _private(objects: list[MadeObject]) -> str:
    found = [attribute.tag for made in objects for attribute in made.attributes if attribute.tag.is_private]
    if found:
        return f"Private attributes: {', '.join(map(str, found))}."
    return "No private attributes are made; derived images keep those that a model's package names."


def _attributes(number: int, made: MadeObject) -> str:
    rows = [(one.tag, one.keyword, one.representation, one.origin) for one in made.attributes]
    heading = f"### 10.{number} {made.kind}: {_kind(made)[1]}"
    return f"{heading}\n\n{table(['tag', 'attribute', 'VR', 'value'], rows)}"


def _interfaces(config: Config) -> str:
    used = {type(one) for one in config.message_destinations.values()}
    return table(
        ["interface", "standard", "used in this configuration"],
        [
            (name, standard, "yes" if kind in used else "no")
            for kind, name, standard in (
                (Hl7Destination, "HL7 v2 over MLLP, TLS option", "ORU^R01 of HL7 2.5.1, from a template"),
                (UpsDestination, "UPS Push", "PS3.4 annex CC, N-CREATE and N-ACTION"),
                (WebhookDestination, "HTTP POST of JSON", "signed by HMAC-SHA256"),
            )
        ],
    )


def reference() -> str:
    """The statement of the reference configuration."""
    return statement(load(REFERENCE), f"config/{REFERENCE.name}")


if __name__ == "__main__":
    DOCUMENT.write_text(reference(), encoding="utf-8")
