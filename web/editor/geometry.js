// What can be done to a person, as pure functions: a person is { prompt, points }, points are
// [x px, y px, confidence] in the order of skeleton.js; turning.js adds a turn in depth. Nothing is
// changed in place.

import {
    L_ANKLE, L_ELBOW, L_EYE, L_HIP, L_KNEE, L_SHOULDER, L_WRIST, NECK, NOSE, PARENTS, PARTS, POINTS,
    R_ANKLE, R_ELBOW, R_EYE, R_HIP, R_KNEE, R_SHOULDER, R_WRIST, TWINS, indices,
} from "./skeleton.js"

export const isKnown = (point) => point[2] > 0
export const isPlaced = (point) => point[0] !== 0 || point[1] !== 0 || isKnown(point)
const distance = (a, b) => Math.hypot(a[0] - b[0], a[1] - b[1])
const everything = Array.from({ length: POINTS }, (_, i) => i)

/** The person with f applied to these points; points that were never placed stay so. */
export function mapPoints(person, f, which = everything) {
    const chosen = new Set(which)
    const move = (point, i) => (chosen.has(i) && isPlaced(point) ? [...f(point), point[2]] : point)
    return { ...person, points: person.points.map(move) }
}

const isPart = (which) => which && which.length < POINTS

/** The person with what they were before a turn in depth changed as all of their points are. */
function mapTurn(person, place, size = 1) {
    if (!person.turn) return person
    const { axis, base } = person.turn
    const move = ([x, depth, c]) => [place(x), depth * size, c]
    return { ...person, turn: { ...person.turn, axis: place(axis), base: base.map(move) } }
}

export function shifted(person, dx, dy, which) {
    const moved = mapPoints(person, ([x, y]) => [x + dx, y + dy], which)
    return isPart(which) ? moved : mapTurn(moved, (x) => x + dx)
}

export function scaled(person, [cx, cy], factor, which) {
    const grow = (x, still) => still + factor * (x - still)
    const grown = mapPoints(person, ([x, y]) => [grow(x, cx), grow(y, cy)], which)
    return isPart(which) ? grown : mapTurn(grown, (x) => grow(x, cx), factor)
}

export function rotated(person, [cx, cy], angle, which) {
    const [cos, sin] = [Math.cos(angle), Math.sin(angle)]
    const turn = ([x, y]) => [
        cx + cos * (x - cx) - sin * (y - cy), cy + sin * (x - cx) + cos * (y - cy),
    ]
    return mapPoints(person, turn, which)
}

/** Left and right exchanged about the person's own middle. */
export function mirrored(person) {
    const { left, right } = bounds(person)
    const flip = (x) => left + right - x
    const { turn, ...flipped } = mapTurn(mapPoints(person, ([x, y]) => [flip(x), y]), flip)
    const twins = (points) => TWINS.map((twin) => points[twin])
    const turned = turn && { turn: { ...turn, angle: -turn.angle, base: twins(turn.base) } }
    return { ...flipped, ...turned, points: twins(flipped.points) }
}

/** The box around the known points of these numbers; null without any. */
export function bounds(person, which = everything) {
    const known = which.map((i) => person.points[i]).filter(isKnown)
    if (!known.length) return null
    const [xs, ys] = [known.map((p) => p[0]), known.map((p) => p[1])]
    return {
        left: Math.min(...xs), right: Math.max(...xs),
        top: Math.min(...ys), bottom: Math.max(...ys),
    }
}

/** The middle of the known points, by which people are numbered from left to right. */
export function middle(person) {
    const known = person.points.filter(isKnown)
    return known.reduce((sum, point) => sum + point[0], 0) / Math.max(1, known.length)
}

export function withKnown(person, which, known) {
    const chosen = new Set(which)
    const set = (p, i) => (chosen.has(i) && isPlaced(p) ? [p[0], p[1], known ? 1 : 0] : p)
    return { ...person, points: person.points.map(set) }
}

// standing height from limbs, as models/body_masks.py estimates it (Drillis and Contini 1966)
const SHARES = [
    [R_SHOULDER, L_SHOULDER, 0.22], [NECK, R_HIP, 0.29], [NECK, L_HIP, 0.29],
    [R_SHOULDER, R_ELBOW, 0.186], [L_SHOULDER, L_ELBOW, 0.186], [R_ELBOW, R_WRIST, 0.146],
    [L_ELBOW, L_WRIST, 0.146], [R_HIP, R_KNEE, 0.245], [L_HIP, L_KNEE, 0.245],
    [R_KNEE, R_ANKLE, 0.246], [L_KNEE, L_ANKLE, 0.246], [NECK, NOSE, 0.13], [R_EYE, L_EYE, 0.04],
]
export function standingHeight({ points }) {
    const estimates = SHARES.filter(([a, b]) => isKnown(points[a]) && isKnown(points[b])).map(
        ([a, b, share]) => distance(points[a], points[b]) / share,
    )
    return Math.max(0, ...estimates)
}

/**
 * The person with a place for every point of the body that has none: where it is in the model
 * person, seen from the point it hangs on. They stay missing, but the editor can offer them.
 */
export function completed(person, model) {
    const size = (standingHeight(person) || 1) / standingHeight(model)
    const points = [...person.points]
    for (const i of [NECK, R_SHOULDER, L_SHOULDER, NOSE, ...indices("body")]) {
        if (isPlaced(points[i])) continue
        const near = PARENTS[i] ?? indices("body").find((j) => isPlaced(points[j]))
        if (near === undefined || !isPlaced(points[near])) continue
        const offset = (axis) => size * (model.points[i][axis] - model.points[near][axis])
        points[i] = [points[near][0] + offset(0), points[near][1] + offset(1), 0]
    }
    return { ...person, points }
}

// parts that are added: drawn around the origin, x to the right of the image

const SPREAD = [-0.75, -0.3, 0, 0.25, 0.5] // angle of each finger to the hand's axis
const KNUCKLES = [0.2, 0.5, 0.5, 0.47, 0.44] // from the wrist, in lengths of the hand
const PHALANGES = [
    [0.2, 0.18, 0.15], [0.22, 0.14, 0.1], [0.25, 0.15, 0.1], [0.23, 0.14, 0.1], [0.17, 0.11, 0.09],
]
const HAND_LENGTH = 0.108
const HEAD_WIDTH = 0.09
const FOOT_LENGTH = 0.12

/** An open hand of length 1 along x; thumb: the side of the thumb, 1 or -1 across. */
function handShape(thumb) {
    const points = [[0, 0]]
    SPREAD.forEach((spread, finger) => {
        let along = KNUCKLES[finger]
        const turn = finger === 0 ? spread : spread * 0.55
        const put = () => points.push([Math.cos(turn) * along, -thumb * Math.sin(turn) * along])
        put()
        for (const length of PHALANGES[finger]) {
            along += length
            put()
        }
    })
    return points
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

/** points put at `origin`, their x axis along `angle`, as large as `size`. */
function placed(shape, [ox, oy], angle, size) {
    const [cos, sin] = [Math.cos(angle) * size, Math.sin(angle) * size]
    return shape.map(([x, y]) => [ox + cos * x - sin * y, oy + sin * x + cos * y, 1])
}

const direction = (a, b) => Math.atan2(b[1] - a[1], b[0] - a[0])

const MAKERS = {
    leftHand: (points, tall) =>
        placed(handShape(1), points[L_WRIST], direction(points[L_ELBOW], points[L_WRIST]),
            HAND_LENGTH * tall),
    rightHand: (points, tall) =>
        placed(handShape(-1), points[R_WRIST], direction(points[R_ELBOW], points[R_WRIST]),
            HAND_LENGTH * tall),
    face: (points, tall) => {
        const [right, left, nose] = [points[R_EYE], points[L_EYE], points[NOSE]]
        const eyes = isPlaced(right) && isPlaced(left)
        const center = eyes ? [(right[0] + left[0]) / 2, (right[1] + left[1]) / 2] : nose
        // somebody seen from behind has the left eye on the left: a face would stand on its head
        const tilt = eyes && left[0] > right[0] ? direction(right, left) : 0
        return placed(faceShape(), center, tilt, HEAD_WIDTH * tall)
    },
    feet: (points, tall) => [[L_KNEE, L_ANKLE, 1], [R_KNEE, R_ANKLE, -1]].flatMap(
        ([knee, ankle, out]) => {
            const down = direction(points[knee], points[ankle])
            return placed([[0.35, -out * 0.45], [0.3, -out * 0.6], [0.25, out * 0.1]],
                points[ankle], down, FOOT_LENGTH * tall)
        }),
}
// what must be there for a part to hang on
const NEEDS = { leftHand: [L_WRIST], rightHand: [R_WRIST], face: [NOSE], feet: [L_ANKLE, R_ANKLE] }

/** Whether a point of the part is shown; hidden: or has a place and is hidden. */
export const hasPart = (person, part, hidden = false) =>
    indices(part).some((i) => (hidden ? isPlaced : isKnown)(person.points[i]))

/** The person with this part shown: where it was, else a new one where it belongs. */
export function withPart(person, part) {
    const own = indices(part)
    if (own.some((i) => isPlaced(person.points[i]))) return withKnown(person, own, true)
    if (!NEEDS[part].every((i) => isPlaced(person.points[i]))) return person
    const made = MAKERS[part](person.points, standingHeight(person) || 100)
    const points = [...person.points]
    points.splice(PARTS[part].start, PARTS[part].count, ...made)
    return { ...person, points }
}

export const withoutPart = (person, part) => withKnown(person, indices(part), false)

/** How far [x, y] is from the segment between two points. */
export function segmentDistance([x, y], a, b) {
    const [ux, uy] = [b[0] - a[0], b[1] - a[1]]
    const along = ((x - a[0]) * ux + (y - a[1]) * uy) / (ux * ux + uy * uy || 1)
    const t = Math.min(1, Math.max(0, along))
    return Math.hypot(x - a[0] - t * ux, y - a[1] - t * uy)
}
