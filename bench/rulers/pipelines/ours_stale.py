"""How stale.py runs loopwright: three strings around its `step`."""

HEAD = "import loopwright as lw\n"
DECO = "@lw.step"
TAIL = "lw.run(step, x=ARG, root=WORK)"
