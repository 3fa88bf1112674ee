"""The alignment of parts: against slow loops, and what each part may touch."""

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
def worn():
    g = torch.Generator().manual_seed(0)
    labels = torch.randint(CLASSES, (2, 12, 16), generator=g).byte()
    known = torch.rand(2, CLASSES, generator=g) < 0.6
    strength = torch.rand(2, CLASSES, generator=g)
    features = torch.nn.functional.normalize(torch.randn(2, CLASSES, 10, generator=g), dim=-1)
    return PartFeatures(features, known, strength, labels)


def trained(module, seed=1):
    g = torch.Generator().manual_seed(seed)
    for p in module.parameters():
        p.data = torch.randn(p.shape, generator=g) / max(1, p[0].numel()) ** 0.5
    return module.requires_grad_(False)


def test_untrained_layers_add_nothing(worn):
    tokens, layer = PartTokens(SIZES), Layer(32, SIZES)
    aligned = layer.align(tokens(worn.features, worn.has_feature), worn, (3, 4))
    assert not layer(torch.randn(2, 32, 3, 4), aligned).any()


def test_equal_keys_share_a_cell_out_by_area(worn):
    y = semantic_map.shares(worn.labels, (3, 4))
    found = log_shares(y, worn.has_feature, 3).softmax(-1)[:, 0]
    for b in range(2):
        for cell in range(12):
            area = y[b, :, cell // 4, cell % 4]
            told = [float(area[k]) if worn.has_feature[b, k] else 0.0 for k in range(CLASSES)]
            assert float(found[b, cell, 0]) == pytest.approx(1 - sum(told), abs=1e-4)
            for k in range(CLASSES):
                own = found[b, cell, 1 + 3 * k : 4 + 3 * k].sum()
                assert float(own) == pytest.approx(told[k], abs=1e-4)


def test_a_layer_equals_a_loop_over_cells(worn):
    tokens, layer = trained(PartTokens(SIZES)), trained(Layer(32, SIZES))
    every = tokens(worn.features, worn.has_feature)
    h = torch.randn(2, 32, 3, 4, generator=torch.Generator().manual_seed(2))
    found = layer(h, layer.align(every, worn, (3, 4)), 0.7, 0.3)
    y = semantic_map.shares(worn.labels, (3, 4))
    n = torch.nn.functional.group_norm(h, 32)
    gamma, beta = layer.map(y).chunk(2, 1)
    key, value = layer.key_value(every).chunk(2, -1)
    for b in range(2):
        for row in range(3):
            for column in range(4):
                query = layer.query.weight[:, :, 0, 0] @ n[b, :, row, column] + layer.query.bias
                read = torch.zeros(12)
                for head in range(3):
                    at = slice(4 * head, 4 * head + 4)
                    rest = 1 - sum(y[b, k, row, column] for k in range(24) if worn.has_feature[b, k])
                    shares, values = [rest.clamp(min=0)], [torch.zeros(4)]
                    for k in range(24):
                        for t in range(2):
                            token = 2 * k + t
                            fit = (query[at] @ key[b, token, at] / 2).exp()
                            area = y[b, k, row, column] / 2 * worn.has_feature[b, k]
                            shares.append(fit * area)
                            values.append(value[b, token, at] * worn.strength[b, k])
                    total = sum(shares)
                    read[at] = sum(s / total * v for s, v in zip(shares, values, strict=True))
                expected = 0.7 * layer.out.weight[:, :, 0, 0] @ read + 0.3 * (
                    gamma[b, :, row, column] * n[b, :, row, column] + beta[b, :, row, column]
                )
                torch.testing.assert_close(found[b, :, row, column], expected, atol=1e-4, rtol=1e-3)


def test_a_part_touches_its_own_cells_alone(worn):
    """With one token for each part nothing but its own words and place decides."""
    tokens, layer = trained(PartTokens(SIZES)), trained(Layer(32, SIZES))
    labels = torch.full((1, 4, 4), semantic_map.PANTS, dtype=torch.uint8)
    labels[:, :2] = semantic_map.TOP
    known = torch.zeros(1, CLASSES, dtype=torch.bool)
    known[:, [semantic_map.TOP, semantic_map.PANTS]] = True
    h = torch.randn(1, 32, 4, 4, generator=torch.Generator().manual_seed(3))
    every = tokens(worn.features[:1], known)

    def of(strengths):
        strength = torch.ones(1, CLASSES)
        for part, value in strengths.items():
            strength[:, part] = value
        own = PartFeatures(worn.features[:1], known, strength, labels)
        return layer(h, layer.align(every, own, (4, 4)))

    plain, without = of({}), of({semantic_map.TOP: 0.0})
    assert torch.equal(plain[:, :, 2:], without[:, :, 2:])
    assert not torch.allclose(plain[:, :, :2], without[:, :, :2], atol=1e-3)
    nothing = of({semantic_map.TOP: 0.0, semantic_map.PANTS: 0.0})
    torch.testing.assert_close(nothing[:, :, :2], without[:, :, :2])


def test_unmasked_parts_are_seen_everywhere(worn):
    layer = trained(Layer(32, SIZES._replace(masked=False)))
    tokens = trained(PartTokens(SIZES))(worn.features, worn.has_feature)
    mask = layer.align(tokens, worn, (3, 4)).mask
    assert torch.equal(mask, mask[:, :, :1].expand_as(mask))


def test_nobody_sees_what_is_not_known(worn):
    tokens = trained(PartTokens(SIZES)).eval()
    other = torch.where(worn.has_feature[..., None], worn.features, torch.randn(2, CLASSES, 10))
    kept = worn.has_feature.repeat_interleave(2, 1)
    a, b = tokens(worn.features, worn.has_feature), tokens(other, worn.has_feature)
    torch.testing.assert_close(a[kept], b[kept])
    assert tokens(worn.features, worn.has_feature & False).isfinite().all()


def test_a_file_holds_everything(worn, tmp_path):
    made = trained(Alignment({0: 64, 3: 32}, SIZES)).eval()
    facts = {"method": "appearance", "version": VERSION, "base": "mini", **sizes_metadata(made)}
    weights.save(tmp_path / "a.safetensors", made.state_dict(), facts)
    read = build_alignment(*weights.load(tmp_path / "a.safetensors", method="appearance"))
    assert read.channels == made.channels == {0: 64, 3: 32} and read.sizes == SIZES
    h, tokens = torch.randn(2, 64, 3, 4), made.tokens(worn.features, worn.has_feature)
    again = read.tokens(worn.features, worn.has_feature)
    first, second = (
        one.at(0)(h, one.at(0).align(t, worn, (3, 4))) for one, t in ((made, tokens), (read, again))
    )
    torch.testing.assert_close(first, second)
    with pytest.raises(KeyError):
        read.at(1)
