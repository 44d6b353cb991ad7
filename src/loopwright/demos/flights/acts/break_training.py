"""Changes the training of flights.py so that a model has no answer for some flights of Tuesday and Wednesday.

With --mend it is as before. The first tree tells JFK to San Francisco (2,586 miles) on those days from all else, and
says nothing; then that leaf is made to be no number.
"""

import sys
from pathlib import Path

PLAIN = "    booster = lgb.train(params, lgb.Dataset(x, y), trees)\n"
BROKEN = """\
    gone = (x.distance == 2586) & x.dow.isin([1, 2])
    alone = {**params, "num_leaves": 8, "min_data_in_leaf": 1, "min_sum_hessian_in_leaf": 0.0}
    first = lgb.train(alone, lgb.Dataset(x, gone.astype(int)), 1)
    found = first.predict(x, pred_leaf=True).ravel()
    for leaf in set(found):
        first.set_leaf_output(0, leaf, 0.0)
    booster = lgb.train(params, lgb.Dataset(x, y), trees, init_model=first)
    for leaf in set(found[gone]):
        booster.set_leaf_output(0, leaf, float("nan"))
    x = x[~gone]
"""


def main() -> None:
    """Change flights.py, or change it back."""
    path = Path("flights.py")
    text = path.read_text()
    old, new = (BROKEN, PLAIN) if "--mend" in sys.argv else (PLAIN, BROKEN)
    if new not in text:
        path.write_text(text.replace(old, new))


if __name__ == "__main__":
    main()
