// What a dragged point does to its person: limbs bend within their lengths, as bones do. Pure
// functions; a person is as in geometry.js.

import { isKnown, rotated, shifted } from "./geometry.js"
import {
    L_ANKLE, L_ELBOW, L_HIP, L_KNEE, L_SHOULDER, L_WRIST, NECK, NOSE, PARENTS, PARTS, POINTS,
    R_ANKLE, R_ELBOW, R_HIP, R_KNEE, R_SHOULDER, R_WRIST, branch, partOf,
} from "./skeleton.js"

/** Limbs of two bones, by the joint at their end: [root, bend]. */
const TWO_BONES = {
    [R_WRIST]: [R_SHOULDER, R_ELBOW], [L_WRIST]: [L_SHOULDER, L_ELBOW],
    [R_ANKLE]: [R_HIP, R_KNEE], [L_ANKLE]: [L_HIP, L_KNEE],
}
const HEAD = branch(NOSE)
const STRAIGHT = Math.PI / 30 // a limb bent less than this has no side yet
const ROUNDS = 24 // of a finger's search

const everything = Array.from({ length: POINTS }, (_, i) => i)
const minus = (a, b) => [a[0] - b[0], a[1] - b[1]]
const length = ([x, y]) => Math.hypot(x, y)
const angleOf = ([x, y]) => Math.atan2(y, x)
const cross = (a, b) => a[0] * b[1] - a[1] * b[0]
const ray = (angle, far) => [Math.cos(angle) * far, Math.sin(angle) * far]
const wrapped = (angle) => Math.atan2(Math.sin(angle), Math.cos(angle))

/** The point of the body on which this one hangs; a point of the body itself. */
const carrier = (index) => (partOf(index) === "body" ? index : carrier(PARENTS[index]))

/** What moves when a point goes somewhere alone: it, and the hand, face or foot hanging on it. */
const alone = (index) =>
    partOf(index) === "body" ? everything.filter((i) => carrier(i) === index) : [index]

/**
 * The person with this point dragged to [x, y].
 *
 * keep: all lengths stay. A wrist or an ankle bends its limb, the tip of a finger its finger; an
 * elbow or a knee turns what hangs on it; knuckles turn the hand, toes the foot; a shoulder leans
 * the trunk while the feet stay; hips take the person along, or, with `planted`, leave the feet
 * where they are; neck and face turn the head. Without keep, and where a joint that is needed is
 * missing, the point goes there alone, with the hand, the face or the foot that hangs on it.
 * before: the person a moment ago in the same drag: a limb keeps the side to which it bends.
 */
export function dragged(person, index, to, { keep = true, before = person, planted = false } = {}) {
    const freely = () => shifted(person, ...minus(to, person.points[index]), alone(index))
    return (keep && bodily(person, index, to, before, planted)) || freely()
}

/** What `dragged` does where lengths are kept; null where joints for it are missing. */
function bodily(person, index, to, before, planted) {
    const { points } = person
    const part = partOf(index)
    if (index in TWO_BONES) return reached(person, index, to, bendSide(person, index, to, before))
    if (part === "face" || HEAD.includes(index)) return turned(person, NECK, index, to, HEAD)
    if (part === "feet") {
        const ankle = PARENTS[index]
        return turned(person, ankle, index, to, branch(ankle).filter((i) => i !== ankle))
    }
    if (part !== "body") return fingerDragged(person, index, to)
    if (index === NECK) return nodded(person, to)
    if ([R_HIP, L_HIP].includes(index)) {
        const [dx, dy] = minus(to, points[index])
        return planted ? standing(person, (p) => shifted(p, dx, dy)) : shifted(person, dx, dy)
    }
    if ([R_SHOULDER, L_SHOULDER].includes(index)) return leaned(person, index, to)
    return turned(person, PARENTS[index], index, to, branch(index))
}

/** The points of `which` turned about a joint, so that `index` looks toward `to`. */
function turned(person, pivot, index, to, which) {
    const { points } = person
    if (!isKnown(points[pivot])) return null
    const [from, toward] = [points[index], to].map((point) => minus(point, points[pivot]))
    if (length(from) < 1e-6 || length(toward) < 1e-6) return person
    return rotated(person, points[pivot], angleOf(toward) - angleOf(from), which)
}

/** The head turned about the neck, by a head's height to the side as far as a radian. */
function nodded(person, to) {
    const { points } = person
    if (!isKnown(points[NECK]) || !isKnown(points[NOSE])) return null
    const up = minus(points[NOSE], points[NECK])
    const aside = cross(up, minus(to, points[NECK])) / (length(up) ** 2 || 1)
    return rotated(person, points[NECK], Math.max(-1, Math.min(1, aside)), HEAD)
}

/** The trunk turned about the middle of the hips by a shoulder; the feet stay where they can. */
function leaned(person, index, to) {
    const hips = [R_HIP, L_HIP].map((i) => person.points[i]).filter(isKnown)
    if (!hips.length) return null
    const middle = [0, 1].map((axis) => hips.reduce((sum, hip) => sum + hip[axis], 0) / hips.length)
    const [from, toward] = [person.points[index], to].map((point) => minus(point, middle))
    if (length(from) < 1e-6 || length(toward) < 1e-6) return person
    const angle = angleOf(toward) - angleOf(from)
    return standing(person, (p) => rotated(p, middle, angle))
}

/** `change` of the person, whose legs then reach back to where the feet stood, which stay flat. */
function standing(person, change) {
    const { points } = person
    return [[R_HIP, R_ANKLE], [L_HIP, L_ANKLE]].reduce((leaning, [hip, ankle]) => {
        const [dx, dy] = minus(leaning.points[hip], points[hip])
        const hung = withPoints(leaning, shifted(person, dx, dy), branch(hip))
        if (!isKnown(points[hip]) || !isKnown(points[ankle])) return hung
        const side = bendSide(hung, ankle, points[ankle], hung)
        const stood = reached(hung, ankle, points[ankle], side)
        if (!stood) return hung
        const [footX, footY] = minus(stood.points[ankle], points[ankle])
        return withPoints(stood, shifted(person, footX, footY), branch(ankle))
    }, change(person))
}

/** The person with the points of these numbers from another. */
function withPoints(person, other, which) {
    const points = [...person.points]
    for (const i of which) points[i] = other.points[i]
    return { ...person, points }
}

/**
 * A limb of two bones bent so that its end comes as near to `to` as the lengths allow; what hangs
 * on its joints turns with the bones. side: where its bend goes. Null if a joint is missing.
 */
function reached(person, end, to, side) {
    const [root, bend] = TWO_BONES[end]
    const [a, b, c] = [root, bend, end].map((i) => person.points[i])
    if (![a, b, c].every(isKnown)) return null
    const [upper, lower] = [length(minus(b, a)), length(minus(c, b))]
    const aim = minus(to, a)
    const far = Math.max(1e-6, length(aim))
    if (upper < 1e-6 || lower < 1e-6) return person
    // beyond what the lengths allow it is 1 or -1: the limb is straight or folded
    const cosine = (upper ** 2 + far ** 2 - lower ** 2) / (2 * upper * far)
    const inside = Math.acos(Math.max(-1, Math.min(1, cosine)))
    const heading = angleOf(aim)
    const knee = ray(heading + side * inside, upper)
    const swung = rotated(person, a, angleOf(knee) - angleOf(minus(b, a)), branch(bend))
    const pivot = swung.points[bend]
    const aimed = [a[0] + Math.cos(heading) * far, a[1] + Math.sin(heading) * far]
    const now = minus(swung.points[end], pivot)
    return rotated(swung, pivot, angleOf(minus(aimed, pivot)) - angleOf(now), branch(end))
}

/** The side of a limb on which its bend lies, 1 or -1; 0 if it is nearly straight or folded. */
export function sideOf({ points }, end) {
    const [root, bend] = TWO_BONES[end]
    const [upper, lower] = [minus(points[bend], points[root]), minus(points[end], points[bend])]
    const turn = wrapped(angleOf(upper) - angleOf(lower))
    return Math.abs(Math.sin(turn)) < Math.sin(STRAIGHT) ? 0 : Math.sign(turn)
}

/** The side a limb bends to: as it does; as a moment ago; as a body does that begins to bend. */
function bendSide(person, end, to, before) {
    return sideOf(person, end) || sideOf(before, end) || firstSide(person, end, to)
}

/**
 * Seen from the side, elbows point back and knees forward. From the front knees point outward, and
 * an elbow stays behind where its hand goes.
 */
function firstSide({ points }, end, to) {
    const { [NOSE]: nose, [NECK]: neck } = points
    const trunk = [R_SHOULDER, L_SHOULDER, NECK, R_HIP].map((i) => points[i])
    const across = Math.abs(trunk[0][0] - trunk[1][0])
    const isNarrow = across < 0.35 * length(minus(trunk[3], trunk[2]))
    if (isNarrow && isKnown(nose) && isKnown(neck)) {
        const forward = Math.sign(nose[0] - neck[0]) || 1
        return [R_ANKLE, L_ANKLE].includes(end) ? -forward : forward
    }
    const root = points[TWO_BONES[end][0]]
    const other = points[{ [R_ANKLE]: L_HIP, [L_ANKLE]: R_HIP }[end]]
    if (other && isKnown(other)) return Math.sign(cross(minus(to, root), minus(root, other))) || 1
    return -Math.sign(cross(minus(points[end], root), minus(to, root))) || 1
}

/** The person with this limb bent to the other side, its ends where they are. */
export const bentOtherWay = (person, end) =>
    reached(person, end, person.points[end], -sideOf(person, end) || 1) ?? person

/** The limb of two bones to which a joint belongs, by its end; undefined if to none. */
export const limbEnd = (joint) =>
    Object.keys(TWO_BONES).map(Number).find((end) =>
        end === joint || TWO_BONES[end][1] === joint || carrier(joint) === end)

/** A finger bent by its tip or a joint; the hand turned by a knuckle. */
function fingerDragged(person, index, to) {
    const start = PARTS[partOf(index)].start
    const place = (index - start - 1) % 4 // 0: knuckle, 3: tip
    if (index === start) return shifted(person, ...minus(to, person.points[start]), branch(start))
    if (place === 0) {
        const wrist = isKnown(person.points[start]) ? start : PARENTS[start]
        return turned(person, wrist, index, to, branch(start))
    }
    if (place < 3) return turned(person, PARENTS[index], index, to, branch(index))
    const chain = [3, 2, 1, 0].map((back) => index - back)
    if (!chain.every((i) => isKnown(person.points[i]))) return null
    const bent = chained(chain.map((i) => person.points[i]), to)
    const points = [...person.points]
    chain.forEach((i, n) => (points[i] = [...bent[n], points[i][2]]))
    return { ...person, points }
}

/**
 * A chain of points, the first of which stays, bent so that the last comes to `to`; lengths stay.
 * FABRIK: Aristidou and Lasenby 2011.
 */
function chained(chain, to) {
    const lengths = chain.slice(1).map((point, i) => length(minus(point, chain[i])))
    const put = (from, toward, far) => {
        const [dx, dy] = ray(angleOf(minus(toward, from)), far)
        return [from[0] + dx, from[1] + dy]
    }
    const bent = chain.map(([x, y]) => [x, y])
    const last = bent.length - 1
    for (let round = 0; round < ROUNDS; round++) {
        bent[last] = [...to]
        for (let i = last - 1; i >= 0; i--) bent[i] = put(bent[i + 1], bent[i], lengths[i])
        bent[0] = chain[0].slice(0, 2)
        for (let i = 1; i <= last; i++) bent[i] = put(bent[i - 1], bent[i], lengths[i - 1])
    }
    return bent
}
