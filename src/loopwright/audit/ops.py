"""Op rows of audit: look at the chain and verify it, seal, sign a checkpoint."""

from pathlib import Path

from loopwright.audit import erase as erasing
from loopwright.audit import service
from loopwright.audit.erase import Receipt
from loopwright.audit.model import ChainReport, Sealed, Signed
from loopwright.kernel.errors import Invalid
from loopwright.kernel.op import FileText, Op
from loopwright.store.space import Space


def chain(
    space: Space, actor: str, *, verify: bool = False, against: FileText | None = None, key: str | None = None
) -> ChainReport:
    """Say what of the events is sealed; with --verify read them all again and hold them against the seals.

    Args:
        verify: read every event again; exit code 1 when something was changed.
        against: a checkpoint that was kept elsewhere; without one a cut end or a rewritten chain is not seen.
        key: the public key that must have signed the checkpoint, as it was printed then.
    """
    if verify or against is not None or key is not None:
        return service.verify(space, actor, against=against, key=key)
    return service.state(space, actor)


def seal(space: Space, actor: str) -> Sealed:
    """Seal the events that are not sealed yet."""
    return service.seal(space, actor)


def checkpoint(space: Space, actor: str, *, out: Path | None = None) -> Signed:
    """Sign a checkpoint over all events, to be kept where this machine's owner cannot change it.

    Args:
        out: the file to write it to.
    """
    if out is not None and (not out.name or not out.parent.is_dir() or out.is_dir()):
        raise Invalid(f"{out} must be a file in a folder that is there", code="out.form", field="out")
    signed = service.sign(space, actor)
    if out is not None:
        service.write_out(signed.text, out)
    return signed


def erase(
    space: Space,
    actor: str,
    *,
    subject: str,
    dry_run: bool = False,
    files: bool = False,
) -> Receipt:
    """Erase a subject everywhere: data, tables, caches, logs, labels, samples, texts; mark the models that saw it.

    Args:
        subject: column=value, such as customer=K4711.
        dry_run: only count what would go.
        files: also write the project's own files anew without the rows.
    """
    return erasing.erase(space, actor, subject=subject, dry_run=dry_run, files=files)


def erasures(space: Space, actor: str) -> list[Receipt]:
    """List the receipts of all erasures."""
    return erasing.receipts(space, actor)


def _erasures_text(found: list[Receipt]) -> str:
    return "\n".join(f"{one.ended}  {erasing.text(one)}" for one in found) or "nothing was ever erased"


def _chain_text(report: ChainReport) -> str:
    lines = [f"{report.events} events, {report.sealed} of them under {report.seals} seals"]
    if report.unsealed:
        lines.append(f"{report.unsealed} not sealed yet: a change of these cannot be seen (lw audit seal)")
    if not report.verified:
        return "\n".join([*lines, "nothing was read again: lw audit --verify"])
    lines += [f"  {finding.what}: {finding.text}" for finding in report.findings]
    if report.checkpoint is None:
        lines.append("held against no checkpoint: a cut end or a chain written anew is seen only with --against")
    elif report.checkpoint.matches:
        lines.append(f"the checkpoint over {report.checkpoint.size} seals holds")
    sealed = "every sealed event is as it was written" if report.ok else "THE EVENTS ARE NOT WHAT WAS WRITTEN"
    return "\n".join([*lines, sealed])


def _sealed_text(done: Sealed) -> str:
    return f"{done.events} events sealed; {done.seals} seals up to event {done.last_seq}"


def _signed_text(signed: Signed) -> str:
    return f"{signed.text}\npublic key, to be kept beside it:\n{signed.key}"


OPS = [
    Op(
        fn=chain,
        http="GET /api/v1/audit",
        action="audit.read",
        cli="audit",
        render=_chain_text,
        exit_code=lambda report: 0 if report.ok else 1,
    ),
    Op(fn=seal, http="POST /api/v1/audit/seals", action="audit.seal", cli="audit seal", render=_sealed_text),
    Op(
        fn=checkpoint,
        http="POST /api/v1/audit/checkpoints",
        action="audit.sign",
        cli="audit checkpoint",
        writes="out",
        render=_signed_text,
    ),
    Op(
        fn=erase,
        http="POST /api/v1/erasures",
        action="subjects.erase",
        cli="erase",
        render=erasing.text,
        exit_code=lambda receipt: 1 if receipt.left else 0,
    ),
    Op(fn=erasures, http="GET /api/v1/erasures", action="audit.read", cli="audit erasures", render=_erasures_text),
]
