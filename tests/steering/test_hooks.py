"""Which layers are hooked: a text model's, wherever the checkpoint's layout puts them, and no vision tower's."""

from __future__ import annotations

import pytest
from torch import nn

from servers.steering.hooks import find_layers


class Gemma3DecoderLayer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mlp = nn.Linear(2, 2)


class SiglipEncoderLayer(Gemma3DecoderLayer):
    pass


def stack(kind: type[nn.Module], layers: int) -> nn.Module:
    made = nn.Module()
    made.layers = nn.ModuleList(kind() for _ in range(layers))
    return made


def multimodal(text: type[nn.Module]) -> nn.Module:
    """Modules by the names that vLLM's Gemma3ForConditionalGeneration has."""
    model, language, tower = nn.Module(), nn.Module(), nn.Module()
    language.model = stack(text, 3)
    tower.encoder = stack(SiglipEncoderLayer, 2)
    model.vision_tower, model.language_model = tower, language
    return model


def test_both_layouts_of_gemma3() -> None:
    text = nn.Module()
    text.model = stack(Gemma3DecoderLayer, 4)
    assert [layer.name for layer in find_layers(text)] == [f"model.layers.{i}" for i in range(4)]
    names = [layer.name for layer in find_layers(multimodal(Gemma3DecoderLayer))]
    assert names == [f"language_model.model.layers.{i}" for i in range(3)]


def test_unknown_layers_are_named() -> None:
    class OddLayer(Gemma3DecoderLayer):
        pass

    with pytest.raises(
        ValueError, match=r"layers are OddLayer, SiglipEncoderLayer; tested are Gemma 3, Llama"
    ):
        find_layers(multimodal(OddLayer))
    hooked = find_layers(multimodal(OddLayer), allow_untested=True)
    assert [layer.name for layer in hooked] == [f"language_model.model.layers.{i}" for i in range(3)]
