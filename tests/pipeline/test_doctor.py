"""`sft doctor` as a user calls it: one table, and an exit code that says whether a check failed."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

Sft = Callable[..., subprocess.CompletedProcess[str]]
CHECKS = ("prepare", "positions", "memory", "masks", "template parity", "attention", "packed = alone",
          "accumulate 8×1 = 1×8", "merged = adapter", "resume = uninterrupted", "stop token")


def test_a_sound_configuration_ends_with_0_and_leaves_nothing_behind(sft: Sft, config: Path, home: Path) -> None:
    done = sft("doctor", config, "--set", "train.method=lora", "--set", "train.kl.beta=0.1")
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [line.split("│")[1:3] for line in done.stdout.splitlines() if line.startswith("│")]
    results = {check.strip(): result.strip() for check, result in rows if check.strip()}
    assert results == dict.fromkeys(CHECKS, "ok")
    assert "nothing wrong found in 11 checks" in done.stdout
    assert not list((home / "scratch").glob("doctor-*"))


def test_a_failed_check_ends_with_1_and_the_others_run(sft: Sft, config: Path, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"prompt": f"Count to {n}.", "completion": " ".join(map(str, range(n)))}) + "\n"
                            for n in range(3, 60)))
    changes = ("data.max_tokens=64", "data.too_long=fail", f"data.sources=[{{path: {rows}}}]")
    done = sft("doctor", config, *(part for change in changes for part in ("--set", change)))
    assert done.returncode == 1, done.stderr
    assert "do not fit data.max_tokens = 64" in " ".join(done.stdout.replace("│", " ").split())
    assert "1 of 11 checks failed" in done.stdout
    assert done.stdout.count("the data could not be prepared, see above") == 2
    assert sft("doctor", config, "--set", "data.maxtokens=3").returncode == 2
