import assert from "node:assert/strict"
import test from "node:test"
import { isKnown, mirrored, standingHeight } from "./editor/geometry.js"
import {
    LIMB_ENDS, flipped, hasLimb, limbOf, posesOf, shapeOf, turned, withPose,
} from "./editor/hand_poses.js"
import { dragged } from "./editor/limbs.js"
import * as s from "./editor/skeleton.js"
import { apart, farthest, lengths, library, person } from "./people.js"

const HANDS = ["leftHand", "rightHand"]
const LIMBS = Object.keys(LIMB_ENDS)
const bare = (name) => {
    const one = person(name)
    return { ...one, points: one.points.map((p, i) => (i < 18 ? p : [0, 0, 0])) }
}

test("there are twelve poses of a hand and four of a foot, each its own", () => {
    assert.equal(posesOf("leftHand").length, 12)
    assert.equal(posesOf("leftFoot").length, 4)
    for (const limb of LIMBS) {
        const shapes = posesOf(limb).map((name) => shapeOf(limb, name))
        for (const shape of shapes) {
            assert.equal(shape.length, LIMB_ENDS[limb].points.length)
            assert.ok(shape.flat().every((x) => Number.isFinite(x) && Math.abs(x) < 1.2))
        }
        shapes.forEach((one, i) => shapes.slice(i + 1).forEach((other) =>
            assert.ok(farthest(one.flat(), other.flat()) > 0.08)))
    }
})

test("fingers are straight, bent or closed as the pose says", () => {
    const tips = (name) => [8, 12, 16, 20].map((i) => shapeOf("leftHand", name)[i][0])
    assert.ok(tips("open").every((x) => x > 0.7))
    assert.ok(tips("fist").every((x) => x < 0.5))
    assert.deepEqual(tips("point").map((x) => x > 0.7), [true, false, false, false])
    assert.deepEqual(tips("peace").map((x) => x > 0.7), [true, true, false, false])
    assert.deepEqual(tips("three").map((x) => x > 0.7), [true, true, true, false])
    const up = shapeOf("leftHand", "thumb up")
    assert.ok(up[4][1] > 0.5, "away from the fist")
    for (const name of ["ok", "pinch"]) {
        const shape = shapeOf("leftHand", name)
        assert.ok(apart(shape[4], shape[8]) < 0.12, `${name}: thumb and index finger meet`)
    }
})

test("bones are as long as they are in a straight hand, or look shorter", () => {
    const bone = (shape, i) => apart(shape[i], shape[i % 4 === 1 ? 0 : i - 1])
    const straight = shapeOf("leftHand", "open")
    for (const name of posesOf("leftHand"))
        for (let i = 1; i < 21; i++)
            assert.ok(bone(shapeOf("leftHand", name), i) <= bone(straight, i) + 1e-9, `${name} ${i}`)
})

test("a hand is added where none is: at its wrist, along the forearm, sized to the person", () => {
    for (const pose of library) {
        for (const limb of HANDS) {
            const { joint, holder, points } = LIMB_ENDS[limb]
            const one = withPose(bare(pose), limb, "flat")
            assert.ok(hasLimb(one, limb))
            assert.ok(!hasLimb(one, HANDS.find((other) => other !== limb)))
            assert.ok(apart(one.points[points[0]], one.points[joint]) < 1e-9)
            const long = apart(one.points[points[12]], one.points[joint])
            assert.ok(Math.abs(long / standingHeight(one) - 0.108) < 0.002, `${pose} ${long}`)
            const angle = ([a, b]) => Math.atan2(b[1] - a[1], b[0] - a[0])
            const hand = angle([one.points[joint], one.points[points[9]]])
            const arm = angle([one.points[holder], one.points[joint]])
            assert.ok(Math.abs(Math.sin(hand - arm)) < 1e-6)
        }
    }
})

test("who stands and faces us has thumbs and toes on the right sides", () => {
    const one = LIMBS.reduce((p, limb) => withPose(p, limb, posesOf(limb)[0]), bare("standing"))
    const x = (i) => one.points[i][0]
    assert.ok(x(LIMB_ENDS.leftHand.points[4]) < x(LIMB_ENDS.leftHand.points[20]))
    assert.ok(x(LIMB_ENDS.rightHand.points[4]) > x(LIMB_ENDS.rightHand.points[20]))
    assert.ok(x(130) > x(s.L_ANKLE) && x(133) < x(s.R_ANKLE), "toes outward")
})

test("a hand that is there keeps its way and its side", () => {
    const one = flipped(turned(person("standing"), "rightHand", 0.6), "rightHand")
    const after = withPose(one, "rightHand", "open")
    const { joint, points } = LIMB_ENDS.rightHand
    const angle = ({ points: p }) =>
        Math.atan2(p[points[9]][1] - p[joint][1], p[points[9]][0] - p[joint][0])
    assert.ok(Math.abs(angle(after) - angle(one)) < 1e-9)
    const thumb = ({ points: p }) => Math.sign(p[points[5]][0] - p[points[17]][0])
    assert.equal(thumb(after), thumb(one))
})

test("turning and mirroring keep the lengths; mirrored twice is as before", () => {
    for (const limb of LIMBS) {
        const one = person("waving")
        const other = flipped(turned(one, limb, 1), limb)
        assert.ok(farthest(lengths(other), lengths(one)) < 1e-9)
        const twice = flipped(flipped(one, limb), limb)
        assert.ok(farthest(twice.points.flat(), one.points.flat()) < 1e-9)
        const side = LIMB_ENDS[limb].points
        one.points.forEach((point, i) => side.includes(i) || assert.deepEqual(other.points[i], point))
    }
})

test("a mirrored person's left hand has the pose of the right one", () => {
    const one = withPose(person("standing"), "rightHand", "peace")
    const other = mirrored(one)
    assert.ok(farthest(lengths(other).slice(17, 37), lengths(one).slice(37, 57)) < 1e-9)
})

test("points know their limb", () => {
    assert.equal(limbOf(s.L_WRIST), "leftHand")
    assert.equal(limbOf(45), "rightHand")
    assert.equal(limbOf(s.R_KNEE), "rightFoot")
    assert.equal(limbOf(131), "leftFoot")
    assert.equal(limbOf(s.NOSE), undefined)
    assert.equal(limbOf(null), undefined)
})

test("a bent finger of a pose can be dragged on", () => {
    const fist = withPose(person("standing"), "rightHand", "fist")
    const tip = LIMB_ENDS.rightHand.points[8]
    const [x, y] = fist.points[tip]
    const after = dragged(fist, tip, [x - 5, y + 5])
    assert.ok(farthest(lengths(after), lengths(fist)) < 1e-9)
    assert.ok(after.points.every((point) => !isKnown(point) || point.every(Number.isFinite)))
})
