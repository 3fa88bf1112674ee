// The editor's state as an immutable value { width, height, people }, the people from the hindmost
// to the foremost, and the text it is saved as: one OpenPose frame whose persons also hold a
// prompt. models/pose_editor.py reads the same text; what both do to it must agree.

import * as geometry from "./geometry.js"
import { PARTS } from "./skeleton.js"

export const SOMEBODY = "a person"
const NORMALIZED_REACH = 4

// reading and writing

/** The state of a saved text; null for an empty one. Throws an Error that says what is wrong. */
export function parse(text) {
    if (!text?.trim()) return null
    let frame
    try {
        frame = JSON.parse(text)
    } catch (error) {
        throw new Error(`the saved people are not JSON (${error.message})`)
    }
    return fromFrame(frame)
}

/** The state of an OpenPose frame; coordinates in pixels or 0..1. */
export function fromFrame(frame) {
    const [width, height] = [frame?.canvas_width, frame?.canvas_height].map(Number)
    if (!(width >= 1 && height >= 1)) throw new Error("the saved people have no canvas size")
    if (!Array.isArray(frame.people)) throw new Error("the saved people are not a list")
    const isSeen = ({ points }) => points.some(geometry.isKnown)
    const people = frame.people.map(readPerson).filter(isSeen)
    const reach = Math.max(0, ...people.flatMap(({ points }) => points.flatMap(
        ([x, y, c]) => (c > 0 ? [Math.abs(x), Math.abs(y)] : []))))
    const unit = reach <= NORMALIZED_REACH ? [width, height] : [1, 1]
    const scale = (person) => geometry.mapPoints(person, ([x, y]) => [x * unit[0], y * unit[1]])
    return { width: Math.round(width), height: Math.round(height), people: people.map(scale) }
}

function readPerson(person) {
    const points = Object.values(PARTS).flatMap(({ key, count }) => {
        const values = (person?.[key] ?? []).flat()
        if (values.length < 3) return Array.from({ length: count }, () => [0, 0, 0])
        if (values.length !== 3 * count && !(key === PARTS.face.key && values.length === 204))
            throw new Error(`${key} has ${values.length / 3} points instead of ${count}`)
        if (!values.every(Number.isFinite)) throw new Error(`${key} holds what is no number`)
        return Array.from({ length: count }, (_, i) => {
            const [x = 0, y = 0, confidence = 0] = values.slice(3 * i, 3 * i + 3)
            const known = confidence > 0 && !(x === -1 && y === -1)
            return [x, y, known ? Math.min(1, confidence) : 0]
        })
    })
    return { prompt: typeof person?.prompt === "string" ? person.prompt : "", points }
}

/** The text of a state. Hidden points keep their place, parts without a shown one are left out. */
export function serialize(state) {
    const round = ([x, y, c]) => [Math.round(x * 10) / 10, Math.round(y * 10) / 10, c]
    const people = state.people.map((person) => {
        const parts = Object.entries(PARTS)
            .filter(([part]) => part === "body" || geometry.hasPart(person, part))
            .map(([, { key, start, count }]) =>
                [key, person.points.slice(start, start + count).flatMap(round)])
        return { prompt: person.prompt, ...Object.fromEntries(parts) }
    })
    return JSON.stringify({ canvas_width: state.width, canvas_height: state.height, people })
}

// the canvas

/** The state on another canvas: as large as all of its own fits on it, and centered. */
export function fitted(state, width, height) {
    if (state.width === width && state.height === height) return state
    const scale = Math.min(width / state.width, height / state.height)
    const [dx, dy] = [(width - scale * state.width) / 2, (height - scale * state.height) / 2]
    const move = ([x, y]) => [x * scale + dx, y * scale + dy]
    return { width, height, people: state.people.map((p) => geometry.mapPoints(p, move)) }
}

// the people

/** The people's places in the list, leftmost first: as the pack numbers them. */
export const leftToRight = ({ people }) =>
    [...people.keys()].sort((a, b) => geometry.middle(people[a]) - geometry.middle(people[b]))

export const withPerson = (state, at, person) =>
    ({ ...state, people: state.people.map((old, i) => (i === at ? person : old)) })

export const withNew = (state, ...made) => ({ ...state, people: [...state.people, ...made] })

export const without = (state, at) =>
    ({ ...state, people: state.people.filter((_, i) => i !== at) })

/** The person moved to another place between the hindmost (0) and the foremost. */
export function reordered(state, from, to) {
    const people = [...state.people]
    people.splice(to, 0, ...people.splice(from, 1))
    return { ...state, people }
}

/** A newcomer (a person of `source`'s canvas) where the canvas is emptiest, from left to right. */
export function welcomed(state, source) {
    const [newcomer] = fitted(source, state.width, state.height).people
    const taken = state.people.map(geometry.middle)
    const spots = [0.5, 0.25, 0.75, 0.125, 0.375, 0.625, 0.875].map((share) => share * state.width)
    const room = (x) => Math.min(state.width, ...taken.map((other) => Math.abs(other - x)))
    const spot = spots.reduce((best, x) => (room(x) > room(best) + 1 ? x : best))
    const { left, right } = geometry.bounds(newcomer)
    const shift = spot - geometry.middle(newcomer)
    return geometry.shifted(newcomer, Math.max(-left, Math.min(state.width - right, shift)), 0)
}

// undo and redo

const LONGEST = 200
const SAME_EDIT = 800 // ms: key presses and letters in a row are one step

export const begun = (state) => ({ past: [], state, future: [], tag: null, time: 0 })

/** The history after an edit. Edits in a row with the same tag count as one. */
export function edited(history, state, tag, time) {
    const same = tag !== null && tag === history.tag && time - history.time < SAME_EDIT
    const past = same ? history.past : [...history.past, history.state].slice(-LONGEST)
    return { past, state, future: [], tag, time }
}

export function undone({ past, state, future }) {
    const future_ = [state, ...future]
    return { past: past.slice(0, -1), state: past.at(-1), future: future_, tag: null, time: 0 }
}

export function redone({ past, state, future: [next, ...future] }) {
    return { past: [...past, state], state: next, future, tag: null, time: 0 }
}
