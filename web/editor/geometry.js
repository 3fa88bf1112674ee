// What can be done to a person, as pure functions: a person is { prompt, points }, points are
// [x px, y px, confidence] in the order of skeleton.js; turning.js adds a turn in depth. Nothing is
// changed in place.

import {
    L_ANKLE, L_ELBOW, L_EYE, L_HIP, L_KNEE, L_SHOULDER, L_WRIST, NECK, NOSE, PARENTS, POINTS,
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

/** Whether a point of the part is shown; hidden: or has a place and is hidden. */
export const hasPart = (person, part, hidden = false) =>
    indices(part).some((i) => (hidden ? isPlaced : isKnown)(person.points[i]))

/** How far [x, y] is from the segment between two points. */
export function segmentDistance([x, y], a, b) {
    const [ux, uy] = [b[0] - a[0], b[1] - a[1]]
    const along = ((x - a[0]) * ux + (y - a[1]) * uy) / (ux * ux + uy * uy || 1)
    const t = Math.min(1, Math.max(0, along))
    return Math.hypot(x - a[0] - t * ux, y - a[1] - t * uy)
}
