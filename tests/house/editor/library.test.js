import assert from "node:assert/strict"
import { readFileSync } from "node:fs"
import test from "node:test"
import { bounds, middle, scaled, shifted, standingHeight } from "./editor/geometry.js"
import { matching } from "./editor/library.js"
import { reposed, welcomed, withRoom } from "./editor/newcomers.js"
import { fromFrame, fitted, leftToRight, parse } from "./editor/state.js"
import { UserPoses, fileName } from "./editor/user_poses.js"
import { say, speak } from "./editor/words.js"
import { apart, library, person } from "./people.js"

const frames = JSON.parse(readFileSync(new URL("./poses.json", import.meta.url)))
const state = (name) => fromFrame(frames.find((one) => one.name === name))
const empty = { width: 768, height: 512, people: [] }
const boxes = (people) => people.map((one) => bounds(one))

test("whoever comes to an empty canvas is on it, in the middle", () => {
    for (const name of library) {
        for (const [width, height] of [[512, 768], [1024, 256], [300, 300]]) {
            const all = boxes(welcomed({ ...empty, width, height }, state(name)))
            const [left, right] = [Math.min(...all.map((b) => b.left)), Math.max(...all.map((b) => b.right))]
            assert.ok(left >= -1 && right <= width + 1, name)
            assert.ok(all.every(({ top, bottom }) => top >= -1 && bottom <= height + 1), name)
        }
    }
})

test("who reaches out of their own canvas is made to fit", () => {
    const lying = state("lying on the back")
    const giant = { ...lying, people: lying.people.map((one) => scaled(one, [500, 930], 3)) }
    const [{ left, right }] = boxes(welcomed(empty, giant))
    assert.ok(left >= -1 && right <= 769)
})

test("a pair stands beside others, touches nobody and keeps its distance to each other", () => {
    const [one] = fitted(state("standing"), 1024, 512).people
    const before = withRoom({ ...empty, width: 1024, people: [one] })
    for (const name of ["handshake", "hug", "piggyback", "fight"]) {
        const pair = welcomed(before, state(name))
        assert.equal(pair.length, 2)
        const left = Math.min(...boxes(pair).map((box) => box.left))
        assert.ok(left > bounds(before.people[0]).right, name)
        assert.ok(Math.max(...boxes(pair).map((box) => box.right)) <= 1024, name)
        const drawn = state(name).people
        const share = standingHeight(pair[0]) / standingHeight(drawn[0])
        const far = apart(pair[0].points[1], pair[1].points[1])
        assert.ok(Math.abs(far - share * apart(drawn[0].points[1], drawn[1].points[1])) < 1e-6, name)
    }
})

test("without room on the right newcomers stand where there is room", () => {
    const [one] = fitted(state("standing"), 768, 512).people
    const before = { ...empty, people: [shifted(one, 768 - bounds(one).right, 0)] }
    const all = boxes(welcomed(before, state("handshake")))
    assert.ok(all.every(({ left, right }) => left > 0 && right < bounds(before.people[0]).left))
})

test("newcomers get the next numbers", () => {
    let people = withRoom(fitted(state("standing"), 512, 512))
    for (const name of ["waving", "sitting", "dancing"]) {
        const before = people.people.length
        people = { ...people, people: [...people.people, ...welcomed(people, state(name))] }
        assert.equal(leftToRight(people).indexOf(before), before, name)
    }
})

test("another pose keeps place, size and prompt", () => {
    const before = { ...empty, people: [{ ...shifted(fitted(state("standing"), 768, 512).people[0], 30, -60), prompt: "a man" }] }
    for (const name of ["sitting", "lying on the back", "running"]) {
        const { people: [after] } = reposed(before, 0, state(name))
        assert.equal(after.prompt, "a man")
        assert.ok(Math.abs(middle(after) - middle(before.people[0])) < 1e-6)
        assert.ok(Math.abs(bounds(after).bottom - bounds(before.people[0]).bottom) < 1e-6)
        assert.ok(Math.abs(standingHeight(after) / standingHeight(before.people[0]) - 1) < 1e-6)
    }
    const pair = reposed(before, 0, state("hug")).people
    assert.deepEqual(pair.map(({ prompt }) => prompt), ["a man", ""])
})

test("the search finds names and groups, in any language", () => {
    const entries = frames.map(({ name, group }) => ({ name, group }))
    const names = (search) => matching(entries, search).map(({ name }) => name)
    assert.deepEqual(names("hug"), ["hugging the knees", "hug"])
    assert.ok(names("fight").length >= 8 && names("FIGHT kick").join() === "high kick")
    assert.deepEqual(names("nothing like it"), [])
    assert.equal(names("  ").length, entries.length)
    speak({ hug: "拥抱" })
    assert.deepEqual(names("拥抱"), ["hug"])
    speak(null)
})

test("words have their values, and English where nothing else is known", () => {
    speak({ "person <n>": "第<n>人" })
    assert.equal(say("person <n>", { n: 2 }), "第2人")
    assert.equal(say("of <n> and <m>", { n: 1 }), "of 1 and <m>")
    speak(undefined)
    assert.equal(say("person <n>", { n: 2 }), "person 2")
})

test("names become names of files", () => {
    assert.equal(fileName("  a/b\\c: <d>?  "), "a b c d")
    assert.equal(fileName("../../x"), "x")
    assert.equal(fileName("...\u0000"), "")
    assert.equal(fileName("舞う人"), "舞う人")
    assert.equal(fileName("x".repeat(200)).length, 80)
})

/** ComfyUI's files in memory, as several tabs share them. */
function server() {
    const files = new Map()
    const answer = (status, content) =>
        ({ ok: status < 300, status, statusText: "", json: async () => JSON.parse(content) })
    return {
        files,
        listUserDataFullInfo: async (folder) => [...files.keys()]
            .filter((path) => path.startsWith(folder)).map((path) => ({ path: path.slice(folder.length + 1) })),
        getUserData: async (path) => (files.has(path) ? answer(200, files.get(path)) : answer(404)),
        storeUserData: async (path, content, { overwrite }) => {
            if (files.has(path) && !overwrite) return answer(409)
            files.set(path, JSON.stringify(content))
            return answer(200)
        },
        deleteUserData: async (path) => answer(files.delete(path) ? 204 : 404),
        moveUserData: async (from, to) => {
            if (files.has(to)) return answer(409)
            if (!files.has(from)) return answer(404)
            files.set(to, files.get(from))
            files.delete(from)
            return answer(200)
        },
    }
}

test("own poses are saved, listed, renamed and deleted, and nothing is lost unasked", async () => {
    const shared = server()
    const [poses, otherTab] = [new UserPoses(shared), new UserPoses(shared)]
    const [first, second] = [frames[0], frames[1]]
    assert.equal(await poses.save("mine", first), true)
    assert.equal(await otherTab.save("mine", second), false)
    assert.deepEqual(await otherTab.read("mine"), first)
    assert.equal(await otherTab.save("other", second), true)
    assert.deepEqual(await poses.list(), ["mine", "other"])
    assert.equal(await poses.rename("mine", "other"), false)
    assert.equal(await poses.rename("mine", "best"), true)
    assert.deepEqual(await otherTab.list(), ["best", "other"])
    assert.equal(await poses.save("other", first, true), true)
    await poses.remove("other")
    await otherTab.remove("other") // gone already, by another tab
    assert.deepEqual([...shared.files.keys()], ["vitruvian/poses/best.json"])
})

test("a server that fails is told, by name", async () => {
    const down = { ...server(), listUserDataFullInfo: async () => { throw new Error("Failed to fetch") } }
    await assert.rejects(new UserPoses(down).list(), /does not answer \(Failed to fetch\)/)
    const full = { ...server(), storeUserData: async () => ({ ok: false, status: 507, statusText: "Insufficient Storage" }) }
    await assert.rejects(new UserPoses(full).save("mine", frames[0]), /mine: the server says 507 Insuff/)
    await assert.rejects(new UserPoses(server()).read("gone"), /gone: the server says 404/)
    await assert.rejects(new UserPoses(server()).rename("gone", "x"), /404/)
    const broken = server()
    broken.files.set("vitruvian/poses/torn.json", "{")
    await assert.rejects(new UserPoses(broken).read("torn"), /torn: the file is not JSON/)
})

test("a new editor's text says that nobody was posed; any person in it counts", () => {
    const text = '{"canvas_width":512,"canvas_height":512,"people":[],"untouched":true}'
    assert.equal(parse(text).untouched, true)
    const used = JSON.stringify({ ...JSON.parse(text), people: frames[0].people })
    assert.equal(parse(used).untouched, undefined)
    assert.equal(person().points.length, 136)
})
