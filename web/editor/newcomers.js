// Where people stand who come into a scene: beside the others, as large as the canvas lets them.

import * as geometry from "./geometry.js"
import * as states from "./state.js"

const MARGIN = 0.015 // of the canvas's width, between neighbors
const SMALL_ENOUGH = 0.5 // of their size: rather than smaller than this they overlap others
// where newcomers stand then, in widths of the canvas: eight find room, each with the next number
const FIRST = 0.2
const STEP = 0.17 // of the way from the last one to
const BEYOND = 1.1
const LAST = 0.96
const SMALLEST = 0.15 // as large as in the library: a newcomer among many

/** The box around all of these people. */
function boxOf(people) {
    const boxes = people.map((person) => geometry.bounds(person)).filter(Boolean)
    const edge = (name, pick) => pick(...boxes.map((box) => box[name]))
    return {
        left: edge("left", Math.min), right: edge("right", Math.max),
        top: edge("top", Math.min), bottom: edge("bottom", Math.max),
    }
}

const middleOf = (people) =>
    people.reduce((sum, person) => sum + geometry.middle(person), 0) / people.length

/** The people as one group, `size` times as large, with its middle at x; the ground stays. */
function moved(people, size, x) {
    const [middle, { bottom }] = [middleOf(people), boxOf(people)]
    const move = (person) =>
        geometry.shifted(geometry.scaled(person, [middle, bottom], size), x - middle, 0)
    return people.map(move)
}

/** The stretches of the canvas in which nobody is, from left to right: [from, to] each. */
function gapsOf({ width, people }) {
    const gaps = []
    let from = 0
    for (const { left, right } of people.map((one) => geometry.bounds(one))
        .sort((a, b) => a.left - b.left)) {
        gaps.push([from, left])
        from = Math.max(from, right)
    }
    return [...gaps, [from, width]]
}

/**
 * The newcomers (the people of `source`'s canvas) right of everybody: so they get the next numbers
 * and nobody else's changes. Without room there they stand in the widest gap. They touch nobody
 * where half their size is enough for that.
 */
export function welcomed(state, source) {
    const { people } = states.fitted(source, state.width, state.height)
    const { left, right } = boxOf(people)
    if (!state.people.length) {
        const { top, bottom } = boxOf(people)
        const room = Math.min(1, state.width / (right - left), state.height / (bottom - top))
        return moved(people, room, state.width / 2 + room * (middleOf(people) - (left + right) / 2))
    }
    const margin = MARGIN * state.width
    const gaps = gapsOf(state)
    const roomIn = ([from, to]) => Math.min(1, (to - from - 2 * margin) / Math.max(1, right - left))
    const widest = gaps.reduce((best, gap) => (roomIn(gap) > roomIn(best) ? gap : best))
    const gap = roomIn(gaps.at(-1)) < SMALL_ENOUGH ? widest : gaps.at(-1)
    const size = roomIn(gap)
    if (size < SMALL_ENOUGH) return standingAt(people, spotFor(state), state.width)
    return moved(people, size, gap[0] + margin + size * (middleOf(people) - left))
}

/** The state with a person who stands alone, and whom nobody has posed, out of newcomers' way. */
export function withRoom(state) {
    if (state.people.length > 1) return state
    return { ...state, people: standingAt(state.people, FIRST * state.width, state.width) }
}

/** The people with their middle at `spot`, small enough to be on the canvas there. */
function standingAt(people, spot, width) {
    const [middle, { left, right }] = [middleOf(people), boxOf(people)]
    const room = [(width - spot) / (right - middle), spot / (middle - left)]
    const size = Math.max(SMALLEST, Math.min(1, ...room.filter((share) => share > 0)))
    return moved(people, size, spot)
}

/** Where a newcomer's middle goes; without room on the right, into the middle of the widest gap. */
function spotFor({ width, people }) {
    const taken = people.map(geometry.middle).sort((a, b) => a - b)
    const last = Math.max(0, taken.at(-1))
    const spot = last + STEP * (BEYOND * width - last)
    if (spot <= LAST * width) return spot
    const ends = [0, ...taken.filter((x) => x > 0 && x < width), width]
    const gaps = ends.slice(1).map((end, i) => end - ends[i])
    const widest = gaps.indexOf(Math.max(...gaps))
    return (ends[widest] + ends[widest + 1]) / 2
}

/**
 * The state with another pose for a person: at their place, of their size, with their prompt. Of
 * several people in the pose the first takes the prompt, and the others come along.
 */
export function reposed(state, at, source) {
    const before = state.people[at]
    const { people } = states.fitted(source, state.width, state.height)
    const [first] = people
    const size = geometry.standingHeight(before) / geometry.standingHeight(first) || 1
    const { bottom } = boxOf([before])
    const [posed, ...others] = moved(people, size, geometry.middle(before)).map((person) =>
        geometry.shifted(person, 0, bottom - boxOf(people).bottom))
    const list = [...state.people]
    list.splice(at, 1, { ...posed, prompt: before.prompt }, ...others)
    return { ...state, people: list }
}
