"""The short form of ``make chaos``: kills, Ctrl-C, a full disk and some faults, on the tests' own server."""

from __future__ import annotations

from pathlib import Path

from tests.chaos.campaign import CTRL_C, DISK, KILL, SIGTERM, Campaign


async def test_nothing_is_lost_duplicated_or_silently_wrong(
    server: str, made_adapters: Path, tmp_path: Path
) -> None:
    campaign = Campaign(server, tmp_path, made_adapters, "made_safe", seed=3, limit=12)
    incidents = [KILL, KILL, CTRL_C, SIGTERM, DISK, "503", "cut in the middle", "NaN", "drifted weights"]
    async with campaign.proxy:
        await campaign.quiet()
        await campaign.rounds(incidents)
    tally = campaign.tally
    assert tally.clean, campaign.report()
    assert all(tally.faults[incident] for incident in incidents)
    assert tally.passes == tally.rounds * 80
    assert max(tally.ctrl_c) < 2
