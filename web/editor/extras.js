// The parts of a person that can be shown or left out: hands, feet, face. Pure functions; a person
// is as in geometry.js.

import { hasPart, isPlaced, standingHeight, withKnown } from "./geometry.js"
import { LIMB_ENDS, placed, posesOf, withPose } from "./hand_poses.js"
import { L_EYE, NOSE, PARTS, R_EYE, indices } from "./skeleton.js"

const HEAD_WIDTH = 0.09 // standing heights
const LIMBS_OF = {
    leftHand: ["leftHand"], rightHand: ["rightHand"], feet: ["leftFoot", "rightFoot"],
}

const ellipse = (n, cx, cy, rx, ry, from = 0, to = 2 * Math.PI, closed = false) =>
    Array.from({ length: n }, (_, i) => {
        const angle = from + ((to - from) * i) / (closed ? n - 1 : n)
        return [cx + rx * Math.cos(angle), cy + ry * Math.sin(angle)]
    })

/** The 70 points of a face 1 wide, seen from the front, around the middle between the eyes. */
function faceShape() {
    const brow = (cx) => ellipse(5, cx, -0.12, 0.13, 0.06, Math.PI, 2 * Math.PI, true)
    const bridge = [0, 0.1, 0.2, 0.3].map((y) => [0, y])
    const nostrils = [-0.1, -0.05, 0, 0.05, 0.1].map((x) => [x, 0.37 - Math.abs(x) * 0.3])
    const eye = (cx) => ellipse(6, cx, 0, 0.09, 0.045, Math.PI, 3 * Math.PI)
    return [
        ...ellipse(17, 0, 0.05, 0.5, 0.85, Math.PI, 0, true), // the jaw, from right to left
        ...brow(-0.23), ...brow(0.23), ...bridge, ...nostrils, ...eye(-0.22), ...eye(0.22),
        ...ellipse(12, 0, 0.58, 0.19, 0.08, Math.PI, 3 * Math.PI),
        ...ellipse(8, 0, 0.58, 0.14, 0.03, Math.PI, 3 * Math.PI),
        [-0.22, 0], [0.22, 0],
    ]
}

/** The person with a face where their eyes are, or around their nose. */
function withFace(person) {
    const { points } = person
    const [right, left, nose] = [points[R_EYE], points[L_EYE], points[NOSE]]
    if (!isPlaced(nose)) return person
    const eyes = isPlaced(right) && isPlaced(left)
    const center = eyes ? [(right[0] + left[0]) / 2, (right[1] + left[1]) / 2] : nose
    // somebody seen from behind has the left eye on the left: a face would stand on its head
    const isFront = eyes && left[0] > right[0]
    const tilt = isFront ? Math.atan2(left[1] - right[1], left[0] - right[0]) : 0
    const face = placed(faceShape(), center, tilt, HEAD_WIDTH * (standingHeight(person) || 100))
    return { ...person, points: points.map((point, i) => face[i - PARTS.face.start] ?? point) }
}

/** The person with this part shown: where it was, else a new one where it belongs. */
export function withPart(person, part) {
    if (hasPart(person, part, true)) return withKnown(person, indices(part), true)
    if (part === "face") return withFace(person)
    const limbs = LIMBS_OF[part]
    if (!limbs.every((limb) => isPlaced(person.points[LIMB_ENDS[limb].joint]))) return person
    return limbs.reduce((one, limb) => withPose(one, limb, posesOf(limb)[0]), person)
}

export const withoutPart = (person, part) => withKnown(person, indices(part), false)
