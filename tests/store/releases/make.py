"""Makes the store that a release leaves behind: run it with the code of that release, once, when it is made.

    python make.py CHECKOUT OUT.tar.xz

The tiny project of the tests is run, deployed, asked and labelled; its log is sealed; what is left is packed.
"""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.request
from pathlib import Path

RUNTIME = ("run", "tmp", "projects", "values", "gate", "open.lock")


def main(checkout: Path, out: Path) -> None:
    """Make the store in a folder of its own and pack it."""
    env = {**os.environ, "PYTHONPATH": str(checkout / "src")}
    with tempfile.TemporaryDirectory() as folder:
        project = Path(folder) / "tiny"
        shutil.copytree(checkout / "tests" / "faces" / "tiny", project, ignore=shutil.ignore_patterns("__pycache__"))
        subprocess.run([sys.executable, "make_files.py"], cwd=project, check=True)

        def lw(*words: str) -> str:
            ran = subprocess.run(
                [sys.executable, "-m", "loopwright", *words], cwd=project, env=env, capture_output=True, text=True
            )
            assert ran.returncode == 0, ran.stdout + ran.stderr
            return ran.stdout

        lw("init")
        lw("run")
        server = subprocess.Popen([sys.executable, "-m", "loopwright", "up"], cwd=project, env=env)
        try:
            where = wait(project)
            lw("deploy", "tiny@1")
            ask(where)
        finally:
            server.terminate()
            server.wait()
        sealed = "from loopwright import house; from loopwright.serving import seal; seal.seal(house.open())"
        subprocess.run([sys.executable, "-c", sealed], cwd=project, env=env, check=True)
        pack(project, out)


def wait(project: Path) -> dict[str, str]:
    """Where the server of a project answers, once it does."""
    for _ in range(600):
        with contextlib.suppress(FileNotFoundError, ValueError):
            return json.loads((project / ".loopwright" / "run" / "up.json").read_text())
        time.sleep(0.1)
    raise SystemExit("lw up did not start")


def ask(where: dict[str, str]) -> None:
    """Some predictions, and labels for most of them."""
    for number in range(12):
        shop = "north" if number % 2 else "south"
        tensors = [
            {"name": "x", "shape": [1], "datatype": "FP64", "data": [number / 12]},
            {"name": "shop", "shape": [1], "datatype": "BYTES", "data": [shop]},
        ]
        asked = {"id": f"ask-{number}", "parameters": {"subject": f"person={number}"}, "inputs": tensors}
        post(f"{where['data_url']}/v2/models/tiny/infer", json.dumps(asked).encode(), "application/json")
    labels = "".join(json.dumps({"id": f"ask-{n}", "label": n % 2}) + "\n" for n in range(9))
    post(f"{where['control_url']}/api/v1/endpoints/tiny/labels", labels.encode(), "application/x-ndjson")


def post(url: str, body: bytes, kind: str) -> None:
    """One request that must succeed."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    direct.open(urllib.request.Request(url, body, {"Content-Type": kind}), timeout=30).close()


def pack(project: Path, out: Path) -> None:
    """Everything but what only a running process needs."""

    def kept(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
        inside = Path(member.name).parts
        if "__pycache__" in inside or (len(inside) > 2 and inside[1] == ".loopwright" and inside[2] in RUNTIME):
            return None
        member.uid = member.gid = 0
        member.uname = member.gname = ""
        return member

    out.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(out, "w:xz", preset=9) as made:
        made.add(project, arcname="tiny", filter=kept)
    print(out, out.stat().st_size, "bytes")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve())
