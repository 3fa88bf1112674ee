"""The memory of clothes and hair: crops, k-means, merging, updates, answers, file, drawings."""

import math
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import normalize
from vitruvian.models import memory as core
from vitruvian.models import memory_drawing, memory_file, part_crops, weights
from vitruvian.models.semantic_map import BACKGROUND, FOOTWEAR, HAIR, PANTS, TOP

D, M = 12, 60


def random_crops(seed, count=M, groups=5):
    """Features in loose groups, parts of three classes, thumbnails."""
    g = torch.Generator().manual_seed(seed)
    middles = torch.randn(groups, D, generator=g)
    which = torch.randint(groups, (count,), generator=g)
    features = normalize(middles[which] + 0.4 * torch.randn(count, D, generator=g), dim=-1)
    parts = torch.tensor([TOP, PANTS, HAIR])[torch.randint(3, (count,), generator=g)]
    size = (count, part_crops.THUMBNAIL, part_crops.THUMBNAIL, 3)
    return features, parts, torch.randint(256, size, generator=g).byte()


def random_memory(seed, slots=6, encoder="E", projection=None):
    return core.Memory(core.build_banks(*random_crops(seed), slots), encoder, projection)


def assert_equal(a, b):
    assert a.parts == b.parts and a.encoder == b.encoder and a.width == b.width
    for part in a.parts:
        for field in ("features", "counts", "thumbnails"):
            first, second = (getattr(memory.banks[part], field) for memory in (a, b))
            assert first.dtype == second.dtype and torch.equal(first, second), (part, field)


# crops


def test_a_crop_shows_all_of_its_class_alone_on_gray():
    image, labels = torch.rand(30, 50, 3), torch.zeros(30, 50, dtype=torch.uint8)
    image[10:20, 5:40] = torch.tensor([1.0, 0.0, 0.0])
    image[12:14, 20:22] = torch.tensor([0.0, 0.0, 1.0])
    labels[10:20, 5:40] = TOP
    labels[12:14, 20:22] = PANTS  # 4 pixels
    labels[29, 49] = BACKGROUND
    ((part, crop),) = part_crops.crop_parts(image, labels, 41)
    assert part == TOP and crop.shape == (41, 41, 3)
    gray = (crop == part_crops.GRAY).all(-1)
    red = (crop == torch.tensor([1.0, 0.0, 0.0])).all(-1)
    assert red.sum() == 35 * 10 - 4 and gray.sum() == 41 * 41 - red.sum()  # 35 * 1.16 = 40.6
    parts = [part for part, _ in part_crops.crop_parts(image, labels, 42, min_pixels=4)]
    assert parts == [TOP, PANTS]
    assert part_crops.crop_parts(image, torch.zeros_like(labels), 42) == []


def test_a_shrunk_crop_keeps_its_mean():
    """Without antialiasing fine stripes would vanish or swallow all."""
    image = torch.zeros(100, 100, 3)
    image[:, ::2] = 1.0
    ((_, crop),) = part_crops.crop_parts(image, torch.full((100, 100), HAIR), 16)
    assert (crop - 0.5).abs().max() < 0.06


def test_the_border_of_a_coarse_part_is_left_out():
    """A red shirt with two pixels of the blue behind it; shoes too thin to lose any."""
    image, labels = torch.rand(40, 40, 3), torch.zeros(40, 40, dtype=torch.uint8)
    image[3:27, 8:32] = torch.tensor([0.0, 0.0, 1.0])
    image[5:25, 10:30] = torch.tensor([1.0, 0.0, 0.0])
    image[34:37, 10:30] = torch.tensor([0.0, 1.0, 0.0])
    labels[3:27, 8:32], labels[34:37, 10:30] = TOP, FOOTWEAR
    crops = dict(part_crops.crop_parts(image, labels, 40, shrink=3))
    blue, red, green = (
        sum(int((crop == torch.tensor(color)).all(-1).sum()) for crop in crops.values())
        for color in ((0.0, 0.0, 1.0), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0))
    )
    assert blue == 0 and red > 100 and green > 100
    uncut = dict(part_crops.crop_parts(image, labels, 40))
    assert (uncut[TOP] == torch.tensor([0.0, 0.0, 1.0])).all(-1).any()
    assert torch.equal(crops[FOOTWEAR], uncut[FOOTWEAR])


def test_the_parts_of_a_map_are_listed():
    labels = torch.zeros(2, 8, 8, dtype=torch.uint8)
    labels[0, :2], labels[1, :1, :4] = TOP, HAIR
    assert part_crops.parts_in(labels) == {TOP, HAIR}
    assert part_crops.parts_in(labels, 5) == {TOP}
    assert part_crops.parts_in(labels[:1]) == {TOP}


# k-means


def test_building_does_not_depend_on_the_crops_order():
    features, parts, thumbnails = random_crops(1)
    features[7], parts[7] = features[3], parts[3]  # equal features, other thumbnails
    shuffled = torch.randperm(M, generator=torch.Generator().manual_seed(5))
    for slots in (1, 4, 100):
        a = core.build_banks(features, parts, thumbnails, slots)
        for order in (shuffled, shuffled.flip(0)):
            b = core.build_banks(features[order], parts[order], thumbnails[order], slots)
            assert_equal(core.Memory(a, "E"), core.Memory(b, "E"))


def test_few_crops_have_a_slot_each_and_equal_ones_share_it():
    features, _, thumbnails = random_crops(2, 6)
    features[4] = features[1]
    bank = core.build_banks(features, torch.full((6,), TOP), thumbnails, 5)[TOP]
    assert len(bank) == 5
    for k in (0, 2, 3, 5):
        (slot,) = (bank.features == features[k]).all(-1).nonzero()
        assert bank.counts[slot] == 1
        assert torch.equal(bank.thumbnails[int(slot)], thumbnails[k])
    (shared,) = (bank.features == features[1]).all(-1).nonzero()
    assert bank.counts[shared] == 2


def alike(features, slots):
    """Sum of the cosines with the nearest slots, by a slow loop."""
    return sum(max(float(f @ s) for s in slots) for f in features)


@pytest.mark.parametrize("seed", range(6))
def test_kmeans_is_never_worse_than_its_start_and_counts_every_crop(seed):
    features, _, thumbnails = random_crops(seed, 40)
    slots = 3 + seed
    bank = core.build_banks(features, torch.full((40,), TOP), thumbnails, slots)[TOP]
    assert len(bank) <= slots and float(bank.counts.sum()) == 40
    torch.testing.assert_close(bank.features.norm(dim=-1), torch.ones(len(bank)))
    parts = torch.full((40,), TOP)
    all_crops = core.build_banks(features, parts, thumbnails, 40)[TOP]  # in canonical order
    start = core.spread_centers(all_crops.features, all_crops.counts, slots, lambda: None)
    assert len(set(start.tolist())) == slots
    began, ended = alike(features, all_crops.features[start]), alike(features, bank.features)
    assert ended > began + 0.1  # the middle of a loose group is better than any member
    assigned, _ = core.nearest_slots(features, bank.features)
    assert torch.equal(torch.bincount(assigned, minlength=len(bank)).float(), bank.counts)
    for slot in range(len(bank)):  # drawn as the member that is nearest to it
        (example,) = (thumbnails == bank.thumbnails[slot]).flatten(1).all(1).nonzero()
        close = features @ bank.features[slot]
        assert assigned[example] == slot and close[example] >= close[assigned == slot].max() - 1e-6


def test_clear_groups_get_a_slot_each():
    g = torch.Generator().manual_seed(0)
    middles = torch.eye(D)[:4]
    features = normalize(middles.repeat(8, 1) + 0.02 * torch.randn(32, D, generator=g), dim=-1)
    thumbnails = torch.zeros(32, part_crops.THUMBNAIL, part_crops.THUMBNAIL, 3).byte()
    bank = core.build_banks(features, torch.full((32,), HAIR), thumbnails, 4)[HAIR]
    assert bank.counts.tolist() == [8, 8, 8, 8]
    assert ((bank.features @ middles.mT).amax(0) > 0.999).all()


def test_building_reports_progress_and_can_be_canceled():
    steps = []
    core.build_banks(*random_crops(3), 4, lambda done, total: steps.append((done, total)))
    done, totals = zip(*steps, strict=True)
    assert len(set(totals)) == 1 and done[-1] == totals[0] and [*done] == sorted(done)

    def cancel(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        core.build_banks(*random_crops(3), 4, cancel)


# merging


def test_merging_is_commutative_and_associative_bit_for_bit():
    a, b, c = (random_memory(seed) for seed in (1, 2, 3))
    shared = replace(b, banks={**b.banks, TOP: a.banks[TOP]})  # slots that are equal
    del shared.banks[HAIR]
    assert_equal(core.merge(a, shared), core.merge(shared, a))
    assert_equal(core.merge(core.merge(a, shared), c), core.merge(a, core.merge(shared, c)))
    merged = core.merge(a, shared)
    assert len(merged.banks[TOP]) == len(a.banks[TOP])
    assert torch.equal(merged.banks[TOP].counts, 2 * a.banks[TOP].counts)
    assert len(merged.banks[PANTS]) == len(a.banks[PANTS]) + len(b.banks[PANTS])
    assert merged.parts == [TOP, PANTS, HAIR]


def test_merging_with_an_empty_memory_changes_nothing():
    a, empty = random_memory(1), core.Memory({}, "E")
    assert empty.width == 0 and empty.parts == []
    assert_equal(core.merge(a, empty), a)
    assert_equal(core.merge(empty, a), a)


def test_memories_of_other_spaces_are_refused():
    matrix = torch.eye(D)
    a, of_other_encoder = random_memory(1), random_memory(2, encoder="F")
    with pytest.raises(ValueError, match="'E', the other with 'F'"):
        core.merge(a, of_other_encoder)
    wider = replace(a, banks={TOP: core.Bank(torch.eye(D + 1), torch.ones(D + 1), torch.zeros(0))})
    with pytest.raises(ValueError, match=f"{D} numbers, the other of {D + 1}"):
        core.merge(a, wider)
    with pytest.raises(ValueError, match=f"none and one of {D} x {D}"):
        core.merge(a, random_memory(2, projection=matrix))
    first, second = (random_memory(2, projection=m) for m in (matrix, 2 * matrix))
    with pytest.raises(ValueError, match="different text projections"):
        core.merge(first, second)
    assert core.merge(first, random_memory(3, projection=matrix)).projection is matrix


# updates


def test_an_update_moves_the_nearest_slots_by_the_formula_whatever_the_order():
    memory, (features, parts, _) = random_memory(1), random_crops(9)
    updated = core.update(memory, features, parts, 0.8)
    shuffled = torch.randperm(M, generator=torch.Generator().manual_seed(1))
    assert_equal(updated, core.update(memory, features[shuffled], parts[shuffled], 0.8))
    for part, bank in memory.banks.items():
        of_part = features[parts == part]
        for slot, m in enumerate(bank.features):
            near = [f for f in of_part if int((bank.features @ f).argmax()) == slot]
            expected = m
            if near:
                mean = torch.stack(near).mean(0)
                expected = normalize(0.8 * m + 0.2 * mean, dim=0)
            torch.testing.assert_close(updated.banks[part].features[slot], expected)
            assert updated.banks[part].counts[slot] == bank.counts[slot] + len(near)
        assert torch.equal(updated.banks[part].thumbnails, bank.thumbnails)
    assert not torch.allclose(updated.banks[TOP].features, memory.banks[TOP].features, atol=1e-2)


def test_an_update_leaves_other_classes_and_the_old_memory_alone():
    memory, (features, parts, _) = random_memory(1), random_crops(9)
    before = random_memory(1)
    updated = core.update(memory, features, torch.full_like(parts, FOOTWEAR))
    assert_equal(updated, before)
    core.update(memory, features, parts)
    assert_equal(memory, before)


# answers


@pytest.mark.parametrize("top_k, blend", [(1, 0.0), (4, 0.3), (99, 0.0), (3, 1.0)])
def test_an_answer_follows_the_formula(top_k, blend):
    bank = random_memory(4, 9).banks[TOP]
    queries = torch.randn(5, D, generator=torch.Generator().manual_seed(2))
    answers = core.refresh(bank, queries, top_k, 0.1, blend)
    k = min(top_k, len(bank))
    for q in range(5):
        query = queries[q] / queries[q].norm()
        cosines = [float(query @ m) for m in bank.features]
        near = sorted(range(len(bank)), key=lambda i: -cosines[i])[:k]
        assert answers.slots[q].tolist() == near
        total = sum(math.exp(cosines[i] / 0.1) for i in near)
        shares = [math.exp(cosines[i] / 0.1) / total for i in near]
        torch.testing.assert_close(answers.weights[q], torch.tensor(shares), atol=1e-5, rtol=1e-4)
        answer = sum(w * bank.features[i] for w, i in zip(shares, near, strict=True))
        mixed = blend * query + (1 - blend) * answer
        torch.testing.assert_close(answers.features[q], mixed / mixed.norm(), atol=1e-5, rtol=1e-4)


def test_a_slot_answers_with_itself():
    bank = random_memory(4, 9).banks[TOP]
    answers = core.refresh(bank, bank.features, 1)
    assert torch.equal(answers.slots[:, 0], torch.arange(len(bank)))
    torch.testing.assert_close(answers.features, bank.features)


def test_an_empty_class_is_refused():
    size = part_crops.THUMBNAIL
    empty = core.Bank(torch.zeros(0, D), torch.zeros(0), torch.zeros(0, size, size, 3).byte())
    memory = core.Memory({TOP: empty}, "E")
    assert memory.parts == [] and memory.width == D
    with pytest.raises(ValueError, match="no slots"):
        core.refresh(empty, torch.randn(1, D))
    assert memory_drawing.catalog(empty, 4).shape[-1] == 3
    features, parts, _ = random_crops(1)
    assert core.update(memory, features, parts).parts == []
    assert core.merge(memory, random_memory(1)).parts == [TOP, PANTS, HAIR]


def test_random_slots_repeat_and_follow_the_counts():
    bank = random_memory(1, 3).banks[TOP]
    bank = replace(bank, counts=torch.tensor([0.001, 50.0, 50.0])[: len(bank)])
    answers = [core.random_slot(bank, seed) for seed in range(40)]
    slots = [int(answer.slots) for answer in answers]
    assert slots == [int(core.random_slot(bank, seed).slots) for seed in range(40)]
    assert set(slots) == {1, 2} and 8 < slots.count(1) < 32
    for answer, slot in zip(answers, slots, strict=True):
        assert torch.equal(answer.features[0], bank.features[slot])
        assert answer.weights.tolist() == [[1.0]]


# parts


def part(number, value, width=D):
    feature = torch.full((width,), float(value))
    return core.Part(number, "p", 1.0, feature, feature, torch.zeros(0).long(), torch.zeros(0))


def test_of_two_parts_of_a_class_the_second_counts():
    a, b, c = part(HAIR, 1), part(TOP, 2), part(HAIR, 3)
    assert core.merge_parts((a, b), (c,)) == (b, c)
    assert core.merge_parts((c,), (a,)) == (a,)
    assert core.merge_parts((), (a,)) == (a,) and core.merge_parts((), ()) == ()
    with pytest.raises(ValueError, match=f"{D} and of {D + 1} numbers"):
        core.merge_parts((a,), (part(TOP, 1, D + 1),))


# the file


@pytest.mark.parametrize("projection", [None, torch.randn(D, 7)])
def test_a_file_gives_the_memory_back_bit_for_bit(tmp_path, projection):
    memory = random_memory(1, projection=projection)
    memory_file.save(tmp_path / "m.safetensors", memory)
    loaded = memory_file.load(tmp_path / "m.safetensors")
    assert_equal(loaded, memory)
    if projection is None:
        assert loaded.projection is None
    else:
        assert torch.equal(loaded.projection, projection)


def test_an_empty_memory_has_a_file_too(tmp_path):
    memory_file.save(tmp_path / "m.safetensors", core.Memory({}, "E"))
    loaded = memory_file.load(tmp_path / "m.safetensors")
    assert loaded.parts == [] and loaded.encoder == "E"


def broken(**changes):
    bank = random_memory(1).banks[TOP]
    tensors = {f"bank.{TOP}.{k}": getattr(bank, k) for k in ("features", "counts", "thumbnails")}
    for name, change in changes.items():
        key = {"projection": "projection", "stray": "bank.99.features"}.get(
            name, f"bank.{TOP}.{name}"
        )
        tensors[key] = change(tensors.get(key))
    return {key: tensor for key, tensor in tensors.items() if tensor is not None}


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"features": lambda t: None}, "'features', found none"),
        ({"features": lambda t: t.half()}, "no rows of numbers with 32 bits"),
        ({"features": lambda t: 2 * t}, "unit length"),
        ({"counts": lambda t: t[1:]}, "counts"),
        ({"counts": lambda t: 0 * t}, "above 0"),
        ({"thumbnails": lambda t: t[:, :9]}, "thumbnails"),
        ({"thumbnails": lambda t: t.float()}, "thumbnails"),
        ({"projection": lambda t: torch.randn(D + 1, 4)}, "different widths"),
        ({"projection": lambda t: torch.randn(D)}, "no matrix"),
        ({"stray": lambda t: torch.randn(2, D)}, "of no class"),
    ],
)
def test_broken_contents_are_named(tmp_path, changes, message):
    file = tmp_path / "odd.safetensors"
    weights.save(file, broken(**changes), {"method": "memory", "version": 1, "encoder": "E"})
    with pytest.raises(ValueError, match=f"odd.safetensors.*{message}"):
        memory_file.load(file)


def test_a_file_without_its_encoders_name_is_refused(tmp_path):
    file = tmp_path / "odd.safetensors"
    weights.save(file, broken(), {"method": "memory", "version": 1})
    with pytest.raises(ValueError, match="odd.safetensors.*'encoder', found none"):
        memory_file.load(file)


# drawings


def test_slots_are_drawn_with_their_shares():
    bank = random_memory(1, 4).banks[TOP]
    drawing = memory_drawing.draw_slots(
        bank, torch.tensor([1, 0]), torch.tensor([0.75, 0.25]), "red top"
    )
    bar = (drawing == torch.tensor(memory_drawing.BAR) / 255).all(-1)
    assert bar.sum(1).max() == round(0.75 * memory_drawing.SLOT) + round(0.25 * memory_drawing.SLOT)
    thumbnail = bank.thumbnails[1].repeat_interleave(2, 0).repeat_interleave(2, 1).float() / 255
    size = memory_drawing.SLOT
    assert torch.equal(drawing[20 : 20 + size, 4 : 4 + size], thumbnail)


def test_all_parts_are_drawn_below_each_other():
    memory = random_memory(1, 4)
    parts = [
        core.Part(number, "a phrase", 1.0, torch.ones(D), *(row[0] for row in answers))
        for number, answers in (
            (number, core.refresh(memory.banks[number], torch.ones(1, D), k))
            for number, k in ((TOP, 2), (HAIR, 4))
        )
    ]
    two_parts = memory_drawing.draw_parts(parts, memory.banks)
    first_part = memory_drawing.draw_parts(parts[:1], memory.banks)
    assert len(two_parts) == 2 * len(first_part) and two_parts.shape[1] > first_part.shape[1]
    assert memory_drawing.draw_parts([part(TOP, 1)], {}).shape[-1] == 3  # no memory was searched


def test_the_catalog_shows_every_slot_the_most_frequent_first():
    bank = random_memory(1, 4).banks[TOP]
    drawing, size = memory_drawing.catalog(bank, 3), part_crops.THUMBNAIL
    assert drawing.shape == (2 * (size + 2) + 2, 3 * (size + 2) + 2, 3)
    first = bank.thumbnails[int(bank.counts.argmax())].float() / 255
    assert torch.equal(drawing[2 : 2 + size, 2 : 2 + size], first)
    cells = [
        drawing[y : y + size, x : x + size]
        for y in (2, size + 4)
        for x in (2, size + 4, 2 * size + 6)
    ]
    for thumbnail in bank.thumbnails.float() / 255:
        assert sum(torch.equal(cell, thumbnail) for cell in cells) == 1
