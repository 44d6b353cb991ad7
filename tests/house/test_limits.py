"""The house limits hold for the package and the benches, and each rule finds a wrong example."""

from collections.abc import Callable, Iterable

import house_rules as rules
import pytest
from house_rules import Source

Rule = Callable[[Iterable[Source]], list[str]]

EVERYWHERE: list[Rule] = [
    rules.long_files,
    rules.long_functions,
    rules.wide_functions,
    rules.broad_excepts,
    rules.vague_names,
    rules.unfinished,
]


@pytest.fixture(scope="module")
def package() -> list[Source]:
    found = rules.package_sources()
    assert len(found) > 40, "the package was not found, so there is nothing to check"
    assert {s.room for s in found} >= {"kernel", "store", "artifacts", "serving", "loop", "faces"}
    return found


@pytest.fixture(scope="module")
def around() -> list[Source]:
    bench = rules.read(rules.ROOT / "bench", skip=("rulers", "out"))
    tests = rules.read(rules.ROOT / "tests")
    assert bench and len(tests) > 5, "benches or tests were not found, so there is nothing to check"
    return [*bench, *tests]


@pytest.mark.parametrize("rule", EVERYWHERE, ids=lambda r: r.__name__)
def test_package_keeps(rule: Rule, package: list[Source]) -> None:
    assert rule(package) == []


def test_package_can_be_held_in_the_head() -> None:
    assert rules.too_much_code(rules.read(rules.PACKAGE)) == []


def test_package_is_flat(package: list[Source]) -> None:
    assert rules.deep_files(package) == []


@pytest.mark.parametrize("rule", [rules.long_files, rules.vague_names, rules.unfinished], ids=lambda r: r.__name__)
def test_tests_and_benches_keep(rule: Rule, around: list[Source]) -> None:
    assert rule(around) == []


def source(text: str, path: str = "src/loopwright/store/rows.py") -> Source:
    return Source(path, text, "loopwright.store.rows")


def test_too_much_code_is_found_and_wires_are_counted_apart() -> None:
    text = '"""One.\n\nTwo.\n"""\n\n# why\ndef f(\n    a,\n):\n    """What."""\n    return """a\n\nb"""\n'
    assert rules.code_lines(source(text)) == 6
    many = source("x = 1\n" * rules.MAX_CODE_LINES)
    assert rules.too_much_code([many]) == [f"{rules.MAX_CODE_LINES} lines of code, fewer than {rules.MAX_CODE_LINES}"]
    assert rules.too_much_code([source("x = 1\n" * (rules.MAX_CODE_LINES - 1))]) == []
    assert rules.too_much_code([Source(many.path, many.text, "loopwright.serving.protocols.oip")]) == []


def test_a_long_file_is_found() -> None:
    assert rules.long_files([source("x = 1\n" * 501)]) == ["src/loopwright/store/rows.py: 501 lines, at most 500"]
    assert rules.long_files([source("x = 1\n" * 500)]) == []


def test_a_long_function_is_found_and_its_docstring_is_free() -> None:
    doc = '    """One.\n\n    Two.\n    """\n'
    fits = "def f():\n" + doc + "    x = 1\n" * 59
    assert rules.long_functions([source(fits)]) == []
    found = rules.long_functions([source(fits + "    y = 2\n")])
    assert found == ["src/loopwright/store/rows.py:1: f has 61 lines, at most 60"]


def test_parameters_that_a_room_hands_around_do_not_count() -> None:
    assert rules.wide_functions([source("def f(self, space, tx, actor, a, b, c, *, d, e, f, **more): ...")]) == []
    found = rules.wide_functions([source("async def f(a, b, /, c, d, *rest, e, f, g): ...")])
    assert found == ["src/loopwright/store/rows.py:1: f takes 7 parameters, at most 6"]


def test_a_deep_file_is_found() -> None:
    assert rules.deep_files([source("", "src/loopwright/serving/protocols/oip.py")]) == []
    assert len(rules.deep_files([source("", "src/loopwright/serving/protocols/v2/oip.py")])) == 1


def test_a_vague_name_is_found() -> None:
    assert len(rules.vague_names([source("", "src/loopwright/store/utils.py")])) == 1
    assert len(rules.vague_names([source("", "src/loopwright/common/rows.py")])) == 1
    assert rules.vague_names([source("", "src/loopwright/store/database.py")]) == []


@pytest.mark.parametrize("handler", ["except:", "except Exception:", "except (ValueError, BaseException) as e:"])
def test_a_broad_except_needs_its_reason(handler: str) -> None:
    bad = f"try:\n    f()\n{handler}\n    pass\n"
    assert len(rules.broad_excepts([source(bad)])) == 1
    bare_mark = bad.replace(handler, f"{handler}  # noqa: BLE001")
    assert len(rules.broad_excepts([source(bare_mark)])) == 1
    reason = bad.replace(handler, f"{handler}  # noqa: BLE001 - user code may throw anything")
    assert rules.broad_excepts([source(reason)]) == []
    again = bad.replace("    pass", "    close()\n    raise")
    assert rules.broad_excepts([source(again)]) == []
    other = bad.replace("    pass", "    raise TypeError('x')")
    assert len(rules.broad_excepts([source(other)])) == 1


def test_unfinished_work_is_found() -> None:
    assert len(rules.unfinished([source("x = 1  # TO" + "DO later\n")])) == 1
    assert len(rules.unfinished([source("def f():\n    raise NotImplementedError('later')\n")])) == 1
    assert rules.unfinished([source("todo = ['TODO in a text is data']\n")]) == []
