"""Op rows of artifacts: names, versions, labels, fsck, gc."""

import msgspec

from loopwright.artifacts import fsck as check
from loopwright.artifacts import gc as cleaning
from loopwright.artifacts import names
from loopwright.artifacts.model import LabelMove, Version
from loopwright.kernel.ids import valid_name
from loopwright.kernel.op import Op, Progress, silent
from loopwright.kernel.pages import MOST, Page, page
from loopwright.store.space import Space


class NameLine(msgspec.Struct, frozen=True, kw_only=True):
    """A name, its kind, its newest version and its labels."""

    name: str
    kind: str
    newest: int
    labels: dict[str, int]


def list_names(space: Space, actor: str) -> list[NameLine]:
    """List the names of the Space."""
    out = []
    for name, kind in names.all_names(space):
        last = names.newest(space, name)
        number = 0 if last is None else last.number
        out.append(NameLine(name=name, kind=kind, newest=number, labels=names.labels_of(space, name)))
    return out


def list_versions(space: Space, actor: str, *, name: str, after: str | None = None, limit: int = MOST) -> Page[Version]:
    """List the versions of a name, oldest first."""
    found = names.versions(space, valid_name(name))
    return page(found, after=after, limit=limit, key=lambda version: version.number)


def get_version(space: Space, actor: str, *, name: str, number: int) -> Version:
    """Get one version of a name."""
    return names.get(space, valid_name(name), number)


def list_label_moves(
    space: Space, actor: str, *, name: str, label: str, after: str | None = None, limit: int = MOST
) -> Page[LabelMove]:
    """List what a label of a name has held, oldest first."""
    return page(names.label_history(space, valid_name(name), valid_name(label, "label")), after=after, limit=limit)


def fsck(space: Space, actor: str, *, deep: bool = False, progress: Progress = silent) -> check.FsckReport:
    """Read every stored byte again and follow every reference.

    Args:
        deep: of blobs in an object store: download and hash them.
    """
    return check.fsck(space, actor, deep=deep, progress=progress)


def _fsck_text(report: check.FsckReport) -> str:
    lines = [
        f"{report.blobs} blobs ({report.bytes} bytes), {report.artifacts} artifacts and {report.references} references"
        f" checked in {report.database}: {report.how}"
    ]
    for item in report.damage:
        lines.append(f"  {item.part} {item.name}: {item.what}")
        lines.append(f"    touches {', '.join(item.touches) or 'nothing that is named'}; {item.hint}")
    lines.append(f"{len(report.damage)} damaged" if report.damage else "all is as it was stored")
    return "\n".join(lines)


def gc(
    space: Space,
    actor: str,
    *,
    dry_run: bool = False,
    grace: str = cleaning.GRACE,
    alone: bool = False,
    progress: Progress = silent,
) -> cleaning.GcReport:
    """Take away blobs that nothing refers to and files that killed processes left, once they are older than the grace.

    Args:
        dry_run: only say what would go.
        grace: how old something must be, such as 14d; under 1h nobody else may have the project open.
        alone: of a shared store with a short grace: no other host has the project open.
    """
    return cleaning.gc(space, actor, dry_run=dry_run, grace=grace, alone=alone, progress=progress)


def _gc_text(report: cleaning.GcReport) -> str:
    kept = ", ".join(f"{count} for a {kind}" for kind, count in report.kept.items()) or "none"
    verb = "would be taken away" if report.dry_run else "taken away"
    lines = [f"{report.blobs} blobs: {kept}; {report.young} are referred to by nothing but younger than {report.grace}"]
    lines += [f"  {item.what} {item.name}: {item.reason} ({item.size_bytes} bytes)" for item in report.removed]
    lines.append(f"{len(report.removed)} {verb}, {report.freed_bytes} bytes")
    return "\n".join(lines)


OPS = [
    Op(fn=list_names, http="GET /api/v1/names", action="names.read"),
    Op(fn=list_versions, http="GET /api/v1/names/{name}/versions", action="names.read", subject="name:{name}"),
    Op(fn=get_version, http="GET /api/v1/names/{name}/versions/{number}", action="names.read", subject="name:{name}"),
    Op(fn=list_label_moves, http="GET /api/v1/names/{name}/labels/{label}", action="names.read", subject="name:{name}"),
    Op(
        fn=fsck,
        http="GET /api/v1/fsck",
        action="store.check",
        cli="fsck",
        render=_fsck_text,
        exit_code=lambda report: 0 if report.ok else 1,
    ),
    Op(fn=gc, http="POST /api/v1/gc", action="store.clean", cli="gc", shape="job", render=_gc_text),
]
