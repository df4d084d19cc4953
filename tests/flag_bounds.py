"""What every flag of a number must refuse."""

from absl import flags


def unbounded(values: flags.FlagValues) -> list[str]:
    """Names of flags that take a whole number which no C long holds, or NaN."""
    found = []
    for name in values:
        parser = values[name].parser
        wrong = {flags.IntegerParser: "9" * 20, flags.FloatParser: "nan"}
        for kind, text in wrong.items():
            if isinstance(parser, kind):
                try:
                    parser.parse(text)
                except ValueError:
                    continue
                found.append(name)
    return found
