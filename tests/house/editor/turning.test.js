import assert from "node:assert/strict"
import test from "node:test"
import { withPart, withoutPart } from "./editor/extras.js"
import { isKnown, mirrored, rotated, scaled, shifted } from "./editor/geometry.js"
import { dragged } from "./editor/limbs.js"
import * as s from "./editor/skeleton.js"
import { parse, serialize } from "./editor/state.js"
import { angleOf, turnedTo } from "./editor/turning.js"
import { farthest, library, person, plain } from "./people.js"

const shown = ({ points }) => [s.NOSE, s.R_EYE, s.L_EYE, s.R_EAR, s.L_EAR].map((i) => isKnown(points[i]))
const width = ({ points }) => points[s.L_SHOULDER][0] - points[s.R_SHOULDER][0]
const kept = (one) => parse(serialize({ width: 1000, height: 1000, people: [one] })).people[0]
const flat = ({ points }) => points.flat()

test("360 degrees and any way back are exactly as before", () => {
    for (const name of library) {
        const one = person(name)
        let turned = one
        for (const angle of [45, 90, -170, 20, 135, 180, -180]) turned = turnedTo(turned, angle)
        assert.deepEqual(turnedTo(turned, 360), one, name)
        assert.deepEqual(turnedTo(one, 720), one)
    }
})

test("what is saved while turned comes back exactly", () => {
    for (const name of library) {
        const one = kept(person(name))
        let turned = one
        for (const angle of [60, 180, -75]) turned = kept(turnedTo(turned, angle))
        assert.equal(angleOf(turned), -75)
        assert.deepEqual(kept(turnedTo(turned, 0)), one, name)
    }
})

test("heights stay, widths foreshorten, the back shows left on the left", () => {
    const one = person("standing")
    for (const angle of [30, 60, 90, 135, 180]) {
        const turned = turnedTo(one, angle)
        one.points.forEach(([, y], i) => assert.equal(turned.points[i][1], y))
        assert.ok(Math.abs(width(turned) - width(one) * Math.cos((angle * Math.PI) / 180)) < 1)
    }
})

test("what looks away is missing, as OpenPose finds people", () => {
    const one = person("standing")
    const cases = {
        0: [true, true, true, true, true],
        45: [true, true, true, true, false], // toward the image's right: the left ear is away
        90: [true, true, false, true, false],
        180: [false, false, false, true, true],
        [-90]: [true, false, true, false, true],
        [-45]: [true, true, true, false, true],
    }
    for (const [angle, expected] of Object.entries(cases))
        assert.deepEqual(shown(turnedTo(one, Number(angle))), expected, angle)
    for (const angle of [115, 135, 180]) {
        const face = turnedTo(one, angle).points.slice(60, 130)
        assert.ok(face.every((point) => !isKnown(point)), angle)
    }
})

test("from the side, nose and toes are in front", () => {
    const { points } = turnedTo(person("standing"), 90)
    assert.ok(points[s.NOSE][0] > points[s.NECK][0] + 20)
    for (const toe of [130, 133]) assert.ok(points[toe][0] > points[s.PARENTS[toe]][0] + 20)
    for (const heel of [132, 135]) assert.ok(points[heel][0] < points[s.PARENTS[heel]][0])
    const hand = points.slice(18, 39).map(([x]) => x)
    assert.ok(Math.max(...hand) - Math.min(...hand) > 8, "a hand from the side is no line")
})

test("a seated person's knees, short from the front, are in front from the side", () => {
    const { points } = turnedTo(person("sitting"), 90)
    assert.ok(points[s.R_KNEE][0] > points[s.R_HIP][0] + 60, `${points[s.R_KNEE]} ${points[s.R_HIP]}`)
    assert.ok(points[s.R_ANKLE][0] < points[s.R_KNEE][0] + 60)
})

test("an edit of a turned person stays, and the rest is as before", () => {
    const one = person("standing")
    const turned = turnedTo(one, 90)
    const [x, y] = turned.points[s.L_ANKLE]
    const stepped = dragged(turned, s.L_ANKLE, [x + 120, y - 40])
    const again = turnedTo(turnedTo(stepped, 20), 90)
    assert.ok(farthest(flat(again), flat(stepped)) < 1e-6)
    const front = turnedTo(stepped, 0)
    for (const i of [s.NOSE, s.R_WRIST, s.R_ANKLE])
        assert.ok(Math.abs(front.points[i][0] - one.points[i][0]) < 1e-6, s.nameOf(i))
    assert.ok(Math.abs(front.points[s.L_ANKLE][0] - one.points[s.L_ANKLE][0]) < 1e-6, "now it is in front")
})

test("moved, scaled and mirrored, a turned person turns on", () => {
    const one = person("walking")
    const moved = turnedTo(shifted(turnedTo(one, 50), 30, 7), 0)
    assert.ok(farthest(flat(moved), flat(shifted(one, 30, 7))) < 1e-9)
    const small = turnedTo(scaled(turnedTo(one, 50), [100, 200], 0.5), 0)
    assert.ok(farthest(flat(small), flat(scaled(one, [100, 200], 0.5))) < 1e-9)
    const twice = mirrored(mirrored(turnedTo(one, 50)))
    assert.ok(farthest(flat(turnedTo(twice, 0)), flat(one)) < 1e-9)
    const other = turnedTo(mirrored(turnedTo(one, 50)), 0)
    const front = mirrored(one)
    const apart = other.points[0][0] - front.points[0][0] // the boxes have other middles
    assert.ok(farthest(flat(other), flat(shifted(front, apart, 0))) < 1e-6)
})

test("who was moved while turned comes back exactly, and the axis goes along", () => {
    const one = kept(person("walking"))
    const moved = kept(shifted(kept(turnedTo(one, 50)), 30, 7))
    assert.deepEqual(kept(turnedTo(moved, 0)), kept(shifted(one, 30, 7)))
    const leaning = rotated(turnedTo(one, 50), [0, 0], 0.2)
    const pelvis = ({ points }) => (points[s.R_HIP][0] + points[s.L_HIP][0]) / 2
    for (const angle of [0, 120, -60])
        assert.ok(Math.abs(pelvis(turnedTo(leaning, angle)) - pelvis(leaning)) < 1e-6, angle)
})

test("who is drawn in profile shows both eyes and ears when turned to the front", () => {
    const one = plain("in profile")
    assert.equal(shown(one).filter(Boolean).length, 3)
    const away = one.points[s.NOSE][0] > one.points[s.NECK][0] ? -90 : 90
    const front = turnedTo(one, away)
    assert.deepEqual(shown(front), [true, true, true, true, true])
    const [rightEar, leftEar] = [s.R_EAR, s.L_EAR].map((i) => front.points[i][0])
    assert.ok(rightEar < front.points[s.NOSE][0] && front.points[s.NOSE][0] < leftEar)
})

test("a hand added to a turned person hangs on its wrist at every angle", () => {
    const one = withoutPart(person("standing"), "leftHand")
    const points = one.points.map((p, i) => (s.indices("leftHand").includes(i) ? [0, 0, 0] : p))
    const turned = withPart(turnedTo({ ...one, points }, 60), "leftHand")
    for (const angle of [0, 120]) {
        const { points } = turnedTo(turned, angle)
        assert.ok(Math.abs(points[18][0] - points[s.L_WRIST][0]) < 1e-6, angle)
    }
})

test("points that were left out stay out", () => {
    const one = person("standing")
    const points = one.points.map(([x, y, c], i) => [x, y, i === s.R_WRIST || i === s.NOSE ? 0 : c])
    for (const angle of [30, 90, 180, -60]) {
        const turned = turnedTo({ ...one, points }, angle)
        assert.equal(turned.points[s.R_WRIST][2], 0)
        assert.equal(turned.points[s.NOSE][2], 0)
    }
})

test("a turn that is no list of numbers is left out", () => {
    const text = serialize({ width: 1000, height: 1000, people: [turnedTo(person(), 40)] })
    const frame = JSON.parse(text)
    for (const wrong of [null, 3, [], ["x"], frame.people[0].turn.slice(1), frame.people[0].turn.map(String), {}]) {
        frame.people[0].turn = wrong
        assert.equal(angleOf(parse(JSON.stringify(frame)).people[0]), 0)
    }
})
