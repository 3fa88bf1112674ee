"""Assemble the .task files that MediaPipe's Tasks read from the weights in its package 0.10.21.

Later versions of the package bring no weights. A .task file is a zip archive of TensorFlow Lite
networks. This file needs the standard library alone and imports nothing of the pack, so that an
installer can load it by its path, without torch.
"""

import io
import struct
import zipfile
from collections.abc import Callable
from typing import NamedTuple

SOURCE_VERSION = "0.10.21"  # the last version of the package that brings its weights
POSE_TASK, HAND_TASK = "pose_landmarker_full.task", "hand_landmarker.task"

# name of a .task file -> name of a network in it, which MediaPipe demands -> its path in the folder
# `mediapipe` of the package
TASKS = {
    POSE_TASK: {
        "pose_detector.tflite": "modules/pose_detection/pose_detection.tflite",
        "pose_landmarks_detector.tflite": "modules/pose_landmark/pose_landmark_full.tflite",
    },
    HAND_TASK: {
        "hand_detector.tflite": "modules/palm_detection/palm_detection_full.tflite",
        "hand_landmarks_detector.tflite": "modules/hand_landmark/hand_landmark_full.tflite",
    },
}
# a network of the package whose metadata say that it wants pixels from 0 to 1
PIXELS_TO_ONE = "modules/hand_landmark/hand_landmark_full.tflite"

METADATA = b"TFLITE_METADATA"  # the name under which Tasks look for metadata
SPARE = b"min_runtime_version"  # metadata for people, which no program reads


def assemble(name: str, read: Callable[[str], bytes]) -> bytes:
    """Assemble one of TASKS. The same networks always give the same bytes.

    read: gives the bytes of a file by its path in the folder `mediapipe` of the package 0.10.21,
    for example out of a folder or a wheel. Its errors are passed on.
    """
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as bundle:
        for inside, path in TASKS[name].items():
            model = read(path)
            if METADATA not in _metadata_names(model):
                model = copy_metadata(read(PIXELS_TO_ONE), model)
            bundle.writestr(zipfile.ZipInfo(inside), model)
    return archive.getvalue()


def copy_metadata(source: bytes, target: bytes) -> bytes:
    """Give a network the metadata of another one, which say how an image becomes its input.

    They take the place of the metadata SPARE. Both are TensorFlow Lite networks.
    """
    metadata = _buffer_bytes(source, _metadata_entries(source)[METADATA].buffer)
    name_at, buffer = _metadata_entries(target)[SPARE]
    model = bytearray(target)
    # a name is its length, its characters and a zero; METADATA is the shorter one
    struct.pack_into(f"<I{len(METADATA) + 1}s", model, name_at, len(METADATA), METADATA)
    # a FlatBuffer's tables point forward only, so that the content of a buffer may come last;
    # after its length, it begins at a multiple of 16 bytes
    model += bytes(-(len(model) + 4) % 16)
    data_field = _fields(target, _buffers(target)[buffer])[0]
    struct.pack_into("<I", model, data_field, len(model) - data_field)
    model += struct.pack("<I", len(metadata)) + metadata
    return bytes(model)


# FlatBuffers (https://flatbuffers.dev/internals): a table is a list of fields, found by their
# number; a field holds a number, or the distance to what it refers to
BUFFERS, MODEL_METADATA = 4, 6  # fields of a network's root table (TensorFlow Lite's schema.fbs)


class _Entry(NamedTuple):
    """An entry of a network's metadata."""

    name_at: int  # where its name lies in the file
    buffer: int  # the number of the buffer with its content


def _metadata_entries(model: bytes) -> dict[bytes, _Entry]:
    entries = {}
    for table in _vector(model, _fields(model, _target(model, 0))[MODEL_METADATA]):
        fields = _fields(model, table)
        name_at = _target(model, fields[0])
        name = model[name_at + 4 : name_at + 4 + _number(model, name_at)]
        entries[name] = _Entry(name_at, _number(model, fields[1]))
    return entries


def _metadata_names(model: bytes) -> list[bytes]:
    return list(_metadata_entries(model))


def _buffers(model: bytes) -> list[int]:
    return _vector(model, _fields(model, _target(model, 0))[BUFFERS])


def _buffer_bytes(model: bytes, number: int) -> bytes:
    start = _target(model, _fields(model, _buffers(model)[number])[0])
    return model[start + 4 : start + 4 + _number(model, start)]


def _fields(model: bytes, table: int) -> dict[int, int]:
    """Where the fields of a table lie, by their number."""
    layout = table - struct.unpack_from("<i", model, table)[0]
    count = struct.unpack_from("<H", model, layout)[0] // 2 - 2
    starts = struct.unpack_from(f"<{count}H", model, layout + 4)
    return {number: table + start for number, start in enumerate(starts) if start}


def _vector(model: bytes, field: int) -> list[int]:
    """Where the tables lie of a field that is a list of tables."""
    start = _target(model, field)
    return [_target(model, start + 4 * k) for k in range(1, _number(model, start) + 1)]


def _target(model: bytes, field: int) -> int:
    return field + _number(model, field)


def _number(model: bytes, at: int) -> int:
    return int(struct.unpack_from("<I", model, at)[0])
