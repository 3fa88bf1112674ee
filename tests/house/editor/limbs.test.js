import assert from "node:assert/strict"
import test from "node:test"
import { mirrored, withKnown } from "./editor/geometry.js"
import { bentOtherWay, dragged, sideOf } from "./editor/limbs.js"
import * as s from "./editor/skeleton.js"
import { apart, farthest, lengths, library, person, random } from "./people.js"

const ENDS = [[s.R_WRIST, s.R_SHOULDER], [s.L_WRIST, s.L_SHOULDER], [s.R_ANKLE, s.R_HIP], [s.L_ANKLE, s.L_HIP]]
const TIPS = [4, 8, 12, 16, 20].flatMap((i) => [18 + i, 39 + i])

test("no drag changes a length", () => {
    const next = random()
    const joints = [...Array(s.POINTS).keys()]
    for (const name of library.slice(0, 8)) {
        let one = person(name)
        const before = lengths(one)
        for (let step = 0; step < 60; step++) {
            const joint = joints[Math.floor(next() * s.POINTS)]
            const planted = next() < 0.5
            one = dragged(one, joint, [1000 * next(), 1000 * next()], { planted })
        }
        assert.ok(farthest(lengths(one), before) < 1e-6, `${name}: ${farthest(lengths(one), before)}`)
    }
})

test("a wrist goes where the pointer is, or as far as the arm is long", () => {
    const next = random(2)
    for (let step = 0; step < 200; step++) {
        const [end, root] = ENDS[step % 4]
        const one = person(library[step % library.length])
        const bend = end - 1
        const [upper, lower] = [[root, bend], [bend, end]].map(([a, b]) => apart(one.points[a], one.points[b]))
        const to = [1000 * next(), 1000 * next()]
        const { points } = dragged(one, end, to)
        const far = apart(one.points[root], to)
        const reach = Math.min(upper + lower, Math.max(Math.abs(upper - lower), far))
        assert.ok(Math.abs(apart(points[end], to) - Math.abs(far - reach)) < 1e-6)
        assert.deepEqual(points[root], one.points[root])
    }
})

test("a bend keeps its side, also through a straight limb, in one drag", () => {
    const next = random(3)
    for (const [end, root] of ENDS) {
        for (const name of library) {
            const base = person(name)
            const side = sideOf(base, end)
            let before = base
            let first = side
            let to = base.points[end].slice(0, 2)
            for (let step = 0; step < 80; step++) {
                to = to.map((x) => x + 160 * (next() - 0.5))
                before = dragged(base, end, to, { before })
                const now = sideOf(before, end)
                first ||= now
                if (side) assert.ok(now === 0 || now === side, `${name} ${end}`)
            }
            assert.ok(apart(before.points[root], base.points[root]) < 1e-9)
        }
    }
})

test("from straight, a limb keeps the side that it took first while it stays bent", () => {
    const base = person("standing")
    const shoulder = base.points[s.R_SHOULDER]
    let before = base
    const sides = []
    for (const [x, y] of [[-40, 200], [-60, 120], [-20, 100], [60, 120], [90, 60], [0, 80], [-80, 60]]) {
        before = dragged(base, s.R_WRIST, [shoulder[0] + x, shoulder[1] + y], { before })
        sides.push(sideOf(before, s.R_WRIST))
    }
    assert.equal(new Set(sides.filter(Boolean)).size, 1, sides.join(" "))
})

test("bent the other way, the ends stay; twice is as before", () => {
    const base = dragged(person("standing"), s.R_WRIST, [350, 300])
    const other = bentOtherWay(base, s.R_WRIST)
    assert.equal(sideOf(other, s.R_WRIST), -sideOf(base, s.R_WRIST))
    assert.ok(apart(other.points[s.R_WRIST], base.points[s.R_WRIST]) < 1e-6)
    assert.ok(farthest(lengths(other), lengths(base)) < 1e-6)
    const twice = bentOtherWay(other, s.R_WRIST)
    assert.ok(farthest(twice.points.flat(), base.points.flat()) < 1e-6)
})

test("seen from the side, knees bend forward and elbows back", () => {
    const side = person("standing")
    const { points } = side
    const flat = { ...side, points: points.map(([x, y, c], i) => [i === s.NOSE ? 540 : 500 + (x - 500) / 50, y, c]) }
    const knee = dragged(flat, s.R_ANKLE, [500, 800]).points[s.R_KNEE]
    const elbow = dragged(flat, s.R_WRIST, [500, 500]).points[s.R_ELBOW]
    assert.ok(knee[0] > 520 && elbow[0] < 480, `${knee} ${elbow}`)
})

test("hands and feet go along with their limb", () => {
    const base = person("standing")
    const after = dragged(base, s.L_WRIST, [700, 300])
    assert.ok(apart(after.points[18], after.points[s.L_WRIST]) < 1e-6)
    const foot = dragged(base, s.L_ANKLE, [650, 850])
    assert.ok(apart(foot.points[130], base.points[130]) > 20)
})

test("hips take the person along, with planted feet they crouch", () => {
    const base = person("standing")
    const [x, y] = base.points[s.R_HIP]
    const moved = dragged(base, s.R_HIP, [x + 30, y + 40])
    for (const i of [s.NOSE, s.L_ANKLE, 130, 20])
        assert.ok(apart(moved.points[i], [base.points[i][0] + 30, base.points[i][1] + 40]) < 1e-6)
    const crouched = dragged(base, s.R_HIP, [x, y + 60], { planted: true })
    for (const i of [s.R_ANKLE, s.L_ANKLE, ...s.indices("feet")])
        assert.ok(apart(crouched.points[i], base.points[i]) < 1e-6, s.nameOf(i))
    const knees = ({ points }) => points[s.L_KNEE][0] - points[s.R_KNEE][0]
    assert.ok(knees(crouched) > knees(base) + 40, "knees go outward")
    assert.ok(apart(crouched.points[s.NOSE], [base.points[s.NOSE][0], base.points[s.NOSE][1] + 60]) < 1e-6)
})

test("neck, nose and face turn the head about the neck, and nothing else", () => {
    const base = person("standing")
    const head = s.branch(s.NOSE)
    for (const joint of [s.NECK, s.NOSE, s.L_EAR, 68]) {
        const [x, y] = base.points[joint]
        const after = dragged(base, joint, [x + 40, y])
        s.PARENTS.forEach((_, i) => {
            const far = apart(after.points[i], base.points[i])
            assert.ok(head.includes(i) ? far > 1 : far === 0, `${s.nameOf(joint)} moves ${s.nameOf(i)}`)
        })
    }
})

test("a shoulder leans the trunk over feet that stay", () => {
    const base = person("standing")
    const [x, y] = base.points[s.R_SHOULDER]
    const after = dragged(base, s.R_SHOULDER, [x + 30, y])
    assert.ok(after.points[s.NOSE][0] > base.points[s.NOSE][0] + 20)
    for (const i of [s.R_ANKLE, s.L_ANKLE]) assert.ok(apart(after.points[i], base.points[i]) < 8)
})

test("the tip of a finger bends it as far as it reaches", () => {
    const base = person("standing")
    for (const tip of TIPS) {
        const knuckle = base.points[tip - 3]
        const reach = [0, 1, 2].reduce((sum, n) => sum + apart(base.points[tip - n], base.points[tip - n - 1]), 0)
        for (const [x, y] of [[0.5, 0.3], [-0.2, 0.4], [0.1, -0.3], [0.7, -0.6]]) {
            const to = [knuckle[0] + x * reach, knuckle[1] + y * reach]
            const after = dragged(base, tip, to)
            const miss = apart(after.points[tip], to) / reach
            assert.ok(miss < 0.02, `${s.nameOf(tip)} ${x} ${y}: ${miss}`)
            assert.deepEqual(after.points[tip - 3].slice(0, 2), knuckle.slice(0, 2))
        }
    }
})

test("where joints are missing, points move freely", () => {
    const cut = withKnown(person("standing"), [s.R_ELBOW, s.R_HIP, s.L_HIP, s.NECK], false)
    for (const joint of [s.R_WRIST, s.R_SHOULDER, s.NOSE]) {
        const after = dragged(cut, joint, [100, 120])
        assert.ok(apart(after.points[joint], [100, 120]) < 1e-6, s.nameOf(joint))
    }
    const free = dragged(person("standing"), s.R_WRIST, [5, 7], { keep: false })
    assert.ok(apart(free.points[s.R_WRIST], [5, 7]) < 1e-6)
})

test("mirrored twice is as before", () => {
    for (const name of library) {
        const one = person(name)
        const twice = mirrored(mirrored(one))
        assert.ok(farthest(twice.points.flat(), one.points.flat()) < 1e-9)
        assert.ok(farthest(lengths(mirrored(one)).sort(), lengths(one).sort()) < 1e-9)
    }
})
