"""What a compiled encoder is made of: operations of machine code that give what plain Python gives, or give up.

Machine numbers have limits that Python's do not have. An operation that meets one raises, and the context is computed
by the plain Python function instead; what machine code cannot do at all has no operation here, so it does not compile.
Nothing but compilation imports these modules: they import Numba.
"""
