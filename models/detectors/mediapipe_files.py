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
FACE_TASK = "face_landmarker.task"
FACE_DETECTOR = "face_detector.tflite"  # in it

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
    FACE_TASK: {
        FACE_DETECTOR: "modules/face_detection/face_detection_short_range.tflite",
        "face_landmarks_detector.tflite": "modules/face_landmark/face_landmark.tflite",
    },
}
# a network of the package whose metadata say that it wants pixels from 0 to 1
PIXELS_TO_ONE = "modules/hand_landmark/hand_landmark_full.tflite"

METADATA = b"TFLITE_METADATA"  # the name under which Tasks look for metadata
SPARE = b"min_runtime_version"  # metadata for people, which no program reads
ALIGNMENT_FIELD = 0xD935  # the extra field of a zip archive that fills up to a multiple
# the network gives x, y, z of 468 points; Tasks expect 10 more, those of the irises
FACE_NUMBERS, TASK_FACE_NUMBERS = 3 * 468, 3 * 478


def assemble(name: str, read: Callable[[str], bytes]) -> bytes:
    """Assemble one of TASKS. The same networks always give the same bytes.

    read: gives the bytes of a file by its path in the folder `mediapipe` of the package 0.10.21,
    for example out of a folder or a wheel. Its errors are passed on.
    """
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as bundle:
        for inside, path in TASKS[name].items():
            model = read(path)
            if METADATA not in _metadata_entries(model):
                model = copy_metadata(read(PIXELS_TO_ONE), model)
            if inside == "face_landmarks_detector.tflite":
                model = widen(model, FACE_NUMBERS, TASK_FACE_NUMBERS)
            entry = zipfile.ZipInfo(inside)
            # a network begins at a multiple of 16 bytes, else MediaPipe copies it and warns
            padding = -(archive.tell() + 30 + len(inside) + 4) % 16
            entry.extra = struct.pack("<HH", ALIGNMENT_FIELD, padding) + bytes(padding)
            bundle.writestr(entry, model)
    return archive.getvalue()


def network_in(task: bytes, name: str) -> bytes:
    """Take a network out of a .task file. Raises KeyError without it, and zipfile.BadZipFile."""
    with zipfile.ZipFile(io.BytesIO(task)) as bundle:
        return bundle.read(name)


def copy_metadata(source: bytes, target: bytes) -> bytes:
    """Give a network the metadata of another one, which say how an image becomes its input.

    They take the place of the metadata SPARE. Both are TensorFlow Lite networks.
    """
    metadata = _buffer_bytes(source, _metadata_entries(source)[METADATA].buffer)
    name_at, buffer = _metadata_entries(target)[SPARE]
    model = bytearray(target)
    # a name is its length, its characters and a zero; METADATA is the shorter one
    struct.pack_into(f"<I{len(METADATA) + 1}s", model, name_at, len(METADATA), METADATA)
    _replace_buffer(model, target, buffer, metadata)
    return bytes(model)


def widen(model: bytes, count: int, wider_count: int) -> bytes:
    """Make the last layer of a network give `wider_count` numbers instead of `count`.

    The additional numbers are 0. Only filters and outputs may have `count` as their first or last
    dimension: then the additional filters, all 0, come last.
    """
    wider = bytearray(model)
    (network,) = _vector(model, _fields(model, _target(model, 0))[NETWORKS])
    for tensor in _vector(model, _fields(model, network)[TENSORS]):
        fields = _fields(model, tensor)
        if SHAPE not in fields:
            continue
        shape = _numbers(model, shape_at := _target(model, fields[SHAPE]))
        if count not in shape:
            continue
        struct.pack_into("<I", wider, shape_at + 4 + 4 * shape.index(count), wider_count)
        buffer = _number(model, fields[TENSOR_BUFFER]) if TENSOR_BUFFER in fields else 0
        if buffer and (filters := _buffer_bytes(model, buffer)):
            more = bytes(len(filters) // count * (wider_count - count))
            _replace_buffer(wider, model, buffer, filters + more)
    return bytes(wider)


def _replace_buffer(changed: bytearray, model: bytes, buffer: int, content: bytes) -> None:
    """Give a buffer of a network another content, at the end of the file `changed`.

    A FlatBuffer's tables point forward only, so that the content of a buffer may come last; after
    its length it begins at a multiple of 16 bytes.
    """
    changed += bytes(-(len(changed) + 4) % 16)
    field = _fields(model, _buffers(model)[buffer])[0]
    struct.pack_into("<I", changed, field, len(changed) - field)
    changed += struct.pack("<I", len(content)) + content


# FlatBuffers (https://flatbuffers.dev/internals): a table is a list of fields, found by their
# number; a field holds a number, or the distance to what it refers to
# fields in TensorFlow Lite's schema.fbs: of a file, of a network, of a tensor
NETWORKS, BUFFERS, MODEL_METADATA = 2, 4, 6
TENSORS = 0
SHAPE, TENSOR_BUFFER = 0, 2


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


def _buffers(model: bytes) -> list[int]:
    return _vector(model, _fields(model, _target(model, 0))[BUFFERS])


def _buffer_bytes(model: bytes, number: int) -> bytes:
    fields = _fields(model, _buffers(model)[number])
    start = _target(model, fields[0])
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


def _numbers(model: bytes, start: int) -> list[int]:
    return [_number(model, start + 4 * k) for k in range(1, _number(model, start) + 1)]


def _target(model: bytes, field: int) -> int:
    return field + _number(model, field)


def _number(model: bytes, at: int) -> int:
    return int(struct.unpack_from("<I", model, at)[0])
