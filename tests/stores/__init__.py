"""Stores that released versions wrote, with open runs half way, for every later version to finish.

`python -m tests.stores.write VERSION` writes a new one; nothing here is ever written over. The
commit that wrote each file stands in `STORES.md` beside it.
"""
