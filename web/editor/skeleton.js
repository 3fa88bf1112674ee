// OpenPose's skeleton as one list of 136 points: body, hands, face, feet. Nothing runs on import:
// ComfyUI imports every .js below web/, and does not let browsers keep old ones.

import { say } from "./words.js"

export const PARTS = {
    body: { key: "pose_keypoints_2d", start: 0, count: 18 },
    leftHand: { key: "hand_left_keypoints_2d", start: 18, count: 21 },
    rightHand: { key: "hand_right_keypoints_2d", start: 39, count: 21 },
    face: { key: "face_keypoints_2d", start: 60, count: 70 },
    feet: { key: "foot_keypoints_2d", start: 130, count: 6 },
}
export const POINTS = 136

export const [NOSE, NECK, R_SHOULDER, R_ELBOW, R_WRIST, L_SHOULDER, L_ELBOW, L_WRIST,
    R_HIP, R_KNEE, R_ANKLE, L_HIP, L_KNEE, L_ANKLE, R_EYE, L_EYE, R_EAR, L_EAR] = Array(18).keys()

const BODY_NAMES = [
    "nose", "neck", "right shoulder", "right elbow", "right wrist", "left shoulder", "left elbow",
    "left wrist", "right hip", "right knee", "right ankle", "left hip", "left knee", "left ankle",
    "right eye", "left eye", "right ear", "left ear",
]
const FOOT_NAMES = ["big toe", "small toe", "heel"]
const FINGERS = ["thumb", "index finger", "middle finger", "ring finger", "little finger"]

export const indices = (part) =>
    Array.from({ length: PARTS[part].count }, (_, i) => PARTS[part].start + i)

export const partOf = (index) =>
    Object.keys(PARTS).find((part) => index < PARTS[part].start + PARTS[part].count)

/** What a point is called, as a person says it: "left elbow", "tip of the right thumb". */
export function nameOf(index) {
    const part = partOf(index)
    const i = index - PARTS[part].start
    if (part === "body") return say(BODY_NAMES[i])
    if (part === "face") return say("face")
    const isLeft = part === "leftHand" || (part === "feet" && i < 3)
    const named = (name) =>
        say("<side> <part>", { side: say(isLeft ? "left" : "right"), part: say(name) })
    if (part === "feet") return named(FOOT_NAMES[i % 3])
    if (i === 0) return say(isLeft ? "left hand" : "right hand")
    const finger = named(FINGERS[Math.floor((i - 1) / 4)])
    return i % 4 === 0 ? say("tip of the <finger>", { finger })
        : say("<finger>, joint <n>", { finger, n: i % 4 })
}

// what hangs on what: moving a point carries all that hangs on it
const BODY_PARENTS = [
    NECK, null, NECK, R_SHOULDER, R_ELBOW, NECK, L_SHOULDER, L_ELBOW, NECK, R_HIP, R_KNEE,
    NECK, L_HIP, L_KNEE, NOSE, NOSE, R_EYE, L_EYE,
]
const handParents = (start, wrist) =>
    Array.from({ length: 21 }, (_, i) => (i === 0 ? wrist : start + (i % 4 === 1 ? 0 : i - 1)))

export const PARENTS = [
    ...BODY_PARENTS,
    ...handParents(PARTS.leftHand.start, L_WRIST),
    ...handParents(PARTS.rightHand.start, R_WRIST),
    ...Array(70).fill(NOSE),
    ...[L_ANKLE, L_ANKLE, L_ANKLE, R_ANKLE, R_ANKLE, R_ANKLE],
]

/** This point and all that hangs on it. */
export const branch = (index) =>
    [...Array(POINTS).keys()].filter((i) => {
        for (let at = i; at !== null; at = PARENTS[at]) if (at === index) return true
        return false
    })

// the same point of the other side, for mirroring
const BODY_TWINS = [0, 1, 5, 6, 7, 2, 3, 4, 11, 12, 13, 8, 9, 10, 15, 14, 17, 16]
const run = (from, to) => {
    const step = from < to ? 1 : -1
    return Array.from({ length: Math.abs(to - from) + 1 }, (_, i) => from + step * i)
}
const FACE_TWINS = [
    ...run(16, 0), ...run(26, 17), ...run(27, 30), ...run(35, 31), 45, 44, 43, 42, 47, 46,
    39, 38, 37, 36, 41, 40, ...run(54, 48), ...run(59, 55), ...run(64, 60), ...run(67, 65), 69, 68,
]
export const TWINS = [
    ...BODY_TWINS,
    ...run(39, 59), ...run(18, 38),
    ...FACE_TWINS.map((i) => PARTS.face.start + i),
    133, 134, 135, 130, 131, 132,
]

// how it is drawn, as models/pose_drawing.py draws it
export const LIMBS = [
    [NECK, R_SHOULDER], [NECK, L_SHOULDER], [R_SHOULDER, R_ELBOW], [R_ELBOW, R_WRIST],
    [L_SHOULDER, L_ELBOW], [L_ELBOW, L_WRIST], [NECK, R_HIP], [R_HIP, R_KNEE], [R_KNEE, R_ANKLE],
    [NECK, L_HIP], [L_HIP, L_KNEE], [L_KNEE, L_ANKLE], [NECK, NOSE], [NOSE, R_EYE], [R_EYE, R_EAR],
    [NOSE, L_EYE], [L_EYE, L_EAR],
]
const fingerBones = (start) => run(1, 20).map((i) => [start + (i % 4 === 1 ? 0 : i - 1), start + i])
export const BONES = [...fingerBones(PARTS.leftHand.start), ...fingerBones(PARTS.rightHand.start)]
export const FOOT_BONES = [
    [L_ANKLE, 130], [L_ANKLE, 131], [L_ANKLE, 132], [R_ANKLE, 133], [R_ANKLE, 134], [R_ANKLE, 135],
]
/** The color number k of n around the circle. */
export const hue = (k, n) => `hsl(${(360 * k) / n} 100% 50%)`
