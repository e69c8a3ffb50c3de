"""Numbers as people read them."""


def with_prefix(number: float) -> str:
    """Four digits and a prefix, for a unit to follow: 234.1 G."""
    for factor, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= factor:
            return f"{number / factor:.4g} {prefix}"
    return f"{number:.4g} "


def counted(number: int, thing: str) -> str:
    """1 training, 2 trainings."""
    return f"{number:,} {thing}" + ("" if number == 1 else "s")
