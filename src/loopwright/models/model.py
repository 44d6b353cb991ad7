"""What a model package says of itself: signature, card, sample, contract."""

from collections.abc import Mapping
from typing import Literal

import msgspec

from loopwright.kernel.errors import Corrupt
from loopwright.kernel.event import EventKind

FORMAT = "loopwright-model/1"
KIND = "model"
CARD_FILE = "model.json"
NATIVE_FILE = "model.txt"
UBJ_FILE = "model.ubj"
ONNX_FILE = "model.onnx"
SAMPLE_FILE = "sample.json"
CONTRACT_FILE = "contract.json"
ENVIRONMENT_FILE = "environment.json"

Dtype = Literal["float64", "int64", "bool", "string"]
Task = Literal["binary", "regression"]
Flavour = Literal["lightgbm", "xgboost", "sklearn"]
Unseen = Literal["null", "own", "refused"]
Level = str | int | bool
Value = float | int | bool | str | None

# The file in which a flavour's own library keeps a model; scikit-learn's would be a pickle, so it has none.
NATIVE_FILES: dict[str, str] = {"lightgbm": NATIVE_FILE, "xgboost": UBJ_FILE}

EVENTS: list[EventKind] = []  # a package is registered as a version of its name, which artifacts records


class Field(msgspec.Struct, frozen=True):
    """One input column: its type, whether null may stand in it, and its levels when it is categorical.

    Args:
        unseen: what a level is that training has not seen: a null to the model, a code of its own, or an error.
    """

    name: str
    dtype: Dtype
    nullable: bool
    levels: tuple[Level, ...] | None = None
    unseen: Unseen = "null"


class Signature(msgspec.Struct, frozen=True):
    """What goes in, in the model's order, and the name of the one number that comes out."""

    inputs: tuple[Field, ...]
    output: str


class Parity(msgspec.Struct, frozen=True, kw_only=True):
    """How near a converted model came to the fitted one when it was packed.

    Args:
        rows: rows compared; `made` of them were made from sample rows by nulls and unseen levels.
        error: the largest difference between two scores.
        tolerance: the difference that was allowed.
        passed: whether the converted model is the one that scores.
    """

    rows: int
    made: int
    error: float
    tolerance: float
    passed: bool


class Runtime(msgspec.Struct, frozen=True, kw_only=True):
    """What scores a package, and how it came to be that.

    Args:
        engine: `native` is the model's own library.
        versions: of the packages that packed and checked it.
        width: the type of the numbers that an ONNX model takes.
        together: rows may be scored in one call; otherwise the company of a row would change its last digits.
        parity: of the conversion to ONNX, where one was tried.
        reason: why the conversion is not used.
    """

    engine: Literal["native", "onnx"] = "native"
    versions: dict[str, str] = {}
    width: Literal["float32", "float64"] = "float64"
    together: bool = True
    parity: Parity | None = None
    reason: str = ""


class Card(msgspec.Struct, frozen=True, kw_only=True):
    """model.json: everything that is needed to score with the package's files."""

    format: str = FORMAT
    flavour: str
    task: Task
    signature: Signature
    framework: dict[str, str]
    features: str | None = None
    trained_until_us: int | None = None
    runtime: Runtime = Runtime()

    @property
    def file(self) -> str:
        """The file of the package that scores.

        Raises:
            Corrupt: this version knows no such flavour.
        """
        if self.runtime.engine == "onnx":
            return ONNX_FILE
        if self.flavour not in NATIVE_FILES:
            raise Corrupt(f"{CARD_FILE} names the flavour {self.flavour!r}", code="model.flavour", hint="lw fsck")
        return NATIVE_FILES[self.flavour]


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """sample.json: at most 100 rows of the training sample with the scores that the framework gave them."""

    columns: tuple[str, ...]
    rows: list[list[Value]]
    expected: list[float]


class ColumnContract(msgspec.Struct, frozen=True, kw_only=True):
    """What the training sample looked like in one column.

    Args:
        low, high: the range of the training sample widened by half its span on either side.
        null_share: share of rows without a value.
        levels: rows per level of a categorical column.
    """

    name: str
    dtype: Dtype
    rows: int
    null_share: float
    minimum: float | None = None
    maximum: float | None = None
    low: float | None = None
    high: float | None = None
    levels: dict[str, int] | None = None


def read_card(files: Mapping[str, bytes]) -> Card:
    """Decode model.json out of a package's files.

    Raises:
        Corrupt: the file is missing or is no card.
    """
    return decode_card(files.get(CARD_FILE, b""))


def decode_card(data: bytes) -> Card:
    """Decode the bytes of model.json.

    Raises:
        Corrupt: they are no card of a format that this version knows.
    """
    try:
        card = msgspec.json.decode(data, type=Card)
    except msgspec.DecodeError:
        raise Corrupt(f"{CARD_FILE} of the package is no model card", code="model.card", hint="lw fsck") from None
    if card.format != FORMAT:
        raise Corrupt(f"{CARD_FILE} has format {card.format!r}; this version reads {FORMAT}", code="model.format")
    return card
