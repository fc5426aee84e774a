"""Shares of the members of a cohort."""

from __future__ import annotations

from compress.errors import CompressError


def weigh_members(members: list[str], alpha: tuple[float, ...]) -> dict[str, float]:
    """Return the alpha of each member of the cohort.

    Raises:
        CompressError: There are neither one nor as many as members, or one is 0.
    """
    where = "method.dih.alpha"
    if len(alpha) not in (1, len(members)):
        raise CompressError(f"{where}: has {len(alpha)} numbers; give one, or one for each of: {', '.join(members)}")
    weights = dict(zip(members, alpha if len(alpha) > 1 else alpha * len(members), strict=True))
    teaching = [name for name, weight in weights.items() if weight > 0]
    if not teaching:
        raise CompressError(f"{where}: is 0 for every member, so the teachers are ignored; use method 'supervised' for that")
    if len(teaching) < len(members):
        silent = ", ".join(name for name in members if name not in teaching)
        raise CompressError(
            f"{where}: is 0 for {silent}, which is then ignored; leave it out by name: `members: [{', '.join(teaching)}]`, "
            "with alpha for these alone"
        )
    return weights
