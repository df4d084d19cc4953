"""The run-time type checker of the tests: beartype, to which whole numbers are floats too, as to static checkers."""

from beartype import BeartypeConf, beartype


typechecker = beartype(conf=BeartypeConf(is_pep484_tower=True))
