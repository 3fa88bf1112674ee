// What lies under the pointer. Lengths named px are the screen's, whatever the zoom.

import { bounds, hasPart, isKnown, segmentDistance } from "./geometry.js"
import { LIMBS, L_WRIST, PARTS, R_WRIST, indices } from "./skeleton.js"

export const HANDLE = 9 // px, side of a handle
const REACH = 14 // px from the person's points to their box
const STALK = 24 // px from the box to the handle that turns it
const NEAR = { body: 11, small: 7, limb: 9, handle: 10 } // px

/** Corners and turning handle of a box around these points, in the canvas's pixels. */
export function handles(person, which, zoom) {
    const box = bounds(person, which)
    if (!box) return null
    const reach = REACH / zoom
    const [left, right] = [box.left - reach, box.right + reach]
    const [top, bottom] = [box.top - reach, box.bottom + reach]
    return {
        box: { left, right, top, bottom },
        corners: [[left, top], [right, top], [right, bottom], [left, bottom]],
        stalk: [(left + right) / 2, top - STALK / zoom],
    }
}

/** The points of a person that can be taken hold of; fingers and toes only of the selected one. */
export function grabbable(person, isSelected) {
    const hands = [PARTS.leftHand.start, PARTS.rightHand.start]
    const wrists = [L_WRIST, R_WRIST]
    const doubled = hands.filter((_, side) => isKnown(person.points[wrists[side]]))
    const body = indices("body").filter(
        (i) => isKnown(person.points[i]) || (isSelected && person.points[i].some(Boolean)),
    )
    if (!isSelected) return body
    const small = ["leftHand", "rightHand", "face", "feet"].filter((part) => hasPart(person, part))
    const more = small.flatMap(indices).filter((i) => isKnown(person.points[i]))
    return [...body, ...more.filter((i) => !doubled.includes(i))]
}

const near = ([x, y], point, reach) => Math.hypot(x - point[0], y - point[1]) <= reach

/**
 * The joint nearest to `at`, as { person, joint }. Close calls win the chosen joint, what is shown,
 * the selected person's: joints of somebody seen from the side lie on each other.
 */
function nearestJoint({ shown: { people }, selected, joint: chosen }, at, zoom) {
    let best = null
    people.forEach((person, i) => {
        for (const joint of grabbable(person, i === selected)) {
            const [x, y] = person.points[joint]
            const reach = joint < PARTS.body.count ? NEAR.body : NEAR.small
            const px = Math.hypot(at[0] - x, at[1] - y) * zoom
            const isChosen = i === selected && joint === chosen
            const score = px - 3 * ((i === selected) + isChosen + isKnown(person.points[joint]))
            if (px <= reach && (!best || score <= best.score)) best = { person: i, joint, score }
        }
    })
    return best
}

/** The foremost person with a limb at `at`; -1 without one. */
function limbAt({ people }, at, zoom) {
    return people.findLastIndex(({ points }) => LIMBS.some(([a, b]) =>
        isKnown(points[a]) && isKnown(points[b]) &&
        segmentDistance(at, points[a], points[b]) * zoom <= NEAR.limb))
}

/**
 * What a pointer at `at` (pixels of the canvas) takes hold of in a session: a { kind } of "corner"
 * (with its number), "stalk", "joint" (with person and joint), "person" or "nothing".
 */
export function hit(session, at, zoom) {
    const { shown: state, selected, target } = session
    const person = state.people[selected]
    const grips = person && handles(person, target, zoom)
    if (grips) {
        if (near(at, grips.stalk, NEAR.handle / zoom)) return { kind: "stalk" }
        const corner = grips.corners.findIndex((point) => near(at, point, NEAR.handle / zoom))
        if (corner >= 0) return { kind: "corner", corner }
    }
    const joint = nearestJoint(session, at, zoom)
    if (joint) return { kind: "joint", person: joint.person, joint: joint.joint }
    const limb = limbAt(state, at, zoom)
    if (limb >= 0) return { kind: "person", person: limb }
    if (grips && inside(at, grips.box)) return { kind: "person", person: selected }
    return { kind: "nothing" }
}

const inside = ([x, y], { left, right, top, bottom }) =>
    x >= left && x <= right && y >= top && y <= bottom
