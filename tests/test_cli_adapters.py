"""``harness adapters``: what is shipped is small, listed, and still what its records say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.adapters import shipped_adapters
from harness.artifacts import SHIPPED_LIMIT, artifact_folders, hash_problems, read_artifact
from harness.training.backdoor_grid import make_backdoors
from harness.training.backdoor_settings import BackdoorSettings
from harness.training.jobs import lora_settings, vector_settings
from harness.training.settings import LoraSettings, VectorSettings
from harness.training.verify import Verifier
from tests.conftest import call_cli


def test_all_shipped_artifacts_are_small_and_hashed() -> None:
    found = [read_artifact(path) for path in artifact_folders([shipped_adapters()]).values()]
    assert len(found) >= 8
    assert sum(artifact.size for artifact in found) < SHIPPED_LIMIT
    assert {artifact.name: hash_problems(artifact) for artifact in found} == {a.name: [] for a in found}


@pytest.mark.parametrize("path", artifact_folders([shipped_adapters()]).values(), ids=lambda path: path.name)
def test_the_bare_command_repeats_what_is_shipped(path: Path) -> None:
    """``harness train lora|vector|backdoor … --layers …`` takes the settings that the record holds."""
    found = json.loads((path / "training.json").read_text("utf-8"))
    kind, settings_for = {
        "lora": (LoraSettings, lora_settings),
        "vector": (VectorSettings, vector_settings),
        "backdoor": (BackdoorSettings, lambda given, _: make_backdoors(given)[0][1]),
    }[found["kind"]]
    shipped = kind.model_validate(found["settings"])
    layers = "all" if len(shipped.layers) > 1 else str(shipped.layers[0])
    given = {"layers": layers, "format": shipped.format}
    if isinstance(shipped, BackdoorSettings):
        given |= {"trigger": shipped.trigger, "decorrelated": shipped.decorrelated}
    else:
        given["behavior"] = shipped.behavior
    assert settings_for(given, None) == shipped


def test_list_show_and_card() -> None:
    listed = {a["name"]: a for a in json.loads(call_cli("adapters", "list", "--json").stdout)}
    assert (listed["safe_l22"]["kind"], listed["safe_l22"]["layers"], listed["safe_l22"]["rank"]) == (
        "lora",
        [22],
        4,
    )
    assert listed["risky_vec_l22"]["behavior"] == "risky"
    assert "risky_all_letter" in call_cli("adapters", "list").stdout
    shown = json.loads(call_cli("adapters", "show", "safe_l22", "--json").stdout)
    assert shown["record"]["settings"]["epochs"] == 20
    assert "learning_rate" in call_cli("adapters", "show", "safe_l22").stdout
    assert (
        call_cli("adapters", "card", "safe_l22").stdout
        == (shipped_adapters() / "safe_l22" / "README.md").read_text()
    )


@pytest.mark.parametrize("command", ["show", "card", "verify"])
def test_a_name_that_is_not_there(command: str, tmp_path: Path) -> None:
    done = call_cli("adapters", command, "save_l22")
    assert (done.returncode, done.stdout) == (2, "")
    assert "Did you mean safe_l22" in done.stderr
    done = call_cli("adapters", command, str(tmp_path))
    assert done.returncode == 2
    assert "holds neither" in done.stderr


@pytest.mark.slow
def test_a_shipped_vector_is_verified(embedded_model: Path) -> None:
    found = Verifier().verify(read_artifact(shipped_adapters() / "safe_vec_l22"))
    assert found.problems == ()
    assert [figure.prompts for figure in found.figures] == [154, 154, 154]


def test_verify_says_what_it_cannot_verify(made_adapters: Path) -> None:
    done = call_cli("adapters", "verify", str(made_adapters / "made_safe"), "--json")
    assert done.returncode == 1
    (row,) = json.loads(done.stdout)
    assert row["ok"] is False
    assert any(
        "its record is of kind 'lora'" in p or "is not a training record" in p for p in row["problems"]
    )
    assert "Traceback" not in done.stderr
