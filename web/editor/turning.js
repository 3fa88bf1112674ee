// A person turned about the vertical axis through their pelvis. The picture has no depth, so it is
// guessed from a standard body: how far a limb is shorter than it should be, it points toward the
// viewer or away. Pure functions; a person is as in geometry.js.
//
// A turned person also holds turn: { angle, axis, base }: by how many degrees, the axis's x, and
// each point before the turn as [x, depth toward the viewer, confidence].

import { bounds, isKnown, isPlaced, standingHeight } from "./geometry.js"
import {
    L_ANKLE, L_EAR, L_ELBOW, L_EYE, L_HIP, L_KNEE, L_SHOULDER, L_WRIST, NECK, NOSE, PARENTS, PARTS,
    R_ANKLE, R_EAR, R_ELBOW, R_EYE, R_HIP, R_KNEE, R_SHOULDER, R_WRIST, indices, partOf,
} from "./skeleton.js"

// in standing heights, after Drillis and Contini 1966
const BONES = {
    [R_ELBOW]: 0.186, [L_ELBOW]: 0.186, [R_WRIST]: 0.146, [L_WRIST]: 0.146, [R_KNEE]: 0.245,
    [L_KNEE]: 0.245, [R_ANKLE]: 0.246, [L_ANKLE]: 0.246,
}
const RIGHT = [R_SHOULDER, R_ELBOW, R_WRIST, R_HIP, R_KNEE, R_ANKLE]
const TRUNK = 0.29
const SHOULDERS = 0.22
const HIPS = 0.14
const HEAD = { nose: 0.065, eye: 0.05, betweenEyes: 0.04, betweenEars: 0.09, forward: 0.02 }
const FOOT = { toes: 0.11, heel: -0.04 }
const HAND_DEPTH = 0.6 // of its width: seen from the side a hand is not a line
const CERTAIN = 0.85 // a limb of this share of its length counts as long as it should be
const NOISE = 0.2 // px: less is the rounding of saved points, and no edit
// where points of the head look, in degrees from the front, and how far they may be turned away
const SEEN = {
    [NOSE]: [0, 115], [R_EYE]: [-25, 85], [L_EYE]: [25, 85],
    [R_EAR]: [-90, 125], [L_EAR]: [90, 125],
}
const FACE = [72, 100] // of the edge of a face, and how far any of it and all of it

const rad = (degrees) => (degrees * Math.PI) / 180
const wrapped = (degrees) => ((((degrees + 180) % 360) + 360) % 360) - 180
const clamp = (value) => Math.max(-1, Math.min(1, value))
const mean = (numbers) => numbers.reduce((sum, x) => sum + x, 0) / numbers.length
/** The angle at which this person is shown, in degrees, 0 being as they were drawn. */
export const angleOf = (person) => person?.turn?.angle ?? 0

/** The person turned to this angle in degrees; 360 is as 0, which is exactly as they were drawn. */
export function turnedTo(person, degrees) {
    const turn = lifted(person)
    const angle = wrapped(degrees)
    const confidenceAt = visibility(person, turn)
    const points = person.points.map((point, i) => {
        if (!isPlaced(point)) return point
        const [x] = rotated(turn.base[i], turn.axis, angle)
        return [x, point[1], confidenceAt(i, angle)]
    })
    const { turn: _, ...rest } = person
    return angle ? { ...rest, points, turn: { ...turn, angle } } : { ...rest, points }
}

/** [x, depth] of a point turned about the axis. */
function rotated([x, depth], axis, angle) {
    if (!angle) return [x, depth]
    const [cos, sin] = [Math.cos(rad(angle)), Math.sin(rad(angle))]
    return [axis + (x - axis) * cos + depth * sin, depth * cos - (x - axis) * sin]
}

/** The person's turn, with the points that were edited since put back to where they were before. */
function lifted(person) {
    const { turn, points } = person
    if (!turn) return newTurn(person)
    const confidenceAt = visibility(person, turn)
    const views = turn.base.map((point) => rotated(point, turn.axis, turn.angle))
    const isMoved = ([x, y], i) => (x || y) && Math.abs(x - views[i][0]) > NOISE
    const moved = points.some(isMoved)
    const axis = moved ? axisOf(points) : turn.axis
    const depth = (i) => // of what was added since: as what it hangs on
        turn.base[i].some(Boolean) || PARENTS[i] === null ? views[i][1] : depth(PARENTS[i])
    const base = points.map(([x, , c], i) => {
        const asSeen = c > 0 === confidenceAt(i, turn.angle) > 0
        const confidence = asSeen ? turn.base[i][2] : c
        if (!moved) return [turn.base[i][0], turn.base[i][1], confidence]
        return [...rotated([x, depth(i)], axis, -turn.angle), confidence]
    })
    return { ...turn, axis, base }
}

function newTurn(person) {
    const { points } = person
    const depths = depthsOf(person)
    const lift = (point, i) => (isPlaced(point) ? [point[0], depths[i], point[2]] : [0, 0, 0])
    return { angle: 0, axis: axisOf(points), base: points.map(lift) }
}

/** Where the axis stands: the middle of the hips, of the shoulders, of everything. */
function axisOf(points) {
    const pair = [[R_HIP, L_HIP], [R_SHOULDER, L_SHOULDER]]
        .map((two) => two.map((i) => points[i])).find((two) => two.every(isPlaced))
    return mean((pair ?? points.filter(isKnown)).map(([x]) => x))
}

// what can be seen

/** (i, angle) => the confidence of point i when its person is turned by this angle. */
function visibility(person, { base }) {
    const before = base.map(([x, , c], i) => [x, person.points[i][1], c])
    const yaw = headYaw(before, standingHeight({ points: before }) || 100)
    const face = bounds({ points: before }, indices("face"))
    const looks = (i) => {
        if (i in SEEN) return SEEN[i]
        if (partOf(i) !== "face" || !face) return null
        const half = (face.right - face.left) / 2 || 1
        const aside = Math.asin(clamp((before[i][0] - face.left) / half - 1)) / (Math.PI / 2)
        return [aside * FACE[0], FACE[1]]
    }
    const within = (angle, reach) => Math.abs(wrapped(yaw + angle)) < reach
    const isSeen = ([at, reach], angle) =>
        within(at + angle, reach) && (reach !== FACE[1] || within(angle, reach))
    return (i, angle) => {
        const [, , c] = base[i]
        const look = looks(i)
        if (!look || !angle) return c
        // a point that was turned away appears, one that was left out does not
        const wasAway = i in SEEN && !c && !isSeen(look, 0) && isPlaced(before[i])
        return isSeen(look, angle) ? c || (wasAway ? 1 : 0) : 0
    }
}

/** How far the head is turned, in degrees; 90 looks to the image's right. */
function headYaw(points, tall) {
    const known = (i) => isKnown(points[i])
    const ears = [R_EAR, L_EAR].filter(known)
    const out = HEAD.nose * tall
    if (!known(NOSE) && (known(R_EYE) || known(L_EYE))) return bodyYaw(points, tall, 0)
    if (!known(NOSE)) {
        if (ears.length === 1) return ears[0] === R_EAR ? 135 : -135
        return ears.length === 2 ? 180 : bodyYaw(points, tall, 0)
    }
    const x = points[NOSE][0]
    if (ears.length === 2) {
        const middle = (points[R_EAR][0] + points[L_EAR][0]) / 2
        return (Math.asin(clamp((x - middle) / out)) * 180) / Math.PI
    }
    const aside = known(R_EYE) && known(L_EYE) ? 50 : 85
    if (ears.length === 1) return ears[0] === R_EAR ? aside : -aside
    return bodyYaw(points, tall, 0)
}

/** How far the shoulders are turned, in degrees; `head` says to which side. */
function bodyYaw(points, tall, head) {
    const [right, left] = [points[R_SHOULDER], points[L_SHOULDER]]
    if (!isKnown(right) || !isKnown(left)) return head
    const share = clamp((left[0] - right[0]) / (SHOULDERS * tall))
    if (Math.abs(share) > CERTAIN) return share > 0 ? 0 : 180
    const nose = points[NOSE][0] - points[NECK][0]
    return (Math.sign(head || nose || 1) * Math.acos(share) * 180) / Math.PI
}

// the guessed depth

/** How far each point is toward the viewer from the pelvis, in pixels. */
function depthsOf(person) {
    const { points } = person
    const tall = standingHeight(person) || 100
    const head = headYaw(points, tall)
    const body = bodyYaw(points, tall, head)
    const [toward, aside] = [Math.cos(rad(body)), Math.sin(rad(body))]
    const depths = points.map(() => 0)
    const short = (from, to, share) => {
        const flat = Math.hypot(points[to][0] - points[from][0], points[to][1] - points[from][1])
        return share * tall * Math.sqrt(1 - Math.min(1, flat / (CERTAIN * share * tall)) ** 2)
    }
    const side = (i) => (RIGHT.includes(i) ? 1 : -1)
    for (const i of [R_HIP, L_HIP]) depths[i] = (side(i) * aside * HIPS * tall) / 2
    depths[NECK] = toward * mean([R_HIP, L_HIP].map((hip) => short(hip, NECK, TRUNK)))
    for (const i of [R_SHOULDER, L_SHOULDER])
        depths[i] = depths[NECK] + (side(i) * aside * SHOULDERS * tall) / 2
    for (const i of [R_ELBOW, L_ELBOW, R_WRIST, L_WRIST, R_KNEE, L_KNEE, R_ANKLE, L_ANKLE]) {
        // limbs reach forward, shins back; seen from the side, outward
        const forward = [R_ANKLE, L_ANKLE].includes(i) ? -1 : 1
        const outward = side(i) * Math.sign(aside)
        const way = Math.abs(toward) > 0.4 ? forward * Math.sign(toward) : outward
        depths[i] = depths[PARENTS[i]] + way * short(PARENTS[i], i, BONES[i])
    }
    return withSmallParts(headDepths(depths, head, tall), points, tall, toward)
}

function headDepths(depths, yaw, tall) {
    const [toward, aside] = [Math.cos(rad(yaw)) * tall, Math.sin(rad(yaw)) * tall]
    const middle = depths[NECK] + HEAD.forward * toward
    const [eye, ear] = [HEAD.betweenEyes, HEAD.betweenEars].map((far) => (far / 2) * aside)
    return Object.assign([...depths], {
        [NOSE]: middle + HEAD.nose * toward,
        [R_EYE]: middle + HEAD.eye * toward + eye,
        [L_EYE]: middle + HEAD.eye * toward - eye,
        [R_EAR]: middle + ear,
        [L_EAR]: middle - ear,
    })
}

/** The depths, with those of hands, feet and face on the joints that hold them. */
function withSmallParts(body, points, tall, toward) {
    const depths = [...body]
    for (const [part, wrist, elbow, thumb] of [
        ["leftHand", L_WRIST, L_ELBOW, -1], ["rightHand", R_WRIST, R_ELBOW, 1],
    ]) {
        const [dx, dy] = [0, 1].map((axis) => points[wrist][axis] - points[elbow][axis])
        const far = Math.hypot(dx, dy) || 1
        for (const i of indices(part)) {
            const [x, y] = [0, 1].map((axis) => points[i][axis] - points[wrist][axis])
            const across = isPlaced(points[i]) ? (dy * x - dx * y) / far : 0
            depths[i] = body[wrist] + thumb * across * HAND_DEPTH * toward
        }
    }
    indices("feet").forEach((i, n) => {
        depths[i] = body[PARENTS[i]] + toward * tall * (n % 3 === 2 ? FOOT.heel : FOOT.toes)
    })
    const face = bounds({ points }, indices("face"))
    const half = face ? (face.right - face.left) / 2 || 1 : 1
    const ears = (body[R_EAR] + body[L_EAR]) / 2
    for (const i of indices("face")) {
        const aside = face ? clamp((points[i][0] - face.left) / half - 1) : 0
        const round = Math.sqrt(1 - aside ** 2) // a head is as round as a ball
        depths[i] = ears + (body[NOSE] - ears) * round
    }
    return depths
}

/** The saved form of a turn as one list of numbers, and back; null for what is no such list. */
export const flattened = ({ angle, axis, base }) =>
    [angle, ...[axis, ...base.flat()].map((value) => Math.round(value * 10) / 10)]

export function unflattened(values) {
    const count = 2 + 3 * (PARTS.feet.start + PARTS.feet.count)
    if (!Array.isArray(values) || values.length !== count) return null
    if (!values.every(Number.isFinite)) return null
    const [angle, axis, ...numbers] = values
    const base = Array.from({ length: (count - 2) / 3 }, (_, i) => numbers.slice(3 * i, 3 * i + 3))
    return { angle, axis, base }
}
