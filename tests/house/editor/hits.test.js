import assert from "node:assert/strict"
import test from "node:test"
import { hit } from "./editor/hits.js"
import * as s from "./editor/skeleton.js"
import { turnedTo } from "./editor/turning.js"
import { person } from "./people.js"

const all = [...Array(s.POINTS).keys()]
const session = (one, joint = null) =>
    ({ shown: { width: 1000, height: 1000, people: [one] }, selected: 0, joint, target: all })

test("of joints that lie on each other the chosen one is taken", () => {
    const side = turnedTo(person("standing"), 90)
    for (const joint of [s.R_ANKLE, s.L_ANKLE, s.R_WRIST, s.L_WRIST, s.R_HIP])
        assert.equal(hit(session(side, joint), side.points[joint], 1).joint, joint, s.nameOf(joint))
})

test("a hidden joint does not stand before one that is shown", () => {
    const side = turnedTo(person("standing"), 90)
    for (const joint of [s.R_EYE, s.R_EAR]) {
        const { joint: taken } = hit(session(side), side.points[joint], 1)
        assert.ok(side.points[taken][2] > 0, s.nameOf(taken))
    }
})
