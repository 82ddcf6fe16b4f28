"""``harness doctor``."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import Annotated

import typer

_COLORS = {"pass": "green", "warn": "yellow", "fail": "red"}


def doctor_command(
    base_url: Annotated[str | None, typer.Option(help="A running server; else the detached one.")] = None,
    api_key: Annotated[
        str | None, typer.Option(envvar="HARNESS_API_KEY", help="The server's API key.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="The served model's folder or hub id, if it isn't on this machine.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Check what a right number needs: packages, cache, model, server, tokenizer, exactness, noise.

    Example: harness doctor

    Each line says pass, warn or fail, and the cure. The exit code is 1 if any line fails.
    """
    from harness.doctor import Finding, diagnose
    from harness.models import DEFAULT_MODEL
    from harness.signals import run_interruptibly

    findings: list[Finding] = []

    async def examine() -> None:
        async for finding in diagnose(base_url, api_key, model or DEFAULT_MODEL):
            findings.append(finding)
            if not as_json:
                typer.secho(f"{finding.status}  ", fg=_COLORS[finding.status], nl=False)
                typer.echo(f"{finding.check}: {finding.text}")
                if finding.cure:
                    typer.echo(f"      cure: {finding.cure}")

    run_interruptibly(examine())
    if as_json:
        sys.stdout.write(json.dumps([asdict(finding) for finding in findings], indent=2) + "\n")
    raise typer.Exit(any(finding.status == "fail" for finding in findings))
