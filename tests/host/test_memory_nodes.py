"""The memory's nodes on the host: image encoders, words of the CLIP, retrieval."""

import json
from types import SimpleNamespace

import folder_paths
import pytest
import torch
from safetensors.torch import save_file
from torch.nn.functional import normalize
from vitruvian.host import part_encoder, phrase_encoder
from vitruvian.host.registration import register
from vitruvian.models import memory as core
from vitruvian.models import memory_drawing, part_crops, weights
from vitruvian.models.semantic_map import CLASSES, FOOTWEAR, HAIR, PANTS, TOP
from vitruvian.nodes import memory as ours
from vitruvian.nodes import retrieval as lookup
from vitruvian.nodes.retrieval import (
    VitruvianAppearanceFromImage,
    VitruvianMergeAppearance,
    VitruvianRetrieveAppearance,
)

import nodes as core_nodes

register()
TEXT, D, SIZE = 192, 24, 32  # the mini text encoder's width, features, pixels of the encoder
CONFIG = {
    "hidden_act": "quick_gelu", "hidden_size": 32, "image_size": SIZE, "intermediate_size": 64,
    "model_type": "clip_vision_model", "num_attention_heads": 4, "num_channels": 3,
    "num_hidden_layers": 3, "patch_size": 8, "projection_dim": D,
    "layer_norm_eps": 1e-5, "attention_dropout": 0.0,
}  # fmt: skip
RETRIEVAL = {
    "template": "{phrase}",
    "top_k": 4,
    "temperature": 0.05,
    "blend": 0.0,
    "if_unknown_words": lookup.TO_PROMPT,
    "if_unmentioned": lookup.TO_PROMPT,
    "seed": 0,
}


@pytest.fixture(autouse=True)
def inference():
    with torch.inference_mode():
        yield


def reference(seed=0, **changes):
    """The same network of another project, with weights that 16 bits hold."""
    transformers = pytest.importorskip("transformers")
    config = transformers.CLIPVisionConfig(**{**CONFIG, **changes})
    network = transformers.CLIPVisionModelWithProjection(config).eval()
    g = torch.Generator().manual_seed(seed)
    for name, p in network.named_parameters():
        scale = 0.3 if p.dim() == 1 else p[0].numel() ** -0.5
        offset = float("norm" in name and name.endswith("weight"))
        p.data = (torch.randn(p.shape, generator=g) * scale + offset).half().float()
    return network


def vision_file(path, seed=0, projection=True, **changes):
    """A Vitruvian image encoder's file."""
    tensors = {
        k: v for k, v in reference(seed, **changes).state_dict().items() if "position_ids" not in k
    }
    if projection:
        g = torch.Generator().manual_seed(seed + 100)
        tensors[part_encoder.TEXT_PROJECTION] = torch.randn(D, TEXT, generator=g)
    facts = {"method": "vision", "version": 1, "config": json.dumps({**CONFIG, **changes})}
    weights.save(path, tensors, facts)
    return path


@pytest.fixture(scope="module")
def vision(tmp_path_factory):
    return part_encoder.load(vision_file(tmp_path_factory.mktemp("v") / "own.safetensors"))


@pytest.fixture(scope="module")
def clip(mini_weights):
    with torch.inference_mode():
        return core_nodes.CheckpointLoaderSimple().load_checkpoint("vitruvian_mini.safetensors")[1]


def dressed(seed, count=4, size=48):
    """Pictures of squares on squares and their maps."""
    g = torch.Generator().manual_seed(seed)
    images = torch.rand(count, 1, 1, 3, generator=g).repeat(1, size, size, 1)
    maps = torch.zeros(count, size, size, dtype=torch.uint8)
    for k in range(count):
        for part, rows in ((HAIR, slice(2, 10)), (TOP, slice(10, 28)), (PANTS, slice(28, 46))):
            maps[k, rows, 8:40] = part
            images[k, rows, 8:40] = torch.rand(3, generator=g)
    return images, maps


BUILD = {
    "max_slots": 8,
    "min_pixels": 24,
    "memory_update": ours.EXTEND,
    "momentum": 0.9,
    "shrink": 0,
}


def build(vision, seed=1, memory=None, **changes):
    images, maps = changes.pop("pairs", None) or dressed(seed)
    inputs = {**BUILD, **changes} if memory is None else {**BUILD, "memory": memory, **changes}
    listed = {name: [value] for name, value in inputs.items()}
    return ours.VitruvianBuildMemory.execute([images], [maps], [vision], **listed)[0]


def retrieve(memory, clip, text, labels=None, **changes):
    output = VitruvianRetrieveAppearance.execute(
        memory, clip, text, **{**RETRIEVAL, **changes}, semantic_map=labels
    )
    return output.result


# the image encoder


def test_our_own_encoder_computes_what_transformers_does(vision):
    crops = torch.rand(5, SIZE, SIZE, 3, generator=torch.Generator().manual_seed(3))
    crops = (crops * 255).round() / 255  # the host rounds to that
    mean, std = torch.tensor(vision.image_mean), torch.tensor(vision.image_std)
    with torch.no_grad():
        expected = reference()(pixel_values=((crops - mean) / std).movedim(-1, 1)).image_embeds
    features = part_encoder.encode_crops(vision, crops, batch=2)
    assert features.dtype == torch.float32 and features.device.type == "cpu"
    torch.testing.assert_close(features, normalize(expected, dim=-1), atol=2e-3, rtol=1e-2)
    torch.testing.assert_close(
        part_encoder.encode_crops(vision, crops), features, atol=1e-5, rtol=1e-4
    )
    assert part_encoder.crop_size(vision) == SIZE
    assert vision.vitruvian_text_projection.shape == (D, TEXT)


def test_encoders_have_names_of_their_own(vision, tmp_path):
    same = part_encoder.load(vision_file(tmp_path / "same.safetensors"))
    other = part_encoder.load(vision_file(tmp_path / "other.safetensors", seed=1))
    assert (
        part_encoder.encoder_name(vision)
        == part_encoder.encoder_name(same)
        != part_encoder.encoder_name(other)
    )


def test_a_clip_that_the_host_knows_is_loaded_with_its_text_projection(tmp_path, monkeypatch):
    """ViT-L by its number of layers, of which the file holds but a few tensors."""
    tensors = {
        "vision_model.encoder.layers.22.layer_norm1.weight": torch.zeros(1024),
        "vision_model.encoder.layers.0.layer_norm1.weight": torch.zeros(1024),
        "vision_model.embeddings.position_embedding.weight": torch.zeros(257, 1024),
        "visual_projection.weight": torch.zeros(768, 1024),
    }
    projection = torch.randn(768, 768)
    openclips = projection.mT.contiguous()
    for name, stored in (
        (part_encoder.TEXT_PROJECTION, projection),
        ("text_projection", openclips),
    ):
        save_file({**tensors, name: stored}, tmp_path / "clip.safetensors")
        read = part_encoder.read_text_projection(tmp_path / "clip.safetensors")
        assert torch.equal(read, projection)
    save_file(tensors, tmp_path / "clip.safetensors")
    with pytest.raises(
        ValueError, match="clip.safetensors: expected an image .*, found no 'vision"
    ):
        part_encoder.load(tmp_path / "clip.safetensors")  # the host fills it up with anything
    complete = SimpleNamespace(image_size=224, get_sd=lambda: dict(tensors))
    monkeypatch.setattr("comfy.clip_vision.load", lambda _: complete)
    encoder = part_encoder.load(tmp_path / "clip.safetensors")
    assert encoder.vitruvian_text_projection is None and part_encoder.crop_size(encoder) == 224
    tensors["visual_projection.weight"][0, 0] = float("nan")
    save_file(tensors, tmp_path / "clip.safetensors")
    with pytest.raises(ValueError, match="clip.safetensors: .*NaN .* 'visual_projection.weight'"):
        part_encoder.load(tmp_path / "clip.safetensors")
    del tensors["visual_projection.weight"]
    save_file(tensors, tmp_path / "clip.safetensors")
    with pytest.raises(ValueError, match="clip.safetensors: expected .* found one without"):
        part_encoder.load(tmp_path / "clip.safetensors")


def test_files_that_are_no_encoders_are_reported(tmp_path):
    save_file({"a": torch.zeros(1)}, tmp_path / "odd.safetensors")
    with pytest.raises(ValueError, match="odd.safetensors: expected an image encoder that Comfy"):
        part_encoder.load(tmp_path / "odd.safetensors")
    wrong = {"method": "vision", "version": 1, "config": json.dumps(CONFIG)}
    weights.save(tmp_path / "few.safetensors", {"a": torch.zeros(1)}, wrong)
    with pytest.raises(ValueError, match="few.safetensors: expected what its config"):
        part_encoder.load(tmp_path / "few.safetensors")
    for config, message in (({"hidden_size": 64}, "numbers instead of"), (None, "config")):
        tensors = {k: v for k, v in reference().state_dict().items() if "position_ids" not in k}
        facts = {**wrong, "config": json.dumps({**CONFIG, **(config or {})})}
        if config is None:
            del facts["config"]
        weights.save(tmp_path / "off.safetensors", tensors, facts)
        with pytest.raises(ValueError, match=f"(?s)off.safetensors: expected .* config.*{message}"):
            part_encoder.load(tmp_path / "off.safetensors")


def test_an_encoder_without_a_common_space_is_told(vision):
    class Siglip:
        @staticmethod
        def get_sd():
            tensors = {**vision.get_sd()}
            del tensors["visual_projection.weight"]
            return tensors

    with pytest.raises(ValueError, match="Build Memory: .* not SigLIP"):
        build(Siglip)


def test_the_loader_node_finds_files(tmp_path, monkeypatch):
    file = vision_file(tmp_path / "own.safetensors")
    monkeypatch.setattr(folder_paths, "get_full_path_or_raise", lambda folder, name: str(file))
    (encoder,) = ours.VitruvianLoadPartEncoder.execute("own.safetensors").result
    assert encoder.vitruvian_text_projection is not None


# building


def test_a_memory_holds_the_parts_of_the_images(vision):
    images, maps = dressed(1)
    memory = build(vision)
    assert memory.parts == [TOP, PANTS, HAIR] and memory.width == D
    assert memory.encoder == part_encoder.encoder_name(vision)
    assert memory.projection is vision.vitruvian_text_projection
    for part in memory.parts:
        assert len(memory.banks[part]) == 4
    crop = dict(part_crops.crop_parts(images[2], maps[2], SIZE))[TOP]
    feature = part_encoder.encode_crops(vision, crop[None])
    answer = core.refresh(memory.banks[TOP], feature, 1)
    torch.testing.assert_close(answer.features, feature, atol=1e-3, rtol=1e-3)
    bank, slot = memory.banks[TOP], int(answer.slots)
    assert torch.equal(bank.thumbnails[slot], part_crops.thumbnails(crop[None])[0])


def test_lists_of_sizes_and_orders_give_the_same_memory(vision):
    small, large = dressed(1), dressed(2, size=64)
    inputs = {name: [value] for name, value in {**BUILD, "max_slots": 3}.items()}
    run = ours.VitruvianBuildMemory.execute
    (one,) = run([small[0], large[0]], [small[1], large[1]], [vision], **inputs).result
    (two,) = run([large[0], small[0]], [large[1], small[1]], [vision], **inputs).result
    for part in one.parts:
        assert len(one.banks[part]) == 3 and float(one.banks[part].counts.sum()) == 8
        assert torch.equal(one.banks[part].features, two.banks[part].features)


def test_a_memory_is_extended_or_its_slots_updated(vision):
    old = build(vision, 1)
    extended = build(vision, 2, old)
    merged = core.merge(old, build(vision, 2))
    assert len(extended.banks[TOP]) == 8
    assert torch.equal(extended.banks[TOP].features, merged.banks[TOP].features)
    images, maps = dressed(2)
    maps[maps == HAIR] = FOOTWEAR
    updated = build(vision, memory=old, memory_update=ours.UPDATE, pairs=(images, maps))
    assert updated.parts == [TOP, PANTS, FOOTWEAR, HAIR]  # the class that it lacked is filled
    assert len(updated.banks[TOP]) == 4 and float(updated.banks[TOP].counts.sum()) == 8
    assert torch.equal(updated.banks[HAIR].features, old.banks[HAIR].features)
    crops = part_encoder.encode_parts(vision, [*zip(images, maps, strict=True)])
    expected = core.update(old, crops.features, crops.parts, 0.9).banks[TOP].features
    assert sorted(updated.banks[TOP].features.tolist()) == sorted(expected.tolist())


def test_building_shows_its_progress_and_can_be_cancelled(vision, monkeypatch):
    import comfy.model_management
    import comfy.utils

    shares = []
    ends = [0]  # after so many reports

    def hook(value, total, preview, **_):
        shares.append(value / total)
        if len(shares) == ends[0]:
            raise InterruptedError

    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", hook)
    for name in ("INTERVAL", "PERCENT"):  # of new hosts
        monkeypatch.setattr(comfy.utils, f"PROGRESS_THROTTLE_MIN_{name}", 0.0, raising=False)
    build(vision, max_slots=2)
    assert shares[-1] == 1 and shares == sorted(shares) and len(shares) > 4
    for ends[0] in (2, len(shares) - 1):
        shares.clear()
        with pytest.raises(InterruptedError):
            build(vision, max_slots=2)
    ends[0] = 0

    def cancelled(*_):
        comfy.model_management.interrupt_current_processing(True)

    monkeypatch.setattr(comfy.utils.ProgressBar, "update_absolute", cancelled)  # says nothing
    images, maps = dressed(1, count=1)  # the only one is done when it is cancelled
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        build(vision, pairs=(images, maps))


def test_one_map_serves_all_images(vision):
    images, maps = dressed(1)
    once, each = (build(vision, pairs=(images, m)) for m in (maps[:1], maps[:1].repeat(4, 1, 1)))
    assert once.parts == each.parts
    for part in once.parts:
        assert torch.equal(once.banks[part].features, each.banks[part].features)


def test_what_does_not_fit_is_said_when_building(vision, tmp_path):
    images, maps = dressed(1)
    for pairs, message in (
        ((images, maps[:2]), "4 images in 'images' and 2 maps in 'semantic_map'"),
        ((images, maps[:, ::2, ::2]), "48 x 48 pixels has a map of 24 x 24"),
        ((images, torch.zeros_like(maps)), "no part in 'semantic_map' has 24 pixels"),
    ):
        with pytest.raises(ValueError, match=f"Build Memory: .*{message}"):
            build(vision, pairs=pairs)
    other = part_encoder.load(vision_file(tmp_path / "other.safetensors", seed=1))
    with pytest.raises(ValueError, match="Build Memory: the memory was built with"):
        build(other, memory=build(vision))
    with pytest.raises(ValueError, match="Merge Memories: one memory was built with"):
        ours.VitruvianMergeMemories.execute(build(vision), build(other))


def test_memories_are_saved_loaded_merged_and_shown(vision, tmp_path, monkeypatch):
    monkeypatch.setattr(folder_paths, "get_folder_paths", lambda folder: [str(tmp_path)])
    monkeypatch.setattr(
        folder_paths, "get_full_path_or_raise", lambda folder, name: str(tmp_path / name)
    )
    memory = build(vision)
    names = [ours.VitruvianSaveMemory.execute(memory, "my: coats").result[0] for _ in range(2)]
    assert names == ["my_ coats.safetensors", "my_ coats_2.safetensors"]
    (reloaded,) = ours.VitruvianLoadMemory.execute(names[0]).result
    for part in memory.parts:
        assert torch.equal(reloaded.banks[part].features, memory.banks[part].features)
    assert torch.equal(reloaded.projection, memory.projection)
    (merged,) = ours.VitruvianMergeMemories.execute(memory, reloaded).result
    assert len(merged.banks[TOP]) == 4 and float(merged.banks[TOP].counts.sum()) == 8
    (catalogue,) = ours.VitruvianShowMemory.execute(memory, "top", 2).result
    assert torch.equal(catalogue[0], memory_drawing.catalog(memory.banks[TOP], 2))
    with pytest.raises(ValueError, match="holds no footwear. It holds top, pants, hair"):
        ours.VitruvianShowMemory.execute(memory, "footwear", 2)


# words


def text_feature(clip, text, matrix):
    _, pooled = clip.encode_from_tokens(clip.tokenize(text), return_pooled=True)
    return normalize(pooled.float() @ matrix.mT, dim=-1)[0]


def test_words_are_looked_up_in_their_class_and_in_the_memorys_space(vision, clip):
    memory = build(vision)
    parts, drawing, report = retrieve(memory, clip, "a black T-shirt and blue pants")
    assert [part.part for part in parts] == [TOP, PANTS]
    query = text_feature(clip, parts[0].phrase, memory.projection)
    torch.testing.assert_close(parts[0].query, query)
    expected = core.refresh(memory.banks[TOP], query[None], 4, 0.05)
    torch.testing.assert_close(parts[0].feature, expected.features[0])
    assert torch.equal(parts[0].slots, expected.slots[0]) and len(parts[0].weights) == 4
    assert report.count("->") == 2 and "-> top" in report and "-> pants" in report
    assert torch.equal(drawing[0], memory_drawing.draw_parts(parts, memory.banks))
    other = retrieve(memory, clip, "a black T-shirt", template="a photo of {phrase}")[0][0]
    query = text_feature(clip, f"a photo of {other.phrase}", memory.projection)
    torch.testing.assert_close(other.query, query)


def test_strengths_repeats_and_classes_that_are_not_there(vision, clip):
    memory, maps = build(vision), dressed(1)[1]
    (top,), _, report = retrieve(memory, clip, "(a red top:1.5)")
    assert top.strength == 1.5 and "(1.5)" in report
    (top,), _, report = retrieve(memory, clip, "a red top, a blue shirt")
    assert "blue" in top.phrase and "instead of" in report
    parts, _, report = retrieve(memory, clip, "brown shoes, blue pants")
    assert [part.part for part in parts] == [PANTS] and "holds no footwear" in report
    maps[maps == TOP] = 0
    parts, _, report = retrieve(memory, clip, "a red top, blue pants", maps)
    assert [part.part for part in parts] == [PANTS] and "no top in the map" in report
    parts, drawing, _ = retrieve(memory, clip, "")
    assert parts == () and drawing.shape[-1] == 3


def test_phrases_without_a_known_word_can_go_to_the_nearest_class(vision, clip):
    memory, text = build(vision), "zzz qqq"
    parts, _, report = retrieve(memory, clip, text)
    assert parts == () and "left to the prompt" in report
    (guessed,), _, _ = retrieve(memory, clip, text, if_unknown_words=lookup.NEAREST)
    query = text_feature(clip, guessed.phrase, memory.projection)
    names = [text_feature(clip, CLASSES[part], memory.projection) for part in memory.parts]
    alike = [float(query @ name) for name in names]
    assert guessed.part == memory.parts[alike.index(max(alike))]


def test_unmentioned_parts_of_the_map_are_drawn_by_the_seed(vision, clip):
    memory, maps = build(vision), dressed(1)[1]
    inputs = {"labels": maps[:1], "if_unmentioned": lookup.RANDOM}
    parts, _, report = retrieve(memory, clip, "a red top", **inputs)
    assert [part.part for part in parts] == [TOP, PANTS, HAIR]
    assert report.count("drawn from the memory") == 2
    again = retrieve(memory, clip, "a red top", **inputs)[0]
    assert all(torch.equal(a.feature, b.feature) for a, b in zip(parts, again, strict=True))
    drawn = [retrieve(memory, clip, "a red top", **inputs, seed=seed)[0] for seed in range(12)]
    pants, hair = ([int(parts[k].slots) for parts in drawn] for k in (1, 2))
    assert len(set(hair)) > 1 and pants != hair
    alone = retrieve(memory, clip, "", **inputs)[0]  # one class more is drawn, the others as before
    assert torch.equal(alone[2].feature, parts[2].feature)
    with pytest.raises(ValueError, match="Retrieve Appearance: .*connect the semantic map"):
        retrieve(memory, clip, "a red top", if_unmentioned=lookup.RANDOM)


class Fake:
    """A CLIP that gives fixed pooled outputs."""

    def __init__(self, pooled, unprojected):
        self.outputs = {True: pooled, "unprojected": unprojected}

    def tokenize(self, text):
        return {}

    def encode_from_tokens(self, tokens, return_pooled):
        return None, self.outputs[return_pooled]


def test_a_clip_that_projects_itself_needs_no_projection(vision):
    memory = build(vision)
    projected = torch.randn(1, D)
    features = phrase_encoder.encode_phrases(Fake(projected, torch.randn(1, TEXT)), ["a"], memory)
    torch.testing.assert_close(features, normalize(projected, dim=-1))
    same_width = phrase_encoder.encode_phrases(Fake(projected, torch.randn(1, D)), ["a"], memory)
    torch.testing.assert_close(same_width, features)


def test_texts_without_a_way_to_the_images_are_reported(vision, clip, tmp_path):
    memory = build(vision)
    bare = core.Memory(memory.banks, memory.encoder)
    with pytest.raises(ValueError, match="Retrieve Appearance: 'clip' has no projection .* Load P"):
        retrieve(bare, clip, "a red top")
    narrow = core.Memory(memory.banks, memory.encoder, torch.randn(D, 77))
    with pytest.raises(
        ValueError, match=f"takes 77 numbers and the CLIP encodes a text as {TEXT}.*ViT-L/14"
    ):
        retrieve(narrow, clip, "a red top")
    with pytest.raises(ValueError, match=f"encodes a text as 30 numbers .* has {D}"):
        phrase_encoder.encode_phrases(Fake(torch.randn(1, 30), torch.randn(1, 30)), ["a"], bare)
    with pytest.raises(ValueError, match="no pooled feature of a text"):
        phrase_encoder.encode_phrases(Fake(None, None), ["a"], memory)
    with pytest.raises(ValueError, match="Retrieve Appearance: the checkpoint holds no text"):
        retrieve(memory, None, "a red top")
    with pytest.raises(ValueError, match=r"'a photo' has no \{phrase\}"):
        retrieve(memory, clip, "a red top", template="a photo")


@pytest.mark.parametrize("family", ["SD1.5", "SD2", "SDXL"])
def test_the_hosts_clips_project_or_the_memory_does(family):
    """The host's own classes, narrow, with random weights."""
    import comfy.sd
    import comfy.sd1_clip
    import comfy.sdxl_clip
    import comfy.supported_models_base
    import comfy.text_encoders.sd2_clip as sd2

    tokenizer, kind, pooling = {
        "SD1.5": (comfy.sd1_clip.SD1Tokenizer, comfy.sd1_clip.SD1ClipModel, None),
        "SD2": (sd2.SD2Tokenizer, sd2.SD2ClipModel, "clip_h"),
        "SDXL": (comfy.sdxl_clip.SDXLTokenizer, comfy.sdxl_clip.SDXLClipModel, "clip_g"),
    }[family]
    small = {
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "intermediate_size": 8,
        "hidden_size": 16,
    }
    options = {f"clip_{name}_model_config": small for name in "lgh"}
    clip = comfy.sd.CLIP(
        comfy.supported_models_base.ClipTarget(tokenizer, kind), model_options=options
    )
    g = torch.Generator().manual_seed(0)
    for p in clip.cond_stage_model.parameters():
        p.data = (torch.randn(p.shape, generator=g) * 0.2).to(p)
    matrix = torch.randn(5, 16, generator=g)
    bare, with_projection = core.Memory({}, "E"), core.Memory({}, "E", matrix)
    if pooling:
        matrix = clip.get_sd()[f"{pooling}.transformer.text_projection.weight"].float()
        assert torch.equal(phrase_encoder.text_projection(clip, bare), matrix)
        features = phrase_encoder.encode_phrases(clip, ["a (red) top"], bare)
        wide = core.Memory({}, "E", torch.randn(16, 99))  # is not asked
        assert torch.equal(phrase_encoder.encode_phrases(clip, ["a (red) top"], wide), features)
    else:
        assert torch.equal(phrase_encoder.text_projection(clip, with_projection), matrix)
        features = phrase_encoder.encode_phrases(clip, ["a (red) top"], with_projection)
        with pytest.raises(ValueError, match="neither has the memory"):
            phrase_encoder.encode_phrases(clip, ["a (red) top"], bare)
    tokens = clip.tokenize(r"a \(red\) top")
    pooled = clip.encode_from_tokens(tokens, return_pooled="unprojected")[1].float()
    torch.testing.assert_close(
        features, normalize(pooled @ matrix.mT, dim=-1), atol=1e-5, rtol=1e-3
    )


# photographs


def test_clothes_are_taken_from_a_photograph(vision):
    images, maps = dressed(5, 1)
    take = VitruvianAppearanceFromImage.execute
    parts, _ = take(images, maps, vision, "Top, hair", 0.7, 4, 0.05, 0.0).result
    assert [part.part for part in parts] == [TOP, HAIR] and parts[0].strength == 0.7
    crop = dict(part_crops.crop_parts(images[0], maps[0], SIZE))[TOP]
    feature = part_encoder.encode_crops(vision, crop[None])[0]
    torch.testing.assert_close(parts[0].feature, feature, atol=1e-5, rtol=1e-4)
    assert len(parts[0].slots) == 0
    memory = build(vision)
    parts, drawn = take(images, maps, vision, "", 1.0, 2, 0.05, 0.0, memory).result
    assert [part.part for part in parts] == [TOP, PANTS, HAIR]
    expected = core.refresh(memory.banks[TOP], feature[None], 2, 0.05)
    torch.testing.assert_close(parts[0].feature, expected.features[0], atol=1e-5, rtol=1e-4)
    assert torch.equal(drawn[0], memory_drawing.draw_parts(parts, memory.banks))
    (inner,), _ = take(images, maps, vision, "top", 0.7, 4, 0.05, 0.0, shrink=2).result
    crop = dict(part_crops.crop_parts(images[0], maps[0], SIZE, shrink=2))[TOP]
    assert not torch.allclose(inner.feature, feature, atol=1e-5)
    feature = part_encoder.encode_crops(vision, crop[None])[0]
    torch.testing.assert_close(inner.feature, feature, atol=1e-5, rtol=1e-4)
    words, _ = take(images, maps, vision, "pants", 1.0, 2, 0.05, 0.0).result
    (merged,) = VitruvianMergeAppearance.execute(parts, words).result
    assert merged == (parts[0], words[0], parts[2])


def test_what_does_not_fit_is_said_of_photographs(vision, tmp_path):
    images, maps = dressed(5, 1)
    take = VitruvianAppearanceFromImage.execute
    retrieval = (1.0, 4, 0.05, 0.0)
    with pytest.raises(ValueError, match="Appearance from Image: .*'trousers'.*footwear"):
        take(images, maps, vision, "trousers", *retrieval)
    with pytest.raises(ValueError, match="shows no footwear .* shows top, pants, hair"):
        take(images, maps, vision, "footwear", *retrieval)
    other = part_encoder.load(vision_file(tmp_path / "other.safetensors", seed=1))
    with pytest.raises(ValueError, match="Appearance from Image: the memory was built with"):
        take(images, maps, other, "", *retrieval, build(vision))
    wide = part_encoder.load(
        vision_file(tmp_path / "wide.safetensors", projection_dim=16, projection=False)
    )
    parts = [take(images, maps, v, "", *retrieval)[0] for v in (vision, wide)]
    with pytest.raises(ValueError, match="Merge Appearance: .* of 16 and of 24 numbers"):
        VitruvianMergeAppearance.execute(*parts)


def test_every_input_and_output_says_what_it_is():
    for node in ours.NODES + lookup.NODES:
        schema = node.define_schema()
        assert schema.description
        for thing in (*schema.inputs, *schema.outputs):
            assert thing.tooltip, (schema.node_id, thing.id)
