// People for the tests of the editor's modules, and random numbers that are the same every time.

import { readFileSync } from "node:fs"
import { withPart } from "./editor/extras.js"
import { completed } from "./editor/geometry.js"
import { BONES, FOOT_BONES, LIMBS } from "./editor/skeleton.js"
import { fromFrame } from "./editor/state.js"

const frames = JSON.parse(readFileSync(new URL("./poses.json", import.meta.url)))

/** The first person of the library's pose with this name, with hands, feet and face. */
export function person(name = "standing") {
    const frame = frames.find((one) => one.name === name)
    return ["leftHand", "rightHand", "feet", "face"].reduce(withPart, fromFrame(frame).people[0])
}

/** The first person of the library's pose with this name as the editor completes them. */
export function plain(name) {
    const read = (one) => fromFrame(frames.find((frame) => frame.name === one)).people[0]
    return completed(read(name), read("standing"))
}

export const library = frames.map(({ name }) => name)

/** Numbers between 0 and 1 in an order that the seed decides (a linear congruence). */
export function random(seed = 1) {
    let state = seed
    return () => (state = (state * 1103515245 + 12345) % 2 ** 31) / 2 ** 31
}

export const apart = (a, b) => Math.hypot(a[0] - b[0], a[1] - b[1])

/** The lengths of all limbs, fingers and feet. */
export const lengths = ({ points }) =>
    [...LIMBS, ...BONES, ...FOOT_BONES].map(([a, b]) => apart(points[a], points[b]))

/** The farthest that two lists of numbers are from each other. */
export const farthest = (a, b) => Math.max(...a.map((value, i) => Math.abs(value - b[i])))
