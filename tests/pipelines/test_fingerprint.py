"""Each kind of change to a project that a step must notice, and each that it must not."""
# ruff: noqa: E501 - the text of a small project stands in one line

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from loopwright.pipelines.fingerprint import Fingerprint, trace

Files = dict[str, str]
HEAD = "import loopwright as lw\n"


@contextmanager
def loaded(folder: Path, files: Files) -> Iterator[Any]:
    """The project's module `main`, imported from files written into a folder, and forgotten again."""
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    before = set(sys.modules)
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    try:
        yield importlib.import_module("main")
    finally:
        sys.path.remove(str(folder))
        for name in set(sys.modules) - before:
            path = getattr(sys.modules[name], "__file__", None) or str(folder)
            if path.startswith(str(folder)):
                del sys.modules[name]


Tracer = Callable[[Files], Fingerprint]


@pytest.fixture
def traced(tmp_path: Path) -> Tracer:
    count = iter(range(1000))

    def run(files: Files) -> Fingerprint:
        with loaded(tmp_path / f"copy{next(count)}", files) as main:
            return trace(main.step, lambda declared: declared.fingerprint(None, 0))

    return run


def project(main: str, **others: str) -> Files:
    return {"main.py": HEAD + main, **{name.replace("__", "/") + ".py": text for name, text in others.items()}}


# what is edited: (files, the text before, the text after); the edit must change the fingerprint
NOTICED: dict[str, tuple[Files, str, str]] = {
    "module of a package whose __init__ is empty": (
        {**project("import pkg.a\n@lw.step\ndef step(x):\n    return pkg.a.f()\n"), "pkg/__init__.py": "", "pkg/a.py": "from . import c\ndef f(): return c.X\n", "pkg/c.py": "X = 1\n"},
        "X = 1",
        "X = 2",
    ),
    "class attribute set later": (
        project("class K: pass\nK.v = 1\n@lw.step\ndef step(x):\n    return K.v\n"),
        "v = 1",
        "v = 2",
    ),
    "class attribute set by a function": (
        project("class K: pass\ndef fill(v):\n    K.v = v\nfill(1)\n@lw.step\ndef step(x):\n    return K.v\n"),
        "fill(1)",
        "fill(2)",
    ),
    "method replaced by a function": (
        project("class K:\n    def h(self): return 0\ndef new(self): return 1\ndef patch():\n    K.h = new\npatch()\n@lw.step\ndef step(x):\n    return K().h()\n"),
        "return 1",
        "return 2",
    ),
    "attribute of an installed module": (
        project("import random\nrandom.seed(1)\n@lw.step\ndef step(x):\n    return random.random()\n"),
        "seed(1)",
        "seed(2)",
    ),
    "deque filled by a function": (
        project("import collections, types\nK = collections.deque()\ndef fill(v):\n    K.append(v)\nfill(1)\n@lw.step\ndef step(x):\n    return K\n"),
        "fill(1)",
        "fill(2)",
    ),
    "defaultdict filled by a function": (
        project("import collections, types\nK = collections.defaultdict(int)\ndef fill(v):\n    K[0] = v\nfill(1)\n@lw.step\ndef step(x):\n    return K\n"),
        "fill(1)",
        "fill(2)",
    ),
    "namespace filled by a function": (
        project("import collections, types\nK = types.SimpleNamespace()\ndef fill(v):\n    K.v = v\nfill(1)\n@lw.step\ndef step(x):\n    return K\n"),
        "fill(1)",
        "fill(2)",
    ),
    "bytearray filled by a function": (
        project("import collections, types\nK = bytearray()\ndef fill(v):\n    K.append(v)\nfill(1)\n@lw.step\ndef step(x):\n    return K\n"),
        "fill(1)",
        "fill(2)",
    ),
    "pattern kept by a function": (
        project("import re\nK = []\ndef fill(v):\n    K.append(re.compile(v))\nfill('1')\n@lw.step\ndef step(x):\n    return K[0]\n"),
        "fill('1')",
        "fill('2')",
    ),
    "dictionary of an own class": (
        project("class D(dict): pass\nK = D()\ndef fill(v):\n    K[0] = v\nfill(1)\n@lw.step\ndef step(x):\n    return K\n"),
        "fill(1)",
        "fill(2)",
    ),
    "body": (project("@lw.step\ndef step(x: int):\n    return x + 1\n"), "x + 1", "x + 2"),
    "helper": (project("def h(v):\n    return v + 1\n@lw.step\ndef step(x):\n    return h(x)\n"), "v + 1", "v + 2"),
    "constant": (project("K = 1\n@lw.step\ndef step(x):\n    return x + K\n"), "K = 1", "K = 2"),
    "constant of another constant": (
        project("A = 1\nK = {'a': [A]}\n@lw.step\ndef step(x):\n    return x + K['a'][0]\n"),
        "A = 1",
        "A = 2",
    ),
    "constant changed by a later statement": (
        project("K = {}\nK.update(a=1)\n@lw.step\ndef step(x):\n    return K\n"),
        "a=1",
        "a=2",
    ),
    "opaque constant changed by a later statement": (
        project("import array\nK = array.array('d')\nK.append(1)\n@lw.step\ndef step(x):\n    return K\n"),
        "append(1)",
        "append(2)",
    ),
    "constant made in a loop": (
        project("K = {}\nfor i in range(3):\n    K[i] = i * 1\n@lw.step\ndef step(x):\n    return K\n"),
        "i * 1",
        "i * 2",
    ),
    "constant under a condition": (
        project(
            "if 1 > 0:\n    def h(): return 1\nelse:\n    def h(): return 2\n@lw.step\ndef step(x):\n    return h()\n"
        ),
        "1 > 0",
        "1 < 0",
    ),
    "function of another file": (
        project("import far\n@lw.step\ndef step(x):\n    return far.f(x)\n", far="def f(v):\n    return v + 1\n"),
        "v + 1",
        "v + 2",
    ),
    "function of another file by another name": (
        project(
            "from far import f as g\n@lw.step\ndef step(x):\n    return g(x)\n", far="def f(v):\n    return v + 1\n"
        ),
        "v + 1",
        "v + 2",
    ),
    "which function is imported": (
        project(
            "from far import f as g\n@lw.step\ndef step(x):\n    return g(x)\n",
            far="def f(v):\n    return v + 1\ndef e(v):\n    return v + 3\n",
        ),
        "import f as",
        "import e as",
    ),
    "which installed function is imported": (
        project("from statistics import mean as m\n@lw.step\ndef step(x):\n    return m(x)\n"),
        "import mean",
        "import median",
    ),
    "constant by way of another module": (
        project(
            "import near\n@lw.step\ndef step(x):\n    return x + near.K\n",
            near="import far\nK = far.K\n",
            far="K = 1\n",
        ),
        "K = 1",
        "K = 2",
    ),
    "nested attribute": (
        project(
            "import pack.sub.deep\n@lw.step\ndef step(x):\n    return pack.sub.deep.f(x)\n",
            pack____init__="",
            pack__sub____init__="",
            pack__sub__deep="K = 1\ndef f(v):\n    return v + K\n",
        ),
        "K = 1",
        "K = 2",
    ),
    "package without __init__": (
        project(
            "import pack.deep\n@lw.step\ndef step(x):\n    return pack.deep.f(x)\n",
            pack__deep="def f(v):\n    return v + 1\n",
        ),
        "v + 1",
        "v + 2",
    ),
    "relative import": (
        project(
            "from pack import deep\n@lw.step\ndef step(x):\n    return deep.f(x)\n",
            pack____init__="",
            pack__deep="from . import other\nfrom .other import g as h\ndef f(v):\n    return h(v) + other.K\n",
            pack__other="K = 5\ndef g(v):\n    return v + 1\n",
        ),
        "v + 1",
        "v + 2",
    ),
    "star import": (
        project("from far import *\n@lw.step\ndef step(x):\n    return f(x)\n", far="def f(v):\n    return v + 1\n"),
        "v + 1",
        "v + 2",
    ),
    "star import of a star import": (
        project(
            "from near import *\n@lw.step\ndef step(x):\n    return x + K\n", near="from far import *\n", far="K = 1\n"
        ),
        "K = 1",
        "K = 2",
    ),
    "import inside the function": (
        project("@lw.step\ndef step(x):\n    import far\n    return far.f(x)\n", far="def f(v):\n    return v + 1\n"),
        "v + 1",
        "v + 2",
    ),
    "import inside the function, of a name": (
        project("@lw.step\ndef step(x):\n    from far import K\n    return x + K\n", far="K = 1\n"),
        "K = 1",
        "K = 2",
    ),
    "module handed on as a whole": (
        project(
            "import far\n@lw.step\ndef step(x):\n    return getattr(far, 'f' * x)\n", far="def f(v):\n    return v\n"
        ),
        "return v",
        "return v + 1",
    ),
    "class body": (
        project(
            "class C:\n    k = 1\n    def m(self):\n        return self.k\n@lw.step\ndef step(x):\n    return C().m()\n"
        ),
        "k = 1",
        "k = 2",
    ),
    "method": (
        project("class C:\n    def m(self):\n        return 1\n@lw.step\ndef step(x):\n    return C().m()\n"),
        "return 1",
        "return 2",
    ),
    "helper of a method": (
        project(
            "def h(): return 1\nclass C:\n    def m(self):\n        return h()\n@lw.step\ndef step(x):\n    return C().m()\n"
        ),
        "return 1",
        "return 2",
    ),
    "base class in another file": (
        project(
            "import far\nclass C(far.B):\n    pass\n@lw.step\ndef step(x):\n    return C().m()\n",
            far="class B:\n    def m(self): return 1\n",
        ),
        "return 1",
        "return 2",
    ),
    "name of a class body that a method must not see": (
        project("k = 1\nclass C:\n    k = 0\n    def m(self): return k\n@lw.step\ndef step(x):\n    return C().m()\n"),
        "k = 1",
        "k = 2",
    ),
    "object of a project class": (
        project("class C:\n    def __init__(self, k): self.k = k\nc = C(1)\n@lw.step\ndef step(x):\n    return c.k\n"),
        "C(1)",
        "C(2)",
    ),
    "data class": (
        project(
            "from dataclasses import dataclass\n@dataclass\nclass C:\n    k: int = 1\n@lw.step\ndef step(x):\n    return C().k\n"
        ),
        "int = 1",
        "int = 2",
    ),
    "decorator": (
        project(
            "import functools\ndef deco(f):\n    @functools.wraps(f)\n    def inner(x):\n        return f(x) + 1\n    return inner\n"
            "@lw.step\n@deco\ndef step(x):\n    return x\n"
        ),
        "f(x) + 1",
        "f(x) + 2",
    ),
    "body under a decorator": (
        project(
            "import functools\ndef deco(f):\n    @functools.wraps(f)\n    def inner(x):\n        return f(x)\n    return inner\n"
            "@lw.step\n@deco\ndef step(x):\n    return x + 1\n"
        ),
        "x + 1",
        "x + 2",
    ),
    "decorator of a helper, with an argument": (
        project(
            "def times(n):\n    def deco(f):\n        def inner(x):\n            return f(x) * n\n        return inner\n    return deco\n"
            "@times(1)\ndef h(x):\n    return x\n@lw.step\ndef step(x):\n    return h(x)\n"
        ),
        "@times(1)",
        "@times(2)",
    ),
    "installed decorator of a helper": (
        project(
            "import functools\n@functools.lru_cache\ndef h(x):\n    return x + 1\n@lw.step\ndef step(x):\n    return h(x)\n"
        ),
        "x + 1",
        "x + 2",
    ),
    "default argument of a helper": (
        project("K = 1\ndef h(v, k=K):\n    return v + k\n@lw.step\ndef step(x):\n    return h(x)\n"),
        "K = 1",
        "K = 2",
    ),
    "closure over a value": (
        project(
            "def make(n):\n    @lw.step\n    def step(x):\n        return x + n\n    return step\nstep = make(1)\n"
        ),
        "make(1)",
        "make(2)",
    ),
    "closure over a function": (
        project(
            "def make():\n    def h(v):\n        return v + 1\n    @lw.step\n    def step(x):\n        return h(x)\n    return step\nstep = make()\n"
        ),
        "v + 1",
        "v + 2",
    ),
    "closure over an opaque object": (
        project(
            "import array\ndef make():\n    a = array.array('d', [1])\n    @lw.step\n    def step(x):\n        return x + a[0]\n    return step\nstep = make()\n"
        ),
        "[1]",
        "[2]",
    ),
    "helper made by a factory": (
        project(
            "def make(n):\n    def h(v):\n        return v + n\n    return h\nh = make(1)\n@lw.step\ndef step(x):\n    return h(x)\n"
        ),
        "make(1)",
        "make(2)",
    ),
    "comprehension": (
        project("K = 1\n@lw.step\ndef step(x):\n    return [K + i for i in range(x)]\n"),
        "K = 1",
        "K = 2",
    ),
    "comprehension over its own name": (
        project("K = [1]\n@lw.step\ndef step(x):\n    return [K for K in K]\n"),
        "K = [1]",
        "K = [2]",
    ),
    "nested function and lambda": (
        project("K = 1\n@lw.step\ndef step(x):\n    def inner():\n        return (lambda: K)()\n    return inner()\n"),
        "K = 1",
        "K = 2",
    ),
    "lambda constant": (project("h = lambda v: v + 1\n@lw.step\ndef step(x):\n    return h(x)\n"), "v + 1", "v + 2"),
    "table of functions": (
        project("def a(v): return v + 1\nT = {'a': a}\n@lw.step\ndef step(x):\n    return T['a'](x)\n"),
        "v + 1",
        "v + 2",
    ),
    "registry filled by a decorator": (
        project(
            "T = {}\ndef known(f):\n    T[f.__name__] = f\n    return f\n@known\ndef a(v):\n    return v + 1\n"
            "@lw.step\ndef step(x):\n    return T['a'](x)\n"
        ),
        "v + 1",
        "v + 2",
    ),
    "partial": (
        project(
            "import functools\ndef a(v, k): return v + k\nh = functools.partial(a, k=1)\n@lw.step\ndef step(x):\n    return h(x)\n"
        ),
        "k=1",
        "k=2",
    ),
    "enumeration": (
        project("import enum\nclass E(enum.Enum):\n    A = 1\n@lw.step\ndef step(x):\n    return E.A.value\n"),
        "A = 1",
        "A = 2",
    ),
    "global read and written": (
        project("K = 1\n@lw.step\ndef step(x):\n    global K\n    K += x\n    return K\n"),
        "K = 1",
        "K = 2",
    ),
    "step called plainly": (
        project("@lw.step\ndef other(x):\n    return x + 1\n@lw.step\ndef step(x):\n    return other(x)\n"),
        "x + 1",
        "x + 2",
    ),
    "value that only running tells": (
        project(
            "import os\nK = os.path.getsize(__file__.replace('main.py', 'size.py'))\n@lw.step\ndef step(x):\n    return K\n",
            size="1",
        ),
        "1",
        "10",
    ),
}
# the edit must leave the fingerprint as it is
IGNORED: dict[str, tuple[Files, str, str]] = {
    "comment": (project("@lw.step\ndef step(x):\n    return x\n"), "    return", "    # why\n\n    return"),
    "docstring": (project('@lw.step\ndef step(x):\n    """One."""\n    return x\n'), "One", "Two"),
    "docstring of a class": (
        project(
            'class C:\n    """One."""\n    def m(self):\n        """One."""\n@lw.step\ndef step(x):\n    return C()\n'
        ),
        "One",
        "Two",
    ),
    "layout": (project("@lw.step\ndef step(x):\n    return x+1\n"), "x+1", "(x  +\n      1)"),
    "unrelated function": (project("@lw.step\ndef step(x):\n    return x\n"), "@lw.step", "def u(): pass\n@lw.step"),
    "unrelated function in a module that is used": (
        project(
            "import far\n@lw.step\ndef step(x):\n    return far.f(x)\n", far="def f(v): return v\ndef u(): return 1\n"
        ),
        "return 1",
        "return 2",
    ),
    "unrelated constant": (project("U = 1\n@lw.step\ndef step(x):\n    return x\n"), "U = 1", "U = 2"),
    "local of the same name as a constant": (
        project("K = 1\n@lw.step\ndef step(x):\n    K = x\n    return K\n"),
        "K = 1",
        "K = 2",
    ),
    "default of the step itself, which is a parameter": (
        project("@lw.step\ndef step(x: int = 1):\n    return x\n"),
        "= 1",
        "= 2",
    ),
    "body of a step that is wired in": (
        project("@lw.step\ndef table():\n    return 1\n@lw.step\ndef step(data=table):\n    return data\n"),
        "return 1",
        "return 2",
    ),
    "what the script does when it is run": (
        project("@lw.step\ndef step(x):\n    return x\nif __name__ == '__main__':\n    lw.run(step, x=1)\n"),
        "x=1",
        "x=2",
    ),
    "what the file does with the step": (
        project("@lw.step\ndef step(x):\n    return x\nrepr(step)\n"),
        "repr(step)",
        "str(step)",
    ),
}


def edited(files: Files, before: str, after: str) -> Files:
    changed = {name: text.replace(before, after) for name, text in files.items()}
    assert changed != files
    return changed


@pytest.mark.parametrize("kind", NOTICED)
def test_a_change_that_matters_is_noticed(traced: Tracer, kind: str) -> None:
    files, before, after = NOTICED[kind]
    first, again = traced(files), traced(files)
    assert first.digest == again.digest, "the same project in another folder is the same"
    assert first.edited == ()
    assert traced(edited(files, before, after)).digest != first.digest


@pytest.mark.parametrize("kind", IGNORED)
def test_a_change_that_does_not_matter_is_not(traced: Tracer, kind: str) -> None:
    files, before, after = IGNORED[kind]
    assert traced(edited(files, before, after)).digest == traced(files).digest


BY_ENVIRONMENT = {
    "definition": "if os.environ['KIND'] == '1':\n    def h(): return 1\nelse:\n    def h(): return 2\n",
    "default": "def h(v=os.environ['KIND']): return v\n",
    "class attribute": "class h:\n    v = os.environ['KIND']\n",
    "module": "if os.environ['KIND'] == '1':\n    import far as h\nelse:\n    import near as h\n",
}


@pytest.mark.parametrize("kind", BY_ENVIRONMENT)
def test_what_the_environment_decides_while_a_file_is_read_is_noticed(
    kind: str, traced: Tracer, monkeypatch: pytest.MonkeyPatch
) -> None:
    use = "h.V" if kind == "module" else "h()"
    main = f"import os\n{BY_ENVIRONMENT[kind]}@lw.step\ndef step(x):\n    return {use}\n"
    files, digests = project(main, far="V = 1\n", near="V = 2\n"), []
    for value in ("1", "1", "2"):
        monkeypatch.setenv("KIND", value)
        digests.append(traced(files).digest)
    assert digests[0] == digests[1] != digests[2]
