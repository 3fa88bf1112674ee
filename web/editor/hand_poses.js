// Hands and feet in poses to choose from: put on their wrists and ankles, turned and mirrored. Pure
// functions; a person is as in geometry.js.

import { isKnown, isPlaced, mapPoints, rotated, standingHeight } from "./geometry.js"
import {
    L_ANKLE, L_ELBOW, L_HIP, L_KNEE, L_SHOULDER, L_WRIST, R_ANKLE, R_ELBOW, R_HIP, R_KNEE,
    R_SHOULDER, R_WRIST, indices,
} from "./skeleton.js"

const end = (name, holder, joint, points) => ({ name, holder, joint, points })
/** The limbs' ends: the bone that holds them, the joint that they hang on, their points. */
export const LIMB_ENDS = {
    leftHand: end("left hand", L_ELBOW, L_WRIST, indices("leftHand")),
    rightHand: end("right hand", R_ELBOW, R_WRIST, indices("rightHand")),
    leftFoot: end("left foot", L_KNEE, L_ANKLE, indices("feet").slice(0, 3)),
    rightFoot: end("right foot", R_KNEE, R_ANKLE, indices("feet").slice(3)),
}
export const isHand = (limb) => limb.endsWith("Hand")
export const isLeft = (limb) => limb.startsWith("left")
/** The color in which left or right is told. */
export const colorOf = (limb) => (isLeft(limb) ? "#4fc3f7" : "#ffb74d")

// a hand of length 1 along x, its thumb toward +y
const KNUCKLES = [[0.146, 0.136], [0.493, 0.082], [0.5, 0], [0.466, -0.064], [0.423, -0.12]]
const PHALANGES = [
    [0.2, 0.18, 0.15], [0.22, 0.14, 0.1], [0.25, 0.15, 0.1], [0.23, 0.14, 0.1], [0.17, 0.11, 0.09],
]
const HAND_LENGTH = 0.108 // standing heights, as a forearm is 0.146
const FOOT_LENGTH = 0.12

// how far a finger bends at each joint, in radians, away from the plane of the palm
const STRAIGHT = [0, 0, 0]
const SOFT = [0.3, 0.4, 0.3]
const HALF = [0.9, 1, 0.6]
const CLOSED = [1.3, 1.75, 1]
const four = (bend) => [bend, bend, bend, bend]
/**
 * thumb: the angles of its bones to the hand's axis, in the plane of the palm; bends: of the four
 * fingers; spread: how much they point apart, 1 being as their knuckles do from the wrist.
 */
const HAND_POSES = {
    relaxed: { thumb: [0.75, 0.55, 0.45], bends: four(SOFT), spread: 0.9 },
    open: { thumb: [0.95, 0.9, 0.85], bends: four(STRAIGHT), spread: 1.9 },
    flat: { thumb: [0.55, 0.3, 0.15], bends: four(STRAIGHT), spread: 0.3 },
    fist: { thumb: [0.5, -0.3, -0.9], bends: four(CLOSED), spread: 0.5 },
    point: { thumb: [0.45, -0.4, -1], bends: [STRAIGHT, CLOSED, CLOSED, CLOSED], spread: 0.5 },
    peace: { thumb: [0.4, -0.5, -1.1], bends: [STRAIGHT, STRAIGHT, CLOSED, CLOSED], spread: 2 },
    three: {
        thumb: [0.35, -0.6, -1.2], bends: [STRAIGHT, STRAIGHT, STRAIGHT, CLOSED], spread: 1.5,
    },
    "thumb up": { thumb: [1.25, 1.5, 1.6], bends: four(CLOSED), spread: 0.5 },
    ok: {
        thumb: [0.45, -0.05, -0.55], bends: [[0.8, 0.8, 0.4], STRAIGHT, STRAIGHT, STRAIGHT],
        spread: 1.7,
    },
    pinch: { thumb: [0.35, -0.15, -0.55], bends: [[0.8, 0.8, 0.4], HALF, HALF, HALF], spread: 0.7 },
    hold: { thumb: [0.8, 0.25, -0.25], bends: four(HALF), spread: 0.6 },
    grab: { thumb: [1, 0.6, 0.2], bends: four([0.3, 0.9, 0.6]), spread: 1.8 },
}
// big toe, small toe and heel: along the shin, and outward across it
const FOOT_POSES = {
    "turned out": [[0.35, 0.45], [0.3, 0.6], [0.25, -0.1]],
    "to the front": [[0.55, 0.1], [0.5, 0.3], [0.15, 0]],
    "to the side": [[0.35, 0.95], [0.37, 0.82], [0.32, -0.28]],
    "on tiptoe": [[0.85, 0.2], [0.8, 0.38], [0.42, -0.12]],
}

/** The names of the poses that a limb's end can take. */
export const posesOf = (limb) => Object.keys(isHand(limb) ? HAND_POSES : FOOT_POSES)

/** A pose around the origin: the hand along x, its thumb toward +y; the foot's toes toward +y. */
export function shapeOf(limb, name) {
    if (!isHand(limb)) return FOOT_POSES[name]
    const { thumb, bends, spread } = HAND_POSES[name]
    const chain = (finger, directions, shares) => {
        let [x, y] = KNUCKLES[finger]
        const put = (far, angle) => [(x += far * Math.cos(angle)), (y += far * Math.sin(angle))]
        const bone = (far, i) => put(far * shares[i], directions[i])
        return [KNUCKLES[finger], ...PHALANGES[finger].map(bone)]
    }
    const fingers = bends.map((bend, i) => {
        const angle = Math.atan2(KNUCKLES[i + 1][1], KNUCKLES[i + 1][0]) * spread
        const turned = [bend[0], bend[0] + bend[1], bend[0] + bend[1] + bend[2]]
        return chain(i + 1, [angle, angle, angle], turned.map(Math.cos))
    })
    return [[0, 0], ...chain(0, thumb, [1, 1, 1]), ...fingers.flat()]
}

/** The limb's end to which a joint belongs; undefined if to none. */
export const limbOf = (joint) =>
    Object.keys(LIMB_ENDS).find((limb) => {
        const { holder, joint: end, points } = LIMB_ENDS[limb]
        return [holder, end, ...points].includes(joint)
    })

export const hasLimb = (person, limb) =>
    LIMB_ENDS[limb].points.some((i) => isKnown(person.points[i]))

const direction = (a, b) => Math.atan2(b[1] - a[1], b[0] - a[0])

/** Where the axis of a limb's end points: a hand its own way, without one as the forearm. */
function axisOf({ points }, limb) {
    const { holder, joint, points: [start] } = LIMB_ENDS[limb]
    const middle = points[start + 9]
    if (isHand(limb) && isKnown(middle)) return direction(points[joint], middle)
    return direction(points[holder], points[joint])
}

/** Whether thumb or toes are toward +y of the axis (1) or not (-1); as one stands without them. */
function sideOf(person, limb) {
    const { points } = person
    const { joint, points: [start] } = LIMB_ENDS[limb]
    const axis = axisOf(person, limb)
    const across = (i) =>
        Math.cos(axis) * (points[i][1] - points[joint][1]) -
        Math.sin(axis) * (points[i][0] - points[joint][0])
    const [thumb, little] = isHand(limb) ? [start + 5, start + 17] : [start, start + 2]
    if (isKnown(points[thumb]) && isKnown(points[little]))
        return Math.sign(across(thumb) - across(little)) || 1
    const [right, left] = [[R_SHOULDER, L_SHOULDER], [R_HIP, L_HIP]]
        .map((pair) => pair.map((i) => points[i]))
        .find((pair) => pair.every(isPlaced)) ?? [[0], [1]]
    const facing = left[0] < right[0] ? -1 : 1
    return (isLeft(limb) ? 1 : -1) * (isHand(limb) ? 1 : -1) * facing
}

/** The person with this limb's end in a pose, as large as belongs to the person. */
export function withPose(person, limb, name) {
    const { joint, points: own } = LIMB_ENDS[limb]
    if (!isPlaced(person.points[joint])) return person
    const side = sideOf(person, limb)
    const shape = shapeOf(limb, name).map(([x, y]) => [x, side * y])
    const size = (standingHeight(person) || 100) * (isHand(limb) ? HAND_LENGTH : FOOT_LENGTH)
    const put = placed(shape, person.points[joint], axisOf(person, limb), size)
    const points = [...person.points]
    own.forEach((i, n) => (points[i] = put[n]))
    return { ...person, points }
}

/** points put at `origin`, their x axis along `angle`, as large as `size`. */
export function placed(shape, [ox, oy], angle, size) {
    const [cos, sin] = [Math.cos(angle) * size, Math.sin(angle) * size]
    return shape.map(([x, y]) => [ox + cos * x - sin * y, oy + sin * x + cos * y, 1])
}

export const turned = (person, limb, angle) =>
    rotated(person, person.points[LIMB_ENDS[limb].joint], angle, LIMB_ENDS[limb].points)

/** The limb's end mirrored about its axis: the palm shows instead of the back of the hand. */
export function flipped(person, limb) {
    const { joint, points } = LIMB_ENDS[limb]
    const [ox, oy] = person.points[joint]
    const angle = 2 * axisOf(person, limb)
    const [cos, sin] = [Math.cos(angle), Math.sin(angle)]
    const flip = ([x, y]) => [
        ox + cos * (x - ox) + sin * (y - oy), oy + sin * (x - ox) - cos * (y - oy),
    ]
    return mapPoints(person, flip, points)
}
