"""Runs the snippets of docs/GUIDE.md in order."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import torch
from tests.servers import Nginx

from libtz.cli.main import main

pytestmark = pytest.mark.slow

GUIDE = Path(__file__).parents[1] / "docs" / "GUIDE.md"


@pytest.mark.filterwarnings("ignore")  # transformers'
def test_the_guide(
    nginx: Nginx,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    transformers = pytest.importorskip("transformers")
    monkeypatch.chdir(tmp_path)
    torch.save({"w": torch.ones(3)}, "checkpoint.pt")
    config = transformers.BertConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8
    )
    transformers.BertModel(config).save_pretrained(nginx.root / "tiny-bert")
    snippets = re.findall(r"^```(python|sh)\n(.*?)^```", GUIDE.read_text(), re.M | re.S)
    assert {language for language, _ in snippets} == {"python", "sh"}
    names: dict[str, object] = {}
    for language, text in snippets:
        if language == "sh":
            for line in text.splitlines():
                command, *arguments = line.split()
                assert (command, main(arguments)) == ("tz", 0), capsys.readouterr().err
            continue
        exec(text.replace("http://host", nginx.http), names)
        for path in tmp_path.glob("*.tz"):
            shutil.copy(path, nginx.root)
