import assert from "node:assert/strict"
import { readFileSync } from "node:fs"
import test from "node:test"
import { connectedFile, putBehind } from "./editor/background.js"
import { looksLikePose, pngTexts, posesOf, readFile, readText } from "./editor/importing.js"
import { serialize, fromFrame } from "./editor/state.js"
import { magnets, snapped } from "./editor/snapping.js"
import { person } from "./people.js"

const frames = JSON.parse(readFileSync(new URL("./poses.json", import.meta.url)))
const frame = frames.find(({ name }) => name === "handshake")
const people = serialize(fromFrame(frame))
const other = serialize(fromFrame(frames[0]))
const noServer = () => assert.fail("the server is not needed")

const chunk = (type, content) => {
    const bytes = new Uint8Array(12 + content.length)
    new DataView(bytes.buffer).setUint32(0, content.length)
    bytes.set(new TextEncoder().encode(type), 4)
    bytes.set(content, 8)
    return bytes
}
const png = (...chunks) => {
    const parts = [new Uint8Array([137, 80, 78, 71, 13, 10, 26, 10]), chunk("IHDR", new Uint8Array(13)), ...chunks]
    return new Uint8Array(parts.flatMap((part) => [...part]))
}
const latin = (text) => Uint8Array.from(text, (letter) => letter.charCodeAt(0))
const file = (name, type, content) => new File([content], name, { type })
const workflow = {
    nodes: [{ type: "KSampler", widgets_values: ["{"] }, { type: "VitruvianPoseEditor", widgets_values: [8, 8, other] }],
    definitions: { subgraphs: [{ nodes: [{ type: "VitruvianPoseEditor", widgets_values: [512, 512, people] }] }] },
}

test("a pose of ours keeps its prompts and needs no server", async () => {
    const prompted = { ...frame, people: frame.people.map((one, i) => ({ ...one, prompt: `p${i}` })) }
    for (const text of [prompted, [prompted, frame]].map((one) => JSON.stringify(one))) {
        const [state] = await readText(text, noServer)
        assert.deepEqual(state.people.map(({ prompt }) => prompt), ["p0", "p1"])
    }
})

test("other forms are read by the server, whose words are told", async () => {
    const coco = { annotations: [{ keypoints: [1, 2, 3] }] }
    const contents = []
    const server = async (content) => (contents.push(content), [frame])
    assert.equal((await readText(JSON.stringify(coco), server))[0].people.length, 2)
    assert.deepEqual(contents, [coco])
    const refuses = async () => { throw new Error("frame 1: no people") }
    await assert.rejects(readText("{}", refuses), /frame 1: no people/)
    await assert.rejects(readText("{", noServer), /not JSON/)
})

test("a workflow's editor is found, in a subgraph and in a prompt, as file and as image", async () => {
    assert.deepEqual(posesOf({ workflow }).map(({ people: some }) => some.length), [1], "the first")
    const inside = { ...workflow, nodes: [] }
    assert.deepEqual(posesOf({ workflow: inside }).map(({ people: some }) => some.length), [2])
    const prompt = { 3: { class_type: "VitruvianPoseEditor", inputs: { people } }, 4: { class_type: "X" } }
    assert.equal(posesOf({ prompt })[0].people.length, 2)
    assert.deepEqual(posesOf({ workflow: { nodes: [] }, prompt: null }), [])
    assert.equal((await readText(JSON.stringify(inside), noServer))[0].people.length, 2)

    const saved = png(chunk("tEXt", latin(`workflow\0${JSON.stringify(inside)}`)), chunk("IEND", latin("")))
    assert.equal((await readFile(file("a.png", "image/png", saved), noServer)).states[0].people.length, 2)
    const international = png(chunk("iTXt", new TextEncoder().encode(`prompt\0\0\0en\0\0${JSON.stringify(prompt)}`)))
    assert.equal(pngTexts(international).prompt[3].class_type, "VitruvianPoseEditor")
})

test("an image without a pose is a photograph, anything else is refused", async () => {
    const plain = file("b.png", "image/png", png(chunk("tEXt", latin("Comment\0hello"))))
    assert.equal((await readFile(plain, noServer)).photo, plain)
    const jpg = file("c.jpg", "image/jpeg", new Uint8Array([255, 216, 255]))
    assert.equal((await readFile(jpg, noServer)).photo, jpg)
    await assert.rejects(readFile(file("d.txt", "text/plain", "x"), noServer), /neither JSON nor an image/)
    for (const cut of [0, 7, 8, 20, 40]) assert.doesNotThrow(() => pngTexts(png().subarray(0, cut)))
})

test("only what looks like a pose is pasted", () => {
    assert.ok(looksLikePose(people) && looksLikePose(`\n[${people}]`))
    for (const text of ["", "a man", "{}", '{"nodes":[]}', "[1, 2]", "people"]) assert.ok(!looksLikePose(text))
})

test("joints come to rest on the nearest joint in reach, else on the grid", () => {
    const points = [[100, 100], [104, 100]]
    assert.deepEqual(snapped([103, 101], points, 64, 1), [104, 100])
    assert.deepEqual(snapped([131, 250], points, 64, 1), [128, 256])
    assert.deepEqual(snapped([131, 290], points, 64, 1), [128, 290])
    assert.deepEqual(snapped([131, 250], points, 0, 1), [131, 250])
    assert.deepEqual(snapped([131, 250], points, 64, 4), [131, 250], "8 px of the screen are 2 of the canvas")
    const state = { people: [person("standing"), person("waving")] }
    const all = magnets(state, 1, 4)
    assert.equal(all.length, 35)
    assert.ok(!all.some(([x, y]) => x === state.people[1].points[4][0] && y === state.people[1].points[4][1]))
})

const loader = (value, type = "LoadImage") => ({
    type, widgets: [{ name: "image", value, options: { values: [] } }], size: [300, 200],
    connectByType(slot, node) { node.inputs[0].link = 7 },
})
const editorWith = (other) => {
    const graph = { links: { 7: { origin_id: 2 } }, getNodeById: () => other, add: (node) => (other = node) }
    return { graph, pos: [500, 60], inputs: [{ name: "background_image", link: other ? 7 : null }] }
}

test("the connected Load Image's file is what is seen", () => {
    const fileOf = (value, type) => connectedFile(editorWith(loader(value, type)))
    assert.deepEqual(fileOf("a.png"), { filename: "a.png", subfolder: "", type: "input" })
    assert.deepEqual(fileOf("x/y/a b.png [output]"), { filename: "a b.png", subfolder: "x/y", type: "output" })
    assert.equal(fileOf("a.png", "LoadImageMask"), null)
    assert.equal(fileOf(""), null)
    assert.equal(connectedFile(editorWith(null)), null)
})

test("a photograph goes into the connected Load Image or a new one, and displaces nothing else", () => {
    const [old, fresh] = [loader("a.png"), loader("")]
    putBehind(editorWith(old), "b.png", { createNode: () => assert.fail("there is one") })
    assert.equal(old.widgets[0].value, "b.png")
    const node = editorWith(null)
    putBehind(node, "c.png", { createNode: () => fresh })
    assert.deepEqual([fresh.widgets[0].value, node.inputs[0].link], ["c.png", 7])
    assert.ok(fresh.pos[0] + fresh.size[0] < node.pos[0])
    assert.throws(() => putBehind(editorWith(loader("a", "Other")), "d.png", {}), /disconnect it first/)
})
