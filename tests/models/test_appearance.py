"""The alignment of parts: against slow loops, and which cells each part changes."""

import pytest
import torch
from vitruvian.models import semantic_map, weights
from vitruvian.models.appearance import (
    VERSION,
    Alignment,
    Layer,
    PartFeatures,
    PartTokens,
    Sizes,
    build_alignment,
    log_shares,
    sizes_metadata,
)

SIZES = Sizes(features=10, width=12, tokens=2, heads=3, hidden=5)
CLASSES = len(semantic_map.CLASSES)


@pytest.fixture
def parts():
    g = torch.Generator().manual_seed(0)
    labels = torch.randint(CLASSES, (2, 12, 16), generator=g).byte()
    has_feature = torch.rand(2, CLASSES, generator=g) < 0.6
    strength = torch.rand(2, CLASSES, generator=g)
    features = torch.nn.functional.normalize(torch.randn(2, CLASSES, 10, generator=g), dim=-1)
    return PartFeatures(features, has_feature, strength, labels)


def trained(module, seed=1):
    g = torch.Generator().manual_seed(seed)
    for p in module.parameters():
        p.data = torch.randn(p.shape, generator=g) / max(1, p[0].numel()) ** 0.5
    return module.requires_grad_(False)


def test_untrained_layers_add_nothing(parts):
    tokens, layer = PartTokens(SIZES), Layer(32, SIZES)
    aligned = layer.align(tokens(parts.features, parts.has_feature), parts, (3, 4))
    assert not layer(torch.randn(2, 32, 3, 4), aligned).any()


def test_equal_keys_share_a_cell_out_by_area(parts):
    y = semantic_map.shares(parts.labels, (3, 4))
    weights_of_tokens = log_shares(y, parts.has_feature, 3).softmax(-1)[:, 0]
    for b in range(2):
        for cell in range(12):
            area = y[b, :, cell // 4, cell % 4]
            area_shares = [
                float(area[k]) if parts.has_feature[b, k] else 0.0 for k in range(CLASSES)
            ]
            assert float(weights_of_tokens[b, cell, 0]) == pytest.approx(
                1 - sum(area_shares), abs=1e-4
            )
            for k in range(CLASSES):
                share = weights_of_tokens[b, cell, 1 + 3 * k : 4 + 3 * k].sum()
                assert float(share) == pytest.approx(area_shares[k], abs=1e-4)


def test_a_layer_equals_a_loop_over_cells(parts):
    tokens, layer = trained(PartTokens(SIZES)), trained(Layer(32, SIZES))
    part_tokens = tokens(parts.features, parts.has_feature)
    h = torch.randn(2, 32, 3, 4, generator=torch.Generator().manual_seed(2))
    added = layer(h, layer.align(part_tokens, parts, (3, 4)), 0.7, 0.3)
    y = semantic_map.shares(parts.labels, (3, 4))
    n = torch.nn.functional.group_norm(h, 32)
    gamma, beta = layer.map(y).chunk(2, 1)
    key, value = layer.key_value(part_tokens).chunk(2, -1)
    for b in range(2):
        for row in range(3):
            for column in range(4):
                query = layer.query.weight[:, :, 0, 0] @ n[b, :, row, column] + layer.query.bias
                attended = torch.zeros(12)
                for head in range(3):
                    at = slice(4 * head, 4 * head + 4)
                    remainder = 1 - sum(
                        y[b, k, row, column] for k in range(24) if parts.has_feature[b, k]
                    )
                    shares, values = [remainder.clamp(min=0)], [torch.zeros(4)]
                    for k in range(24):
                        for t in range(2):
                            token = 2 * k + t
                            fit = (query[at] @ key[b, token, at] / 2).exp()
                            area = y[b, k, row, column] / 2 * parts.has_feature[b, k]
                            shares.append(fit * area)
                            values.append(value[b, token, at] * parts.strength[b, k])
                    total = sum(shares)
                    attended[at] = sum(s / total * v for s, v in zip(shares, values, strict=True))
                expected = 0.7 * layer.out.weight[:, :, 0, 0] @ attended + 0.3 * (
                    gamma[b, :, row, column] * n[b, :, row, column] + beta[b, :, row, column]
                )
                torch.testing.assert_close(added[b, :, row, column], expected, atol=1e-4, rtol=1e-3)


def test_a_part_changes_its_cells_alone(parts):
    """A part without strength leaves the cells of the other part as they are."""
    tokens, layer = trained(PartTokens(SIZES)), trained(Layer(32, SIZES))
    labels = torch.full((1, 4, 4), semantic_map.PANTS, dtype=torch.uint8)
    labels[:, :2] = semantic_map.TOP
    has_feature = torch.zeros(1, CLASSES, dtype=torch.bool)
    has_feature[:, [semantic_map.TOP, semantic_map.PANTS]] = True
    h = torch.randn(1, 32, 4, 4, generator=torch.Generator().manual_seed(3))
    part_tokens = tokens(parts.features[:1], has_feature)

    def added_with(strengths):
        strength = torch.ones(1, CLASSES)
        for number, value in strengths.items():
            strength[:, number] = value
        changed = PartFeatures(parts.features[:1], has_feature, strength, labels)
        return layer(h, layer.align(part_tokens, changed, (4, 4)))

    plain, without = added_with({}), added_with({semantic_map.TOP: 0.0})
    assert torch.equal(plain[:, :, 2:], without[:, :, 2:])
    assert not torch.allclose(plain[:, :, :2], without[:, :, :2], atol=1e-3)
    nothing = added_with({semantic_map.TOP: 0.0, semantic_map.PANTS: 0.0})
    torch.testing.assert_close(nothing[:, :, :2], without[:, :, :2])


def test_unmasked_parts_reach_every_cell(parts):
    layer = trained(Layer(32, SIZES._replace(masked=False)))
    tokens = trained(PartTokens(SIZES))(parts.features, parts.has_feature)
    mask = layer.align(tokens, parts, (3, 4)).mask
    assert torch.equal(mask, mask[:, :, :1].expand_as(mask))


def test_parts_without_a_feature_change_nothing(parts):
    tokens = trained(PartTokens(SIZES)).eval()
    changed = torch.where(parts.has_feature[..., None], parts.features, torch.randn(2, CLASSES, 10))
    counts = parts.has_feature.repeat_interleave(2, 1)
    a, b = tokens(parts.features, parts.has_feature), tokens(changed, parts.has_feature)
    torch.testing.assert_close(a[counts], b[counts])
    assert tokens(parts.features, parts.has_feature & False).isfinite().all()


def test_a_file_holds_everything(parts, tmp_path):
    alignment = trained(Alignment({0: 64, 3: 32}, SIZES)).eval()
    metadata = {
        "method": "appearance",
        "version": VERSION,
        "base": "mini",
        **sizes_metadata(alignment),
    }
    weights.save(tmp_path / "a.safetensors", alignment.state_dict(), metadata)
    read = build_alignment(*weights.load(tmp_path / "a.safetensors", method="appearance"))
    assert read.channels == alignment.channels == {0: 64, 3: 32} and read.sizes == SIZES
    h, tokens = torch.randn(2, 64, 3, 4), alignment.tokens(parts.features, parts.has_feature)
    read_tokens = read.tokens(parts.features, parts.has_feature)
    first, second = (
        layers.at(0)(h, layers.at(0).align(t, parts, (3, 4)))
        for layers, t in ((alignment, tokens), (read, read_tokens))
    )
    torch.testing.assert_close(first, second)
    with pytest.raises(KeyError):
        read.at(1)
