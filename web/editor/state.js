// The editor's state as an immutable value { width, height, people }, the people from the hindmost
// to the foremost, and the text it is saved as: one OpenPose frame whose persons also hold a
// prompt and, if they are turned in depth, what they were before. models/pose_editor.py reads the
// same text; what both do to it must agree.

import * as geometry from "./geometry.js"
import { PARTS } from "./skeleton.js"
import { flattened, unflattened } from "./turning.js"
import { say } from "./words.js"

export const SOMEBODY = "a person"
const FRACTIONS = 2.5 // a part that reaches no farther is in fractions: as models/pose_points.py

// reading and writing

/** The state of a saved text; null for an empty one. Throws an Error that says what is wrong. */
export function parse(text) {
    if (text === null || text === undefined) return null
    if (typeof text !== "string") throw new Error(say("the saved people are not text"))
    if (!text.trim()) return null
    let frame
    try {
        frame = JSON.parse(text)
    } catch (error) {
        const { message } = error
        throw new Error(say("the saved people are not JSON (<message>)", { message }))
    }
    return fromFrame(frame)
}

/** The state of an OpenPose frame; the coordinates of each part in pixels or 0..1. */
export function fromFrame(frame) {
    const [width, height] = [frame?.canvas_width, frame?.canvas_height].map(Number)
    if (!(width >= 1 && height >= 1)) throw new Error(say("the saved people have no canvas size"))
    if (!Array.isArray(frame.people)) throw new Error(say("the saved people are not a list"))
    const untouched = frame.untouched === true && !frame.people.length
    const isSeen = ({ points }) => points.some(geometry.isKnown)
    const people = frame.people.map((person) => readPerson(person, width, height)).filter(isSeen)
    const state = { width: Math.round(width), height: Math.round(height), people }
    return untouched ? { ...state, untouched } : state
}

function readPerson(person, width, height) {
    const points = Object.values(PARTS).flatMap(({ key, count }) => {
        const values = (person?.[key] ?? []).flat()
        if (values.length < 3) return Array.from({ length: count }, () => [0, 0, 0])
        if (values.length !== 3 * count && !(key === PARTS.face.key && values.length === 204))
            throw new Error(say("<part> has <n> points instead of <count>",
                { part: key, n: values.length / 3, count }))
        if (!values.every(Number.isFinite))
            throw new Error(say("<part> holds what is no number", { part: key }))
        return inPixels(Array.from({ length: count }, (_, i) => {
            const [x = 0, y = 0, confidence = 0] = values.slice(3 * i, 3 * i + 3)
            const known = confidence > 0 && !(x === -1 && y === -1)
            return [x, y, known ? Math.min(1, confidence) : 0]
        }), width, height)
    })
    const turn = unflattened(person?.turn)
    const prompt = typeof person?.prompt === "string" ? person.prompt : ""
    return { prompt, points, ...(turn && { turn }) }
}

/** The points of a part, whether in pixels or in fractions of the canvas, in pixels. */
function inPixels(points, width, height) {
    const isSmall = ([x, y]) => Math.max(Math.abs(x), Math.abs(y)) <= FRACTIONS
    const known = points.filter(geometry.isKnown)
    if (!known.length || !known.every(isSmall)) return points
    return points.map(([x, y, c]) => [x * width, y * height, c])
}

/**
 * The text of a state. Hidden points keep their place, parts without a shown one are left out
 * unless a turn has hidden them. A
 * point in the very corner, where it would be read as a fraction or as missing, goes beside it.
 */
export function serialize(state) {
    const inCorner = (x, y) => Math.max(Math.abs(x), Math.abs(y)) <= FRACTIONS
    const tenths = (value) => Math.round(value * 10) / 10
    const round = ([x, y, c]) =>
        [c > 0 && inCorner(x, y) ? FRACTIONS + 0.1 : tenths(x), tenths(y), c]
    const people = state.people.map((person) => {
        const parts = Object.entries(PARTS)
            .filter(([part]) => part === "body" || geometry.hasPart(person, part, person.turn))
            .map(([, { key, start, count }]) =>
                [key, person.points.slice(start, start + count).flatMap(round)])
        const turn = person.turn && { turn: flattened(person.turn) }
        return { prompt: person.prompt, ...Object.fromEntries(parts), ...turn }
    })
    return JSON.stringify({ canvas_width: state.width, canvas_height: state.height, people })
}

// the canvas

/** The state on another canvas: as large as all of its own fits on it, and centered. */
export function fitted(state, width, height) {
    if (state.width === width && state.height === height) return state
    const scale = Math.min(width / state.width, height / state.height)
    const [dx, dy] = [(width - scale * state.width) / 2, (height - scale * state.height) / 2]
    const fit = (person) => geometry.shifted(geometry.scaled(person, [0, 0], scale), dx, dy)
    return { width, height, people: state.people.map(fit) }
}

// the people

/** The people's places in the list, leftmost first: as the pack numbers them. */
export const leftToRight = ({ people }) =>
    [...people.keys()].sort((a, b) => geometry.middle(people[a]) - geometry.middle(people[b]))

export const withPerson = (state, at, person) =>
    ({ ...state, people: state.people.map((old, i) => (i === at ? person : old)) })

export const without = (state, at) =>
    ({ ...state, people: state.people.filter((_, i) => i !== at) })

/** The person moved to another place between the hindmost (0) and the foremost. */
export function reordered(state, from, to) {
    const people = [...state.people]
    people.splice(to, 0, ...people.splice(from, 1))
    return { ...state, people }
}
